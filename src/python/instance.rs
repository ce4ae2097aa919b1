//! An instance of `Protocol`: its C layout, and what native code reads and writes in it.
//!
//! An instance is *plain* until a reactor serves it: then `write` and `read` use `fd` directly, so that a protocol can
//! be driven by hand. Once served it reaches its own connection by generation-tagged name and nothing else: when that
//! connection is gone, `write` answers 0 and `read` `b""`, for ever, whoever owns the descriptor number by then.

use crate::base::token::ConnId;
use crate::python::glue::{Static, class_name, guarded_object};
use crate::python::trashcan;
use crate::python::variables;
use pyo3::exceptions::{PyRuntimeError, PyTypeError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyByteArray, PyDict, PyString};
use std::cell::Cell;
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::mem::offset_of;
use std::ptr;
use std::sync::atomic::{AtomicU64, Ordering};

/// What an instance is attached to: what its `write` and `read` reach.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Attachment {
    /// The descriptor `fd`, by system calls.
    Plain,
    /// A connection of a context, by what the context calls it.
    Served(ConnId),
    /// Nothing any more.
    Lost,
}

/// What tells a connection from all others, earlier and later ones included: the number of its descriptor, the serial number
/// of its context (0: it is driven by hand), and its own.
pub type Handle = (c_int, u64, u64);

/// The C layout of an instance.
#[repr(C)]
pub struct Instance {
    head: ffi::PyObject,
    client_info: *mut ffi::PyObject,
    write_buffer: *mut ffi::PyObject,
    /// The `contextvars.Context` that its callbacks run in; null if it is driven by hand.
    variables: *mut ffi::PyObject,
    /// What `get_extra_info` has found out, a dict; null until it is asked.
    extra: *mut ffi::PyObject,
    /// Why the connection has ended, a `str`; None while it is there.
    close_reason: *mut ffi::PyObject,
    /// The connection that it serves, or was the last to serve; without a number before it has one.
    handle: Handle,
    /// The version of its class that was looked at last; 0: none.
    pub seen_version: c_uint,
    /// Which methods of the base class its class had then.
    pub inherited: u8,
    /// What `own_attributes` has seen since then.
    pub seen_names: Cell<ffi::Py_ssize_t>,
    /// What `write` and `read` reach.
    pub attachment: Attachment,
    /// The number of the descriptor.
    pub fd: c_int,
    /// What the system said when it ended; 0: nothing.
    close_errno: c_int,
    /// Whether the connection is gone.
    pub closed: c_char,
    peer_closed: c_char,
}

const fn member(name: &'static CStr, kind: c_int, offset: usize, doc: &'static CStr) -> ffi::PyMemberDef {
    let offset = offset as ffi::Py_ssize_t;
    ffi::PyMemberDef { name: name.as_ptr(), type_code: kind, offset, flags: 0, doc: doc.as_ptr() }
}

/// The attributes that Python sees.
pub static MEMBERS: Static<[ffi::PyMemberDef; 8]> = Static([
    member(c"fd", ffi::Py_T_INT, offset_of!(Instance, fd), c"Number of the descriptor; -1 before there is one."),
    member(c"closed", ffi::Py_T_BOOL, offset_of!(Instance, closed), c"Whether the connection is gone."),
    member(c"peer_closed", ffi::Py_T_BOOL, offset_of!(Instance, peer_closed), c"Whether the peer sends no more."),
    member(
        c"close_reason",
        ffi::Py_T_OBJECT_EX,
        offset_of!(Instance, close_reason),
        c"Why the connection is gone; None while it is there.",
    ),
    member(
        c"close_errno",
        ffi::Py_T_INT,
        offset_of!(Instance, close_errno),
        c"What the system said when the connection ended; 0: nothing.",
    ),
    member(
        c"client_info",
        ffi::Py_T_OBJECT_EX,
        offset_of!(Instance, client_info),
        c"What Erlang said of the connection.",
    ),
    // Not a property that checks what it is set to: Python reads a member without calling anything, several times for each
    // message. [`write_buffer`] checks.
    member(
        c"write_buffer",
        ffi::Py_T_OBJECT_EX,
        offset_of!(Instance, write_buffer),
        c"Output that the base class's write_ready sends: a bytearray.",
    ),
    ffi::PyMemberDef { name: ptr::null(), type_code: 0, offset: 0, flags: 0, doc: ptr::null() },
]);

/// Whether `object` has this layout. Not `isinstance`, which believes what `__class__` says.
pub fn is_protocol(object: &Bound<'_, PyAny>) -> bool {
    let mut class = object.get_type_ptr();
    // SAFETY: I7, by the token; the bases of a type live as long as it.
    unsafe {
        while !class.is_null() {
            if (*class).tp_new.is_some_and(|made| made as usize == new as *const () as usize)
                && (*class).tp_basicsize >= size_of::<Instance>() as ffi::Py_ssize_t
            {
                return true;
            }
            class = (*class).tp_base;
        }
    }
    false
}

/// A borrowed instance. Fields are read and written through raw pointers: Python code may change them at any time.
pub fn instance(protocol: &Bound<'_, PyAny>) -> *mut Instance {
    protocol.as_ptr().cast()
}

/// Connects `protocol` (checked to be a `Protocol`) to its connection, before `connection_made`; callbacks run in `variables`.
///
/// # Errors
/// The instance serves, or has served, another connection.
pub fn attach(
    protocol: &Bound<'_, PyAny>,
    id: ConnId,
    handle: Handle,
    info: &Bound<'_, PyDict>,
    variables: Bound<'_, PyAny>,
) -> PyResult<()> {
    let this = instance(protocol);
    // SAFETY: I7: the caller checked the type, so this is the layout; attached; the old objects are released after the
    // new ones are in place.
    unsafe {
        if (*this).attachment != Attachment::Plain || (*this).fd >= 0 {
            return Err(PyRuntimeError::new_err(format!(
                "the protocol factory returned an instance that already served fd {}: make a new one for each connection",
                (*this).fd
            )));
        }
        (*this).attachment = Attachment::Served(id);
        (*this).handle = handle;
        (*this).fd = handle.0;
        (*this).closed = 0;
        let old_variables = ptr::replace(&raw mut (*this).variables, variables.into_ptr());
        let old_info = ptr::replace(&raw mut (*this).client_info, info.clone().into_ptr());
        ffi::Py_XDECREF(old_variables);
        ffi::Py_XDECREF(old_info);
    }
    Ok(())
}

/// Disconnects `protocol` (a `Protocol`), before `connection_lost`.
pub fn detach(protocol: &Bound<'_, PyAny>, reason: &str, errno: c_int) {
    let this = instance(protocol);
    // SAFETY: I7, by the token; only served protocols, whose type was checked, get here. The old object is released after
    // the new one is in place.
    unsafe {
        (*this).attachment = Attachment::Lost;
        (*this).closed = 1;
        (*this).close_errno = errno;
        let reason = PyString::intern(protocol.py(), reason).into_ptr();
        let old = ptr::replace(&raw mut (*this).close_reason, reason);
        ffi::Py_XDECREF(old);
    }
}

/// Whether `protocol` (a `Protocol`) has been disconnected.
pub fn is_lost(protocol: &Bound<'_, PyAny>) -> bool {
    // SAFETY: I7, by the token; only instances of our type get here.
    unsafe { (*instance(protocol)).attachment == Attachment::Lost }
}

/// The peer of `protocol` (a `Protocol`) sends no more.
pub fn set_peer_closed(protocol: &Bound<'_, PyAny>) {
    // SAFETY: I7, by the token; only instances of our type get here.
    unsafe { (*instance(protocol)).peer_closed = 1 };
}

/// The `write_buffer` of `protocol` (a `Protocol`).
///
/// # Errors
/// `TypeError`: it was set to something else, or deleted.
pub fn write_buffer<'py>(protocol: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyByteArray>> {
    // SAFETY: I7, by the token; only instances of our type get here.
    let buffer = unsafe { Bound::from_borrowed_ptr_or_opt(protocol.py(), (*instance(protocol)).write_buffer) };
    let wrong = match buffer.map(Bound::cast_into::<PyByteArray>) {
        Some(Ok(buffer)) => return Ok(buffer),
        Some(Err(error)) => class_name(&error.into_inner().get_type()),
        None => "deleted".to_owned(),
    };
    Err(PyTypeError::new_err(format!("write_buffer must be a bytearray, not {wrong}")))
}

/// Whether something stands in the `write_buffer` of `protocol` (a `Protocol`), be it a `bytes` that was put there by mistake:
/// `write_ready` says so. No Python code runs.
pub fn holds_output(protocol: &Bound<'_, PyAny>) -> bool {
    // SAFETY: I7, by the token; only instances of our type get here; of both types the size stands in the header.
    unsafe {
        let buffer = (*instance(protocol)).write_buffer;
        !buffer.is_null()
            && (ffi::PyByteArray_Check(buffer) != 0 || ffi::PyBytes_Check(buffer) != 0)
            && ffi::Py_SIZE(buffer) > 0
    }
}

/// An empty one.
///
/// # Errors
/// No memory.
pub fn new_write_buffer(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    // SAFETY: I7, by the token; a new reference, or null with an exception set.
    unsafe { Bound::from_owned_ptr_or_err(py, ffi::PyByteArray_FromStringAndSize(ptr::null(), 0)) }
}

/// Gives `protocol` (a `Protocol`) another `write_buffer`.
pub fn set_write_buffer(protocol: &Bound<'_, PyAny>, buffer: Bound<'_, PyAny>) {
    // SAFETY: I7, by the token; only instances of our type get here; the old one is released after the new one is in
    // place.
    unsafe {
        let old = ptr::replace(&raw mut (*instance(protocol)).write_buffer, buffer.into_ptr());
        ffi::Py_XDECREF(old);
    }
}

/// Has `protocol` (a `Protocol` that no reactor serves or has served) driven by hand, perhaps not for the first time. Answers
/// its handle.
///
/// # Errors
/// A reactor serves it, or has.
pub fn drive_by_hand(protocol: &Bound<'_, PyAny>, fd: c_int, info: Bound<'_, PyAny>) -> PyResult<Handle> {
    static SERIAL: AtomicU64 = AtomicU64::new(1);
    let this = instance(protocol);
    // SAFETY: I7, by the token; only instances of our type get here; the old dicts are released after the new one is in
    // place.
    unsafe {
        if (*this).attachment != Attachment::Plain {
            return Err(PyRuntimeError::new_err(format!(
                "the protocol factory returned an instance that already served fd {}: make a new one for each connection",
                (*this).fd
            )));
        }
        (*this).handle = (fd, 0, SERIAL.fetch_add(1, Ordering::Relaxed));
        (*this).fd = fd;
        (*this).closed = 0;
        (*this).peer_closed = 0;
        (*this).close_errno = 0;
        let old_extra = ptr::replace(&raw mut (*this).extra, ptr::null_mut());
        let old_reason = ptr::replace(&raw mut (*this).close_reason, protocol.py().None().into_ptr());
        let old_info = ptr::replace(&raw mut (*this).client_info, info.into_ptr());
        ffi::Py_XDECREF(old_extra);
        ffi::Py_XDECREF(old_reason);
        ffi::Py_XDECREF(old_info);
        Ok((*this).handle)
    }
}

/// The connection that `protocol` (a `Protocol`) serves, or was the last to serve.
pub fn handle(protocol: &Bound<'_, PyAny>) -> Option<Handle> {
    // SAFETY: I7, by the token; only instances of our type get here.
    let handle = unsafe { (*instance(protocol)).handle };
    (handle.0 >= 0).then_some(handle)
}

/// What `get_extra_info` of `protocol` (a `Protocol`) has found out.
///
/// # Errors
/// No memory.
pub fn extra<'py>(protocol: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    let this = instance(protocol);
    // SAFETY: I7, by the token; only instances of our type get here; a new dict is kept by the instance.
    unsafe {
        if (*this).extra.is_null() {
            (*this).extra = PyDict::new(protocol.py()).into_ptr();
        }
        Ok(Bound::from_borrowed_ptr(protocol.py(), (*this).extra))
    }
}

/// The same, if anybody has asked.
pub fn asked_extra<'py>(protocol: &Bound<'py, PyAny>) -> Option<Bound<'py, PyAny>> {
    // SAFETY: I7, by the token; only instances of our type get here.
    unsafe { Bound::from_borrowed_ptr_or_opt(protocol.py(), (*instance(protocol)).extra) }
}

/// The number of the descriptor that `protocol` (a `Protocol`) is driven on by hand, while it is.
pub fn fd_by_hand(protocol: &Bound<'_, PyAny>) -> Option<c_int> {
    // SAFETY: I7, by the token; only instances of our type get here.
    let (handle, closed) = unsafe { ((*instance(protocol)).handle, (*instance(protocol)).closed) };
    (handle.0 >= 0 && closed == 0).then_some(handle.0)
}

/// Runs `f`, which calls Python code of the connection of `protocol` (a `Protocol`), in that connection's variables.
#[inline]
pub fn within<R>(protocol: &Bound<'_, PyAny>, f: impl FnOnce() -> R) -> R {
    // SAFETY: I7, by the token; only instances of our type get here; the instance keeps it, and nothing replaces it once
    // it serves.
    let variables = unsafe { (*instance(protocol)).variables };
    variables::within(protocol.py(), variables, f)
}

/// The `contextvars.Context` of `protocol` (a `Protocol`), if a reactor serves it.
pub fn variables<'py>(protocol: &Bound<'py, PyAny>) -> Option<Bound<'py, PyAny>> {
    // SAFETY: I7, by the token; only instances of our type get here.
    unsafe { Bound::from_borrowed_ptr_or_opt(protocol.py(), (*instance(protocol)).variables) }
}

/// What the base class's `connection_made` is told, of `protocol` (a `Protocol`) that is driven by hand.
pub fn introduce(protocol: &Bound<'_, PyAny>, fd: c_int, info: Bound<'_, PyAny>) {
    let this = instance(protocol);
    // SAFETY: I7, by the token; only instances of our type get here; the old object is released after the new one is in
    // place.
    unsafe {
        if (*this).attachment == Attachment::Plain {
            (*this).fd = fd;
            let old = ptr::replace(&raw mut (*this).client_info, info.into_ptr());
            ffi::Py_XDECREF(old);
        }
    }
}

/// The number of the descriptor of `protocol` (a `Protocol`), if it has one.
pub fn fd(protocol: &Bound<'_, PyAny>) -> Option<c_int> {
    // SAFETY: I7, by the token; only instances of our type get here.
    let fd = unsafe { (*instance(protocol)).fd };
    (fd >= 0).then_some(fd)
}

/// The `client_info` of `protocol` (a `Protocol`), unless it was deleted.
pub fn client_info<'py>(protocol: &Bound<'py, PyAny>) -> Option<Bound<'py, PyAny>> {
    // SAFETY: I7, by the token; only instances of our type get here.
    unsafe { Bound::from_borrowed_ptr_or_opt(protocol.py(), (*instance(protocol)).client_info) }
}

/// `tp_new`.
pub unsafe extern "C" fn new(
    class: *mut ffi::PyTypeObject,
    _: *mut ffi::PyObject,
    _: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    guarded_object(|py| {
        // SAFETY: I7, by the token; the type's own allocator gives zeroed memory of its size; every field is filled in
        // before anybody else sees the instance.
        unsafe {
            let alloc = (*class).tp_alloc.ok_or_else(|| PyTypeError::new_err("Protocol cannot be made"))?;
            let object = Bound::from_owned_ptr_or_err(py, alloc(class, 0))?;
            let this = instance(&object);
            (*this).attachment = Attachment::Plain;
            (*this).fd = -1;
            (*this).handle = (-1, 0, 0);
            (*this).client_info = PyDict::new(py).into_ptr();
            (*this).write_buffer = new_write_buffer(py)?.into_ptr();
            (*this).close_reason = py.None().into_ptr();
            Ok(object)
        }
    })
}

/// `tp_traverse`.
pub unsafe extern "C" fn traverse(object: *mut ffi::PyObject, visit: ffi::visitproc, arg: *mut c_void) -> c_int {
    // SAFETY: I7: the collector calls this attached, with an instance; nothing is allocated or released.
    unsafe {
        let this = object.cast::<Instance>();
        let fields =
            [(*this).client_info, (*this).write_buffer, (*this).variables, (*this).extra, (*this).close_reason];
        for field in fields.into_iter().chain([ffi::Py_TYPE(object).cast()]) {
            if !field.is_null() {
                let result = visit(field, arg);
                if result != 0 {
                    return result;
                }
            }
        }
    }
    0
}

/// `tp_clear`.
pub unsafe extern "C" fn clear(object: *mut ffi::PyObject) -> c_int {
    // SAFETY: I7: the collector calls attached, with an instance. Each field is emptied before its object is released.
    unsafe {
        let this = object.cast::<Instance>();
        for field in [
            &raw mut (*this).client_info,
            &raw mut (*this).write_buffer,
            &raw mut (*this).variables,
            &raw mut (*this).extra,
            &raw mut (*this).close_reason,
        ] {
            let old = ptr::replace(field, ptr::null_mut());
            ffi::Py_XDECREF(old);
        }
    }
    0
}

/// `tp_dealloc`.
pub unsafe extern "C" fn dealloc(object: *mut ffi::PyObject) {
    // SAFETY: the last reference is gone; CPython calls this attached (I7).
    unsafe {
        ffi::PyObject_GC_UnTrack(object.cast());
        // One of a subclass, too: CPython's bound for those is a depth of thousands from Python 3.13 on, too much for a
        // thread with little stack. The subclass's own deallocation touches the object no more after this.
        trashcan::release_bounded(object, release);
    }
}

/// # Safety
/// The last reference to the instance is gone, and the collector has forgotten it.
unsafe fn release(object: *mut ffi::PyObject) {
    // SAFETY: I7, by the token; the usual order for a heap type.
    unsafe {
        let class = ffi::Py_TYPE(object);
        clear(object);
        if let Some(free) = (*class).tp_free {
            free(object.cast());
        }
        ffi::Py_DECREF(class.cast());
    }
}
