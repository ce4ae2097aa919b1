//! From a task that has ended back to the reactor that waits for it.

use crate::connection::context;
use crate::connection::tasks::{Ended, Owner};
use crate::python::glue::{Static, argument, guarded_object, method};
use pyo3::ffi;
use pyo3::prelude::*;

static DONE: Static<ffi::PyMethodDef> = Static(method(c"task_done", task_done, ffi::METH_O, c"Tells the reactor."));

/// What a task of `owner` calls when it has ended, with itself: a function that is bound to the owner's number.
///
/// # Errors
/// No memory.
pub fn done_callback(py: Python<'_>, owner: Owner) -> PyResult<Bound<'_, PyAny>> {
    let number = owner.bits().into_pyobject(py)?;
    // SAFETY: I7, by the token; I10: the table is static, and nobody writes to it; the function keeps the number. A new
    // reference, or null with an exception set.
    unsafe {
        let function = ffi::PyCFunction_NewEx((&raw const DONE.0).cast_mut(), number.as_ptr(), std::ptr::null_mut());
        Bound::from_owned_ptr_or_err(py, function)
    }
}

unsafe extern "C" fn task_done(number: *mut ffi::PyObject, task: *mut ffi::PyObject) -> *mut ffi::PyObject {
    guarded_object(|py| {
        // SAFETY: I7: CPython calls attached; its argument, and what the function is bound to, live through the call.
        let (number, task) = unsafe { (argument(py, number), argument(py, task)) };
        if let Some(context) = context::current(py) {
            let owner = Owner::from_bits(number.extract()?);
            context.ended.borrow_mut().push_back(Ended { owner, task: task.unbind() });
        }
        Ok(py.None().into_bound(py))
    })
}
