//! `erlang.reactor.notify` and `connection_handle`: how a protocol names another one and leaves it a message.

use crate::base::gil;
use crate::driver::registry::{self, Served};
use crate::mail::command::{Command, Name};
use crate::mail::inbox::Refused;
use crate::python::glue::guarded_object;

use pyo3::exceptions::{PyBlockingIOError, PyRuntimeError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyTuple;
use std::ptr;

/// `notify(connection, message)`.
pub unsafe extern "C" fn notify(_: *mut ffi::PyObject, args: *mut ffi::PyObject) -> *mut ffi::PyObject {
    guarded_object(|py| {
        let (mut connection, mut message) = (ptr::null_mut(), ptr::null_mut());
        // SAFETY: CPython's arguments; the format takes two objects, borrowed.
        let parsed =
            unsafe { ffi::PyArg_ParseTuple(args, c"OO:notify".as_ptr(), &raw mut connection, &raw mut message) };
        if parsed == 0 {
            return Err(PyErr::fetch(py));
        }
        // SAFETY: as above.
        let (connection, message) =
            unsafe { (Bound::from_borrowed_ptr(py, connection), Bound::from_borrowed_ptr(py, message)) };
        let sent = leave(py, &connection, message)?;
        Ok(sent.into_pyobject(py)?.to_owned().into_any())
    })
}

/// `connection_handle(fd)`.
pub unsafe extern "C" fn connection_handle(_: *mut ffi::PyObject, fd: *mut ffi::PyObject) -> *mut ffi::PyObject {
    guarded_object(|py| {
        // SAFETY: CPython's argument.
        let fd: i32 = unsafe { Bound::from_borrowed_ptr(py, fd) }.extract()?;
        Ok(match registry::find(fd) {
            Some(served) => {
                let (context, serial) = served.handle();
                (fd, context, serial).into_pyobject(py)?.into_any()
            }
            None => py.None().into_bound(py),
        })
    })
}

fn leave(py: Python<'_>, connection: &Bound<'_, PyAny>, message: Bound<'_, PyAny>) -> PyResult<bool> {
    let Some(Served { mailbox, id, .. }) = name(connection)?.find() else { return Ok(false) };
    if mailbox.interpreter.get() != Some(&gil::current_id(py)) {
        return Err(PyRuntimeError::new_err(format!(
            "connection {connection} is served in another interpreter, where objects of this one cannot go; send to \
             an Erlang process, and have that call py_reactor_context:notify/3"
        )));
    }
    match mailbox.inbox.post(Command::Message { id, message: message.unbind() }) {
        Ok(()) => Ok(true),
        Err((Refused::Busy, _)) => Err(PyBlockingIOError::new_err(
            "too many messages wait for the protocols of this context: it is busy; try again later",
        )),
        Err((Refused::Draining | Refused::Stopped, _)) => Ok(false),
    }
}

/// What a number or a handle says.
fn name(connection: &Bound<'_, PyAny>) -> PyResult<Name> {
    if !connection.is_instance_of::<PyTuple>() {
        return Ok(Name { fd: connection.extract()?, exactly: None });
    }
    let (fd, context, serial) = connection.extract()?;
    Ok(Name { fd, exactly: Some((context, serial)) })
}
