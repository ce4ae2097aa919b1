//! The bytes of Python objects that have some.

use crate::python::glue::class_name;
use pyo3::exceptions::{PyException, PyRuntimeError, PyTypeError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use std::ffi::c_int;
use std::mem::MaybeUninit;

/// The memory of an object, as it shows it. It stays valid, and where it is, until this is dropped.
struct View<'py> {
    view: ffi::Py_buffer,
    py: Python<'py>,
}

impl<'py> View<'py> {
    /// # Errors
    /// What the object raises.
    fn of(object: &Bound<'py, PyAny>, flags: c_int) -> PyResult<Self> {
        // SAFETY: I7, by the token; all-zero is a valid view of nothing, which is filled in, or an exception set.
        unsafe {
            let mut view = std::mem::zeroed::<ffi::Py_buffer>();
            match ffi::PyObject_GetBuffer(object.as_ptr(), &raw mut view, flags) {
                0 => Ok(View { view, py: object.py() }),
                _ => Err(PyErr::fetch(object.py())),
            }
        }
    }

    fn len(&self) -> usize {
        self.view.len as usize
    }
}

impl Drop for View<'_> {
    fn drop(&mut self) {
        let _attached = self.py;
        // SAFETY: I7, by the token; a view that was filled in, and is released once.
        unsafe { ffi::PyBuffer_Release(&raw mut self.view) };
    }
}

/// Calls `f` with the bytes of any bytes-like object.
///
/// # Errors
/// `TypeError`: it is none. `BufferError`: it is not contiguous. Whatever `f` answers.
pub fn with_bytes<R>(data: &Bound<'_, PyAny>, f: impl FnOnce(&[u8]) -> PyResult<R>) -> PyResult<R> {
    let view = View::of(data, ffi::PyBUF_SIMPLE).map_err(|error| {
        if !error.is_instance_of::<PyTypeError>(data.py()) {
            return error;
        }
        let kind = data.get_type();
        PyTypeError::new_err(format!("a bytes-like object is required, not {kind}"))
    })?;
    // SAFETY: I10: the view, which keeps its memory, outlives the call. An empty one may have none.
    f(if view.len() == 0 { &[] } else { unsafe { std::slice::from_raw_parts(view.view.buf.cast(), view.len()) } })
}

/// Calls `f` with the memory of `buffer`, which writes there and runs no Python code. Answers what that does: how much it has written.
///
/// # Errors
/// As `socket.recv_into`. `TypeError`: it cannot be written to, or is not contiguous. `RuntimeError`: it is empty.
pub fn fill(buffer: &Bound<'_, PyAny>, f: impl FnOnce(&mut [MaybeUninit<u8>]) -> usize) -> PyResult<usize> {
    let view = View::of(buffer, ffi::PyBUF_WRITABLE).map_err(|error| {
        if !error.is_instance_of::<PyException>(buffer.py()) {
            return error;
        }
        let kind = class_name(&buffer.get_type());
        PyTypeError::new_err(format!("a read-write bytes-like object is required, not {kind}"))
    })?;
    match view.len() {
        0 => Err(PyRuntimeError::new_err("the buffer is empty")),
        // SAFETY: I7, by the token; the view, which keeps its memory, outlives the call. Nobody else reads or writes there meanwhile: that would be Python
        // code, and `f` runs none, nor lets go of the lock.
        len => Ok(f(unsafe { std::slice::from_raw_parts_mut(view.view.buf.cast(), len) })),
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
