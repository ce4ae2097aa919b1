//! `erlang.call`: from any thread of Python to a function that Erlang has registered, and back with what it returned.
//!
//! Of `call`, the thread waits, so its context serves nobody; of `call_async`, a task does. Either tells which contexts wait,
//! for a function that calls one of them again would never be answered: `py_request` refuses that.

use crate::base::atoms;
use crate::base::config::{CALL_POLL_MS, CALLS_MAX};
use crate::base::gil::detached;
use crate::beam;
use crate::beam::call_reply::{self, Awaited, Then, Waited};
use crate::beam::resource::Ref;
use crate::connection::context::{self, Context};
use crate::connection::tasks::Asked;
use crate::module::context_loop;
use crate::python::glue::{argument, guarded_object};
use crate::python::terms::TermConverter;
use pyo3::exceptions::{PyException, PyRuntimeError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyTuple;
use rustler::Term;
use rustler::env::OwnedEnv;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// `call(name, args, timeout)`: answers `(kind, value)`, see `erlang/_calls.py`.
pub unsafe extern "C" fn call(_: *mut ffi::PyObject, args: *mut ffi::PyObject) -> *mut ffi::PyObject {
    guarded_object(|py| {
        // SAFETY: I7: CPython calls attached; its argument lives through the call.
        let args = unsafe { Bound::from_borrowed_ptr(py, args) };
        if !beam::is_there() {
            return Err(PyRuntimeError::new_err(
                "erlang.call() works inside the Erlang VM only; this is a plain Python interpreter",
            ));
        }
        let (name, args, timeout): (String, Bound<'_, PyTuple>, Option<f64>) = args.extract()?;
        // More than a century is for ever.
        let timeout = timeout.and_then(|seconds| Duration::try_from_secs_f64(seconds.max(0.0)).ok());
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let converter = TermConverter::new(py)?;
        let context = context::of_thread();
        let is_killed = || context.as_ref().is_some_and(|context| context.mailbox.inbox.is_killed());
        if is_killed() {
            // Each `connection_lost` would wait in vain.
            return pair(py, "killed", py.None().into_bound(py));
        }
        let Some(awaited) = ask(&converter, context.as_deref(), &name, &args, None)? else {
            return pair(py, "busy", CALLS_MAX.into_pyobject(py)?.into_any());
        };
        loop {
            let slice = Duration::from_millis(CALL_POLL_MS);
            let left = deadline.map_or(slice, |deadline| deadline.saturating_duration_since(Instant::now()).min(slice));
            match detached(py, || awaited.wait(left)) {
                Waited::Answer(answer) => return answer.open(|term| answered(py, &converter, term)),
                Waited::Nobody => return pair(py, "gone", py.None().into_bound(py)),
                Waited::Nothing if deadline.is_some_and(|deadline| Instant::now() >= deadline) => {
                    return pair(py, "timeout", py.None().into_bound(py));
                }
                Waited::Nothing => {}
            }
            if context.as_ref().is_some_and(|context| context.mailbox.running.take_interrupted()) {
                // The exception comes with a step of Python code, unless it has come before this call and was caught.
                py.import("erlang._calls")?.call_method0("step")?;
            }
            if is_killed() {
                return pair(py, "killed", py.None().into_bound(py));
            }
        }
    })
}

/// `call_async(name, args, answered)`: has `answered(kind, value)` called on this context's thread, and answers the number of
/// the call; or how many run already, negated.
pub unsafe extern "C" fn call_async(_: *mut ffi::PyObject, args: *mut ffi::PyObject) -> *mut ffi::PyObject {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    guarded_object(|py| {
        // SAFETY: I7: CPython calls attached; its argument lives through the call.
        let args = unsafe { Bound::from_borrowed_ptr(py, args) };
        let (name, args, answered): (String, Bound<'_, PyTuple>, Py<PyAny>) = args.extract()?;
        let context = context::current(py).ok_or_else(|| {
            PyRuntimeError::new_err(
                "erlang.call_async(): the event loop that runs is not that of this thread's context",
            )
        })?;
        let call = NEXT.fetch_add(1, Ordering::Relaxed);
        let mailbox = Arc::clone(&context.mailbox);
        let then = Box::new(move || mailbox.answered(call));
        let awaited = ask(&TermConverter::new(py)?, Some(&context), &name, &args, Some(then))?;
        let Some(awaited) = awaited else { return Ok((-(CALLS_MAX as i64)).into_pyobject(py)?.into_any()) };
        context.asked.borrow_mut().insert(call, Asked { awaited, answered });
        Ok(call.into_pyobject(py)?.into_any())
    })
}

/// `forget_call(number)`: its task waits no more.
pub unsafe extern "C" fn forget_call(_: *mut ffi::PyObject, number: *mut ffi::PyObject) -> *mut ffi::PyObject {
    guarded_object(|py| {
        // SAFETY: I7: CPython calls attached; its argument lives through the call.
        let number = unsafe { argument(py, number) };
        let number: u64 = number.extract()?;
        let forgotten = context::current(py).and_then(|context| context.asked.borrow_mut().remove(&number));
        drop(forgotten);
        Ok(py.None().into_bound(py))
    })
}

/// Tells the task that waits for that call, on the context's thread.
pub fn tell_answer(py: Python<'_>, context: &Context, converter: &TermConverter, call: u64) {
    let asked = context.asked.borrow_mut().remove(&call);
    let Some(Asked { awaited, answered: tell }) = asked else { return };
    let waited = awaited.wait(Duration::ZERO);
    let try_once = || {
        let pair = match &waited {
            Waited::Answer(answer) => answer.open(|term| answered(py, converter, term)),
            _ => pair(py, "gone", py.None().into_bound(py)),
        };
        pair.and_then(|pair| tell.call1(py, (pair,)))
    };
    let is_interrupt = |error: &PyErr| !error.is_instance_of::<PyException>(py);
    // Whoever interrupts means something else; and there is no more than one interrupt in a stretch.
    let told = try_once().or_else(|error| if is_interrupt(&error) { try_once() } else { Err(error) });
    if let Err(error) = told {
        context_loop::tell(py, context, "an answer of Erlang could not be passed on", &error);
    }
}

/// Sends the call to `py_functions`: `{py_call, Answer, Name, Args, Callers}`. `None` if too many run.
fn ask(
    converter: &TermConverter,
    context: Option<&Context>,
    name: &str,
    args: &Bound<'_, PyTuple>,
    then: Option<Then>,
) -> PyResult<Option<Awaited>> {
    let waits = then.is_none();
    let Some((awaited, answer)) = call_reply::new(then) else { return Ok(None) };
    let answer = Ref::new(answer);
    let mut mail = OwnedEnv::new();
    let message = mail.run(|env| -> PyResult<_> {
        let args = converter.to_term(env, args.to_list().as_any())?;
        let callers = context.map_or_else(Vec::new, |context| context.callers(env, waits));
        Ok(mail.save((atoms::py_call(), &answer, name, args, callers)))
    })?;
    let to = mail.run(|env| env.whereis_pid(atoms::py_functions()));
    let to = to.ok_or_else(|| PyRuntimeError::new_err("erlang.call(): the application py_reactor is being stopped"))?;
    // Should it die meanwhile, the answer is dropped with the message.
    let _ = mail.send_and_clear(&to, |env| message.load(env));
    Ok(Some(awaited))
}

fn answered<'py>(py: Python<'py>, converter: &TermConverter, term: Term<'_>) -> PyResult<Bound<'py, PyAny>> {
    let (kind, value): (Term<'_>, Term<'_>) =
        term.decode().map_err(|_| PyRuntimeError::new_err("erlang.call(): an answer that is none"))?;
    let kind = kind.atom_to_string().unwrap_or_default();
    match converter.to_python(py, value) {
        Ok(value) => pair(py, &kind, value),
        Err(error) => pair(py, "unsupported", error.value(py).str()?.into_any()),
    }
}

fn pair<'py>(py: Python<'py>, kind: &str, value: Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    Ok((kind, value).into_pyobject(py)?.into_any())
}
