//! What a callback answered that is no action, in few words, however large it is, and without running code of the user;
//! and what to do instead. `erlang/_describe.py` does the same for what is driven by hand.

use crate::python::glue::class_name;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{
    PyBool, PyBytes, PyCFunction, PyDict, PyFloat, PyFrozenSet, PyFunction, PyInt, PyList, PySet, PyString, PyTuple,
    PyType,
};

const SHOWN_CHARS: usize = 80;

/// `value` as the log shows it.
pub fn describe(value: &Bound<'_, PyAny>) -> String {
    if let Ok(text) = value.cast_exact::<PyString>() {
        // SAFETY: I7, by the token; a new reference, or null with an exception set.
        let shown = unsafe {
            let part = ffi::PyUnicode_Substring(text.as_ptr(), 0, SHOWN_CHARS as ffi::Py_ssize_t);
            Bound::from_owned_ptr_or_err(value.py(), part)
        };
        let rest = if text.len().unwrap_or_default() > SHOWN_CHARS { "..." } else { "" };
        return shown.map_or_else(|_| "a str".to_owned(), |shown| own_words(&shown) + rest);
    }
    if let Ok(bytes) = value.cast_exact::<PyBytes>() {
        let bytes = bytes.as_bytes();
        let rest = if bytes.len() > SHOWN_CHARS { "..." } else { "" };
        return own_words(&PyBytes::new(value.py(), &bytes[..bytes.len().min(SHOWN_CHARS)])) + rest;
    }
    if value.cast_exact::<PyInt>().is_ok() {
        return value.extract::<i64>().map_or_else(|_| "an int of more than 64 bits".to_owned(), |int| int.to_string());
    }
    let is_plain = value.is_none()
        || value.is_exact_instance_of::<PyBool>()
        || value.is_exact_instance_of::<PyFloat>()
        || value.is_exact_instance_of::<PyFunction>()
        || value.is_exact_instance_of::<PyCFunction>()
        || value.is_exact_instance_of::<PyType>();
    if is_plain {
        return own_words(value);
    }
    let class = value.get_type();
    let name = class_name(&class);
    // SAFETY: I7, by the token; a type.
    if unsafe { (*class.as_type_ptr()).tp_flags } & ffi::Py_TPFLAGS_HEAPTYPE != 0 {
        return format!("an object of class {name}");
    }
    let has_length = value.is_exact_instance_of::<PyList>()
        || value.is_exact_instance_of::<PyTuple>()
        || value.is_exact_instance_of::<PyDict>()
        || value.is_exact_instance_of::<PySet>()
        || value.is_exact_instance_of::<PyFrozenSet>();
    let article = if name.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" };
    match value.len() {
        Ok(0) if has_length => own_words(value),
        Ok(len) if has_length => format!("{article} {name} of length {len}"),
        _ => format!("{article} {name}"),
    }
}

/// Its `repr`, which is known to be short and harmless; names of functions may be long all the same.
fn own_words(value: &Bound<'_, PyAny>) -> String {
    let text = value.repr().map_or_else(|_| "an object that cannot be shown".to_owned(), |text| text.to_string());
    match text.char_indices().nth(4 * SHOWN_CHARS) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}

/// What to do instead of answering `value`, in parentheses, where that can be told. Closes a coroutine that nobody will
/// await.
pub fn advice(value: &Bound<'_, PyAny>, actions: &[&str]) -> &'static str {
    // SAFETY: I7, by the token; an object.
    let (is_generator, is_async_generator) = unsafe {
        let object = value.as_ptr();
        (ffi::PyGen_CheckExact(object) != 0, ffi::PyAsyncGen_CheckExact(object) != 0)
    };
    if value.is_none() {
        " (is a return statement missing?)"
    } else if close_coroutine(value) {
        " (the method is `async def`: make it a plain `def`; what has to be awaited is begun with \
         self.create_task(coroutine))"
    } else if is_generator || is_async_generator {
        " (the method contains `yield`: return the action instead)"
    } else if value
        .cast_exact::<PyBytes>()
        .is_ok_and(|bytes| actions.iter().any(|name| name.as_bytes() == bytes.as_bytes()))
    {
        " (an action is a str, not bytes)"
    } else {
        ""
    }
}

/// Whether `value` is a coroutine: one of Python's own, or of a type that says so, as compiled code has.
pub fn is_coroutine(value: &Bound<'_, PyAny>) -> bool {
    // SAFETY: I7, by the token; an object, and its type.
    let (is_exactly, is_awaitable) = unsafe {
        let methods = (*value.get_type_ptr()).tp_as_async;
        (ffi::PyCoro_CheckExact(value.as_ptr()) != 0, !methods.is_null() && (*methods).am_await.is_some())
    };
    is_exactly || (is_awaitable && is_abstractly(value).unwrap_or_default())
}

#[cold]
fn is_abstractly(value: &Bound<'_, PyAny>) -> PyResult<bool> {
    let class = value.py().import("collections.abc")?.getattr("Coroutine")?;
    value.get_type().is_subclass(&class)
}

/// Whether `value` is a coroutine; one that has not begun is closed, so that Python does not complain of it.
pub fn close_coroutine(value: &Bound<'_, PyAny>) -> bool {
    // SAFETY: I7, by the token; an object.
    if unsafe { ffi::PyCoro_CheckExact(value.as_ptr()) } == 0 {
        return false;
    }
    let is = |state: &str| value.getattr(state).and_then(|state| state.is_truthy()).unwrap_or(true);
    // One that has begun may have something to clean up: that is for whoever runs it.
    if !is("cr_running") && !is("cr_suspended") {
        let _ = value.call_method0("close");
    }
    true
}
