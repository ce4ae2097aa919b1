//! A reactor thread from its start to its end: interpreter, ring, set-up code, loop, and what is said of them to Erlang.

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
use crate::python::subinterpreter::Subinterpreter;
use crate::python::types::Types;
use crate::reactor::Reactor;
use crate::reactor::jobs;
use crate::reactor::watchdog;
use crate::reactor::workspace::Workspace;
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
                Python::attach(|py| live(py, &options, &mailbox, &owner));
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
    let guarded = catch_unwind(AssertUnwindSafe(|| prepare(py, options, mailbox)));
    match guarded.unwrap_or_else(|panic| Err(Failure::Panic(panic_text(&*panic)))) {
        Ok(reactor) => {
            owner.send_first(|env| atoms::ok().encode(env));
            if let Err(failure) = serve(py, reactor) {
                owner.tell(|env, reference| {
                    (atoms::py_thread_exit(), reference, failure.term(Some(py), env)).encode(env)
                });
            }
        }
        Err(failure) => owner.send_first(|env| (atoms::error(), failure.term(Some(py), env)).encode(env)),
    }
    forget(py, mailbox);
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

/// Leaves nothing of the context in this thread, while it is still attached.
fn forget(py: Python<'_>, mailbox: &Mailbox) {
    watchdog::remove(mailbox);
    thread_context::remove(mailbox);
    mailbox.running.retire(py);
    // Objects of this interpreter among them (I7); from now on nothing is taken.
    for command in mailbox.inbox.close() {
        command.abandon();
    }
    context::set_current(py, None);
    reactor_buffer::set_local_pool(None);
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("a panic without words").to_owned()
}

fn prepare(py: Python<'_>, options: &Options, mailbox: &Arc<Mailbox>) -> Result<Reactor, Failure> {
    let native = py.import(crate::module::NAME.to_string_lossy().as_ref()).map_err(Failure::Setup)?;
    let types = Types::of(py).map_err(Failure::Setup)?;
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
    if options.mode != Mode::Worker {
        let install = || py.import("erlang._extensions")?.call_method1("install", (native.getattr("load_in_main")?,));
        install().map_err(Failure::Setup)?;
        let alone = || py.import("erlang._ending")?.call_method0("pass_nothing_on");
        alone().map_err(Failure::Setup)?;
    }
    let buffer_type = types.reactor_buffer.unbind();
    let context = Rc::new(Context::new(Arc::clone(mailbox), options.limits, buffer_type));
    mailbox.running.publish(py, types.interrupted.unbind());
    if let Some(threshold) = options.slow_callback {
        watchdog::add(mailbox, threshold);
    }
    reactor_buffer::set_local_pool(Some(Rc::clone(&pool)));
    context::set_current(py, Some(Rc::clone(&context)));
    thread_context::add(py, mailbox);
    let logging = py.import("erlang._logging").map_err(Failure::Setup)?;
    let log = native.getattr("log").map_err(Failure::Setup)?;
    let console = || py.import("erlang._console")?.call_method1("install", (&log,));
    console().map_err(Failure::Setup)?;
    logging.call_method1("prepare", (log,)).map_err(Failure::Setup)?;
    jobs::exec(python.globals.bind(py), &options.setup_code).map_err(Failure::Setup)?;
    logging.call_method0("install").map_err(Failure::Setup)?;
    Ok(Reactor::new(driver, context, pool, python, options))
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
