//! Types whose instances have one value of Rust: it is made with them, shows the collector of garbage what it refers to, and
//! ends with them.

use crate::python::glue::{guarded, guarded_object};
use crate::python::types;
use pyo3::exceptions::PyTypeError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyType;
use std::ffi::{CStr, c_int, c_ulong, c_void};
use std::ops::ControlFlow;
use std::ptr;

/// What an instance has.
pub trait State: Default + 'static {
    /// Tells of each of its references to Python objects, until one is answered by a break. Allocates and releases nothing.
    fn each(&self, tell: &mut dyn FnMut(&Py<PyAny>) -> ControlFlow<c_int>) -> ControlFlow<c_int>;

    /// Lets go of them.
    fn clear(&self);
}

/// The layout of an instance, in front of what a class in Python adds.
#[repr(C)]
struct Boxed<T> {
    head: ffi::PyObject,
    /// Null until it is made, and not afterwards.
    state: *mut T,
}

/// What an instance has.
///
/// # Safety
/// An instance of a type that [`make_type`] made for `T`, which lives longer than what is answered is used; attached.
pub unsafe fn state<'a, T>(object: *mut ffi::PyObject) -> &'a T {
    // SAFETY: the caller's promise.
    unsafe { &*(*object.cast::<Boxed<T>>()).state }
}

unsafe extern "C" fn new<T: State>(
    class: *mut ffi::PyTypeObject,
    _: *mut ffi::PyObject,
    _: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    guarded_object(|py| {
        // SAFETY: I7: CPython calls attached; the type's own allocator gives zeroed memory of its size, which the collector may
        // look at at once.
        unsafe {
            let alloc = (*class).tp_alloc.ok_or_else(|| PyTypeError::new_err("this type has no instances"))?;
            let object = Bound::from_owned_ptr_or_err(py, alloc(class, 0))?;
            (*object.as_ptr().cast::<Boxed<T>>()).state = Box::into_raw(Box::default());
            Ok(object)
        }
    })
}

unsafe extern "C" fn traverse<T: State>(object: *mut ffi::PyObject, visit: ffi::visitproc, arg: *mut c_void) -> c_int {
    // SAFETY: I7: the collector calls this attached, with an instance; nothing is allocated or released. One that is just being
    // made has no state yet.
    unsafe {
        let result = visit(ffi::Py_TYPE(object).cast(), arg);
        if result != 0 || (*object.cast::<Boxed<T>>()).state.is_null() {
            return result;
        }
        let told = state::<T>(object).each(&mut |part| match visit(part.as_ptr(), arg) {
            0 => ControlFlow::Continue(()),
            result => ControlFlow::Break(result),
        });
        told.break_value().unwrap_or_default()
    }
}

unsafe extern "C" fn clear<T: State>(object: *mut ffi::PyObject) -> c_int {
    guarded(0, |_| {
        // SAFETY: I7: as in `traverse`.
        unsafe {
            if !(*object.cast::<Boxed<T>>()).state.is_null() {
                state::<T>(object).clear();
            }
        }
        Ok(0)
    })
}

unsafe extern "C" fn dealloc<T: State>(object: *mut ffi::PyObject) {
    // SAFETY: I7: the last reference is gone, and CPython calls this attached. The usual order for a heap type.
    unsafe {
        ffi::PyObject_GC_UnTrack(object.cast());
        let class = ffi::Py_TYPE(object);
        let raw = ptr::replace(&raw mut (*object.cast::<Boxed<T>>()).state, ptr::null_mut());
        if !raw.is_null() {
            guarded((), |_| {
                drop(Box::from_raw(raw));
                Ok(())
            });
        }
        if let Some(free) = (*class).tp_free {
            free(object.cast());
        }
        ffi::Py_DECREF(class.cast());
    }
}

/// A heap type with these methods, whose instances have a `T` each.
///
/// # Errors
/// The Python exception.
pub fn make_type<'py, T: State>(
    py: Python<'py>,
    name: &'static CStr,
    flags: c_ulong,
    methods: *const ffi::PyMethodDef,
) -> PyResult<Bound<'py, PyType>> {
    let slots = [
        (ffi::Py_tp_new, new::<T> as *mut c_void),
        (ffi::Py_tp_traverse, traverse::<T> as *mut c_void),
        (ffi::Py_tp_clear, clear::<T> as *mut c_void),
        (ffi::Py_tp_dealloc, dealloc::<T> as *mut c_void),
        (ffi::Py_tp_methods, methods.cast_mut().cast()),
    ];
    types::make(py, name, size_of::<Boxed<T>>(), ffi::Py_TPFLAGS_HAVE_GC | flags, &slots, None)
}
