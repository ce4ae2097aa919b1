//! The bytes of Python objects that have some.

use pyo3::exceptions::PyTypeError;
use pyo3::ffi;
use pyo3::prelude::*;

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
