//! What the methods of a stream answer: it is awaited, and has its result at once if the data is there. To those who ask, it is a
//! coroutine, of which a task can be made.

use crate::module::stream::{Stream, stream};
use crate::module::stream_input::{End, Separators, find_end};
use crate::python::glue::{Static, argument, guarded, guarded_object, method};
use crate::python::types;
use pyo3::call::PyCallArgs;
use pyo3::exceptions::{PyRuntimeError, PyStopAsyncIteration, PyStopIteration, PyTypeError, PyValueError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyType};
use std::cell::{Cell, RefCell};
use std::ffi::{c_int, c_void};
use std::mem::MaybeUninit;

/// What is awaited.
pub enum Kind {
    /// Up to so many bytes; less than none: all.
    Some(isize),
    /// So many.
    Exactly(usize),
    /// All up to a separator, and that.
    Until(Separators),
    /// The same, but that an end without one is none worth an error.
    Line(Separators),
    /// The same, for an `async for`.
    Next(Separators),
    /// Nothing.
    Nothing,
}

#[repr(C)]
struct Object {
    head: ffi::PyObject,
    /// Set once `read` is.
    is_made: bool,
    read: MaybeUninit<Read>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Fresh,
    Waits,
    Ended,
}

struct Read {
    /// The stream's object.
    of: Py<PyAny>,
    kind: Kind,
    state: Cell<State>,
    /// What the stream resolves, while it waits.
    future: RefCell<Option<Py<PyAny>>>,
    /// Up to here there is no separator.
    from: Cell<usize>,
    /// What of all was received already.
    all: RefCell<Vec<u8>>,
}

/// How far a step went.
enum Step<'py> {
    /// It waits for this future.
    Waits(Bound<'py, PyAny>),
    Ends(Bound<'py, PyAny>),
}

/// # Safety
/// An instance, which lives longer than what is answered is used; attached.
unsafe fn read<'a>(object: *mut ffi::PyObject) -> &'a Read {
    // SAFETY: the caller's promise: nobody has an instance before its field is set.
    unsafe { (*object.cast::<Object>()).read.assume_init_ref() }
}

fn asyncio_error<'py>(py: Python<'py>, name: &str, args: impl PyCallArgs<'py>) -> PyErr {
    let made = py.import("asyncio.exceptions").and_then(|module| module.getattr(name)?.call1(args));
    made.map_or_else(|error| error, PyErr::from_value)
}

impl Read {
    fn stream(&self) -> &Stream {
        // SAFETY: I7: whoever calls is attached; `make` was given a stream's object, which this keeps.
        unsafe { stream(self.of.as_ptr()) }
    }

    fn method(&self) -> &'static str {
        match self.kind {
            Kind::Some(_) | Kind::Nothing => "read",
            Kind::Exactly(_) => "readexactly",
            Kind::Until(_) | Kind::Line(_) | Kind::Next(_) => "readuntil",
        }
    }

    fn step<'py>(&self, py: Python<'py>) -> PyResult<Step<'py>> {
        let stream = self.stream();
        match self.state.get() {
            State::Ended => return Err(PyRuntimeError::new_err("cannot reuse already awaited coroutine")),
            State::Waits => self.wait_no_more(),
            State::Fresh if matches!(self.kind, Kind::Nothing) => return Ok(Step::Ends(py.None().into_bound(py))),
            State::Fresh => stream.check(py)?,
        }
        self.state.set(State::Ended);
        if matches!(self.kind, Kind::Some(..0)) {
            stream.check(py)?;
        }
        if let Some(result) = self.attempt(py, stream)? {
            return Ok(Step::Ends(result));
        }
        if stream.is_waited_for() {
            let method = self.method();
            let message = format!("{method}() called while another coroutine is already waiting for incoming data");
            return Err(PyRuntimeError::new_err(message));
        }
        // Failed after it was woken for what came before: nobody would wake it again.
        stream.check(py)?;
        let future = stream.wait(py)?;
        self.future.replace(Some(future.clone().unbind()));
        self.state.set(State::Waits);
        Ok(Step::Waits(future))
    }

    /// Nobody has to resolve its future any more.
    fn wait_no_more(&self) {
        if let Some(future) = self.future.take() {
            self.stream().wait_no_more(&future);
        }
    }

    /// Answers the result, if it is there.
    fn attempt<'py>(&self, py: Python<'py>, stream: &Stream) -> PyResult<Option<Bound<'py, PyAny>>> {
        match &self.kind {
            Kind::Nothing => Ok(Some(py.None().into_bound(py))),
            Kind::Some(0) | Kind::Exactly(0) => Ok(Some(PyBytes::new(py, b"").into_any())),
            Kind::Some(..0) => self.attempt_all(py, stream),
            Kind::Some(most) => {
                let there = stream.input.borrow().len(py);
                if there == 0 && !stream.has_ended.get() {
                    return Ok(None);
                }
                take(py, stream, there.min(*most as usize)).map(Some)
            }
            Kind::Exactly(len) => {
                if stream.input.borrow().len(py) >= *len {
                    return take(py, stream, *len).map(Some);
                }
                match stream.has_ended.get() {
                    false => Ok(None),
                    true => Err(incomplete(py, stream, Some(*len))),
                }
            }
            Kind::Until(separators) => self.attempt_until(py, stream, separators),
            Kind::Line(separators) => self.attempt_line(py, stream, separators),
            Kind::Next(separators) => match self.attempt_line(py, stream, separators)? {
                Some(line) if line.len()? == 0 => Err(PyStopAsyncIteration::new_err(())),
                line => Ok(line),
            },
        }
    }

    fn attempt_all<'py>(&self, py: Python<'py>, stream: &Stream) -> PyResult<Option<Bound<'py, PyAny>>> {
        let there = stream.input.borrow_mut().take_all(py);
        self.all.borrow_mut().extend_from_slice(there.as_bytes());
        stream.taken(py)?;
        Ok(stream.has_ended.get().then(|| PyBytes::new(py, &self.all.take()).into_any()))
    }

    fn attempt_until<'py>(
        &self,
        py: Python<'py>,
        stream: &Stream,
        separators: &Separators,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        let overrun = |what: &str, at: usize| Err(asyncio_error(py, "LimitOverrunError", (what, at)));
        let end = find_end(stream.input.borrow().as_slice(py), self.from.get(), separators);
        match end {
            End::Found { start, .. } if start > stream.limit.get() => {
                overrun("Separator is found, but chunk is longer than limit", start)
            }
            End::Found { end, .. } => take(py, stream, end).map(Some),
            End::NotBefore(from) if from > stream.limit.get() => {
                overrun("Separator is not found, and chunk exceed the limit", from)
            }
            End::NotBefore(_) if stream.has_ended.get() => Err(incomplete(py, stream, None)),
            End::NotBefore(from) => {
                self.from.set(from);
                Ok(None)
            }
        }
    }

    /// Without an end it is a line, too, if nothing follows. One that is too long is thrown away.
    fn attempt_line<'py>(
        &self,
        py: Python<'py>,
        stream: &Stream,
        separators: &Separators,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        let end = find_end(stream.input.borrow().as_slice(py), self.from.get(), separators);
        let limit = stream.limit.get();
        let (gone, message) = match end {
            End::Found { start, end } if start > limit => {
                (Some(end), "Separator is found, but chunk is longer than limit")
            }
            End::NotBefore(from) if from > limit => (None, "Separator is not found, and chunk exceed the limit"),
            End::NotBefore(_) if stream.has_ended.get() => {
                return Ok(Some(stream.input.borrow_mut().take_all(py).into_any()));
            }
            _ => return self.attempt_until(py, stream, separators),
        };
        let gone = gone.unwrap_or_else(|| stream.input.borrow().len(py));
        take(py, stream, gone)?;
        Err(PyValueError::new_err(message))
    }
}

fn take<'py>(py: Python<'py>, stream: &Stream, len: usize) -> PyResult<Bound<'py, PyAny>> {
    let taken = stream.input.borrow_mut().take(py, len);
    stream.taken(py)?;
    Ok(taken.into_any())
}

fn incomplete(py: Python<'_>, stream: &Stream, expected: Option<usize>) -> PyErr {
    let partial = stream.input.borrow_mut().take_all(py);
    asyncio_error(py, "IncompleteReadError", (partial, expected))
}

/// Makes one, of a stream's object.
///
/// # Errors
/// No memory.
///
/// # Safety
/// Attached; an instance of the type of streams, and this module's type.
pub unsafe fn make<'py>(
    py: Python<'py>,
    class: &Bound<'py, PyAny>,
    of: *mut ffi::PyObject,
    kind: Kind,
) -> PyResult<Bound<'py, PyAny>> {
    let class = class.as_ptr().cast::<ffi::PyTypeObject>();
    // SAFETY: the caller's promise. The collector may look at the object before it is filled in, and sees that.
    unsafe {
        let alloc = (*class).tp_alloc.ok_or_else(|| PyTypeError::new_err("a read cannot be made"))?;
        let object = Bound::from_owned_ptr_or_err(py, alloc(class, 0))?;
        let this = object.as_ptr().cast::<Object>();
        (*this).read.write(Read {
            of: argument(py, of).unbind(),
            kind,
            state: Cell::new(State::Fresh),
            future: RefCell::default(),
            from: Cell::new(0),
            all: RefCell::default(),
        });
        (*this).is_made = true;
        Ok(object)
    }
}

unsafe extern "C" fn itself(this: *mut ffi::PyObject) -> *mut ffi::PyObject {
    // SAFETY: I7: CPython calls attached, with an instance.
    unsafe { ffi::Py_NewRef(this) }
}

unsafe extern "C" fn itself_method(this: *mut ffi::PyObject, _: *mut ffi::PyObject) -> *mut ffi::PyObject {
    // SAFETY: I7: CPython calls attached, with an instance.
    unsafe { ffi::Py_NewRef(this) }
}

fn stop(py: Python<'_>, result: &Bound<'_, PyAny>) -> PyErr {
    match result.is_none() {
        true => PyStopIteration::new_err(()),
        false => PyErr::from_value(match py.get_type::<PyStopIteration>().call1((result,)) {
            Ok(stop) => stop,
            Err(error) => return error,
        }),
    }
}

unsafe extern "C" fn next(this: *mut ffi::PyObject) -> *mut ffi::PyObject {
    guarded_object(|py| {
        // SAFETY: I7: CPython calls attached, with an instance, which the caller keeps.
        match unsafe { read(this) }.step(py)? {
            Step::Waits(future) => Ok(future),
            Step::Ends(result) => Err(stop(py, &result)),
        }
    })
}

unsafe extern "C" fn am_send(
    this: *mut ffi::PyObject,
    _: *mut ffi::PyObject,
    result: *mut *mut ffi::PyObject,
) -> ffi::PySendResult {
    guarded(ffi::PySendResult::PYGEN_ERROR, |py| {
        // SAFETY: I7: CPython calls attached, with an instance, which the caller keeps, and a place for the result, which is null
        // where there is none.
        unsafe {
            *result = std::ptr::null_mut();
            let (kind, object) = match read(this).step(py)? {
                Step::Waits(future) => (ffi::PySendResult::PYGEN_NEXT, future),
                Step::Ends(object) => (ffi::PySendResult::PYGEN_RETURN, object),
            };
            *result = object.into_ptr();
            Ok(kind)
        }
    })
}

unsafe extern "C" fn send(this: *mut ffi::PyObject, _: *mut ffi::PyObject) -> *mut ffi::PyObject {
    // SAFETY: I7: CPython calls attached, with an instance.
    unsafe { next(this) }
}

/// `throw(type_or_exception, value=None, traceback=None)`.
unsafe extern "C" fn throw(this: *mut ffi::PyObject, args: *mut ffi::PyObject) -> *mut ffi::PyObject {
    guarded_object(|py| {
        // SAFETY: I7: CPython calls attached, with an instance and a tuple.
        let (read, args) = unsafe { (read(this), argument(py, args)) };
        read.end();
        let what = args.get_item(0)?;
        let value = args.get_item(1).ok().filter(|value| !value.is_none());
        Err(match value {
            Some(value) if value.is_instance(&what).unwrap_or_default() => PyErr::from_value(value),
            Some(value) => PyErr::from_value(what.call1((value,))?),
            None => PyErr::from_value(what),
        })
    })
}

unsafe extern "C" fn close(this: *mut ffi::PyObject, _: *mut ffi::PyObject) -> *mut ffi::PyObject {
    guarded_object(|py| {
        // SAFETY: I7: CPython calls attached, with an instance.
        unsafe { read(this) }.end();
        Ok(py.None().into_bound(py))
    })
}

impl Read {
    fn end(&self) {
        if !matches!(self.kind, Kind::Nothing) {
            self.wait_no_more();
            self.state.set(State::Ended);
        }
    }
}

unsafe extern "C" fn traverse(object: *mut ffi::PyObject, visit: ffi::visitproc, arg: *mut c_void) -> c_int {
    // SAFETY: I7: the collector calls this attached, with an instance; nothing is allocated or released.
    unsafe {
        let mut result = visit(ffi::Py_TYPE(object).cast(), arg);
        if result == 0 && (*object.cast::<Object>()).is_made {
            result = visit(read(object).of.as_ptr(), arg);
            if let (0, Ok(future)) = (result, read(object).future.try_borrow())
                && let Some(future) = &*future
            {
                result = visit(future.as_ptr(), arg);
            }
        }
        result
    }
}

unsafe extern "C" fn clear(object: *mut ffi::PyObject) -> c_int {
    guarded(0, |_| {
        // SAFETY: I7: as in `traverse`. What it is of it keeps: streams do not know their reads.
        unsafe {
            if (*object.cast::<Object>()).is_made {
                read(object).end();
            }
        }
        Ok(0)
    })
}

unsafe extern "C" fn dealloc(object: *mut ffi::PyObject) {
    // SAFETY: the last reference is gone; CPython calls this attached (I7). The usual order for a heap type.
    unsafe {
        ffi::PyObject_GC_UnTrack(object.cast());
        let class = ffi::Py_TYPE(object);
        if (*object.cast::<Object>()).is_made {
            guarded((), |_| {
                read(object).end();
                (*object.cast::<Object>()).read.assume_init_drop();
                Ok(())
            });
        }
        if let Some(free) = (*class).tp_free {
            free(object.cast());
        }
        ffi::Py_DECREF(class.cast());
    }
}

static METHODS: Static<[ffi::PyMethodDef; 5]> = Static([
    method(c"__await__", itself_method, ffi::METH_NOARGS, c"Itself."),
    method(c"send", send, ffi::METH_O, c"Goes on."),
    method(c"throw", throw, ffi::METH_VARARGS, c"Ends by an exception."),
    method(c"close", close, ffi::METH_NOARGS, c"Ends."),
    ffi::PyMethodDef::zeroed(),
]);

/// Makes the type for the calling interpreter.
///
/// # Errors
/// The Python exception.
pub fn make_type(py: Python<'_>) -> PyResult<Bound<'_, PyType>> {
    let slots = [
        (ffi::Py_tp_traverse, traverse as *mut c_void),
        (ffi::Py_tp_clear, clear as *mut c_void),
        (ffi::Py_tp_dealloc, dealloc as *mut c_void),
        (ffi::Py_tp_iter, itself as *mut c_void),
        (ffi::Py_tp_iternext, next as *mut c_void),
        (ffi::Py_am_await, itself as *mut c_void),
        (ffi::Py_am_send, am_send as *mut c_void),
        (ffi::Py_tp_methods, METHODS.0.as_ptr() as *mut c_void),
    ];
    let flags = ffi::Py_TPFLAGS_HAVE_GC | ffi::Py_TPFLAGS_DISALLOW_INSTANTIATION;
    types::make(py, c"erlang.StreamRead", size_of::<Object>(), flags, &slots, None)
}
