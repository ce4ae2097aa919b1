//! How a loop makes futures, which programs ask it for whatever they wait for.

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyString, PyTuple};
use std::ptr;

/// `asyncio.Future`, and the names of what it is given.
pub struct Futures {
    class: Option<Py<PyAny>>,
    names: Option<Py<PyTuple>>,
}

impl Futures {
    /// Those of the calling interpreter; none, if it has no asyncio.
    pub fn new(py: Python<'_>) -> Self {
        let class = py.import("asyncio.futures").and_then(|module| module.getattr("Future"));
        let names = PyTuple::new(py, [PyString::intern(py, "loop")]);
        Futures { class: class.ok().map(Bound::unbind), names: names.ok().map(Bound::unbind) }
    }

    /// `asyncio.Future(loop=event_loop)`.
    ///
    /// # Errors
    /// No memory.
    pub fn make<'py>(&self, event_loop: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let py = event_loop.py();
        let (Some(class), Some(names)) = (&self.class, &self.names) else {
            return py.import("asyncio.futures")?.call_method0("Future");
        };
        let mut args = [ptr::null_mut(), event_loop.as_ptr()];
        // SAFETY: I7, by the token; borrowed objects, which `self` and the caller keep; one argument follows a spare slot; a new
        // reference, or null with an exception.
        unsafe {
            let none_by_place = ffi::PY_VECTORCALL_ARGUMENTS_OFFSET;
            let args = args.as_mut_ptr().add(1);
            let future = ffi::PyObject_Vectorcall(class.as_ptr(), args, none_by_place, names.as_ptr());
            Bound::from_owned_ptr_or_err(py, future)
        }
    }
}
