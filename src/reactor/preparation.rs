//! What comes before a context serves, step by step. The order matters, and the types carry it: each step takes what the one
//! before has made, and nothing else leads to a [`Reactor`].

#![forbid(unsafe_code)]

use super::Reactor;
use super::failure::Failure;
use crate::base::affinity;
use crate::base::config::{Mode, Options};
use crate::base::gil;
use crate::buffer::Pool;
use crate::connection::context::{self, Context};
use crate::driver::Driver;
use crate::mail::mailbox::Mailbox;
use crate::module::loop_turn;
use crate::module::thread_context;
use crate::python::reactor_buffer;
use crate::python::types::Types;
use crate::reactor::backend;
use crate::reactor::jobs;
use crate::reactor::watchdog;
use crate::reactor::workspace::Workspace;
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::IntoPyDict;
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

/// Prepares the calling thread, which is attached to the interpreter of its context.
///
/// # Errors
/// Why the context cannot serve.
pub(super) fn prepare(py: Python<'_>, options: &Options, mailbox: &Arc<Mailbox>) -> Result<Reactor, Failure> {
    Imported::new(py, mailbox)?.furnish(options)?.connect(options, mailbox)?.enter(mailbox).set_up(options, mailbox)
}

/// The native module is there, and with it the types; from now on what runs can be interrupted.
struct Imported<'py> {
    native: Bound<'py, PyModule>,
    types: Types<'py>,
}

impl<'py> Imported<'py> {
    fn new(py: Python<'py>, mailbox: &Mailbox) -> Result<Self, Failure> {
        let native = py.import(crate::module::NAME.to_string_lossy().as_ref()).map_err(Failure::Setup)?;
        let types = Types::of(py).map_err(Failure::Setup)?;
        mailbox.running.publish(py, types.interrupted.clone().unbind(), loop_turn::serves);
        Ok(Imported { native, types })
    }

    fn furnish(self, options: &Options) -> Result<Furnished<'py>, Failure> {
        let py = self.native.py();
        let python = Workspace::new(py, &options.python_path).map_err(Failure::Setup)?;
        if !options.env.is_empty() {
            let environment = py.import("erlang._environment").map_err(Failure::Setup)?;
            let arguments = (options.env.clone(), options.mode == Mode::Worker);
            environment.call_method1("set_variables", arguments).map_err(Failure::Setup)?;
        }
        if let Some(venv) = &options.venv {
            let activate = || py.import("erlang._venv")?.call_method1("activate", (venv,));
            activate().map_err(|error| Failure::Venv(error.value(py).to_string()))?;
        }
        Ok(Furnished { imported: self, python })
    }
}

/// The package `erlang` can be imported, and what is in the virtual environment.
struct Furnished<'py> {
    imported: Imported<'py>,
    python: Workspace,
}

impl<'py> Furnished<'py> {
    fn connect(self, options: &Options, mailbox: &Arc<Mailbox>) -> Result<Connected<'py>, Failure> {
        let waker = Arc::clone(mailbox);
        let mut pool =
            Pool::new(options.buffers, options.buffer_bytes, move || waker.inbox.wake()).map_err(Failure::Resources)?;
        let driver = backend::choose(options.backend, mailbox, &mut pool)?;
        #[cfg(feature = "faults")]
        let driver = with_faults(driver);
        let buffer_type = self.imported.types.reactor_buffer.clone().unbind();
        let context = Rc::new(Context::new(Arc::clone(mailbox), options.limits, buffer_type));
        Ok(Connected { furnished: self, pool: Rc::new(RefCell::new(pool)), driver, context })
    }
}

/// The kernel can be asked.
struct Connected<'py> {
    furnished: Furnished<'py>,
    pool: Rc<RefCell<Pool>>,
    driver: Box<dyn Driver>,
    context: Rc<Context>,
}

impl<'py> Connected<'py> {
    /// From here on `forget` of the thread has something to undo, whatever happens.
    fn enter(self, mailbox: &Arc<Mailbox>) -> Entered<'py> {
        let py = self.furnished.imported.native.py();
        let _ = mailbox.interpreter.set(gil::current_id(py));
        reactor_buffer::set_local_pool(Some(Rc::clone(&self.pool)));
        context::set_current(py, Some(Rc::clone(&self.context)));
        thread_context::add(py, mailbox);
        Entered(self)
    }
}

/// Python code that runs on this thread finds its context.
struct Entered<'py>(Connected<'py>);

impl Entered<'_> {
    fn set_up(self, options: &Options, mailbox: &Arc<Mailbox>) -> Result<Reactor, Failure> {
        let Connected { furnished: Furnished { imported, python }, pool, driver, context } = self.0;
        run_set_up(&imported.native, &python, options, mailbox).map_err(Failure::Setup)?;
        // Until now nobody was to be served: `start_timeout_ms` bounds that.
        if let Some(threshold) = options.slow_callback {
            watchdog::add(mailbox, threshold);
        }
        // Last: threads that were started until now are not to stay there, too.
        if let Some(cpu) = options.cpu {
            affinity::stay_on(cpu).map_err(|error| Failure::Cpu(cpu, error))?;
        }
        Ok(Reactor::new(driver, context, pool, python, options))
    }
}

/// What an interpreter needs to be a context's, and the user's own code.
fn run_set_up(native: &Bound<'_, PyModule>, python: &Workspace, options: &Options, mailbox: &Mailbox) -> PyResult<()> {
    let py = native.py();
    let threads = py.import("erlang._ending")?;
    threads.call_method0("be_no_main_thread")?;
    if options.mode != Mode::Worker {
        py.import("erlang._extensions")?.call_method1("install", (native.getattr("load_in_main")?,))?;
        threads.call_method0("pass_nothing_on")?;
    }
    let is_main = [("is_main", options.mode == Mode::Worker)].into_py_dict(py)?;
    let imported = native.getattr("asyncio_imported")?;
    py.import("erlang._asyncio_import")?.getattr("watch")?.call((imported,), Some(&is_main))?;
    let log = native.getattr("log")?;
    py.import("erlang._console")?.call_method1("install", (&log, native.getattr("write_console")?))?;
    let logging = py.import("erlang._logging")?;
    logging.call_method1("prepare", (log,))?;
    let (ran, _slow) = mailbox.running.call(py, || {
        // Whoever gives up says so before it interrupts: so either this sees it, or the interrupt comes.
        fence(Ordering::SeqCst);
        match mailbox.inbox.is_killed() {
            true => Err(PyRuntimeError::new_err("nobody waits for this context any more")),
            false => jobs::exec(python.globals.bind(py), &options.setup_code, "<setup_code>"),
        }
    });
    ran?;
    logging.call_method0("install").map(drop)
}

#[cfg(feature = "faults")]
fn with_faults(driver: Box<dyn Driver>) -> Box<dyn Driver> {
    match std::env::var(crate::driver::faults::VARIABLE).ok().and_then(|seed| seed.parse().ok()) {
        Some(seed) => Box::new(crate::driver::faults::Faulty::new(driver, seed)),
        None => driver,
    }
}
