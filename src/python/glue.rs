//! What every function and type that CPython calls needs: tables, arguments, and errors instead of panics.

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyString, PyType};
use std::ffi::{CStr, c_int, c_uint, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;

/// Tables that CPython keeps pointers to.
pub struct Static<T>(pub T);
// SAFETY: the tables are never written.
unsafe impl<T> Sync for Static<T> {}

/// An entry of a method table.
pub const fn method(
    name: &'static CStr,
    function: ffi::PyCFunction,
    flags: c_int,
    doc: &'static CStr,
) -> ffi::PyMethodDef {
    ffi::PyMethodDef {
        ml_name: name.as_ptr(),
        ml_meth: ffi::PyMethodDefPointer { PyCFunction: function },
        ml_flags: flags,
        ml_doc: doc.as_ptr(),
    }
}

/// Runs `f` for a function that CPython called: errors become exceptions, and so does a panic, which must not cross
/// into C. `failure` is what C expects along with an exception.
pub fn guarded<R>(failure: R, f: impl FnOnce(Python<'_>) -> PyResult<R>) -> R {
    Python::attach(|py| match catch_unwind(AssertUnwindSafe(|| f(py))) {
        Ok(Ok(result)) => result,
        Ok(Err(error)) => {
            error.restore(py);
            failure
        }
        Err(_) => {
            pyo3::exceptions::PySystemError::new_err("py_reactor: internal error (a Rust panic), please report it")
                .restore(py);
            failure
        }
    })
}

/// As [`guarded`], for a function that answers a new reference.
pub fn guarded_object(f: impl for<'py> FnOnce(Python<'py>) -> PyResult<Bound<'py, PyAny>>) -> *mut ffi::PyObject {
    guarded(ptr::null_mut(), |py| f(py).map(Bound::into_ptr))
}

/// Makes a heap type in `module`.
///
/// # Errors
/// The Python exception.
pub fn make_type<'py>(
    module: &Bound<'py, PyModule>,
    name: &'static CStr,
    basic_size: usize,
    flags: std::ffi::c_ulong,
    slots: &[(c_int, *mut c_void)],
    base: Option<&Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyAny>> {
    let mut slots: Vec<_> = slots
        .iter()
        .map(|&(slot, pfunc)| ffi::PyType_Slot { slot, pfunc })
        .chain([ffi::PyType_Slot::default()])
        .collect();
    let mut spec = ffi::PyType_Spec {
        name: name.as_ptr(),
        basicsize: basic_size as c_int,
        itemsize: 0,
        flags: (ffi::Py_TPFLAGS_DEFAULT | flags) as c_uint,
        slots: slots.as_mut_ptr(),
    };
    let base = base.map_or(ptr::null_mut(), Bound::as_ptr);
    // SAFETY: the specification and its slots live through the call; what CPython keeps is static.
    unsafe {
        let made = ffi::PyType_FromModuleAndSpec(module.as_ptr(), &raw mut spec, base);
        Bound::from_owned_ptr_or_err(module.py(), made)
    }
}

/// # Safety
/// `object` is the `self` or an argument that CPython passed: a borrowed reference.
pub unsafe fn argument<'py>(py: Python<'py>, object: *mut ffi::PyObject) -> Bound<'py, PyAny> {
    // SAFETY: the caller's promise.
    unsafe { Bound::from_borrowed_ptr(py, object) }
}

/// Whether the method `name` of `protocol` is the base class's: neither its class nor the instance has another.
///
/// # Errors
/// The Python exception.
pub fn inherits(protocol: &Bound<'_, PyAny>, name: &Bound<'_, PyString>, base: &Bound<'_, PyAny>) -> PyResult<bool> {
    let own = protocol.getattr_opt("__dict__")?;
    let overridden = own.map_or(Ok(false), |own| own.contains(name))?;
    Ok(!overridden && protocol.get_type().getattr(name)?.is(base))
}

/// "module.Class", without the module of built-in ones. By hand: pyo3's way keeps strings of one interpreter for all (I7).
pub fn class_name(class: &Bound<'_, PyType>) -> String {
    let part = |name: &str| class.getattr(name).map_or_else(|_| "?".to_owned(), |part| part.to_string());
    match part("__module__").as_str() {
        "builtins" => part("__qualname__"),
        module => format!("{module}.{}", part("__qualname__")),
    }
}
