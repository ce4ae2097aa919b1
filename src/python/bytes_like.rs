//! The bytes of Python objects that have some.

use crate::python::glue::class_name;
use pyo3::exceptions::{PyException, PyRuntimeError, PyTypeError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use std::ffi::c_int;
use std::mem::MaybeUninit;

/// Calls `f` with the bytes of any bytes-like object.
///
/// # Errors
/// `TypeError`: it is none. `BufferError`: it is not contiguous. Whatever `f` answers.
pub fn with_bytes<R>(data: &Bound<'_, PyAny>, f: impl FnOnce(&[u8]) -> PyResult<R>) -> PyResult<R> {
    // SAFETY: I7, by the token; the view is valid, and keeps its memory where it is, until it is released. An empty view
    // may have no memory.
    unsafe {
        let mut view = std::mem::zeroed::<ffi::Py_buffer>();
        if ffi::PyObject_GetBuffer(data.as_ptr(), &raw mut view, ffi::PyBUF_SIMPLE) < 0 {
            let error = PyErr::fetch(data.py());
            if !error.is_instance_of::<PyTypeError>(data.py()) {
                return Err(error);
            }
            let kind = data.get_type();
            return Err(PyTypeError::new_err(format!("a bytes-like object is required, not {kind}")));
        }
        let bytes = if view.len == 0 { &[] } else { std::slice::from_raw_parts(view.buf.cast(), view.len as usize) };
        let result = f(bytes);
        ffi::PyBuffer_Release(&raw mut view);
        result
    }
}

/// Calls `f` with the memory of `buffer`, which writes there and runs no Python code. Answers what that does: how much it has written.
///
/// # Errors
/// As `socket.recv_into`. `TypeError`: it cannot be written to, or is not contiguous. `RuntimeError`: it is empty.
pub fn fill(buffer: &Bound<'_, PyAny>, f: impl FnOnce(&mut [MaybeUninit<u8>]) -> usize) -> PyResult<usize> {
    // SAFETY: I7, by the token; the view is valid, and keeps its memory where it is, until it is released. Nobody else reads or
    // writes there meanwhile: that would be Python code, and `f` runs none, nor lets go of the lock.
    unsafe {
        let mut view = std::mem::zeroed::<ffi::Py_buffer>();
        if ffi::PyObject_GetBuffer(buffer.as_ptr(), &raw mut view, ffi::PyBUF_WRITABLE) < 0 {
            let error = PyErr::fetch(buffer.py());
            if !error.is_instance_of::<PyException>(buffer.py()) {
                return Err(error);
            }
            let kind = class_name(&buffer.get_type());
            return Err(PyTypeError::new_err(format!("a read-write bytes-like object is required, not {kind}")));
        }
        let filled = match view.len {
            0 => Err(PyRuntimeError::new_err("the buffer is empty")),
            len => Ok(f(std::slice::from_raw_parts_mut(view.buf.cast(), len as usize))),
        };
        ffi::PyBuffer_Release(&raw mut view);
        filled
    }
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
