//! The functions of `erlang.reactor` that name a connection, by the number of its descriptor or by its handle: for any
//! thread.

use crate::base::gil;
use crate::connection::context;
use crate::connection::directory::{Served, find};
use crate::mail::command::{Command, Name};
use crate::mail::inbox::{Refused, Signal};
use crate::python::glue::{argument, guarded_object};
use crate::python::instance::Handle;
use pyo3::exceptions::{PyBlockingIOError, PyRuntimeError, PyTypeError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyTuple;
use std::ptr;
use std::sync::Arc;

/// `get_protocol(connection)`.
pub unsafe extern "C" fn get_protocol(_: *mut ffi::PyObject, connection: *mut ffi::PyObject) -> *mut ffi::PyObject {
    guarded_object(|py| {
        // SAFETY: I7: CPython calls attached; its argument lives through the call.
        let connection = unsafe { argument(py, connection) };
        let Some(served) = find(name(&connection)?) else { return Ok(py.None().into_bound(py)) };
        same_interpreter(py, &served, &connection, "")?;
        // SAFETY: I7: attached to its interpreter. The connection was registered a moment ago, and its reactor, which
        // cannot be attached meanwhile, keeps the protocol until it has withdrawn it (see `Served::protocol`).
        Ok(unsafe { Bound::from_borrowed_ptr(py, served.protocol as *mut ffi::PyObject) })
    })
}

/// `signal_write_ready(connection)`.
pub unsafe extern "C" fn signal_write_ready(
    _: *mut ffi::PyObject,
    connection: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: I7: CPython calls attached; its argument lives through the call.
    guarded_object(|py| boolean(py, signal(py, find(name(&unsafe { argument(py, connection) })?), Signal::WriteReady)))
}

/// `close_connection(connection)`; answers whether a reactor serves it.
pub unsafe extern "C" fn close_connection(_: *mut ffi::PyObject, connection: *mut ffi::PyObject) -> *mut ffi::PyObject {
    // SAFETY: I7: CPython calls attached; its argument lives through the call.
    guarded_object(|py| boolean(py, signal(py, find(name(&unsafe { argument(py, connection) })?), Signal::Close)))
}

/// `is_served(connection)`.
pub unsafe extern "C" fn is_served(_: *mut ffi::PyObject, connection: *mut ffi::PyObject) -> *mut ffi::PyObject {
    // SAFETY: I7: CPython calls attached; its argument lives through the call.
    guarded_object(|py| boolean(py, find(name(&unsafe { argument(py, connection) })?).is_some()))
}

/// `notify(connection, message)`.
pub unsafe extern "C" fn notify(_: *mut ffi::PyObject, args: *mut ffi::PyObject) -> *mut ffi::PyObject {
    guarded_object(|py| {
        let (mut connection, mut message) = (ptr::null_mut(), ptr::null_mut());
        // SAFETY: I7: CPython calls attached; its arguments live through the call; the format takes two objects,
        // borrowed.
        let parsed =
            unsafe { ffi::PyArg_ParseTuple(args, c"OO:notify".as_ptr(), &raw mut connection, &raw mut message) };
        if parsed == 0 {
            return Err(PyErr::fetch(py));
        }
        // SAFETY: I7: CPython calls attached; the format has filled both with borrowed objects.
        let (connection, message) = unsafe { (argument(py, connection), argument(py, message)) };
        let Some(served) = find(name(&connection)?) else { return boolean(py, false) };
        let hint = "; send to an Erlang process, and have that call py_reactor_context:notify/3";
        same_interpreter(py, &served, &connection, hint)?;
        boolean(py, leave(served, message)?)
    })
}

/// `connection_handle(connection)`.
pub unsafe extern "C" fn connection_handle(
    _: *mut ffi::PyObject,
    connection: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    guarded_object(|py| {
        // SAFETY: I7: CPython calls attached; its argument lives through the call.
        let name = name(&unsafe { argument(py, connection) })?;
        let handle: Option<Handle> = find(name).map(|served| {
            let (context, serial) = served.handle();
            (name.fd, context, serial)
        });
        handle_object(py, handle)
    })
}

/// As Python has it.
///
/// # Errors
/// No memory.
pub fn handle_object(py: Python<'_>, handle: Option<Handle>) -> PyResult<Bound<'_, PyAny>> {
    Ok(match handle {
        Some(handle) => handle.into_pyobject(py)?.into_any(),
        None => py.None().into_bound(py),
    })
}

/// `True` or `False`.
///
/// # Errors
/// Never.
pub fn boolean(py: Python<'_>, value: bool) -> PyResult<Bound<'_, PyAny>> {
    Ok(value.into_pyobject(py)?.to_owned().into_any())
}

/// Tells the reactor of a connection what is wanted of it. Answers whether there is one.
pub fn signal(py: Python<'_>, connection: Option<Served>, signal: Signal) -> bool {
    let Some(Served { mailbox, id, .. }) = connection else { return false };
    match (context::current(py), signal) {
        (Some(context), Signal::WriteReady) if Arc::ptr_eq(&context.mailbox, &mailbox) => context.signal(py, id),
        (Some(context), Signal::Close) if Arc::ptr_eq(&context.mailbox, &mailbox) => context.close(py, id),
        _ => mailbox.inbox.signal(id, signal),
    }
    true
}

/// Leaves a message for the protocol of a connection of this interpreter. Answers whether it was taken: else the connection
/// is about to end.
///
/// # Errors
/// `BlockingIOError`: too many wait.
pub fn leave(connection: Served, message: Bound<'_, PyAny>) -> PyResult<bool> {
    let Served { mailbox, id, .. } = connection;
    match mailbox.inbox.post(Command::Message { id, message: message.unbind() }) {
        Ok(()) => Ok(true),
        Err((Refused::Busy, _)) => Err(PyBlockingIOError::new_err(
            "too many messages wait for the protocols of this context: it is busy; try again later",
        )),
        Err((Refused::Draining | Refused::Stopped, _)) => Ok(false),
    }
}

/// I7: objects do not go from one interpreter to another.
fn same_interpreter(py: Python<'_>, served: &Served, connection: &Bound<'_, PyAny>, hint: &str) -> PyResult<()> {
    if served.mailbox.interpreter.get() == Some(&gil::current_id(py)) {
        return Ok(());
    }
    Err(PyRuntimeError::new_err(format!(
        "connection {connection} is served in another interpreter, whose objects cannot come here, nor those of this one \
         go there{hint}"
    )))
}

/// What a number or a handle says.
fn name(connection: &Bound<'_, PyAny>) -> PyResult<Name> {
    if !connection.is_instance_of::<PyTuple>() {
        return Ok(Name { fd: connection.extract()?, exactly: None });
    }
    let (fd, context, serial): Handle = connection.extract().map_err(|_: PyErr| {
        PyTypeError::new_err(
            "a connection is named by the number of its descriptor or by its handle, a tuple of three numbers",
        )
    })?;
    Ok(Name { fd, exactly: Some((context, serial)) })
}
