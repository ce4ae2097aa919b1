//! Sockets of Python: how they are made of descriptors, and the number that one has now: its program may have closed it, and
//! somebody else may have its number.

use pyo3::ffi;
use pyo3::prelude::*;
use std::ffi::c_int;
use std::os::fd::{AsRawFd, IntoRawFd, OwnedFd};

/// A `socket.socket` that owns `fd` and never waits. No Python code is run, which could be interrupted before the object has the descriptor.
///
/// # Errors
/// The Python exception; the descriptor is closed.
pub fn owning(py: Python<'_>, fd: OwnedFd) -> PyResult<Bound<'_, PyAny>> {
    let class = py.import("socket")?.getattr("socket")?;
    let native = py.import("_socket")?.getattr("socket")?;
    let (mut kind, mut len) = (0i32, size_of::<i32>() as libc::socklen_t);
    // SAFETY: I10: reads an int into a local of that size.
    unsafe {
        libc::getsockopt(fd.as_raw_fd(), libc::SOL_SOCKET, libc::SO_TYPE, (&raw mut kind).cast(), &raw mut len);
    }
    let sock = native.getattr("__new__")?.call1((&class,))?;
    native.getattr("__init__")?.call1((&sock, -1, kind | libc::SOCK_NONBLOCK, -1, fd.as_raw_fd()))?;
    let _ = fd.into_raw_fd();
    // What `socket.socket` sets besides.
    sock.setattr("_io_refs", 0)?;
    sock.setattr("_closed", false)?;
    Ok(sock)
}

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
