//! What every function and type that CPython calls needs: tables, arguments, and errors instead of panics.

use pyo3::exceptions::PySystemError;
use pyo3::ffi;
use pyo3::impl_::trampoline::{self, MethodDef};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString, PyType};
use std::ffi::{CStr, c_int};
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;

/// Tables that CPython keeps pointers to.
pub struct Static<T>(pub T);
// SAFETY: I10: the tables are never written.
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

/// As [`method`], for a function that gets its arguments as an array.
pub const fn fast(name: &'static CStr, function: ffi::PyCFunctionFast, doc: &'static CStr) -> ffi::PyMethodDef {
    ffi::PyMethodDef {
        ml_name: name.as_ptr(),
        ml_meth: ffi::PyMethodDefPointer { PyCFunctionFast: function },
        ml_flags: ffi::METH_FASTCALL,
        ml_doc: doc.as_ptr(),
    }
}

/// A field of a layout, as Python reads it.
pub const fn member(name: &'static CStr, kind: c_int, offset: usize, flags: c_int) -> ffi::PyMemberDef {
    ffi::PyMemberDef {
        name: name.as_ptr(),
        type_code: kind,
        offset: offset as ffi::Py_ssize_t,
        flags,
        doc: ptr::null(),
    }
}

/// Runs `f` for a function that CPython called, in the interpreter that called: errors become exceptions, and so does a
/// panic, which must not cross into C. `failure` is what C expects along with an exception. For functions that only CPython
/// calls: the thread must be attached.
///
/// Not by `Python::attach`: it goes by the thread, to the first interpreter that this was in. Called from one that Python
/// code has made inside that, it would wait for itself for ever, or abort the process.
pub fn guarded<R>(failure: R, f: impl FnOnce(Python<'_>) -> PyResult<R>) -> R {
    /// The type of the function ties the entry, which is passed as a bare pointer, to `f`.
    fn entered_by<F, R>(_: &Entry<F, R>) -> unsafe extern "C" fn(*mut ffi::PyObject) -> c_int
    where
        F: FnOnce(Python<'_>) -> PyResult<R>,
    {
        trampoline::inquiry::<Enter<F, R>>
    }
    let mut entry = Entry { work: Some(f), result: failure };
    // SAFETY: CPython calls attached (I7); the entry is of the type that the function expects, and outlives the call.
    unsafe { entered_by(&entry)((&raw mut entry).cast()) };
    entry.result
}

/// What [`guarded`] is to run, and its result.
struct Entry<F, R> {
    work: Option<F>,
    result: R,
}

/// What PyO3's macros use: the only way that takes the thread as it is and also counts it as attached, without which no
/// [`Py`] may be dropped.
struct Enter<F, R>(PhantomData<(F, R)>);

impl<F: FnOnce(Python<'_>) -> PyResult<R>, R> MethodDef<trampoline::inquiry::Func> for Enter<F, R> {
    const METH: trampoline::inquiry::Func = enter::<F, R>;
}

unsafe fn enter<F: FnOnce(Python<'_>) -> PyResult<R>, R>(py: Python<'_>, entry: *mut ffi::PyObject) -> PyResult<c_int> {
    // SAFETY: I7, by the token; it is the entry of `guarded`, which waits.
    let entry = unsafe { &mut *entry.cast::<Entry<F, R>>() };
    let Some(work) = entry.work.take() else { return Ok(0) };
    match catch_unwind(AssertUnwindSafe(|| work(py))) {
        Ok(Ok(result)) => entry.result = result,
        Ok(Err(error)) => error.restore(py),
        Err(_) => PySystemError::new_err("py_reactor: internal error (a Rust panic), please report it").restore(py),
    }
    Ok(0)
}

/// As [`guarded`], for a function that answers a new reference.
pub fn guarded_object(f: impl for<'py> FnOnce(Python<'py>) -> PyResult<Bound<'py, PyAny>>) -> *mut ffi::PyObject {
    guarded(ptr::null_mut(), |py| f(py).map(Bound::into_ptr))
}

/// # Safety
/// `object` is the `self` or an argument that CPython passed: a borrowed reference.
pub unsafe fn argument<'py>(py: Python<'py>, object: *mut ffi::PyObject) -> Bound<'py, PyAny> {
    // SAFETY: the caller's promise.
    unsafe { Bound::from_borrowed_ptr(py, object) }
}

/// The arguments of a function that gets them as an array, which may be null if there are none.
///
/// # Safety
/// `args` and `count` are what CPython passed; what is answered is used during that call only.
pub unsafe fn arguments<'a>(args: *const *mut ffi::PyObject, count: usize) -> &'a [*mut ffi::PyObject] {
    // SAFETY: the caller's promise.
    if count == 0 { &[] } else { unsafe { std::slice::from_raw_parts(args, count) } }
}

/// "module.Class", without the module of built-in ones. Runs no code of the user, whose metaclass may have some.
pub fn class_name(class: &Bound<'_, PyType>) -> String {
    let this = class.as_type_ptr();
    // SAFETY: I7, by the token; a type, whose name and dict live as long as it. A class that C made has its module in
    // its name.
    unsafe {
        if (*this).tp_flags & ffi::Py_TPFLAGS_HEAPTYPE == 0 {
            return CStr::from_ptr((*this).tp_name).to_string_lossy().into_owned();
        }
        let text = |object: Option<Bound<'_, PyAny>>| {
            object.and_then(|object| Some(object.cast_exact::<PyString>().ok()?.to_string_lossy().into_owned()))
        };
        let name = text(Bound::from_owned_ptr_or_opt(class.py(), ffi::PyType_GetQualName(this)));
        let name = name.unwrap_or_else(|| "?".to_owned());
        let dict = Bound::from_borrowed_ptr_or_opt(class.py(), (*this).tp_dict);
        let dict = dict.and_then(|dict| dict.cast_into::<PyDict>().ok());
        match text(dict.and_then(|dict| dict.get_item("__module__").ok()?)) {
            Some(module) if module != "builtins" => format!("{module}.{name}"),
            _ => name,
        }
    }
}
