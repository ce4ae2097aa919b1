//! How a loop makes futures, which programs ask it for whatever they wait for.

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{IntoPyDict, PyString, PyTuple};
use std::ptr;

/// Where asyncio has the class of futures, which it looks up for each.
pub struct Futures(Option<Place>);

struct Place {
    /// `asyncio.futures`, and what it has there: programs may put another class in its place.
    module: Py<PyAny>,
    class: Py<PyString>,
    /// The names of what a future is given.
    names: Py<PyTuple>,
}

impl Futures {
    /// Those of the calling interpreter.
    pub fn new(py: Python<'_>) -> Self {
        let known = || {
            let module = py.import("asyncio.futures")?.into_any().unbind();
            let names = PyTuple::new(py, [PyString::intern(py, "loop")])?.unbind();
            PyResult::Ok(Place { module, class: PyString::intern(py, "Future").unbind(), names })
        };
        Futures(known().ok())
    }

    /// `asyncio.futures.Future(loop=event_loop)`.
    ///
    /// # Errors
    /// What that raises.
    pub fn make<'py>(&self, event_loop: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let py = event_loop.py();
        let Some(Place { module, class, names }) = &self.0 else {
            let keywords = [("loop", event_loop)].into_py_dict(py)?;
            return py.import("asyncio.futures")?.getattr("Future")?.call((), Some(&keywords));
        };
        let class = module.bind(py).getattr(class)?;
        let mut args = [ptr::null_mut(), event_loop.as_ptr()];
        // SAFETY: I7, by the token; objects that are kept here, by `self` or by the caller; one argument follows a spare slot; a
        // new reference, or null with an exception.
        unsafe {
            let none_by_place = ffi::PY_VECTORCALL_ARGUMENTS_OFFSET;
            let args = args.as_mut_ptr().add(1);
            let future = ffi::PyObject_Vectorcall(class.as_ptr(), args, none_by_place, names.as_ptr());
            Bound::from_owned_ptr_or_err(py, future)
        }
    }
}
