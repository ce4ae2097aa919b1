//! `_add_reader` and its kin of an event loop: handles that are run whenever a descriptor is ready.

use crate::driver::watch::{Side, Watch};
use crate::module::handle;
use crate::module::loop_calls::{Args, Call, refuse_if_closed};
use crate::module::loop_layout::{Core, Handle, LoopObject, Reader, Ref, core, release};
use crate::python::glue::{argument, guarded_object};
use pyo3::exceptions::{PyAttributeError, PyOSError, PyTypeError, PyValueError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyInt;
use std::ffi::CStr;
use std::io;
use std::os::fd::RawFd;

fn os_error(error: &io::Error) -> PyErr {
    let errno = error.raw_os_error().unwrap_or(libc::EIO);
    // SAFETY: I10: a text of the C library, copied at once.
    let text = unsafe { CStr::from_ptr(libc::strerror(errno)) }.to_string_lossy().into_owned();
    PyOSError::new_err((errno, text))
}

/// The number of a descriptor, or of an object that has one, as `selectors` finds it.
fn number(object: &Bound<'_, PyAny>) -> PyResult<RawFd> {
    let found = if object.is_instance_of::<PyInt>() {
        object.extract()
    } else {
        object.call_method0("fileno").and_then(|number| number.extract())
    };
    let fd: RawFd = found.map_err(|error| {
        let py = object.py();
        let is_meant = error.is_instance_of::<PyAttributeError>(py)
            || error.is_instance_of::<PyTypeError>(py)
            || error.is_instance_of::<PyValueError>(py);
        match object.repr() {
            Ok(shown) if is_meant => PyValueError::new_err(format!("Invalid file object: {shown}")),
            _ => error,
        }
    })?;
    if fd < 0 { Err(PyValueError::new_err(format!("Invalid file descriptor: {fd}"))) } else { Ok(fd) }
}

/// Cancels what waits no more, and lets go of it.
///
/// # Safety
/// The references are the caller's, who is attached.
unsafe fn forget(py: Python<'_>, reader: Reader) -> PyResult<()> {
    // SAFETY: the caller's promise.
    let cancelled = unsafe { argument(py, reader.handle.0).call_method0("cancel") };
    // SAFETY: the caller's promise.
    unsafe { release(reader.references()) };
    cancelled.map(drop)
}

/// # Safety
/// CPython's arguments, and an instance of the loop's type.
unsafe fn add<'py>(
    py: Python<'py>,
    this: *mut ffi::PyObject,
    method: &str,
    args: Args,
    count: ffi::Py_ssize_t,
    keywords: *mut ffi::PyObject,
    side: Side,
) -> PyResult<Bound<'py, PyAny>> {
    // SAFETY: the caller's promise (I7).
    unsafe {
        let this = this.cast::<LoopObject>();
        refuse_if_closed(this)?;
        let call = Call::parse(py, method, &[c"fd", c"callback"], args, count, keywords)?;
        let object = argument(py, call.first);
        let handle = handle::make(py, this, call.callback, call.args, call.context, None)?;
        let answer = Bound::from_owned_ptr(py, handle.cast());
        if (*this).debug != 0 {
            handle::trace(&answer)?;
        }
        let fd = number(&object)?;
        let core = core(this);
        let object = (!object.is_instance_of::<PyInt>()).then(|| Ref(object.into_ptr()));
        let reader = Reader { handle: handle::reference(handle), object };
        match wait_for(core, fd, side, reader) {
            Ok(before) => before.into_iter().flatten().try_for_each(|before| forget(py, before))?,
            Err(error) => {
                release(reader.references());
                return Err(os_error(&error));
            }
        }
        Ok(answer)
    }
}

/// From now on it can be waited for descriptors.
///
/// # Errors
/// None is left for the set.
pub fn begin(core: &Core) -> PyResult<()> {
    core.readers.replace(Some(Watch::new()?));
    core.readers_are_new.set(true);
    Ok(())
}

fn wait_for(core: &Core, fd: RawFd, side: Side, reader: Reader) -> io::Result<[Option<Reader>; 2]> {
    match &mut *core.readers.borrow_mut() {
        Some(watch) => watch.add(fd, side, reader),
        None => Err(io::Error::from_raw_os_error(libc::EBADF)),
    }
}

/// Answers whether somebody waited.
///
/// # Safety
/// CPython's argument, and an instance of the loop's type.
unsafe fn remove(
    py: Python<'_>,
    this: *mut ffi::PyObject,
    object: *mut ffi::PyObject,
    side: Side,
) -> PyResult<Bound<'_, PyAny>> {
    // SAFETY: the caller's promise (I7).
    unsafe {
        let this = this.cast::<LoopObject>();
        let core = core(this);
        let mut removed = None;
        if (*this).closed == 0 {
            let fd = number(&argument(py, object)).or_else(|error| {
                // One that is closed has no number any more.
                let readers = core.readers.borrow();
                let is = |reader: Reader| reader.object.is_some_and(|Ref(known)| known == object);
                readers.as_ref().and_then(|watch| watch.find(is)).ok_or(error)
            })?;
            removed = core.readers.borrow_mut().as_mut().and_then(|watch| watch.remove(fd, side));
        }
        if let Some(reader) = removed {
            forget(py, reader)?;
        }
        Ok(removed.is_some().into_pyobject(py)?.to_owned().into_any())
    }
}

/// `_add_reader(fd, callback, *args, context=None)`.
pub unsafe extern "C" fn add_reader(
    this: *mut ffi::PyObject,
    args: Args,
    count: ffi::Py_ssize_t,
    keywords: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: I7: CPython calls attached, a method with an instance of its type.
    guarded_object(|py| unsafe { add(py, this, "_add_reader", args, count, keywords, Side::Input) })
}

/// `_add_writer(fd, callback, *args, context=None)`.
pub unsafe extern "C" fn add_writer(
    this: *mut ffi::PyObject,
    args: Args,
    count: ffi::Py_ssize_t,
    keywords: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: I7: CPython calls attached, a method with an instance of its type.
    guarded_object(|py| unsafe { add(py, this, "_add_writer", args, count, keywords, Side::Output) })
}

/// `_remove_reader(fd)`.
pub unsafe extern "C" fn remove_reader(this: *mut ffi::PyObject, fd: *mut ffi::PyObject) -> *mut ffi::PyObject {
    // SAFETY: I7: CPython calls attached, a method with an instance of its type.
    guarded_object(|py| unsafe { remove(py, this, fd, Side::Input) })
}

/// `_remove_writer(fd)`.
pub unsafe extern "C" fn remove_writer(this: *mut ffi::PyObject, fd: *mut ffi::PyObject) -> *mut ffi::PyObject {
    // SAFETY: I7: CPython calls attached, a method with an instance of its type.
    guarded_object(|py| unsafe { remove(py, this, fd, Side::Output) })
}

/// `_waiting_for(fd)`.
pub unsafe extern "C" fn waiting_for(this: *mut ffi::PyObject, fd: *mut ffi::PyObject) -> *mut ffi::PyObject {
    guarded_object(|py| {
        // SAFETY: I7: CPython calls attached, a method with an instance of its type.
        let (core, fd) = unsafe { (core(this.cast()), number(&argument(py, fd))?) };
        let (input, output) = core.readers.borrow().as_ref().map_or((false, false), |watch| watch.waiting_for(fd));
        Ok((u8::from(input) | u8::from(output) << 1).into_pyobject(py)?.into_any())
    })
}

/// Makes ready what waits for descriptors that are. All that was made so before has to have run.
///
/// # Errors
/// The kernel tells nothing any more.
pub fn make_ready(_py: Python<'_>, core: &Core) -> PyResult<()> {
    let mut dead = Vec::new();
    let mut released = Vec::new();
    if let Some(watch) = &mut *core.readers.borrow_mut() {
        let mut schedule = core.schedule.borrow_mut();
        let polled = watch.poll(|fd, side, Reader { handle, .. }| {
            let object = handle.0.cast::<Handle>();
            // SAFETY: I7: attached, as the token says; the loop has a reference to it.
            if unsafe { (*object).cancelled } != 0 {
                dead.push((fd, side));
            } else {
                // SAFETY: I7: as above.
                schedule.soon(unsafe { handle::reference(object) });
            }
        });
        if polled.map_err(|error| os_error(&error))? {
            core.readers_are_new.set(true);
        }
        // Cancelled by itself, it would be told for ever.
        released.extend(dead.into_iter().filter_map(|(fd, side)| watch.remove(fd, side)));
    }
    // SAFETY: I7: attached, as the token says; they are no longer the loop's.
    released.into_iter().for_each(|reader| unsafe { release(reader.references()) });
    Ok(())
}
