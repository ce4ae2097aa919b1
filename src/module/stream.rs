//! A stream: what a connection has received and nobody has read, who waits for more, and when its transport is to pause.

use crate::module::stream_input::Input;
use crate::python::boxed::{self, State};
use crate::python::bytes_like::with_bytes;
use pyo3::exceptions::{PyAssertionError, PyNotImplementedError, PyTypeError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyString};
use std::cell::{Cell, RefCell};
use std::ffi::c_int;
use std::ops::ControlFlow;

/// A reader.
#[derive(Default)]
pub struct Stream {
    /// Received, and not read.
    pub input: RefCell<Input>,
    /// No more comes.
    pub has_ended: Cell<bool>,
    /// Above twice of this, nothing is received.
    pub limit: Cell<usize>,
    /// `drain` has something to wait for, or to raise.
    pub is_busy: Cell<bool>,
    is_paused: Cell<bool>,
    /// What it has to do with.
    pub parts: RefCell<Parts>,
}

/// Python objects that it has to do with.
#[derive(Default)]
pub struct Parts {
    /// What a task waits for until something comes.
    pub waiter: Option<Py<PyAny>>,
    /// Whose input it is.
    pub transport: Option<Py<PyAny>>,
    /// What the connection has failed with.
    pub exception: Option<Py<PyAny>>,
    /// Of the loop.
    pub create_future: Option<Py<PyAny>>,
    /// The type of what is awaited.
    pub read_type: Option<Py<PyAny>>,
    /// One of it that has nothing to wait for.
    pub nothing: Option<Py<PyAny>>,
    pub names: Option<Names>,
}

/// Names that are looked up for each message.
pub struct Names {
    pub blocking: Py<PyString>,
    pub done: Py<PyString>,
    pub is_closing: Py<PyString>,
    pub set_result: Py<PyString>,
}

impl Names {
    /// Those of the calling interpreter.
    pub fn new(py: Python<'_>) -> Self {
        let intern = |name: &str| PyString::intern(py, name).unbind();
        Names {
            blocking: intern("_asyncio_future_blocking"),
            done: intern("done"),
            is_closing: intern("is_closing"),
            set_result: intern("set_result"),
        }
    }
}

/// The stream of an instance.
///
/// # Safety
/// An instance, which lives longer than what is answered is used; attached.
pub unsafe fn stream<'a>(object: *mut ffi::PyObject) -> &'a Stream {
    // SAFETY: the caller's promise.
    unsafe { boxed::state(object) }
}

impl State for Stream {
    fn each(&self, tell: &mut dyn FnMut(&Py<PyAny>) -> ControlFlow<c_int>) -> ControlFlow<c_int> {
        let Ok(parts) = self.parts.try_borrow() else { return ControlFlow::Continue(()) };
        let Parts { waiter, transport, exception, create_future, .. } = &*parts;
        [waiter, transport, exception, create_future].into_iter().flatten().try_for_each(tell)
    }

    fn clear(&self) {
        let parts = self.parts.take();
        drop(parts);
    }
}

impl Stream {
    /// A name.
    ///
    /// # Errors
    /// It was never begun.
    pub fn name<'py>(&self, py: Python<'py>, which: fn(&Names) -> &Py<PyString>) -> PyResult<Bound<'py, PyString>> {
        let parts = self.parts.borrow();
        let names = parts.names.as_ref().ok_or_else(|| PyTypeError::new_err("this reader has no loop"))?;
        Ok(which(names).bind(py).clone())
    }

    /// Raises what its connection has failed with, if it has.
    ///
    /// # Errors
    /// That.
    pub fn check(&self, py: Python<'_>) -> PyResult<()> {
        match &self.parts.borrow().exception {
            Some(exception) => Err(PyErr::from_value(exception.bind(py).clone())),
            None => Ok(()),
        }
    }

    /// Whether somebody waits.
    pub fn is_waited_for(&self) -> bool {
        self.parts.borrow().waiter.is_some()
    }

    /// A future that is resolved when something comes, of which there is one at a time.
    ///
    /// # Errors
    /// What the transport or the loop raised.
    pub fn wait<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        if self.is_paused.replace(false) {
            self.call_transport(py, "resume_reading")?;
        }
        let create = self.parts.borrow().create_future.as_ref().map(|create| create.bind(py).clone());
        let create = create.ok_or_else(|| PyTypeError::new_err("this reader has no loop"))?;
        let future = create.call0()?;
        future.setattr(self.name(py, |names| &names.blocking)?, true)?;
        let before = self.parts.borrow_mut().waiter.replace(future.clone().unbind());
        drop(before);
        Ok(future)
    }

    /// Nobody waits for `future` any more.
    pub fn wait_no_more(&self, future: &Py<PyAny>) {
        let waiter = self.parts.borrow_mut().waiter.take_if(|waiter| waiter.is(future));
        drop(waiter);
    }

    /// Something was taken: the transport may go on.
    ///
    /// # Errors
    /// What the transport raised.
    pub fn taken(&self, py: Python<'_>) -> PyResult<()> {
        if self.is_paused.get() && self.input.borrow().len(py) <= self.limit.get() {
            self.is_paused.set(false);
            self.call_transport(py, "resume_reading")?;
        }
        Ok(())
    }

    fn call_transport(&self, py: Python<'_>, method: &str) -> PyResult<()> {
        let transport = self.parts.borrow().transport.as_ref().map(|transport| transport.bind(py).clone());
        transport.map_or(Ok(()), |transport| transport.call_method0(method).map(drop))
    }

    /// This was received.
    ///
    /// # Errors
    /// It is no bytes, or too late; what the transport or the loop raised.
    pub fn feed(&self, data: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = data.py();
        if self.has_ended.get() {
            return Err(PyAssertionError::new_err("feed_data after feed_eof"));
        }
        let len = match data.cast_exact::<PyBytes>() {
            Ok(bytes) => {
                self.input.borrow_mut().push_whole(bytes);
                bytes.as_bytes().len()
            }
            Err(_) => with_bytes(data, |bytes| {
                self.input.borrow_mut().push(py, bytes);
                Ok(bytes.len())
            })?,
        };
        if len == 0 {
            return Ok(());
        }
        self.wake(py, None)?;
        if !self.is_paused.get() && self.input.borrow().len(py) > 2 * self.limit.get() {
            self.pause(py)?;
        }
        Ok(())
    }

    fn pause(&self, py: Python<'_>) -> PyResult<()> {
        if self.parts.borrow().transport.is_none() {
            return Ok(());
        }
        match self.call_transport(py, "pause_reading") {
            Ok(()) => self.is_paused.set(true),
            // It cannot: then it is not asked again.
            Err(error) if error.is_instance_of::<PyNotImplementedError>(py) => {
                let transport = self.parts.borrow_mut().transport.take();
                drop(transport);
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Whoever waits looks again, or ends by `exception`.
    ///
    /// # Errors
    /// What the loop raised.
    pub fn wake(&self, py: Python<'_>, exception: Option<&Bound<'_, PyAny>>) -> PyResult<()> {
        let waiter = self.parts.borrow_mut().waiter.take();
        let Some(waiter) = waiter.map(|waiter| waiter.into_bound(py)) else { return Ok(()) };
        if waiter.call_method0(self.name(py, |names| &names.done)?)?.is_truthy()? {
            return Ok(());
        }
        match exception {
            None => waiter.call_method1(self.name(py, |names| &names.set_result)?, (py.None(),)).map(drop),
            Some(exception) => waiter.call_method1("set_exception", (exception,)).map(drop),
        }
    }
}
