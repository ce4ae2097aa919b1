//! The number that a Python socket has now: its program may have closed it, and somebody else may have its number.

use pyo3::ffi;
use pyo3::prelude::*;
use std::ffi::c_int;

/// How CPython's sockets begin.
#[repr(C)]
struct Layout {
    head: ffi::PyObject,
    fd: c_int,
}

/// The number, without a call of Python code; -1: it is closed.
///
/// # Safety
/// Attached; an object of which [`is_known`] was true.
#[inline]
pub unsafe fn number(sock: *mut ffi::PyObject) -> c_int {
    // SAFETY: I7: the caller's promise; an object has room for it all its life.
    unsafe { (*sock.cast::<Layout>()).fd }
}

/// Whether `sock` is one of CPython's own sockets, or of a class made of it, with that number.
pub fn is_known(sock: &Bound<'_, PyAny>, fd: c_int) -> bool {
    let Ok(class) = sock.py().import("_socket").and_then(|module| module.getattr("socket")) else { return false };
    // SAFETY: I7, by the token; looks at types, and at what an object of that size has.
    unsafe {
        let of = ffi::Py_TYPE(sock.as_ptr());
        ffi::PyType_Check(class.as_ptr()) != 0
            && ffi::PyType_IsSubtype(of, class.as_ptr().cast()) != 0
            && (*of).tp_basicsize as usize >= size_of::<Layout>()
            && number(sock.as_ptr()) == fd
    }
}
