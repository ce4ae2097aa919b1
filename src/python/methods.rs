//! Methods as CPython looks them up before it calls them, and those of asyncio's own classes of which is known what they do: these
//! need not be called.

use pyo3::exceptions::PyTypeError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyString, PyTuple};
use std::ffi::c_int;
use std::ptr;

unsafe extern "C" {
    /// 1: `method` is what the class has under that name, a method, and the object has nothing there. Else `method` is what an
    /// access answers, or null with an exception. Exported for CPython's own modules.
    pub(super) fn _PyObject_GetMethod(
        object: *mut ffi::PyObject,
        name: *mut ffi::PyObject,
        method: *mut *mut ffi::PyObject,
    ) -> c_int;

    /// What a class has by that name, as it is there: borrowed, or null, without an exception.
    fn _PyType_Lookup(class: *mut ffi::PyTypeObject, name: *mut ffi::PyObject) -> *mut ffi::PyObject;
}

/// What is to be called of an object.
pub struct Method<'a, 'py> {
    object: &'a Bound<'py, PyAny>,
    found: Bound<'py, PyAny>,
    /// It is the function that the class has.
    is_function: bool,
}

impl<'a, 'py> Method<'a, 'py> {
    /// What `object` has by that name.
    ///
    /// # Errors
    /// Nothing, or whatever looking for it raises.
    pub fn of(object: &'a Bound<'py, PyAny>, name: &Bound<'py, PyString>) -> PyResult<Self> {
        let py = object.py();
        let mut found = ptr::null_mut();
        // SAFETY: I7, by the token; borrowed objects; a new reference, or null with an exception.
        unsafe {
            let is_function = _PyObject_GetMethod(object.as_ptr(), name.as_ptr(), &raw mut found) == 1;
            Ok(Method { object, found: Bound::from_owned_ptr_or_err(py, found)?, is_function })
        }
    }

    /// Whether it is that function.
    pub fn is(&self, known: &Known) -> bool {
        self.is_function && known.is(&self.found)
    }

    /// Calls it, with one argument or none.
    ///
    /// # Errors
    /// What it raises.
    pub fn call(&self, arg: Option<&Bound<'py, PyAny>>) -> PyResult<Bound<'py, PyAny>> {
        let arg_or_null = arg.map_or(ptr::null_mut(), Bound::as_ptr);
        let mut args = [ptr::null_mut(), self.object.as_ptr(), arg_or_null];
        let (first, count) = if self.is_function { (1, 1) } else { (2, 0) };
        let count = (count + usize::from(arg.is_some())) | ffi::PY_VECTORCALL_ARGUMENTS_OFFSET;
        // SAFETY: I7, by the token; as many borrowed arguments as are counted follow a spare slot; a new reference, or null with
        // an exception.
        unsafe {
            let args = args.as_mut_ptr().add(first);
            let result = ffi::PyObject_Vectorcall(self.found.as_ptr(), args, count, ptr::null_mut());
            Bound::from_owned_ptr_or_err(self.object.py(), result)
        }
    }
}

/// A function of asyncio's that does what is expected of it; nothing, if this asyncio has another one there.
pub struct Known(Option<Py<PyAny>>);

impl Known {
    /// A method of a class of one of asyncio's modules, whose code has these names.
    pub fn method(py: Python<'_>, module: &str, class: &str, name: &str, names: &[&str]) -> Self {
        Self::found(py, module, class, name, names, |method| Ok(method.clone()))
    }

    /// The same of a property.
    pub fn property<'py>(py: Python<'py>, module: &str, class: &str, name: &str, names: &[&str]) -> Self {
        let getter =
            |property: &Bound<'py, PyAny>| match property.get_type().is(&py.import("builtins")?.getattr("property")?) {
                true => property.getattr("fget"),
                false => Err(PyTypeError::new_err("no property")),
            };
        Self::found(py, module, class, name, names, getter)
    }

    fn found<'py>(
        py: Python<'py>,
        module: &str,
        class: &str,
        name: &str,
        names: &[&str],
        function: impl FnOnce(&Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>>,
    ) -> Self {
        let find = || {
            let module = py.import(module)?;
            let found = module.getattr(class)?.getattr(name)?;
            let function = function(&found)?;
            let its_names = function.getattr("__code__")?.getattr("co_names")?;
            // What wraps a function has the name of its module, but not its globals.
            let is_expected =
                its_names.eq(PyTuple::new(py, names)?)? && function.getattr("__globals__")?.is(module.dict());
            PyResult::Ok(is_expected.then(|| found.unbind()))
        };
        Known(find().unwrap_or_default())
    }

    /// Whether that is `found`.
    fn is(&self, found: &Bound<'_, PyAny>) -> bool {
        self.0.as_ref().is_some_and(|known| known.is(found))
    }

    /// Whether the class of `object` has that by this name. What the object has there is not looked at.
    pub fn is_of_class(&self, object: &Bound<'_, PyAny>, name: &Bound<'_, PyString>) -> bool {
        // Kept: a key of its dict may run code when it is compared.
        let class = object.get_type();
        // SAFETY: I7, by the token; a type and a name; what is answered is borrowed, and only compared.
        let found = unsafe { _PyType_Lookup(class.as_type_ptr(), name.as_ptr()) };
        self.0.as_ref().is_some_and(|known| known.as_ptr() == found)
    }
}
