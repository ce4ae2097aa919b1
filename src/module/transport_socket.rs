//! The socket of a transport, and what it tells of its connection. What a server has accepted is a bare number, and two addresses
//! as the kernel wrote them, until somebody asks for more: Python's socket objects cost more than all else of a connection.

use crate::driver::address::Address;
use crate::module::transport_layout::{field, has_socket, layout, put};
use crate::python::addresses;
use crate::python::glue::{Static, argument, guarded, guarded_object};
use crate::python::sockets;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};
use std::ffi::{CStr, c_int, c_void};
use std::os::fd::{FromRawFd, OwnedFd};
use std::ptr;

type Object = *mut ffi::PyObject;

/// Takes the number out, if it is the transport's alone: whoever gets it closes it.
fn take_number(transport: &Bound<'_, PyAny>) -> Option<c_int> {
    // SAFETY: I7, by the token; only transports get here.
    unsafe {
        let it = layout(transport);
        (std::mem::take(&mut (*it).owns_number) != 0).then_some((*it).sock_fd)
    }
}

/// Closes the socket, which no operation names any more.
///
/// # Errors
/// What closing a socket object raises.
pub fn close(transport: &Bound<'_, PyAny>) -> PyResult<()> {
    if let Some(fd) = take_number(transport) {
        // SAFETY: I4: it was the transport's alone, and nobody finds it there any more.
        drop(unsafe { OwnedFd::from_raw_fd(fd) });
        return Ok(());
    }
    match field(transport, |it| it.sock) {
        Some(sock) => sock.call_method0("close").map(drop),
        None => Ok(()),
    }
}

/// The number is a stranger's by now, and left alone.
pub fn forget_number(transport: &Bound<'_, PyAny>) {
    take_number(transport);
}

/// The socket object, which is made if there is none yet; `None`: it is closed. On any thread.
fn socket<'py>(transport: &Bound<'py, PyAny>) -> PyResult<Option<Bound<'py, PyAny>>> {
    if let Some(sock) = field(transport, |it| it.sock) {
        return Ok(Some(sock));
    }
    if !has_socket(transport) {
        return Ok(None);
    }
    let made = transport.call_method0("_make_socket")?;
    match take_number(transport) {
        Some(fd) => {
            let tells_number = sockets::is_known(&made, fd);
            put(transport, |it| &mut it.sock, Some(made));
            // SAFETY: I7, by the token; only transports get here.
            unsafe { (*layout(transport)).tells_number = tells_number.into() };
        }
        // Somebody else has made one meanwhile, or closed the number.
        None => drop(made.call_method0("detach")?),
    }
    Ok(field(transport, |it| it.sock))
}

/// `_sock`.
unsafe extern "C" fn get_sock(this: Object, _: *mut c_void) -> Object {
    guarded_object(|py| {
        // SAFETY: I7: CPython calls attached, with an instance.
        let sock = socket(&unsafe { argument(py, this) })?;
        Ok(sock.unwrap_or_else(|| py.None().into_bound(py)))
    })
}

/// `_has_socket`.
unsafe extern "C" fn get_has_socket(this: Object, _: *mut c_void) -> Object {
    guarded_object(|py| {
        // SAFETY: I7: CPython calls attached, with an instance.
        Ok(has_socket(&unsafe { argument(py, this) }).into_pyobject(py)?.to_owned().into_any())
    })
}

/// What `get_extra_info` knows, without the socket unless somebody has asked for that.
fn known_of<'py>(transport: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    if let Some(extra) = field(transport, |it| it.base.extra) {
        return Ok(extra);
    }
    let py = transport.py();
    let known = PyDict::new(py);
    // SAFETY: I7, by the token; only transports get here. What is read is copied, and no Python code runs meanwhile.
    let names = unsafe { (*layout(transport)).names.as_ref().map(|names| (names.peer, names.own)) };
    if let Some((peer, own)) = names {
        known.set_item("peername", peer_name(py, &peer)?)?;
        let own = own.map(|own| addresses::to_python(py, &own)).transpose()?;
        known.set_item("sockname", own.or_else(|| field(transport, |it| it.own_name)))?;
    }
    put(transport, |it| &mut it.base.extra, Some(known.clone().into_any()));
    Ok(known.into_any())
}

/// The address of a peer that was accepted, as Python's `accept` tells it.
///
/// # Errors
/// No memory.
pub fn peer_name<'py>(py: Python<'py>, peer: &Address) -> PyResult<Bound<'py, PyAny>> {
    Ok(match addresses::to_python(py, peer)? {
        none if none.is_none() => PyString::new(py, "").into_any(),
        peer => peer,
    })
}

/// `_known()`.
pub unsafe extern "C" fn known(this: Object, _: Object) -> Object {
    // SAFETY: I7: CPython calls attached, with an instance.
    guarded_object(|py| known_of(&unsafe { argument(py, this) }))
}

/// `_extra`: all of it.
unsafe extern "C" fn get_extra(this: Object, _: *mut c_void) -> Object {
    guarded_object(|py| {
        // SAFETY: I7: CPython calls attached, with an instance.
        let transport = unsafe { argument(py, this) };
        transport.call_method1("get_extra_info", ("socket",))?;
        known_of(&transport)
    })
}

unsafe extern "C" fn set_extra(this: Object, value: Object, _: *mut c_void) -> c_int {
    guarded(-1, |py| {
        // SAFETY: I7: CPython calls attached, with an instance and a value, or null to delete it.
        unsafe { put(&argument(py, this), |it| &mut it.base.extra, Bound::from_borrowed_ptr_or_opt(py, value)) };
        Ok(0)
    })
}

const fn property(name: &'static CStr, get: ffi::getter, set: Option<ffi::setter>) -> ffi::PyGetSetDef {
    ffi::PyGetSetDef { name: name.as_ptr(), get: Some(get), set, doc: ptr::null(), closure: ptr::null_mut() }
}

/// What Python code sees as attributes, and is made when it looks.
pub static PROPERTIES: Static<[ffi::PyGetSetDef; 4]> = Static([
    property(c"_extra", get_extra, Some(set_extra)),
    property(c"_has_socket", get_has_socket, None),
    property(c"_sock", get_sock, None),
    ffi::PyGetSetDef { name: ptr::null(), get: None, set: None, doc: ptr::null(), closure: ptr::null_mut() },
]);
