//! An instance of `Protocol`: its C layout, and what native code reads and writes in it.
//!
//! An instance is *plain* until a reactor serves it: then `write` and `read` use `fd` directly, so that a protocol can
//! be driven by hand. Once served it reaches its own connection by generation-tagged name and nothing else: when that
//! connection is gone, `write` answers 0 and `read` `b""`, for ever, whoever owns the descriptor number by then.

use crate::base::token::ConnId;
use crate::python::glue::{Static, class_name, guarded_object};
use crate::python::trashcan;
use pyo3::exceptions::{PyRuntimeError, PyTypeError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyByteArray, PyDict};
use std::ffi::{CStr, c_char, c_int, c_void};
use std::mem::offset_of;
use std::ptr;

/// What an instance's `write` and `read` reach.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Link {
    /// The descriptor `fd`, by system calls.
    Plain,
    /// A connection of the context with this serial number.
    Served {
        /// The serial number.
        context: u64,
        /// What the context calls it.
        id: ConnId,
    },
    /// Nothing any more.
    Lost,
}

/// The C layout of an instance.
#[repr(C)]
pub struct Instance {
    head: ffi::PyObject,
    client_info: *mut ffi::PyObject,
    write_buffer: *mut ffi::PyObject,
    /// What `write` and `read` reach.
    pub link: Link,
    /// The number of the descriptor.
    pub fd: c_int,
    /// Whether the connection is gone.
    pub closed: c_char,
}

const fn member(name: &'static CStr, kind: c_int, offset: usize, doc: &'static CStr) -> ffi::PyMemberDef {
    let offset = offset as ffi::Py_ssize_t;
    ffi::PyMemberDef { name: name.as_ptr(), type_code: kind, offset, flags: 0, doc: doc.as_ptr() }
}

/// The attributes that Python sees.
pub static MEMBERS: Static<[ffi::PyMemberDef; 5]> = Static([
    member(c"fd", ffi::Py_T_INT, offset_of!(Instance, fd), c"Number of the descriptor; -1 before there is one."),
    member(c"closed", ffi::Py_T_BOOL, offset_of!(Instance, closed), c"Whether the connection is gone."),
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

/// A borrowed instance. Fields are read and written through raw pointers: Python code may change them at any time.
pub fn instance(protocol: &Bound<'_, PyAny>) -> *mut Instance {
    protocol.as_ptr().cast()
}

/// Connects `protocol` (checked to be a `Protocol`) to its connection of the context with the serial number `context`, before `connection_made`.
///
/// # Errors
/// The instance serves, or has served, another connection.
pub fn attach(
    protocol: &Bound<'_, PyAny>,
    context: u64,
    id: ConnId,
    fd: c_int,
    info: &Bound<'_, PyDict>,
) -> PyResult<()> {
    let this = instance(protocol);
    // SAFETY: the caller checked the type, so this is the layout; attached; the old dict is released after the new one
    // is in place.
    unsafe {
        if (*this).link != Link::Plain || (*this).fd >= 0 {
            return Err(PyRuntimeError::new_err(format!(
                "the protocol factory returned an instance that already served fd {}: make a new one for each connection",
                (*this).fd
            )));
        }
        (*this).link = Link::Served { context, id };
        (*this).fd = fd;
        (*this).closed = 0;
        let old = std::mem::replace(&mut (*this).client_info, info.clone().into_ptr());
        ffi::Py_XDECREF(old);
    }
    Ok(())
}

/// Disconnects `protocol` (a `Protocol`), before `connection_lost`.
pub fn detach(protocol: &Bound<'_, PyAny>) {
    let this = instance(protocol);
    // SAFETY: only served protocols, whose type was checked, get here.
    unsafe {
        (*this).link = Link::Lost;
        (*this).closed = 1;
    }
}

/// The `write_buffer` of `protocol` (a `Protocol`).
///
/// # Errors
/// `TypeError`: it was set to something else, or deleted.
pub fn write_buffer<'py>(protocol: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyByteArray>> {
    // SAFETY: as in `detach`.
    let buffer = unsafe { Bound::from_borrowed_ptr_or_opt(protocol.py(), (*instance(protocol)).write_buffer) };
    let wrong = match buffer.map(Bound::cast_into::<PyByteArray>) {
        Some(Ok(buffer)) => return Ok(buffer),
        Some(Err(error)) => class_name(&error.into_inner().get_type()),
        None => "deleted".to_owned(),
    };
    Err(PyTypeError::new_err(format!("write_buffer must be a bytearray, not {wrong}")))
}

/// An empty one.
///
/// # Errors
/// No memory.
pub fn new_write_buffer(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    // SAFETY: attached; a new reference, or null with an exception set.
    unsafe { Bound::from_owned_ptr_or_err(py, ffi::PyByteArray_FromStringAndSize(ptr::null(), 0)) }
}

/// Gives `protocol` (a `Protocol`) another `write_buffer`.
pub fn set_write_buffer(protocol: &Bound<'_, PyAny>, buffer: Bound<'_, PyAny>) {
    // SAFETY: as in `detach`; the old one is released after the new one is in place.
    unsafe {
        let old = ptr::replace(&raw mut (*instance(protocol)).write_buffer, buffer.into_ptr());
        ffi::Py_XDECREF(old);
    }
}

/// What the base class's `connection_made` is told, of `protocol` (a `Protocol`) that is driven by hand.
pub fn introduce(protocol: &Bound<'_, PyAny>, fd: c_int, info: Bound<'_, PyAny>) {
    let this = instance(protocol);
    // SAFETY: as in `detach`; the old object is released after the new one is in place.
    unsafe {
        if (*this).link == Link::Plain {
            (*this).fd = fd;
            let old = ptr::replace(&raw mut (*this).client_info, info.into_ptr());
            ffi::Py_XDECREF(old);
        }
    }
}

/// The number of the descriptor of `protocol` (a `Protocol`), if it has one.
pub fn fd(protocol: &Bound<'_, PyAny>) -> Option<c_int> {
    // SAFETY: as in `detach`.
    let fd = unsafe { (*instance(protocol)).fd };
    (fd >= 0).then_some(fd)
}

/// The `client_info` of `protocol` (a `Protocol`), unless it was deleted.
pub fn client_info<'py>(protocol: &Bound<'py, PyAny>) -> Option<Bound<'py, PyAny>> {
    // SAFETY: as in `detach`.
    unsafe { Bound::from_borrowed_ptr_or_opt(protocol.py(), (*instance(protocol)).client_info) }
}

/// `tp_new`.
pub unsafe extern "C" fn new(
    class: *mut ffi::PyTypeObject,
    _: *mut ffi::PyObject,
    _: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    guarded_object(|py| {
        // SAFETY: the type's own allocator gives zeroed memory of its size; every field is filled in before anybody
        // else sees the instance.
        unsafe {
            let alloc = (*class).tp_alloc.ok_or_else(|| PyTypeError::new_err("Protocol cannot be made"))?;
            let object = Bound::from_owned_ptr_or_err(py, alloc(class, 0))?;
            let this = instance(&object);
            (*this).link = Link::Plain;
            (*this).fd = -1;
            (*this).client_info = PyDict::new(py).into_ptr();
            (*this).write_buffer = new_write_buffer(py)?.into_ptr();
            Ok(object)
        }
    })
}

/// `tp_traverse`.
pub unsafe extern "C" fn traverse(object: *mut ffi::PyObject, visit: ffi::visitproc, arg: *mut c_void) -> c_int {
    // SAFETY: the collector calls this attached, with an instance; nothing is allocated or released.
    unsafe {
        let this = object.cast::<Instance>();
        for field in [(*this).client_info, (*this).write_buffer, ffi::Py_TYPE(object).cast()] {
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
    // SAFETY: as in `traverse`. Each field is emptied before its object is released.
    unsafe {
        let this = object.cast::<Instance>();
        for field in [&raw mut (*this).client_info, &raw mut (*this).write_buffer] {
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
        // One of a subclass is in the midst of the subclass's own deallocation, which bounds the depth.
        if ptr::eq((*ffi::Py_TYPE(object)).tp_base, &raw const ffi::PyBaseObject_Type) {
            trashcan::release_bounded(object, release);
        } else {
            release(object);
        }
    }
}

/// # Safety
/// The last reference to the instance is gone, and the collector has forgotten it.
unsafe fn release(object: *mut ffi::PyObject) {
    // SAFETY: the usual order for a heap type.
    unsafe {
        let class = ffi::Py_TYPE(object);
        clear(object);
        if let Some(free) = (*class).tp_free {
            free(object.cast());
        }
        ffi::Py_DECREF(class.cast());
    }
}
