//! From the reactor to a protocol's callbacks and back: vector calls, actions compared by pointer, faults as values.

use crate::connection::machine::{Action, Callback};
use crate::driver::address::Address;
use crate::mail::notice::Notice;
use crate::python::addresses;
use crate::python::glue::{class_name, inherits};
use crate::python::instance;
use crate::python::types::Types;
use pyo3::exceptions::PyTypeError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString, PyType};
use std::ptr;
use std::time::Duration;

/// What this interpreter's calls need: types and interned names.
pub struct Names {
    /// `_py_reactor.Protocol`.
    pub protocol_type: Py<PyType>,
    base_write_ready: Py<PyAny>,
    base_write: Py<PyAny>,
    base_datagram_received: Py<PyAny>,
    data_received: Py<PyString>,
    datagram_received: Py<PyString>,
    eof_received: Py<PyString>,
    write_ready: Py<PyString>,
    message_received: Py<PyString>,
    actions: [(Py<PyString>, Action); 5],
}

/// Why a callback did not answer an action.
pub enum Fault {
    /// It raised this.
    Raised(PyErr),
    /// It answered this, which is no action or not one for this callback.
    Answered(String),
}

impl Names {
    /// Those of the calling interpreter.
    ///
    /// # Errors
    /// The Python exception.
    pub fn new(py: Python<'_>) -> PyResult<Self> {
        let protocol_type = Types::of(py)?.protocol;
        let intern = |name: &str| PyString::intern(py, name).unbind();
        Ok(Names {
            base_write_ready: protocol_type.getattr("write_ready")?.unbind(),
            base_write: protocol_type.getattr("write")?.unbind(),
            base_datagram_received: protocol_type.getattr("datagram_received")?.unbind(),
            protocol_type: protocol_type.unbind(),
            data_received: intern("data_received"),
            datagram_received: intern("datagram_received"),
            eof_received: intern("eof_received"),
            write_ready: intern("write_ready"),
            message_received: intern("message_received"),
            actions: [
                (intern("continue"), Action::Continue),
                (intern("write_pending"), Action::WritePending),
                (intern("read_pending"), Action::ReadPending),
                (intern("async_pending"), Action::AsyncPending),
                (intern("close"), Action::Close),
            ],
        })
    }

    /// Makes a protocol by `factory`.
    ///
    /// # Errors
    /// What the factory raised, or that it made no protocol.
    pub fn make_protocol<'py>(&self, factory: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let made = factory.call0()?;
        // Not `isinstance`, which believes what `__class__` says: the layout must be ours.
        // SAFETY: attached; an object and a type.
        let is_protocol = unsafe { ffi::PyObject_TypeCheck(made.as_ptr(), self.protocol_type.as_ptr().cast()) };
        if is_protocol == 0 {
            return Err(PyTypeError::new_err(format!(
                "the protocol factory {} returned {}, which is not an instance of erlang.reactor.Protocol",
                factory.repr()?,
                made.repr()?
            )));
        }
        Ok(made)
    }

    /// Whether nothing in `protocol` overrides the base class's way to write.
    ///
    /// # Errors
    /// The Python exception.
    pub fn writes_natively(&self, protocol: &Bound<'_, PyAny>) -> PyResult<bool> {
        let py = protocol.py();
        Ok(inherits(protocol, self.write_ready.bind(py), self.base_write_ready.bind(py))?
            && inherits(protocol, &PyString::intern(py, "write"), self.base_write.bind(py))?)
    }

    /// Whether `protocol` defines `datagram_received`.
    ///
    /// # Errors
    /// The Python exception.
    pub fn takes_addresses(&self, protocol: &Bound<'_, PyAny>) -> PyResult<bool> {
        let own = protocol.get_type().getattr(&self.datagram_received)?;
        Ok(!own.is(self.base_datagram_received.bind(protocol.py())))
    }

    /// Calls `datagram_received(data, addr)`.
    ///
    /// # Errors
    /// The fault.
    pub fn datagram_received(
        &self,
        protocol: &Bound<'_, PyAny>,
        data: &Bound<'_, PyAny>,
        from: &Address,
    ) -> Result<Action, Fault> {
        let py = protocol.py();
        let from = addresses::to_python(py, from).map_err(Fault::Raised)?;
        let args = [ptr::null_mut(), protocol.as_ptr(), data.as_ptr(), from.as_ptr()];
        self.call(py, Callback::DataReceived, &self.datagram_received, args, 3)
    }

    /// Calls `data_received(data)`.
    ///
    /// # Errors
    /// The fault.
    #[inline]
    pub fn data_received(&self, protocol: &Bound<'_, PyAny>, data: &Bound<'_, PyAny>) -> Result<Action, Fault> {
        let args = [ptr::null_mut(), protocol.as_ptr(), data.as_ptr(), ptr::null_mut()];
        self.call(protocol.py(), Callback::DataReceived, &self.data_received, args, 2)
    }

    /// Calls `message_received(message)`.
    ///
    /// # Errors
    /// The fault.
    pub fn message_received(&self, protocol: &Bound<'_, PyAny>, message: &Bound<'_, PyAny>) -> Result<Action, Fault> {
        let args = [ptr::null_mut(), protocol.as_ptr(), message.as_ptr(), ptr::null_mut()];
        self.call(protocol.py(), Callback::MessageReceived, &self.message_received, args, 2)
    }

    /// Calls `eof_received()` or `write_ready()`.
    ///
    /// # Errors
    /// The fault.
    #[inline]
    pub fn callback(&self, protocol: &Bound<'_, PyAny>, callback: Callback) -> Result<Action, Fault> {
        let name = if callback == Callback::EofReceived { &self.eof_received } else { &self.write_ready };
        let args = [ptr::null_mut(), protocol.as_ptr(), ptr::null_mut(), ptr::null_mut()];
        self.call(protocol.py(), callback, name, args, 1)
    }

    #[inline]
    fn call(
        &self,
        py: Python<'_>,
        callback: Callback,
        name: &Py<PyString>,
        mut args: [*mut ffi::PyObject; 4],
        count: usize,
    ) -> Result<Action, Fault> {
        // SAFETY: attached; `count` borrowed references follow one spare slot, as ARGUMENTS_OFFSET promises; the result
        // is a new reference, or null with an exception set.
        let answer = unsafe {
            let answer = ffi::PyObject_VectorcallMethod(
                name.as_ptr(),
                args.as_mut_ptr().add(1),
                count | ffi::PY_VECTORCALL_ARGUMENTS_OFFSET,
                ptr::null_mut(),
            );
            Bound::from_owned_ptr_or_opt(py, answer)
        };
        let Some(answer) = answer else { return Err(Fault::Raised(PyErr::fetch(py))) };
        match self.action(&answer) {
            Some(action) if callback.allows(action) => Ok(action),
            _ => Err(Fault::Answered(describe(&answer))),
        }
    }

    #[inline]
    fn action(&self, answer: &Bound<'_, PyAny>) -> Option<Action> {
        // A literal in Python code is the interned string itself.
        for (name, action) in &self.actions {
            if ptr::eq(name.as_ptr(), answer.as_ptr()) {
                return Some(*action);
            }
        }
        let text = answer.cast::<PyString>().ok()?.to_str().ok()?;
        let found = self.actions.iter().find(|(name, _)| name.bind(answer.py()) == text);
        found.map(|(_, action)| *action)
    }
}

fn describe(answer: &Bound<'_, PyAny>) -> String {
    let text = answer.repr().map_or_else(|_| "an object that cannot be shown".to_owned(), |text| text.to_string());
    let mut shown: String = text.chars().take(80).collect();
    if shown.len() < text.len() {
        shown.push_str("...");
    }
    if answer.is_none() {
        shown.push_str(" (is a return statement missing?)");
    }
    shown
}

/// The log record of a fault in `method` of `protocol`.
pub fn fault_notice(protocol: &Bound<'_, PyAny>, method: &'static str, fault: Fault) -> Notice {
    let class = class_name(&protocol.get_type());
    let message = match fault {
        Fault::Raised(error) => format!("{class}.{method} raised:\n{}", format_exception(protocol.py(), &error)),
        Fault::Answered(value) => format!(
            "{class}.{method} returned {value}; it must return one of \"continue\", \"write_pending\", \
             \"read_pending\"{}, \"close\"",
            if method == "write_ready" { "" } else { ", \"async_pending\"" }
        ),
    };
    notice(protocol, class, method, "error", message)
}

/// The log record of a callback that took too long.
pub fn slow_notice(protocol: &Bound<'_, PyAny>, method: &'static str, took: Duration) -> Notice {
    let class = class_name(&protocol.get_type());
    let ms = took.as_millis();
    let message =
        format!("{class}.{method} took at least {ms} ms; meanwhile its context served nobody (slow_callback_ms)");
    notice(protocol, class, method, "warning", message)
}

fn notice(
    protocol: &Bound<'_, PyAny>,
    class: String,
    method: &'static str,
    level: &'static str,
    message: String,
) -> Notice {
    let mut meta = vec![("class", class), ("method", method.to_owned())];
    meta.extend(peer(protocol).map(|peer| ("peer", peer)));
    Notice { level, message, meta, fd: instance::fd(protocol) }
}

/// "addr:port" of the client, as far as Erlang told.
fn peer(protocol: &Bound<'_, PyAny>) -> Option<String> {
    let info = instance::client_info(protocol)?;
    let info = info.cast::<PyDict>().ok()?;
    let addr = info.get_item("addr").ok()??;
    Some(match info.get_item("port").ok()? {
        Some(port) => format!("{addr}:{port}"),
        None => addr.to_string(),
    })
}

/// The traceback of `error`, as Python prints it.
pub fn format_exception(py: Python<'_>, error: &PyErr) -> String {
    if let Some(traceback) = error.traceback(py) {
        // Before 3.12 the exception itself does not know it yet.
        let _ = error.value(py).setattr("__traceback__", traceback);
    }
    let formatted = py
        .import("erlang._runtime")
        .and_then(|runtime| runtime.call_method1("format_exception", (error.value(py),)))
        .and_then(|text| text.extract::<String>());
    formatted.unwrap_or_else(|_| error.to_string())
}
