//! From a task that has ended back to the reactor that waits for it; tasks and timers that a protocol begins by itself.

use crate::base::token::ConnId;
use crate::connection::context::{self, Context};
use crate::connection::machine::Task;
use crate::connection::tasks::{Ended, Owner, Running};
use crate::module::connections::handle_object;
use crate::module::context_loop;
use crate::module::own_connection;
use crate::python::describe::close_coroutine;
use crate::python::glue::{Static, argument, guarded_object, method};
use crate::python::instance::{self, Attachment, instance};
use pyo3::exceptions::{PyException, PyRuntimeError, PyTypeError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyTuple;
use std::rc::Rc;

/// With so many timers a connection looks whether some of them are over when there is no room for one more; not again before
/// there are twice as many.
const TIMERS_LOOK: usize = 4;

static DONE: Static<ffi::PyMethodDef> = Static(method(c"task_done", task_done, ffi::METH_O, c"Tells the reactor."));
static DUE: Static<ffi::PyMethodDef> =
    Static(method(c"timer_due", timer_due, ffi::METH_VARARGS, c"Runs what call_later was given."));

/// What a task of `owner` calls when it has ended, with itself: a function that is bound to the owner's number.
///
/// # Errors
/// No memory.
pub fn done_callback(py: Python<'_>, owner: Owner) -> PyResult<Bound<'_, PyAny>> {
    bound(py, &DONE, owner)
}

fn bound<'py>(
    py: Python<'py>,
    definition: &'static Static<ffi::PyMethodDef>,
    owner: Owner,
) -> PyResult<Bound<'py, PyAny>> {
    let number = owner.bits().into_pyobject(py)?;
    // SAFETY: I7, by the token; I10: the table is static, and nobody writes to it; the function keeps the number. A new
    // reference, or null with an exception set.
    unsafe {
        let function =
            ffi::PyCFunction_NewEx((&raw const definition.0).cast_mut(), number.as_ptr(), std::ptr::null_mut());
        Bound::from_owned_ptr_or_err(py, function)
    }
}

unsafe extern "C" fn task_done(number: *mut ffi::PyObject, task: *mut ffi::PyObject) -> *mut ffi::PyObject {
    guarded_object(|py| {
        // SAFETY: I7: CPython calls attached; its argument, and what the function is bound to, live through the call.
        let (number, task) = unsafe { (argument(py, number), argument(py, task)) };
        if let Some(context) = context::current(py) {
            let owner = Owner::from_bits(number.extract()?);
            context.ended.borrow_mut().push_back(Ended::Task { owner, task: task.unbind() });
        }
        Ok(py.None().into_bound(py))
    })
}

/// `timer_due(callback, *args)`: unless the connection has ended, calls it. What it raises costs the connection (B8).
unsafe extern "C" fn timer_due(number: *mut ffi::PyObject, args: *mut ffi::PyObject) -> *mut ffi::PyObject {
    guarded_object(|py| {
        // SAFETY: I7: CPython calls attached; its argument, and what the function is bound to, live through the call.
        let (number, args) = unsafe { (argument(py, number), argument(py, args).cast_into::<PyTuple>()?) };
        let (Some(context), Owner::Connection(id)) = (context::current(py), Owner::from_bits(number.extract()?)) else {
            return Ok(py.None().into_bound(py));
        };
        let is_open = context.table.borrow_mut().get(id).is_some_and(|connection| connection.machine.link.is_open());
        if is_open && let Err(error) = args.get_item(0)?.call1(args.get_slice(1, args.len())) {
            let interrupts = !error.is_instance_of::<PyException>(py);
            let again = interrupts.then(|| error.clone_ref(py));
            context.ended.borrow_mut().push_back(Ended::TimerFailed { id, error });
            return again.map_or_else(|| Ok(py.None().into_bound(py)), Err);
        }
        Ok(py.None().into_bound(py))
    })
}

/// The connection of `protocol`, which is open, and its context, whose thread this is.
fn open(protocol: &Bound<'_, PyAny>, method: &str) -> PyResult<(Rc<Context>, ConnId)> {
    let refused = |why: &str| PyRuntimeError::new_err(format!("{method}(): {why}"));
    // SAFETY: I7, by the token; methods of the type are called with its instances only.
    let id = match unsafe { (*instance(protocol)).attachment } {
        Attachment::Served(id) => id,
        Attachment::Plain => return Err(refused("this protocol has no connection that a reactor serves")),
        Attachment::Lost => return Err(refused("the connection has ended")),
    };
    let serial = instance::handle(protocol).map(|(_, context, _)| context);
    let context = context::current(protocol.py()).filter(|context| Some(context.mailbox.serial) == serial);
    let context = context.ok_or_else(|| {
        refused("may be called on the thread of the protocol's context only; from another one, use loop.call_soon_threadsafe")
    })?;
    let is_open = context.table.borrow_mut().get(id).is_some_and(|connection| connection.machine.link.is_open());
    if is_open { Ok((context, id)) } else { Err(refused("the connection has ended")) }
}

/// `create_task(coro)`.
pub unsafe extern "C" fn create_task(this: *mut ffi::PyObject, coroutine: *mut ffi::PyObject) -> *mut ffi::PyObject {
    guarded_object(|py| {
        // SAFETY: I7: CPython calls attached; its arguments live through the call.
        let (protocol, coroutine) = unsafe { (argument(py, this), argument(py, coroutine)) };
        if own_connection::is_by_hand(&protocol) {
            return py.import("erlang._by_hand")?.call_method1("create_task", (handle_of(&protocol)?, coroutine));
        }
        let (context, id) = open(&protocol, "create_task").inspect_err(|_| _ = close_coroutine(&coroutine))?;
        let event_loop = context_loop::ensure(py, &context)?;
        let done = done_callback(py, Owner::Connection(id))?;
        let task = event_loop.call_method1("_begin_task", (coroutine, instance::variables(&protocol), done))?;
        context.mailbox.stats.tasks.count();
        if let Some(connection) = context.table.borrow_mut().get(id) {
            let (task, kind) = (task.clone().unbind(), Task::Own);
            connection.task_began(py, kind);
            connection.tasks.add(Running { task, kind, method: "create_task", spared: false });
        }
        Ok(task)
    })
}

/// `call_later(delay, callback, *args)`.
pub unsafe extern "C" fn call_later(this: *mut ffi::PyObject, args: *mut ffi::PyObject) -> *mut ffi::PyObject {
    guarded_object(|py| {
        // SAFETY: I7: CPython calls attached; its arguments live through the call.
        let (protocol, args) = unsafe { (argument(py, this), argument(py, args).cast_into::<PyTuple>()?) };
        if args.len() < 2 {
            return Err(PyTypeError::new_err("call_later() takes a delay, a callback and its arguments"));
        }
        let rest = args.get_slice(1, args.len());
        if own_connection::is_by_hand(&protocol) {
            let arguments =
                (handle_of(&protocol)?, args.get_item(0)?, rest.get_item(0)?, rest.get_slice(1, rest.len()));
            return py.import("erlang._by_hand")?.call_method1("call_later", arguments);
        }
        let (context, id) = open(&protocol, "call_later")?;
        let event_loop = context_loop::ensure(py, &context)?;
        let due = bound(py, &DUE, Owner::Connection(id))?;
        let handle =
            event_loop.call_method1("_later", (args.get_item(0)?, instance::variables(&protocol), due, rest))?;
        let mut over = Vec::new();
        if let Some(connection) = context.table.borrow_mut().get(id) {
            if connection.timers.len() >= TIMERS_LOOK && connection.timers.len() == connection.timers.capacity() {
                over.extend(connection.timers.extract_if(.., |timer| !is_scheduled(timer.bind(py))));
                connection.timers.reserve(connection.timers.len().max(TIMERS_LOOK));
            }
            connection.timers.push(handle.clone().unbind());
        }
        drop(over);
        Ok(handle)
    })
}

/// Whether `object`, which `call_later` has answered, is still to be run.
fn is_scheduled(object: &Bound<'_, PyAny>) -> bool {
    let says = |name| object.getattr(name).and_then(|said| said.is_truthy()).unwrap_or_default();
    says("_scheduled") && !says("_cancelled")
}

fn handle_of<'py>(protocol: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    handle_object(protocol.py(), instance::handle(protocol))
}
