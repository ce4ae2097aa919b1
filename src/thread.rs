//! A reactor thread from its start to its end: interpreter, ring, set-up code, loop, and what is said of them to Erlang.

use crate::atoms;
use crate::buffer::Pool;
use crate::config::{Backend, Mode, Options, SHUT_DOWN_MS, STACK_BYTES};
use crate::context::{self, Context};
use crate::driver::Driver;
use crate::fallback::Epoll;
use crate::mailbox::{Mailbox, Notice, ReplyTo};
use crate::python::homes;
use crate::python::interpreter;
use crate::python::jobs;
use crate::python::reactor_buffer;
use crate::python::subinterpreter::Subinterpreter;
use crate::python::workspace::Workspace;
use crate::reactor::Reactor;
use crate::uring::Uring;
use crate::watch;
use pyo3::prelude::*;
use rustler::{Atom, Encoder, Env, Term};
use std::any::Any;
use std::cell::RefCell;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

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

/// The two messages that the owner of a context may get.
pub struct Owner {
    /// Answered once the context serves, or does not.
    pub start: ReplyTo,
    /// Told `py_thread_exit` when the thread ends although nobody stopped it.
    pub exit: ReplyTo,
}

/// Starts a reactor thread.
///
/// # Errors
/// No thread could be made.
pub fn spawn(options: Options, mailbox: Arc<Mailbox>, owner: Owner) -> io::Result<JoinHandle<()>> {
    Builder::new().name(format!("py_reactor_{}", options.id)).stack_size(STACK_BYTES).spawn(move || {
        let stopped = match interpreter_for(options.mode) {
            Ok(own) => {
                let stopped = Python::attach(|py| live(py, &options, &mailbox, owner));
                if let Some(Err(why)) = own.map(Subinterpreter::end) {
                    let message = format!("the context's interpreter is left behind, its memory with it: {why}");
                    mailbox.notify(Notice { level: "warning", message, meta: Vec::new(), fd: None });
                }
                stopped
            }
            Err(why) => {
                owner.start.send(|env| (atoms::error(), Failure::Python(why).term(None, env)).encode(env));
                None
            }
        };
        // Whoever waits for a handoff or a result must not wait for ever.
        for command in mailbox.retire() {
            command.abandon();
        }
        if let Some(reply) = stopped {
            reply.send(|env| atoms::stopped().encode(env));
        }
    })
}

/// The interpreter that `Python::attach` attaches this thread to: the main one, or the one that is returned.
fn interpreter_for(mode: Mode) -> Result<Option<Subinterpreter>, String> {
    match mode {
        Mode::Worker => interpreter::ensure_started().map(|()| None),
        Mode::Subinterp | Mode::Owngil => Subinterpreter::new().map(Some),
    }
}

/// The life of a thread that is attached to Python. Answers who waits for its end.
fn live(py: Python<'_>, options: &Options, mailbox: &Arc<Mailbox>, owner: Owner) -> Option<ReplyTo> {
    let Owner { start, exit } = owner;
    let guarded = catch_unwind(AssertUnwindSafe(|| prepare(py, options, mailbox)));
    let result = match guarded.unwrap_or_else(|panic| Err(Failure::Panic(panic_text(&*panic)))) {
        Ok(mut reactor) => {
            start.send(|env| (atoms::ok(), info(env, mailbox, &reactor)).encode(env));
            let ran = catch_unwind(AssertUnwindSafe(|| reactor.turn.run(py)));
            let finished = catch_unwind(AssertUnwindSafe(|| reactor.turn.finish(py)));
            match (ran, finished) {
                (Ok(Ok(reply)), Ok(())) => Ok(reply),
                (Ok(Err(error)), _) => Err(Failure::Driver(error)),
                (Err(panic), _) | (_, Err(panic)) => Err(Failure::Panic(panic_text(&*panic))),
            }
        }
        Err(failure) => {
            start.send(|env| (atoms::error(), failure.term(Some(py), env)).encode(env));
            return forget(py, mailbox, None);
        }
    };
    match result {
        Ok(reply) => forget(py, mailbox, reply),
        Err(failure) => {
            exit.send_exit(|env| failure.term(Some(py), env));
            forget(py, mailbox, None)
        }
    }
}

/// Leaves nothing of the context in this thread, while it is still attached.
fn forget(py: Python<'_>, mailbox: &Mailbox, reply: Option<ReplyTo>) -> Option<ReplyTo> {
    watch::remove(&mailbox.running);
    homes::remove(mailbox);
    mailbox.running.retire(py);
    // Objects of this interpreter among them (I7); from now on nothing is taken.
    for command in mailbox.inbox.close() {
        command.abandon();
    }
    context::set_current(None);
    reactor_buffer::set_local_pool(None);
    reply
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("a panic without words").to_owned()
}

struct Ready {
    turn: Reactor,
    python: String,
    features: Vec<Atom>,
}

fn prepare(py: Python<'_>, options: &Options, mailbox: &Arc<Mailbox>) -> Result<Ready, Failure> {
    let python = Workspace::new(py, &options.python_path).map_err(Failure::Setup)?;
    if let Some(venv) = &options.venv {
        let activate = || py.import("erlang._venv")?.call_method1("activate", (venv,));
        activate().map_err(|error| Failure::Venv(error.value(py).to_string()))?;
    }
    let waker = Arc::clone(mailbox);
    let mut pool =
        Pool::new(options.buffers, options.buffer_bytes, move || waker.inbox.wake()).map_err(Failure::Resources)?;
    let (driver, features) = choose(options.backend, mailbox, &mut pool)?;
    #[cfg(feature = "faults")]
    let driver = with_faults(driver);
    let pool = Rc::new(RefCell::new(pool));
    let _ = mailbox.interpreter.set(interpreter::current_id(py));
    let native = py.import(crate::python::module::NAME.to_string_lossy().as_ref()).map_err(Failure::Setup)?;
    if options.mode != Mode::Worker {
        let install = || py.import("erlang._extensions")?.call_method1("install", (native.getattr("load_in_main")?,));
        install().map_err(Failure::Setup)?;
    }
    let context = Rc::new(Context {
        serial: mailbox.serial,
        mailbox: Arc::clone(mailbox),
        limits: options.limits,
        table: RefCell::default(),
        factory: RefCell::new(None),
        spares: RefCell::default(),
        due: RefCell::default(),
        calling: std::cell::Cell::new(None),
        callers: RefCell::default(),
        unaware: RefCell::default(),
        buffer_type: native.getattr("ReactorBuffer").map_err(Failure::Setup)?.unbind(),
    });
    mailbox.running.publish(py, native.getattr("Interrupted").map_err(Failure::Setup)?.unbind());
    if let Some(threshold) = options.slow_callback {
        watch::add(&mailbox.running, threshold);
    }
    reactor_buffer::set_local_pool(Some(Rc::clone(&pool)));
    context::set_current(Some(Rc::clone(&context)));
    homes::add(py, mailbox);
    let logging = py.import("erlang._logging").map_err(Failure::Setup)?;
    let log = native.getattr("log").map_err(Failure::Setup)?;
    logging.call_method1("prepare", (log,)).map_err(Failure::Setup)?;
    jobs::exec(python.globals.bind(py), &options.setup_code).map_err(Failure::Setup)?;
    logging.call_method0("install").map_err(Failure::Setup)?;
    let version = interpreter::version(py);
    Ok(Ready { turn: Reactor::new(driver, context, pool, python, options), python: version, features })
}

/// The driver to use. io_uring without DEFER_TASKRUN (before 6.1) costs more than epoll, so `auto` does not take it.
fn choose(backend: Backend, mailbox: &Mailbox, pool: &mut Pool) -> Result<(Box<dyn Driver>, Vec<Atom>), Failure> {
    let waiter = || mailbox.inbox.waiter().map_err(Failure::Resources);
    let mut note = String::new();
    if backend != Backend::Epoll {
        match Uring::new(waiter()?, pool) {
            Ok(driver) if backend == Backend::Uring || driver.features().defer_taskrun => {
                let features = driver.features().atoms();
                let _ = mailbox.backend.set(("uring", note));
                return Ok((Box::new(driver), features));
            }
            Ok(mut driver) => {
                let deadline = Instant::now() + Duration::from_millis(SHUT_DOWN_MS);
                driver.shut_down(pool, deadline);
                driver.give_back(pool);
                note = "io_uring of this kernel has no DEFER_TASKRUN (6.1), without which epoll is faster".into();
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
    Ok((Box::new(driver), Vec::new()))
}

#[cfg(feature = "faults")]
fn with_faults(driver: Box<dyn Driver>) -> Box<dyn Driver> {
    match std::env::var(crate::faults::VARIABLE).ok().and_then(|seed| seed.parse().ok()) {
        Some(seed) => Box::new(crate::faults::Faulty::new(driver, seed)),
        None => driver,
    }
}

fn info<'a>(env: Env<'a>, mailbox: &Mailbox, ready: &Ready) -> Term<'a> {
    let (backend, note) = mailbox.backend.get().cloned().unwrap_or_default();
    let backend = if backend == "epoll" { atoms::epoll() } else { atoms::uring() };
    let pairs = [
        (atoms::backend().encode(env), backend.encode(env)),
        (atoms::backend_note().encode(env), note.encode(env)),
        (atoms::python().encode(env), ready.python.encode(env)),
        (atoms::features().encode(env), ready.features.encode(env)),
    ];
    Term::map_from_pairs(env, &pairs).unwrap_or_else(|_| rustler::types::map::map_new(env))
}

impl crate::uring::Features {
    fn atoms(&self) -> Vec<Atom> {
        let all = [
            (self.defer_taskrun, atoms::defer_taskrun()),
            (self.single_issuer, atoms::single_issuer()),
            (self.multishot, atoms::multishot()),
        ];
        all.into_iter().filter_map(|(has, atom)| has.then_some(atom)).collect()
    }
}
