//! The event loop of a context: made on the context's thread once asyncio has been imported in its interpreter, and the running
//! one there while its callbacks run, but not while Erlang has Python code run.

use crate::base::config::TASKS_END_MS;
use crate::base::gil;
use crate::base::sync::{Mutex, lock};
use crate::connection::callbacks::format_exception;
use crate::connection::context::{self, Context};
use crate::mail::notice::Notice;
use crate::module::event_loop::loop_types;
use crate::module::loop_turn::EventLoop;
use crate::python::glue::guarded_object;
use pyo3::exceptions::{PyRuntimeError, PyTypeError};
use pyo3::ffi;
use pyo3::prelude::*;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Interpreters that have imported asyncio.
static IMPORTED: Mutex<Vec<i64>> = Mutex::new(Vec::new());
/// How often one did.
static IMPORTS: AtomicU64 = AtomicU64::new(0);

/// How often an interpreter of this process has imported asyncio: while this stays the same, nobody has to look.
#[inline]
pub fn imports() -> u64 {
    IMPORTS.load(Ordering::Acquire)
}

/// An interpreter of this number is there no more.
pub fn forget(interpreter: i64) {
    lock(&IMPORTED).retain(|number| *number != interpreter);
}

/// See `erlang/_asyncio_import.py`.
pub unsafe extern "C" fn asyncio_imported(_: *mut ffi::PyObject, _: *mut ffi::PyObject) -> *mut ffi::PyObject {
    guarded_object(|py| {
        let number = gil::current_id(py);
        let mut imported = lock(&IMPORTED);
        if !imported.contains(&number) {
            imported.push(number);
        }
        drop(imported);
        IMPORTS.fetch_add(1, Ordering::Release);
        // Whoever imports it in a callback may want the loop at once.
        if let Some(context) = context::current(py) {
            make(py, &context);
        }
        Ok(py.None().into_bound(py))
    })
}

/// See `erlang/_event_loops.py`.
pub unsafe extern "C" fn event_loop(_: *mut ffi::PyObject, _: *mut ffi::PyObject) -> *mut ffi::PyObject {
    guarded_object(|py| {
        let Some(context) = context::current(py) else { return Ok(py.None().into_bound(py)) };
        py.import("asyncio")?;
        make(py, &context);
        Ok(of(py, &context).unwrap_or_else(|| py.None().into_bound(py)))
    })
}

/// The loop of `context`, on its thread: from now on it has one.
///
/// # Errors
/// asyncio cannot be imported, or the loop not be made; why is in the log.
pub fn ensure<'py>(py: Python<'py>, context: &Context) -> PyResult<Bound<'py, PyAny>> {
    if let Some(event_loop) = of(py, context) {
        return Ok(event_loop);
    }
    py.import("asyncio")?;
    make(py, context);
    of(py, context).ok_or_else(|| PyRuntimeError::new_err("this context has no event loop: the log says why"))
}

/// Makes the loop of `context`, on its thread, if its interpreter has imported asyncio and there is none yet.
pub fn make_if_imported(py: Python<'_>, context: &Context) {
    let number = gil::current_id(py);
    let imported = lock(&IMPORTED).contains(&number);
    if imported {
        make(py, context);
    }
}

fn make(py: Python<'_>, context: &Context) {
    if context.event_loop.borrow().is_some() {
        return;
    }
    let made = || is_loop(py.import("erlang._loop")?.call_method0("make_contexts")?);
    match made() {
        Ok(event_loop) => {
            context.event_loop.replace(Some(event_loop.unbind()));
            if !context.in_job.get() {
                enter(py, context);
            }
        }
        Err(error) => tell(py, context, "the event loop of a context could not be made", &error),
    }
}

/// Python code can put anything in the place of what makes loops. The reactor relies on the layout.
fn is_loop(made: Bound<'_, PyAny>) -> PyResult<Bound<'_, PyAny>> {
    let (class, ..) = loop_types(made.py())?;
    // SAFETY: I7, by the token; looks at types only. Not `isinstance`, which believes what `__class__` says.
    match unsafe { ffi::PyObject_TypeCheck(made.as_ptr(), class.as_type_ptr()) } {
        0 => Err(PyTypeError::new_err(
            "erlang._loop.make_contexts() has made something else than a loop of the reactor's",
        )),
        _ => Ok(made),
    }
}

/// Something of asyncio went wrong that is nobody's callback.
pub fn tell(py: Python<'_>, context: &Context, what: &str, error: &PyErr) {
    context.mailbox.stats.exceptions.add(1);
    let message = format!("{what}: {}", format_exception(py, error));
    context.mailbox.notify(Notice { level: "error", message, meta: Vec::new(), fd: None });
}

/// The loop of `context`, if there is one.
pub fn of<'py>(py: Python<'py>, context: &Context) -> Option<Bound<'py, PyAny>> {
    context.event_loop.borrow().as_ref().map(|event_loop| event_loop.bind(py).clone())
}

fn call(py: Python<'_>, context: &Context, method: &str) {
    if let Some(event_loop) = of(py, context)
        && let Err(error) = event_loop.call_method0(method)
    {
        tell(py, context, "an event loop", &error);
    }
}

/// From now on it is the running loop of its thread.
pub fn enter(py: Python<'_>, context: &Context) {
    call(py, context, "_enter");
}

/// Runs `job`, Python code for Erlang, during which no loop is running on this thread: it may run one of its own.
pub fn outside<R>(py: Python<'_>, context: &Context, job: impl FnOnce() -> R) -> R {
    context.in_job.set(true);
    call(py, context, "_leave");
    let result = job();
    context.in_job.set(false);
    call(py, context, "_enter");
    result
}

/// Has its tasks cancelled, and what else it has ended; it stops when that is done.
pub fn begin_end(py: Python<'_>, context: &Context) {
    call(py, context, "_begin_end");
}

/// The loop is over, whatever is left of it. Coroutines that have not ended although they were cancelled are kept for ever:
/// one that catches whatever is raised would never return if it were destroyed, at the end of its interpreter, which would
/// hold up all others that share its lock.
pub fn end(py: Python<'_>, context: &Context) {
    if let Some(event_loop) = of(py, context) {
        let ended = end_tasks(py, context, &event_loop).and_then(|()| event_loop.call_method0("_end"));
        match ended {
            Ok(left) if !left.is_none() => std::mem::forget(left),
            Ok(_) => {}
            Err(error) => tell(py, context, "an event loop", &error),
        }
    }
    let event_loop = context.event_loop.take();
    drop(event_loop);
    let asked = context.asked.take();
    drop(asked);
}

/// Tasks that nobody has waited for, because the context was killed or has failed, or not long enough, are cancelled, and run
/// as far as they get without waiting: what is kept for ever is kept with all that it refers to.
fn end_tasks(py: Python<'_>, context: &Context, event_loop: &Bound<'_, PyAny>) -> PyResult<()> {
    if !event_loop.call_method0("_cancel_all")?.is_truthy()? {
        return Ok(());
    }
    let turns = EventLoop::new(event_loop);
    let until = Instant::now() + Duration::from_millis(TASKS_END_MS);
    while turns.has_ready(py) && Instant::now() < until {
        // Whoever has given up a request has its task cancelled by now.
        drop(context.mailbox.take_cancelled());
        if let Err(error) = turns.run(py, &context.mailbox) {
            tell(py, context, "a callback or task of an event loop ended by", &error);
        }
    }
    Ok(())
}
