//! `Datagrams`: the native half of a datagram endpoint of asyncio, under `python/erlang/_datagrams.py`, as Python code sees it.
//! Whatever is not simple is asyncio's own.

use crate::module::datagram_endpoint::{Endpoint, Parts, Queued};
use crate::module::event_loop::is_loop;
use crate::module::loop_calls::entry;
use crate::module::loop_layout::Ref;
use crate::python::boxed::{self, State};
use crate::python::glue::{Static, argument, arguments, guarded_object, method};
use crate::python::sockets;
use crate::python::types;
use pyo3::exceptions::PyTypeError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyString, PyType};
use std::ffi::c_int;

/// # Safety
/// An instance, which lives longer than what is answered is used; attached.
unsafe fn endpoint<'a>(object: *mut ffi::PyObject) -> &'a Endpoint {
    // SAFETY: the caller's promise.
    unsafe { boxed::state(object) }
}

/// Sends what an endpoint has put down, which a loop was told of.
///
/// # Errors
/// What is meant to end the loop.
///
/// # Safety
/// A reference of the loop's, to an endpoint; attached. Nothing is borrowed.
pub unsafe fn flush_told(py: Python<'_>, Ref(object): Ref) -> PyResult<()> {
    // SAFETY: the caller's promise.
    let (_kept, endpoint) = unsafe { (Bound::from_owned_ptr(py, object), endpoint(object)) };
    endpoint.is_told.set(false);
    endpoint.flush(py)
}

/// `sendto(data, addr=None)`.
unsafe extern "C" fn sendto(
    this: *mut ffi::PyObject,
    args: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    names: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    guarded_object(|py| {
        // SAFETY: I7: CPython calls attached, a method with an instance of its type, and passes `count` objects, then one for each
        // of the names.
        unsafe {
            let endpoint = endpoint(this);
            let given = arguments(args, count as usize);
            let queued = match given {
                _ if !names.is_null() => Queued::NotSimple,
                [data] => endpoint.queue(&argument(py, *data), None, this),
                [data, to] if *to == ffi::Py_None() => endpoint.queue(&argument(py, *data), None, this),
                [data, to] => endpoint.queue(&argument(py, *data), Some(&argument(py, *to)), this),
                _ => Queued::NotSimple,
            };
            match queued {
                Queued::Later => {}
                Queued::Now => endpoint.flush(py)?,
                Queued::NotSimple => {
                    endpoint.flush(py)?;
                    // Of one that has ended, nothing is heard any more.
                    if let Some(transport) = endpoint.transport(py) {
                        let sendto = transport.getattr("_sendto")?;
                        let answer = ffi::PyObject_Vectorcall(sendto.as_ptr(), args, count as usize, names);
                        return Bound::from_owned_ptr_or_err(py, answer);
                    }
                }
            }
        }
        Ok(py.None().into_bound(py))
    })
}

/// `receive()`: there is something, perhaps.
unsafe extern "C" fn receive(this: *mut ffi::PyObject, _: *mut ffi::PyObject) -> *mut ffi::PyObject {
    guarded_object(|py| {
        // SAFETY: I7: CPython calls attached, a method with an instance of its type, which the caller keeps.
        unsafe { endpoint(this) }.receive(py)?;
        Ok(py.None().into_bound(py))
    })
}

/// `flush()`: what is put down leaves at once.
unsafe extern "C" fn flush(this: *mut ffi::PyObject, _: *mut ffi::PyObject) -> *mut ffi::PyObject {
    guarded_object(|py| {
        // SAFETY: I7: CPython calls attached, a method with an instance of its type, which the caller keeps.
        unsafe { endpoint(this) }.flush(py)?;
        Ok(py.None().into_bound(py))
    })
}

/// `begin(transport, loop, protocol, buffer, sock, is_v6, is_connected, sends_empty)`.
unsafe extern "C" fn begin(this: *mut ffi::PyObject, args: *mut ffi::PyObject) -> *mut ffi::PyObject {
    guarded_object(|py| {
        // SAFETY: I7: CPython calls attached, a method with an instance of its type and a tuple.
        let (endpoint, args) = unsafe { (endpoint(this), argument(py, args)) };
        type Begun<'py> = (
            Bound<'py, PyAny>,
            Bound<'py, PyAny>,
            Bound<'py, PyAny>,
            Bound<'py, PyAny>,
            Bound<'py, PyAny>,
            bool,
            bool,
            bool,
        );
        let (transport, event_loop, protocol, buffer, sock, is_v6, is_connected, sends_empty): Begun<'_> =
            args.extract()?;
        let deque = py.import("collections")?.getattr("deque")?;
        if !is_loop(&event_loop)? || !buffer.get_type().is(&deque) {
            return Err(PyTypeError::new_err("a loop of py_reactor's and a deque are needed"));
        }
        let fd: c_int = sock.call_method0("fileno")?.extract()?;
        endpoint.fd.set(fd);
        endpoint.is_v6.set(is_v6);
        endpoint.is_connected.set(is_connected);
        endpoint.sends_empty.set(sends_empty);
        endpoint.is_reading.set(true);
        let parts = Parts {
            transport: transport.unbind(),
            protocol: protocol.unbind(),
            buffer: buffer.unbind(),
            event_loop: event_loop.unbind(),
            sock: sockets::is_known(&sock, fd).then(|| sock.unbind()),
            datagram_received: PyString::intern(py, "datagram_received").unbind(),
        };
        drop(endpoint.parts.replace(Some(parts)));
        Ok(py.None().into_bound(py))
    })
}

/// `set_protocol(protocol)`.
unsafe extern "C" fn set_protocol(this: *mut ffi::PyObject, protocol: *mut ffi::PyObject) -> *mut ffi::PyObject {
    guarded_object(|py| {
        // SAFETY: I7: CPython calls attached, a method with an instance of its type.
        let (endpoint, protocol) = unsafe { (endpoint(this), argument(py, protocol)) };
        let before = match &mut *endpoint.parts.borrow_mut() {
            Some(parts) => Some(std::mem::replace(&mut parts.protocol, protocol.unbind())),
            None => None,
        };
        drop(before);
        Ok(py.None().into_bound(py))
    })
}

/// `stop_reading()`: nothing is delivered any more.
unsafe extern "C" fn stop_reading(this: *mut ffi::PyObject, _: *mut ffi::PyObject) -> *mut ffi::PyObject {
    guarded_object(|py| {
        // SAFETY: I7: CPython calls attached, a method with an instance of its type.
        unsafe { endpoint(this) }.is_reading.set(false);
        Ok(py.None().into_bound(py))
    })
}

/// `end()`: lets go of everything.
unsafe extern "C" fn end(this: *mut ffi::PyObject, _: *mut ffi::PyObject) -> *mut ffi::PyObject {
    guarded_object(|py| {
        // SAFETY: I7: CPython calls attached, a method with an instance of its type.
        unsafe { endpoint(this) }.clear();
        Ok(py.None().into_bound(py))
    })
}

static METHODS: Static<[ffi::PyMethodDef; 8]> = Static([
    entry(c"sendto", sendto, c"sendto($self, data, addr=None, /)\n--\n\nSends a datagram."),
    method(c"receive", receive, ffi::METH_NOARGS, c"Delivers what has arrived."),
    method(c"flush", flush, ffi::METH_NOARGS, c"Sends what waits for the end of the turn."),
    method(c"begin", begin, ffi::METH_VARARGS, c"Serves a transport."),
    method(c"set_protocol", set_protocol, ffi::METH_O, c"Delivers to another protocol."),
    method(c"stop_reading", stop_reading, ffi::METH_NOARGS, c"Delivers nothing any more."),
    method(c"end", end, ffi::METH_NOARGS, c"Lets go of everything."),
    ffi::PyMethodDef::zeroed(),
]);

fn make_type(py: Python<'_>) -> PyResult<Bound<'_, PyType>> {
    boxed::make_type::<Endpoint>(py, c"erlang.Datagrams", 0, METHODS.0.as_ptr())
}

/// `datagrams()`: the native half of an endpoint.
pub unsafe extern "C" fn datagrams(_: *mut ffi::PyObject, _: *mut ffi::PyObject) -> *mut ffi::PyObject {
    guarded_object(|py| types::kept_as(py, "_py_reactor.datagrams", || Ok(make_type(py)?.into_any()))?.call0())
}
