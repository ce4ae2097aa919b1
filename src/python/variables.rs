//! Context variables: each connection has a `contextvars.Context`, as in asyncio, and so a decimal context of its own.

use crate::python::glue::{argument, guarded_object};
use pyo3::ffi;
use pyo3::prelude::*;

/// A copy of what the calling thread sees now.
///
/// # Errors
/// No memory.
pub fn copy(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    // SAFETY: I7, by the token; a new reference, or null with an exception set.
    unsafe { Bound::from_owned_ptr_or_err(py, ffi::PyContext_CopyCurrent()) }
}

/// A copy of `variables`, a `contextvars.Context`.
///
/// # Errors
/// It is none, or no memory.
pub fn copy_of<'py>(variables: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    // SAFETY: I7, by the token; an object, whose type is looked at first; a new reference, or null with an exception set.
    unsafe { Bound::from_owned_ptr_or_err(variables.py(), ffi::PyContext_Copy(variables.as_ptr())) }
}

/// Runs `f` in `variables`, a `contextvars.Context` that the caller keeps; null: as the thread is.
#[inline]
pub fn within<R>(_py: Python<'_>, variables: *mut ffi::PyObject, f: impl FnOnce() -> R) -> R {
    /// Leaves the context again, whatever happens.
    struct Entered(*mut ffi::PyObject);
    impl Drop for Entered {
        fn drop(&mut self) {
            // SAFETY: I7: attached, as when it was entered. It fails if what `f` called has left another one behind:
            // that is then what the thread sees, and no exception is left.
            unsafe {
                if ffi::PyContext_Exit(self.0) != 0 {
                    ffi::PyErr_Clear();
                }
            }
        }
    }
    if variables.is_null() {
        return f();
    }
    // SAFETY: I7, by the token; a context that is kept. It is refused only if it is entered already.
    let entered = unsafe { ffi::PyContext_Enter(variables) } == 0;
    let _entered = if entered {
        Some(Entered(variables))
    } else {
        // SAFETY: I7, by the token.
        unsafe { ffi::PyErr_Clear() };
        None
    };
    f()
}

/// `within(context, function)`: calls it in a `contextvars.Context`, or as the thread is where that is entered already.
pub unsafe extern "C" fn call_within(_: *mut ffi::PyObject, args: *mut ffi::PyObject) -> *mut ffi::PyObject {
    guarded_object(|py| {
        // SAFETY: I7: CPython calls attached, with a tuple that lives through the call.
        let args = unsafe { argument(py, args) };
        let (variables, function): (Bound<'_, PyAny>, Bound<'_, PyAny>) = args.extract()?;
        within(py, variables.as_ptr(), || function.call0())
    })
}
