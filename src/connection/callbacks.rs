//! From the reactor to a protocol's callbacks and back: vector calls, actions compared by pointer, faults as values.

use crate::connection::machine::Action;
use crate::connection::overrides::{self, BaseMethods, Method};
use crate::driver::address::Address;
use crate::mail::notice::Notice;
use crate::python::addresses;
use crate::python::describe::{advice, describe, is_coroutine};
use crate::python::glue::class_name;
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
    base: &'static BaseMethods,
    data_received: Py<PyString>,
    datagram_received: Py<PyString>,
    eof_received: Py<PyString>,
    write: Py<PyString>,
    write_ready: Py<PyString>,
    message_received: Py<PyString>,
    actions: [(Py<PyString>, Action); 5],
}

/// The words for actions.
const ACTIONS: [(&str, Action); 5] = [
    ("continue", Action::Continue),
    ("write_pending", Action::WritePending),
    ("read_pending", Action::ReadPending),
    ("async_pending", Action::AsyncPending),
    ("close", Action::Close),
];

/// Why a callback did not answer an action.
pub enum Fault {
    /// It raised this.
    Raised(PyErr),
    /// It answered this, which is no action.
    Answered(String),
    /// It is `async def`: this coroutine will answer.
    Awaits(Py<PyAny>),
}

/// Callbacks whose answer is not looked at, but for a coroutine, which will never run.
const ANSWERS_NOTHING: [&str; 3] = ["connection_made", "connection_lost", "error_received"];

/// Of a callback that answers nothing: its fault, if it has one.
///
/// # Errors
/// The fault.
pub fn nothing(answer: PyResult<Bound<'_, PyAny>>) -> Result<(), Fault> {
    let answer = answer.map_err(Fault::Raised)?;
    // SAFETY: I7, by the token; an object.
    match unsafe { ffi::PyCoro_CheckExact(answer.as_ptr()) } {
        0 => Ok(()),
        _ => Err(Fault::Answered(describe(&answer) + advice(&answer, &[]))),
    }
}

impl Names {
    /// Those of the calling interpreter; `base` is what the type defines.
    ///
    /// # Errors
    /// The Python exception.
    pub fn new(py: Python<'_>, base: &'static BaseMethods) -> PyResult<Self> {
        let protocol_type = Types::of(py)?.protocol;
        let intern = |name: &str| PyString::intern(py, name).unbind();
        Ok(Names {
            protocol_type: protocol_type.unbind(),
            base,
            data_received: intern("data_received"),
            datagram_received: intern("datagram_received"),
            eof_received: intern("eof_received"),
            write: intern("write"),
            write_ready: intern("write_ready"),
            message_received: intern("message_received"),
            actions: ACTIONS.map(|(name, action)| (intern(name), action)),
        })
    }

    /// Makes a protocol by `factory`.
    ///
    /// # Errors
    /// What the factory raised, or that it made no protocol.
    pub fn make_protocol<'py>(&self, factory: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let made = factory.call0()?;
        // Not `isinstance`, which believes what `__class__` says: the layout must be ours.
        // SAFETY: I7, by the token; an object and a type.
        let is_protocol = unsafe { ffi::PyObject_TypeCheck(made.as_ptr(), self.protocol_type.as_ptr().cast()) };
        if is_protocol == 0 {
            return Err(PyTypeError::new_err(format!(
                "the protocol factory {} returned {}, which is not an instance of erlang.reactor.Protocol",
                describe(factory),
                describe(&made)
            )));
        }
        Ok(made)
    }

    /// Whether these methods of `protocol` are the base class's just now.
    #[inline(always)]
    pub fn inherits<const N: usize>(&self, protocol: &Bound<'_, PyAny>, methods: &[Method; N]) -> bool {
        let named = |method| match method {
            Method::Write => &self.write,
            Method::WriteReady => &self.write_ready,
            Method::DatagramReceived => &self.datagram_received,
        };
        overrides::inherits(protocol, self.base, methods.map(|method| (method, named(method).bind(protocol.py()))))
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
        self.call(py, &self.datagram_received, args, 3)
    }

    /// Calls `data_received(data)`.
    ///
    /// # Errors
    /// The fault.
    #[inline]
    pub fn data_received(&self, protocol: &Bound<'_, PyAny>, data: &Bound<'_, PyAny>) -> Result<Action, Fault> {
        let args = [ptr::null_mut(), protocol.as_ptr(), data.as_ptr(), ptr::null_mut()];
        self.call(protocol.py(), &self.data_received, args, 2)
    }

    /// Calls `message_received(message)`.
    ///
    /// # Errors
    /// The fault.
    pub fn message_received(&self, protocol: &Bound<'_, PyAny>, message: &Bound<'_, PyAny>) -> Result<Action, Fault> {
        let args = [ptr::null_mut(), protocol.as_ptr(), message.as_ptr(), ptr::null_mut()];
        self.call(protocol.py(), &self.message_received, args, 2)
    }

    /// Calls `eof_received()`.
    ///
    /// # Errors
    /// The fault.
    pub fn eof_received(&self, protocol: &Bound<'_, PyAny>) -> Result<Action, Fault> {
        let args = [ptr::null_mut(), protocol.as_ptr(), ptr::null_mut(), ptr::null_mut()];
        self.call(protocol.py(), &self.eof_received, args, 1)
    }

    /// Calls `write_ready()`.
    ///
    /// # Errors
    /// The fault.
    #[inline]
    pub fn write_ready(&self, protocol: &Bound<'_, PyAny>) -> Result<Action, Fault> {
        let args = [ptr::null_mut(), protocol.as_ptr(), ptr::null_mut(), ptr::null_mut()];
        self.call(protocol.py(), &self.write_ready, args, 1)
    }

    #[inline]
    fn call(
        &self,
        py: Python<'_>,
        name: &Py<PyString>,
        mut args: [*mut ffi::PyObject; 4],
        count: usize,
    ) -> Result<Action, Fault> {
        // SAFETY: I7, by the token; `count` borrowed references follow one spare slot, as ARGUMENTS_OFFSET promises; the
        // result is a new reference, or null with an exception set.
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
            Some(action) => Ok(action),
            None => Err(no_action(answer)),
        }
    }

    /// The action that a task has returned.
    ///
    /// # Errors
    /// It is none.
    pub fn result(&self, answer: &Bound<'_, PyAny>) -> Result<Action, Fault> {
        self.action(answer).ok_or_else(|| wrong_answer(answer))
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

#[cold]
fn no_action(answer: Bound<'_, PyAny>) -> Fault {
    if is_coroutine(&answer) { Fault::Awaits(answer.unbind()) } else { wrong_answer(&answer) }
}

fn wrong_answer(answer: &Bound<'_, PyAny>) -> Fault {
    Fault::Answered(describe(answer) + advice(answer, &ACTIONS.map(|(name, _)| name)))
}

/// The log record of a fault in `method` of `protocol`.
pub fn fault_notice(protocol: &Bound<'_, PyAny>, method: &'static str, fault: Fault) -> Notice {
    let class = class_name(&protocol.get_type());
    let message = match fault {
        Fault::Raised(error) => format!("{class}.{method} raised:\n{}", format_exception(protocol.py(), &error)),
        // Never logged: it is none.
        Fault::Awaits(_) => format!("{class}.{method} awaits"),
        Fault::Answered(value) if ANSWERS_NOTHING.contains(&method) => format!("{class}.{method} returned {value}"),
        Fault::Answered(value) => format!(
            "{class}.{method} returned {value}; it must return one of \"continue\", \"write_pending\", \"read_pending\", \
             \"async_pending\", \"close\""
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
    describe_exception(py, error).1
}

/// The text of `error` and its traceback, as Python prints them. Its own `__str__` runs, which may fail or be interrupted.
pub fn describe_exception(py: Python<'_>, error: &PyErr) -> (String, String) {
    if let Some(traceback) = error.traceback(py) {
        // Before 3.12 the exception itself does not know it yet.
        let _ = error.value(py).setattr("__traceback__", traceback);
    }
    let described = py
        .import("erlang._runtime")
        .and_then(|runtime| runtime.call_method1("describe_exception", (error.value(py),)))
        .and_then(|described| described.extract::<(String, String)>());
    // Nothing of the user's is called again: what failed once may never return.
    described.unwrap_or_else(|_| (String::new(), "an exception that cannot be shown".to_owned()))
}
