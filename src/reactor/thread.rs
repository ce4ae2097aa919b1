//! A reactor thread from its start to its end: interpreter, ring, set-up code, loop, and what is said of them to Erlang.

#![forbid(unsafe_code)]

use crate::base::atoms;
use crate::base::config::{Backend, Mode, Options, STACK_BYTES};
use crate::base::gil;
use crate::beam::reply::ReplyTo;
use crate::buffer::Pool;
use crate::connection::context::{self, Context};
use crate::driver::Driver;
use crate::fallback::Epoll;
use crate::mail::mailbox::Mailbox;
use crate::mail::notice::Notice;
use crate::module::thread_context;
use crate::python::interpreter;
use crate::python::reactor_buffer;
use crate::python::subinterpreter::{self, Subinterpreter};
use crate::python::types::Types;
use crate::reactor::jobs;
use crate::reactor::watchdog;
use crate::reactor::workspace::Workspace;
use crate::reactor::{Reactor, contain};
use crate::uring::{self, Features, Refusal, Uring};
use pyo3::prelude::*;
use rustler::{Encoder, Env, Term};
use std::any::Any;
use std::cell::RefCell;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};

/// Why a context did not start, or ended by itself.
pub enum Failure {
    /// Python does not start.
    Python(String),
    /// The set-up code raised, or the package `erlang` is missing.
    Setup(PyErr),
    /// The virtual environment cannot be used.
    Venv(String),
    /// The driver asked for cannot be used.
    Backend(String),
    /// The driver failed.
    Driver(io::Error),
    /// Memory or descriptors were refused.
    Resources(io::Error),
    /// A panic: a fault of this library.
    Panic(String),
}

impl Failure {
    fn term<'a>(&self, py: Option<Python<'_>>, env: Env<'a>) -> Term<'a> {
        match self {
            Failure::Python(why) => (atoms::python_start(), why).encode(env),
            Failure::Setup(error) => match py {
                Some(py) => (atoms::setup_code(), jobs::error_term(py, env, error)).encode(env),
                None => atoms::setup_code().encode(env),
            },
            Failure::Venv(why) => (atoms::venv(), why).encode(env),
            Failure::Backend(why) => (atoms::backend(), why).encode(env),
            Failure::Driver(error) => (atoms::driver(), error.to_string()).encode(env),
            Failure::Resources(error) => (atoms::resources(), error.to_string()).encode(env),
            Failure::Panic(why) => (atoms::panic(), why).encode(env),
        }
    }
}

/// Starts a reactor thread. Its `owner` is told `{Ref, ok}` once the context serves, or `{Ref, {error, Reason}}`;
/// `{py_thread_exit, Ref, Reason}` if it ends although nobody stopped it; and last, when the thread has only to be
/// joined, `{py_thread_end, Ref}`. Before that, it waits for threads that Python code has started in its interpreter.
///
/// # Errors
/// No thread could be made.
pub fn spawn(options: Options, mailbox: Arc<Mailbox>, owner: ReplyTo) -> io::Result<JoinHandle<()>> {
    Builder::new().name(format!("py_reactor_{}", options.id)).stack_size(STACK_BYTES).spawn(move || {
        match interpreter_for(options.mode) {
            Ok(own) => {
                let wait = gil::Wait::begin();
                Python::attach(|py| {
                    drop(wait);
                    live(py, &options, &mailbox, &owner);
                });
                if let Some(Err(why)) = own.map(Subinterpreter::end) {
                    let message = format!("the context's interpreter is left behind, its memory with it: {why}");
                    mailbox.notify(Notice { level: "warning", message, meta: Vec::new(), fd: None });
                }
            }
            Err(why) => {
                owner.send_first(|env| (atoms::error(), Failure::Python(why).term(None, env)).encode(env));
            }
        }
        // Whoever waits for a handoff or a result must not wait for ever.
        for command in mailbox.retire() {
            command.abandon();
        }
        owner.tell(|env, reference| (atoms::py_thread_end(), reference).encode(env));
    })
}

/// The interpreter that `Python::attach` attaches this thread to: the main one, or the one that is returned.
fn interpreter_for(mode: Mode) -> Result<Option<Subinterpreter>, String> {
    match mode {
        Mode::Worker => interpreter::ensure_started().map(|()| None),
        Mode::Subinterp | Mode::Owngil => Subinterpreter::new().map(Some),
    }
}

/// The life of a thread that is attached to Python.
fn live(py: Python<'_>, options: &Options, mailbox: &Arc<Mailbox>, owner: &ReplyTo) {
    gil::add_thread(py, options.mode != Mode::Worker);
    mailbox.running.resume();
    let failed = |failure: &Failure| {
        owner.tell(|env, reference| (atoms::py_thread_exit(), reference, failure.term(Some(py), env)).encode(env));
    };
    let guarded = catch_unwind(AssertUnwindSafe(|| prepare(py, options, mailbox)));
    match guarded.unwrap_or_else(|panic| Err(Failure::Panic(panic_text(&*panic)))) {
        Ok(reactor) => {
            owner.send_first(|env| atoms::ok().encode(env));
            if let Err(failure) = serve(py, reactor) {
                failed(&failure);
            }
        }
        Err(failure) => owner.send_first(|env| (atoms::error(), failure.term(Some(py), env)).encode(env)),
    }
    if let Err(failure) = forget(py, options.mode, mailbox) {
        failed(&failure);
    }
}

fn serve(py: Python<'_>, mut reactor: Reactor) -> Result<(), Failure> {
    let ran = catch_unwind(AssertUnwindSafe(|| reactor.run(py)));
    let finished = catch_unwind(AssertUnwindSafe(|| reactor.finish(py)));
    match (ran, finished) {
        (Ok(Ok(())), Ok(())) => Ok(()),
        (Ok(Err(error)), _) => Err(Failure::Driver(error)),
        (Err(panic), _) | (_, Err(panic)) => Err(Failure::Panic(panic_text(&*panic))),
    }
}

/// Leaves nothing of the context in this thread, while it is still attached (I7): each part, whatever becomes of the others.
/// The user's code that runs now can still be interrupted.
fn forget(py: Python<'_>, mode: Mode, mailbox: &Mailbox) -> Result<(), Failure> {
    let mut panic = None;
    // From now on nothing is taken.
    let commands = contain(&mut panic, || mailbox.inbox.close());
    for command in commands.into_iter().flatten() {
        contain(&mut panic, || command.abandon());
    }
    contain(&mut panic, || context::set_current(py, None));
    contain(&mut panic, || reactor_buffer::set_local_pool(None));
    if mode != Mode::Worker {
        contain(&mut panic, || subinterpreter::end_program(py));
    }
    contain(&mut panic, || thread_context::remove(mailbox));
    contain(&mut panic, || watchdog::remove(mailbox));
    contain(&mut panic, || mailbox.pause(py));
    contain(&mut panic, || mailbox.running.retire(py));
    contain(&mut panic, || gil::remove_thread(py));
    panic.map_or(Ok(()), |panic| Err(Failure::Panic(panic_text(&*panic))))
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("a panic without words").to_owned()
}

fn prepare(py: Python<'_>, options: &Options, mailbox: &Arc<Mailbox>) -> Result<Reactor, Failure> {
    let native = py.import(crate::module::NAME.to_string_lossy().as_ref()).map_err(Failure::Setup)?;
    let types = Types::of(py).map_err(Failure::Setup)?;
    mailbox.running.publish(py, types.interrupted.unbind());
    let python = Workspace::new(py, &options.python_path).map_err(Failure::Setup)?;
    if let Some(venv) = &options.venv {
        let activate = || py.import("erlang._venv")?.call_method1("activate", (venv,));
        activate().map_err(|error| Failure::Venv(error.value(py).to_string()))?;
    }
    let waker = Arc::clone(mailbox);
    let mut pool =
        Pool::new(options.buffers, options.buffer_bytes, move || waker.inbox.wake()).map_err(Failure::Resources)?;
    let driver = choose(options.backend, mailbox, &mut pool)?;
    #[cfg(feature = "faults")]
    let driver = with_faults(driver);
    let pool = Rc::new(RefCell::new(pool));
    let _ = mailbox.interpreter.set(gil::current_id(py));
    let context = Rc::new(Context::new(Arc::clone(mailbox), options.limits, types.reactor_buffer.unbind()));
    reactor_buffer::set_local_pool(Some(Rc::clone(&pool)));
    context::set_current(py, Some(Rc::clone(&context)));
    thread_context::add(py, mailbox);
    set_up(py, &native, &python, options).map_err(Failure::Setup)?;
    // Until now nobody was to be served: `start_timeout_ms` bounds that.
    if let Some(threshold) = options.slow_callback {
        watchdog::add(mailbox, threshold);
    }
    Ok(Reactor::new(driver, context, pool, python, options))
}

/// What an interpreter needs to be a context's, and the user's own code.
fn set_up(py: Python<'_>, native: &Bound<'_, PyModule>, python: &Workspace, options: &Options) -> PyResult<()> {
    if options.mode != Mode::Worker {
        py.import("erlang._extensions")?.call_method1("install", (native.getattr("load_in_main")?,))?;
        py.import("erlang._ending")?.call_method0("pass_nothing_on")?;
    }
    let log = native.getattr("log")?;
    py.import("erlang._console")?.call_method1("install", (&log,))?;
    let logging = py.import("erlang._logging")?;
    logging.call_method1("prepare", (log,))?;
    jobs::exec(python.globals.bind(py), &options.setup_code)?;
    logging.call_method0("install").map(drop)
}

/// The driver to use.
fn choose(backend: Backend, mailbox: &Mailbox, pool: &mut Pool) -> Result<Box<dyn Driver>, Failure> {
    let waiter = || mailbox.inbox.waiter().map_err(Failure::Resources);
    let mut note = String::new();
    if backend != Backend::Epoll {
        let wake_fd = waiter()?;
        let proven = uring::probe(&Features::ALL).and_then(|proven| match backend {
            Backend::Auto if !proven.features.defer_taskrun => Err(Refusal::Slower),
            _ => Ok(proven),
        });
        match proven.and_then(|proven| Uring::new(proven, wake_fd, pool)) {
            Ok(driver) => {
                let _ = mailbox.backend.set(("uring", note));
                return Ok(Box::new(driver));
            }
            Err(refusal) if backend == Backend::Uring => return Err(Failure::Backend(refusal.to_string())),
            Err(refusal) => note = refusal.to_string(),
        }
        mailbox.notify(Notice {
            level: "notice",
            message: format!("epoll is used instead of io_uring: {note}"),
            meta: Vec::new(),
            fd: None,
        });
    }
    let driver = Epoll::new(waiter()?).map_err(Failure::Resources)?;
    let _ = mailbox.backend.set(("epoll", note));
    Ok(Box::new(driver))
}

#[cfg(feature = "faults")]
fn with_faults(driver: Box<dyn Driver>) -> Box<dyn Driver> {
    match std::env::var(crate::driver::faults::VARIABLE).ok().and_then(|seed| seed.parse().ok()) {
        Some(seed) => Box::new(crate::driver::faults::Faulty::new(driver, seed)),
        None => driver,
    }
}
