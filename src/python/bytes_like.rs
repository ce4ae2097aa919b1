//! The bytes of Python objects that have some.

use crate::python::glue::class_name;
use pyo3::exceptions::{PyException, PyRuntimeError, PyTypeError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use std::ffi::c_int;
use std::mem::MaybeUninit;

/// Has an object show its memory to `f`, which gets where it is, and how long. An empty one may have none.
///
/// # Errors
/// What the object raises.
fn viewed<R>(object: &Bound<'_, PyAny>, flags: c_int, f: impl FnOnce(*mut u8, usize) -> R) -> PyResult<R> {
    /// Released where it was filled in: it may refer to itself.
    struct Held<'a>(&'a mut ffi::Py_buffer);
    impl Drop for Held<'_> {
        fn drop(&mut self) {
            // SAFETY: I7: `viewed` is attached as long as this lives; a view that was filled in, and is released once.
            unsafe { ffi::PyBuffer_Release(self.0) };
        }
    }
    // SAFETY: I7, by the token; all-zero is a valid view of nothing, which is filled in, or an exception set.
    unsafe {
        let mut view = std::mem::zeroed::<ffi::Py_buffer>();
        if ffi::PyObject_GetBuffer(object.as_ptr(), &raw mut view, flags) < 0 {
            return Err(PyErr::fetch(object.py()));
        }
        let held = Held(&mut view);
        Ok(f(held.0.buf.cast(), held.0.len as usize))
    }
}

/// Calls `f` with the bytes of any bytes-like object.
///
/// # Errors
/// `TypeError`: it is none. `BufferError`: it is not contiguous. Whatever `f` answers.
pub fn with_bytes<R>(data: &Bound<'_, PyAny>, f: impl FnOnce(&[u8]) -> PyResult<R>) -> PyResult<R> {
    let result = viewed(data, ffi::PyBUF_SIMPLE, |start, len| {
        // SAFETY: I10: the view keeps its memory, as long as it says, until `f` has returned.
        f(if len == 0 { &[] } else { unsafe { std::slice::from_raw_parts(start, len) } })
    });
    result.map_err(|error| {
        if !error.is_instance_of::<PyTypeError>(data.py()) {
            return error;
        }
        let kind = data.get_type();
        PyTypeError::new_err(format!("a bytes-like object is required, not {kind}"))
    })?
}

/// Calls `f` with the memory of `buffer`, which writes there and runs no Python code. Answers what that does: how much it has written.
///
/// # Errors
/// As `socket.recv_into`. `TypeError`: it cannot be written to, or is not contiguous. `RuntimeError`: it is empty.
pub fn fill(buffer: &Bound<'_, PyAny>, f: impl FnOnce(&mut [MaybeUninit<u8>]) -> usize) -> PyResult<usize> {
    let result = viewed(buffer, ffi::PyBUF_WRITABLE, |start, len| match len {
        0 => Err(PyRuntimeError::new_err("the buffer is empty")),
        // SAFETY: I7, by the token; the view keeps its memory, as long as it says, until `f` has returned. Nobody else reads or
        // writes there meanwhile: that would be Python code, and `f` runs none, nor lets go of the lock.
        _ => Ok(f(unsafe { std::slice::from_raw_parts_mut(start.cast(), len) })),
    });
    result.map_err(|error| {
        if !error.is_instance_of::<PyException>(buffer.py()) {
            return error;
        }
        let kind = class_name(&buffer.get_type());
        PyTypeError::new_err(format!("a read-write bytes-like object is required, not {kind}"))
    })?
}

/// Plain `bytes` of these, one after the other.
///
/// # Errors
/// No memory.
pub fn joined<'py>(py: Python<'py>, pieces: &[&[u8]]) -> PyResult<Bound<'py, PyAny>> {
    let len: usize = pieces.iter().map(|piece| piece.len()).sum();
    // SAFETY: I7, by the token; a new object, which nobody else has seen, with room for `len` bytes, all of which are written.
    unsafe {
        let made = ffi::PyBytes_FromStringAndSize(std::ptr::null(), len as ffi::Py_ssize_t);
        let made = Bound::from_owned_ptr_or_err(py, made)?;
        let mut start = ffi::PyBytes_AS_STRING(made.as_ptr()).cast_mut().cast::<u8>();
        for piece in pieces {
            std::ptr::copy_nonoverlapping(piece.as_ptr(), start, piece.len());
            start = start.add(piece.len());
        }
        Ok(made)
    }
}

unsafe extern "C" {
    /// Of CPython: gives the only reference to a `bytes` another length; fails with null in its place, and an exception set.
    fn _PyBytes_Resize(object: *mut *mut ffi::PyObject, len: ffi::Py_ssize_t) -> c_int;
}

/// A `bytes` of what `fill` writes into `room` bytes; none if that is nothing.
///
/// # Errors
/// No memory; what `fill` answers.
///
/// # Safety
/// `fill` writes as many bytes as it answers, from the first.
pub unsafe fn filled<E>(
    py: Python<'_>,
    room: usize,
    fill: impl FnOnce(&mut [MaybeUninit<u8>]) -> Result<usize, E>,
) -> PyResult<Result<Option<Bound<'_, PyBytes>>, E>> {
    // SAFETY: I7, by the token; a new object, which nobody else has seen, with room for so many bytes, all that are left of
    // which have been written: the caller's promise. Resizing takes the reference over, and gives one back.
    unsafe {
        let made = ffi::PyBytes_FromStringAndSize(std::ptr::null(), room as ffi::Py_ssize_t);
        let made = Bound::from_owned_ptr_or_err(py, made)?;
        let start = ffi::PyBytes_AS_STRING(made.as_ptr()).cast_mut().cast::<MaybeUninit<u8>>();
        let len = match fill(std::slice::from_raw_parts_mut(start, room)) {
            Ok(0) => return Ok(Ok(None)),
            Ok(len) => len,
            Err(error) => return Ok(Err(error)),
        };
        assert!(len <= room);
        let mut object = made.into_ptr();
        _PyBytes_Resize(&raw mut object, len as ffi::Py_ssize_t);
        Ok(Ok(Some(Bound::from_owned_ptr_or_err(py, object)?.cast_into_unchecked())))
    }
}
