//! `call_soon`, `call_soon_threadsafe`, `call_later`, `call_at` and `time` of an event loop.

use crate::module::handle;
use crate::module::loop_layout::{Core, Handle, LoopObject, Ref, core, this_thread};
use crate::python::glue::{argument, arguments, guarded_object};
use pyo3::exceptions::{PyRuntimeError, PyTypeError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyTuple;
use std::ffi::CStr;
use std::ptr;

/// The clock of every loop: `time.monotonic()`, to the bit.
#[inline]
pub fn now() -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: I2 is not touched: a struct of our own; the clock is always there.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    (time.tv_sec * 1_000_000_000 + time.tv_nsec) as f64 / 1e9
}

/// What a method of this kind is called with: `(first, callback, *args, context=None)`, where the first is a time or a
/// descriptor, or without one.
pub struct Call<'a> {
    pub first: *mut ffi::PyObject,
    pub callback: *mut ffi::PyObject,
    pub args: &'a [*mut ffi::PyObject],
    /// Null where there is none.
    pub context: *mut ffi::PyObject,
}

/// How CPython passes arguments.
pub type Args = *const *mut ffi::PyObject;

impl<'a> Call<'a> {
    /// `names` are those of the leading arguments, the last of which is the callback.
    ///
    /// # Errors
    /// They do not fit.
    ///
    /// # Safety
    /// CPython's arguments.
    #[inline]
    pub unsafe fn parse(
        py: Python<'_>,
        method: &str,
        names: &[&CStr],
        args: Args,
        count: ffi::Py_ssize_t,
        keywords: *mut ffi::PyObject,
    ) -> PyResult<Self> {
        // SAFETY: I7: the caller is attached, and passes what CPython promises: `count` objects, then one for each of the names.
        unsafe {
            let count = ffi::PyVectorcall_NARGS(count as usize) as usize;
            let given = arguments(args, count);
            let (leading, rest) = given.split_at(count.min(names.len()));
            let mut found = [ptr::null_mut(); 2];
            found[..leading.len()].copy_from_slice(leading);
            let mut context = ptr::null_mut();
            let named = if keywords.is_null() { 0 } else { ffi::PyTuple_GET_SIZE(keywords) };
            for nth in 0..named {
                let (name, value) = (ffi::PyTuple_GET_ITEM(keywords, nth), *args.add(count + nth as usize));
                let is = |text: &CStr| ffi::PyUnicode_CompareWithASCIIString(name, text.as_ptr()) == 0;
                if is(c"context") {
                    context = if value == ffi::Py_None() { ptr::null_mut() } else { value };
                } else {
                    let place = names.iter().position(|text| is(text)).filter(|place| found[*place].is_null());
                    let unexpected = || {
                        let name = Bound::from_borrowed_ptr(py, name);
                        PyTypeError::new_err(format!("{method}() got an unexpected keyword argument '{name}'"))
                    };
                    found[place.ok_or_else(unexpected)?] = value;
                }
            }
            if let Some(missing) = (0..names.len()).find(|nth| found[*nth].is_null()) {
                let name = names[missing].to_string_lossy();
                return Err(PyTypeError::new_err(format!(
                    "{method}() missing 1 required positional argument: '{name}'"
                )));
            }
            let callback = found[names.len() - 1];
            Ok(Call { first: found[0], callback, args: rest, context })
        }
    }

    /// A handle of `this` for it.
    ///
    /// # Safety
    /// `this` is a loop.
    #[inline]
    unsafe fn handle(&self, py: Python<'_>, this: *mut LoopObject, method: &str, when: Option<f64>) -> PyResult<New> {
        // SAFETY: the caller's promise; the objects are CPython's arguments.
        unsafe {
            refuse_if_closed(this)?;
            let handle = New(handle::make(py, this, self.callback, self.args, self.context, when)?);
            if (*this).debug != 0 {
                handle::check(&argument(py, handle.0.cast()), method)?;
            }
            Ok(handle)
        }
    }
}

/// # Errors
/// It is closed.
///
/// # Safety
/// `this` is a loop.
pub unsafe fn refuse_if_closed(this: *mut LoopObject) -> PyResult<()> {
    // SAFETY: the caller's promise.
    match unsafe { (*this).closed } {
        0 => Ok(()),
        _ => Err(PyRuntimeError::new_err("Event loop is closed")),
    }
}

/// A new reference to a handle.
struct New(*mut Handle);

impl New {
    fn into_object(self, py: Python<'_>) -> Bound<'_, PyAny> {
        let object = self.0.cast();
        std::mem::forget(self);
        // SAFETY: I7: the reference is ours, and goes on.
        unsafe { Bound::from_owned_ptr(py, object) }
    }
}

impl Drop for New {
    fn drop(&mut self) {
        // SAFETY: I7: attached, as whoever made it; the reference is ours.
        unsafe { ffi::Py_DECREF(self.0.cast()) };
    }
}

/// # Safety
/// CPython's arguments for a method of a loop.
#[inline]
unsafe fn soon<'py>(
    py: Python<'py>,
    this: *mut LoopObject,
    method: &str,
    args: Args,
    count: ffi::Py_ssize_t,
    keywords: *mut ffi::PyObject,
) -> PyResult<Bound<'py, PyAny>> {
    // SAFETY: the caller's promise.
    unsafe {
        let call = Call::parse(py, method, &[c"callback"], args, count, keywords)?;
        let handle = call.handle(py, this, method, None)?;
        core(this).schedule.borrow_mut().soon(handle::reference(handle.0));
        Ok(handle.into_object(py))
    }
}

/// What `call_soon_threadsafe` answers from 3.14 on: asyncio's own handle, whose `cancel` waits, on another thread, for a callback
/// that runs.
///
/// # Safety
/// CPython's arguments for a method of a loop.
unsafe fn soon_behind_a_lock<'py>(
    py: Python<'py>,
    this: *mut LoopObject,
    method: &str,
    args: Args,
    count: ffi::Py_ssize_t,
    keywords: *mut ffi::PyObject,
) -> PyResult<Bound<'py, PyAny>> {
    // SAFETY: the caller's promise; a null context is none.
    unsafe {
        let call = Call::parse(py, method, &[c"callback"], args, count, keywords)?;
        refuse_if_closed(this)?;
        let rest = PyTuple::new(py, call.args.iter().map(|arg| argument(py, *arg)).collect::<Vec<_>>())?;
        let context = Bound::from_borrowed_ptr_or_opt(py, call.context);
        let given = (argument(py, call.callback), rest, argument(py, this.cast()), context);
        let handle = py.import("asyncio.events")?.getattr("_ThreadSafeHandle")?.call1(given)?;
        if (*this).debug != 0 {
            handle::check(&handle, method)?;
        }
        core(this).schedule.borrow_mut().soon(Ref(handle.clone().into_ptr()));
        Ok(handle)
    }
}

/// `event_loop.call_soon(callback, *args, context=context)`, but that no Python code is run, which could be interrupted.
///
/// # Errors
/// No memory.
pub fn call_soon_natively(
    event_loop: &Bound<'_, PyAny>,
    callback: &Bound<'_, PyAny>,
    args: &[&Bound<'_, PyAny>],
    context: Option<&Bound<'_, PyAny>>,
) -> PyResult<()> {
    let this = event_loop.as_ptr().cast();
    let args: Vec<_> = args.iter().map(|arg| arg.as_ptr()).collect();
    let context = context.map_or(ptr::null_mut(), |context| context.as_ptr());
    // SAFETY: I7, by the token; whoever calls has a loop; the objects live through the call.
    unsafe {
        let handle = New(handle::make(event_loop.py(), this, callback.as_ptr(), &args, context, None)?);
        if (*this).debug != 0 {
            handle::trace(&argument(event_loop.py(), handle.0.cast()))?;
        }
        core(this).schedule.borrow_mut().soon(handle::reference(handle.0));
    }
    Ok(())
}

/// `call_soon(callback, *args, context=None)`.
pub unsafe extern "C" fn call_soon(
    this: *mut ffi::PyObject,
    args: Args,
    count: ffi::Py_ssize_t,
    keywords: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: I7: CPython calls attached, a method with an instance of its type.
    guarded_object(|py| unsafe { soon(py, this.cast(), "call_soon", args, count, keywords) })
}

/// `call_soon_threadsafe(callback, *args, context=None)`.
pub unsafe extern "C" fn call_soon_threadsafe(
    this: *mut ffi::PyObject,
    args: Args,
    count: ffi::Py_ssize_t,
    keywords: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    guarded_object(|py| {
        // SAFETY: I7: CPython calls attached, a method with an instance of its type.
        unsafe {
            let soon = if cfg!(Py_3_14) { soon_behind_a_lock } else { soon };
            let handle = soon(py, this.cast(), "call_soon_threadsafe", args, count, keywords)?;
            wake(core(this.cast()));
            Ok(handle)
        }
    })
}

/// Has the loop look, unless it is this very thread that runs it, and so will.
fn wake(core: &Core) {
    if core.thread.get() != this_thread()
        && let Some(mailbox) = &*core.mailbox.borrow()
    {
        mailbox.inbox.wake();
    }
}

/// # Safety
/// `this` is a loop, `call` has CPython's arguments.
#[inline]
unsafe fn call_at_time<'py>(
    py: Python<'py>,
    this: *mut LoopObject,
    call: &Call<'_>,
    method: &str,
    when: f64,
) -> PyResult<Bound<'py, PyAny>> {
    // SAFETY: the caller's promise.
    unsafe {
        let handle = call.handle(py, this, method, Some(when))?;
        (*handle.0).scheduled = 1;
        core(this).schedule.borrow_mut().at(when, handle::reference(handle.0));
        Ok(handle.into_object(py))
    }
}

/// # Safety
/// A borrowed object.
#[inline]
unsafe fn seconds(py: Python<'_>, name: &str, value: *mut ffi::PyObject) -> PyResult<f64> {
    // SAFETY: the caller's promise.
    unsafe {
        if value == ffi::Py_None() {
            return Err(PyTypeError::new_err(format!("{name} cannot be None")));
        }
        argument(py, value).extract()
    }
}

/// `call_later(delay, callback, *args, context=None)`.
pub unsafe extern "C" fn call_later(
    this: *mut ffi::PyObject,
    args: Args,
    count: ffi::Py_ssize_t,
    keywords: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    guarded_object(|py| {
        // SAFETY: I7: CPython calls attached, a method with an instance of its type.
        unsafe {
            let call = Call::parse(py, "call_later", &[c"delay", c"callback"], args, count, keywords)?;
            let when = now() + seconds(py, "delay", call.first)?;
            call_at_time(py, this.cast(), &call, "call_later", when)
        }
    })
}

/// `call_at(when, callback, *args, context=None)`.
pub unsafe extern "C" fn call_at(
    this: *mut ffi::PyObject,
    args: Args,
    count: ffi::Py_ssize_t,
    keywords: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    guarded_object(|py| {
        // SAFETY: I7: CPython calls attached, a method with an instance of its type.
        unsafe {
            let call = Call::parse(py, "call_at", &[c"when", c"callback"], args, count, keywords)?;
            let when = seconds(py, "when", call.first)?;
            call_at_time(py, this.cast(), &call, "call_at", when)
        }
    })
}

/// `create_future()`.
pub unsafe extern "C" fn create_future(this: *mut ffi::PyObject, _: *mut ffi::PyObject) -> *mut ffi::PyObject {
    guarded_object(|py| {
        // SAFETY: I7: CPython calls attached, a method with an instance of its type, which the caller keeps.
        unsafe { core(this.cast()).words.futures.make(&argument(py, this)) }
    })
}

/// `get_debug()`, which each future asks.
pub unsafe extern "C" fn is_debugged(this: *mut ffi::PyObject, _: *mut ffi::PyObject) -> *mut ffi::PyObject {
    // SAFETY: I7: CPython calls attached, a method with an instance of its type.
    unsafe { ffi::PyBool_FromLong((*this.cast::<LoopObject>()).debug.into()) }
}

/// `time()`.
pub unsafe extern "C" fn time(_: *mut ffi::PyObject, _: *mut ffi::PyObject) -> *mut ffi::PyObject {
    // SAFETY: I7: CPython calls attached.
    unsafe { ffi::PyFloat_FromDouble(now()) }
}

/// An entry of a method table, for one of these.
pub const fn entry(
    name: &'static CStr,
    function: ffi::PyCFunctionFastWithKeywords,
    doc: &'static CStr,
) -> ffi::PyMethodDef {
    ffi::PyMethodDef {
        ml_name: name.as_ptr(),
        ml_meth: ffi::PyMethodDefPointer { PyCFunctionFastWithKeywords: function },
        ml_flags: ffi::METH_FASTCALL | ffi::METH_KEYWORDS,
        ml_doc: doc.as_ptr(),
    }
}
