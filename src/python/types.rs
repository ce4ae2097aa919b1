//! Our types, as many times as there are interpreters (I7): made once in each, and kept where no Python code can put others
//! in their place. Whoever relies on their layout takes them from here, never from a module's attributes.

use pyo3::exceptions::{PyImportError, PyMemoryError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyType};
use std::ffi::{CStr, c_int, c_uint, c_void};
use std::ptr;

/// The types of one interpreter.
pub struct Types<'py> {
    /// `erlang.reactor.Protocol`.
    pub protocol: Bound<'py, PyType>,
    /// `erlang.reactor.ReactorBuffer`.
    pub reactor_buffer: Bound<'py, PyType>,
    /// `erlang.reactor.Interrupted`.
    pub interrupted: Bound<'py, PyType>,
}

impl<'py> Types<'py> {
    /// Those of the calling interpreter.
    ///
    /// # Errors
    /// The native module has never been imported there.
    pub fn of(py: Python<'py>) -> PyResult<Self> {
        let missing = || PyImportError::new_err("_py_reactor has not been imported in this interpreter");
        let types = kept(py)?.get_item(KEY)?.ok_or_else(missing)?;
        let (protocol, reactor_buffer, interrupted) = types.extract()?;
        Ok(Types { protocol, reactor_buffer, interrupted })
    }

    /// The same; `make` makes them, if nobody has done so yet.
    ///
    /// # Errors
    /// The Python exception.
    pub fn made_by(py: Python<'py>, make: impl FnOnce() -> PyResult<Self>) -> PyResult<Self> {
        if !kept(py)?.contains(KEY)? {
            let Types { protocol, reactor_buffer, interrupted } = make()?;
            kept(py)?.set_item(KEY, (protocol, reactor_buffer, interrupted))?;
        }
        Types::of(py)
    }
}

const KEY: &str = "_py_reactor";

/// What the calling interpreter keeps by that name; `make` makes it, if nobody has done so yet.
///
/// # Errors
/// The Python exception.
pub fn kept_as<'py>(
    py: Python<'py>,
    name: &'static str,
    make: impl FnOnce() -> PyResult<Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyAny>> {
    if !kept(py)?.contains(name)? {
        kept(py)?.set_item(name, make()?)?;
    }
    let missing = || PyImportError::new_err("what this interpreter kept is gone");
    kept(py)?.get_item(name)?.ok_or_else(missing)
}

/// The dict of the interpreter that no module has.
fn kept(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
    // SAFETY: I7, by the token; the dict is the interpreter's own, borrowed, and null only without memory.
    let kept = unsafe {
        let kept = ffi::PyInterpreterState_GetDict(ffi::PyInterpreterState_Get());
        Bound::from_borrowed_ptr_or_opt(py, kept)
    };
    Ok(kept.ok_or_else(|| PyMemoryError::new_err("no memory for the dict of this interpreter"))?.cast_into()?)
}

/// Makes a heap type.
///
/// # Errors
/// The Python exception.
pub fn make<'py>(
    py: Python<'py>,
    name: &'static CStr,
    basic_size: usize,
    flags: std::ffi::c_ulong,
    slots: &[(c_int, *mut c_void)],
    base: Option<&Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyType>> {
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
    // SAFETY: I10: the specification and its slots live through the call; what CPython keeps is static.
    let made = unsafe {
        let made = ffi::PyType_FromSpecWithBases(&raw mut spec, base);
        Bound::from_owned_ptr_or_err(py, made)
    };
    Ok(made?.cast_into()?)
}
