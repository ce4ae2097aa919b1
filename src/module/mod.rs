//! The built-in module `_py_reactor`: made anew for each interpreter, with heap types of its own (I7).
//!
//! `python/erlang/reactor.py` is its only user.

pub mod connections;
pub mod console;
pub mod context_loop;
pub mod datagram_endpoint;
pub mod datagrams;
pub mod erlang_call;
pub mod event_loop;
pub mod handle;
pub mod loop_calls;
pub mod loop_futures;
pub mod loop_layout;
pub mod loop_openings;
pub mod loop_references;
pub mod loop_turn;
pub mod manual_io;
pub mod messages;
pub mod own_connection;
pub mod peer_names;
pub mod protocol;
pub mod readers;
pub mod stock_streams;
pub mod stream;
pub mod stream_input;
pub mod stream_read;
pub mod stream_type;
pub mod tasks;
pub mod thread_context;
pub mod transport;
pub mod transport_abandoned;
pub mod transport_accepted;
pub mod transport_calls;
pub mod transport_layout;
pub mod transport_socket;
pub mod words;

use crate::base::gil;
use crate::connection::context;
use crate::mail::notice::Notice;
use crate::python::describe::describe;
use crate::python::glue::{Static, argument, guarded, guarded_object, method};
use crate::python::instance;
use crate::python::interpreter::{self, Builtin};
use crate::python::reactor_buffer;
use crate::python::types::Types;
use crate::python::variables;
use pyo3::exceptions::{PyImportError, PyTypeError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyType;
use std::ffi::{CStr, c_int, c_void};
use std::ptr;

/// Name of the module.
pub const NAME: &CStr = c"_py_reactor";

/// What an interpreter needs to be able to import it.
pub const BUILTIN: Builtin = (NAME, init);

/// The module's initialisation function, for `PyImport_AppendInittab`.
pub extern "C" fn init() -> *mut ffi::PyObject {
    // SAFETY: I10: the definition is static, and only CPython changes it (its header), under the main interpreter's
    // lock.
    unsafe { ffi::PyModuleDef_Init(&raw mut DEFINITION) }
}

static SLOTS: Static<[ffi::PyModuleDef_Slot; if cfg!(Py_3_12) { 3 } else { 2 }]> = Static([
    ffi::PyModuleDef_Slot { slot: ffi::Py_mod_exec, value: execute as *mut c_void },
    #[cfg(Py_3_12)]
    ffi::PyModuleDef_Slot { slot: ffi::Py_mod_multiple_interpreters, value: ffi::Py_MOD_PER_INTERPRETER_GIL_SUPPORTED },
    ffi::PyModuleDef_Slot { slot: 0, value: ptr::null_mut() },
]);

static mut DEFINITION: ffi::PyModuleDef = ffi::PyModuleDef {
    m_base: ffi::PyModuleDef_HEAD_INIT,
    m_name: NAME.as_ptr(),
    m_doc: c"The native half of erlang.reactor.".as_ptr(),
    m_size: 0,
    m_methods: METHODS.0.as_ptr() as *mut ffi::PyMethodDef,
    m_slots: SLOTS.0.as_ptr() as *mut ffi::PyModuleDef_Slot,
    m_traverse: None,
    m_clear: None,
    m_free: None,
};

static METHODS: Static<[ffi::PyMethodDef; 26]> = Static([
    method(
        c"set_protocol_factory",
        set_protocol_factory,
        ffi::METH_O,
        c"Sets this context's factory; False outside a context.",
    ),
    method(c"get_protocol_factory", get_protocol_factory, ffi::METH_NOARGS, c"This context's factory, or None."),
    method(
        c"get_protocol",
        connections::get_protocol,
        ffi::METH_O,
        c"The protocol that serves a connection of this interpreter, or None.",
    ),
    method(
        c"signal_write_ready",
        connections::signal_write_ready,
        ffi::METH_O,
        c"Wakes a protocol that waits, or whose write_buffer is not empty; False if no reactor serves the descriptor.",
    ),
    method(
        c"close_connection",
        connections::close_connection,
        ffi::METH_O,
        c"Closes a connection; False if no reactor serves it.",
    ),
    method(c"is_served", connections::is_served, ffi::METH_O, c"Whether a reactor serves the connection."),
    method(c"log", log, ffi::METH_VARARGS, c"Logs through a context; False: there is none."),
    method(
        c"write_console",
        console::write_console,
        ffi::METH_VARARGS,
        c"Writes all of some bytes to a descriptor, unless that takes nothing for so many milliseconds.",
    ),
    method(
        c"notify",
        connections::notify,
        ffi::METH_VARARGS,
        c"Passes an object to a protocol's message_received; False if no reactor serves it.",
    ),
    method(
        c"connection_handle",
        connections::connection_handle,
        ffi::METH_O,
        c"A name of the connection on a descriptor that no later one has, or None.",
    ),
    method(
        c"drive_by_hand",
        drive_by_hand,
        ffi::METH_VARARGS,
        c"Has a protocol serve a descriptor that no reactor serves; answers its handle.",
    ),
    method(c"end_by_hand", end_by_hand, ffi::METH_O, c"Closes what get_extra_info has opened of such a connection."),
    method(c"send", messages::send, ffi::METH_VARARGS, c"Sends a term to an Erlang process."),
    method(c"call", erlang_call::call, ffi::METH_VARARGS, c"Calls a registered function of Erlang and waits."),
    method(
        c"call_async",
        erlang_call::call_async,
        ffi::METH_VARARGS,
        c"Calls a registered function of Erlang for a task; answers the call's number.",
    ),
    method(c"forget_call", erlang_call::forget_call, ffi::METH_O, c"Nobody waits for that call any more."),
    method(
        c"asyncio_imported",
        context_loop::asyncio_imported,
        ffi::METH_NOARGS,
        c"From now on contexts of this interpreter are event loops.",
    ),
    method(c"event_loop", context_loop::event_loop, ffi::METH_NOARGS, c"The loop of this thread's context, or None."),
    method(c"datagrams", datagrams::datagrams, ffi::METH_NOARGS, c"The native half of a datagram endpoint of asyncio."),
    method(
        c"stream_type",
        stream_type::stream_type,
        ffi::METH_NOARGS,
        c"The native half of a reader of erlang.streams.",
    ),
    method(c"loop_type", event_loop::loop_type, ffi::METH_NOARGS, c"The native half of an event loop."),
    method(
        c"within",
        variables::call_within,
        ffi::METH_VARARGS,
        c"Calls a function in a contextvars.Context, unless that is entered already.",
    ),
    method(c"transport_type", transport::transport_type, ffi::METH_NOARGS, c"The native half of a stream transport."),
    method(c"own_pid", messages::own_pid, ffi::METH_NOARGS, c"The pid of this thread's context, or None."),
    method(
        c"load_in_main",
        load_in_main,
        ffi::METH_VARARGS,
        c"Loads an extension module, by name and path, in the main interpreter.",
    ),
    ffi::PyMethodDef::zeroed(),
]);

unsafe extern "C" fn execute(module: *mut ffi::PyObject) -> c_int {
    guarded(-1, |py| {
        // SAFETY: I7, by the token; CPython passes the module that is being made.
        let module = unsafe { Bound::from_borrowed_ptr(py, module) }.cast_into::<PyModule>()?;
        let types = Types::made_by(py, || {
            let (protocol, reactor_buffer) = (protocol::make_type(py)?, reactor_buffer::make_type(py)?);
            Ok(Types { protocol, reactor_buffer, interrupted: make_interrupted(py)? })
        })?;
        module.add("Protocol", types.protocol)?;
        module.add("ReactorBuffer", types.reactor_buffer)?;
        module.add("Interrupted", types.interrupted)?;
        Ok(0)
    })
}

/// A `KeyboardInterrupt`: `except Exception` does not stop it, and asyncio lets no other one out of a callback of its loop.
fn make_interrupted(py: Python<'_>) -> PyResult<Bound<'_, PyType>> {
    // SAFETY: I7, by the token; static strings; a new reference, or null with an exception.
    let made = unsafe {
        let made = ffi::PyErr_NewExceptionWithDoc(
            c"erlang.reactor.Interrupted".as_ptr(),
            c"Raised in Python code that py_reactor_context:interrupt/1 ends.".as_ptr(),
            ffi::PyExc_KeyboardInterrupt,
            ptr::null_mut(),
        );
        Bound::from_owned_ptr_or_err(py, made)
    };
    Ok(made?.cast_into()?)
}

unsafe extern "C" fn set_protocol_factory(_: *mut ffi::PyObject, factory: *mut ffi::PyObject) -> *mut ffi::PyObject {
    guarded_object(|py| {
        // SAFETY: I7: CPython calls attached; its argument lives through the call.
        let factory = unsafe { argument(py, factory) };
        if !factory.is_callable() {
            return Err(PyTypeError::new_err(format!(
                "a protocol factory must be callable, not {}",
                describe(&factory)
            )));
        }
        let Some(context) = context::current(py) else { return connections::boolean(py, false) };
        let old = context.factory.replace(Some(factory.unbind()));
        drop(old);
        connections::boolean(py, true)
    })
}

unsafe extern "C" fn get_protocol_factory(_: *mut ffi::PyObject, _: *mut ffi::PyObject) -> *mut ffi::PyObject {
    guarded_object(|py| {
        let factory =
            context::current(py).and_then(|context| context.factory.borrow().as_ref().map(|f| f.clone_ref(py)));
        Ok(factory.map_or_else(|| py.None().into_bound(py), |factory| factory.into_bound(py)))
    })
}

/// See `erlang/_by_hand.py`.
unsafe extern "C" fn drive_by_hand(_: *mut ffi::PyObject, args: *mut ffi::PyObject) -> *mut ffi::PyObject {
    guarded_object(|py| {
        // SAFETY: I7: CPython calls attached; its argument lives through the call.
        let (protocol, fd, info): (Bound<'_, PyAny>, c_int, Bound<'_, PyAny>) =
            unsafe { argument(py, args) }.extract()?;
        if !instance::is_protocol(&protocol) {
            return Err(PyTypeError::new_err("not an instance of erlang.reactor.Protocol"));
        }
        connections::handle_object(py, Some(instance::drive_by_hand(&protocol, fd, info)?))
    })
}

/// See `erlang/_by_hand.py`.
unsafe extern "C" fn end_by_hand(_: *mut ffi::PyObject, protocol: *mut ffi::PyObject) -> *mut ffi::PyObject {
    guarded_object(|py| {
        // SAFETY: I7: CPython calls attached; its argument lives through the call.
        let protocol = unsafe { argument(py, protocol) };
        if instance::is_protocol(&protocol) {
            own_connection::close_extra(&protocol);
        }
        Ok(py.None().into_bound(py))
    })
}

/// See `erlang/_console.py`.
unsafe extern "C" fn log(_: *mut ffi::PyObject, args: *mut ffi::PyObject) -> *mut ffi::PyObject {
    guarded_object(|py| {
        // SAFETY: I7: CPython calls attached; its argument lives through the call.
        let (level, message, logger, file, line): (i64, String, Option<String>, String, u32) =
            unsafe { argument(py, args) }.extract()?;
        let Some(mailbox) = thread_context::current(py) else { return connections::boolean(py, false) };
        // Python's numbers: between two of them the lower name holds.
        let level = match level {
            50.. => "critical",
            40.. => "error",
            30.. => "warning",
            25.. => "notice",
            20.. => "info",
            _ => "debug",
        };
        let mut meta = vec![("file", file), ("line", line.to_string())];
        meta.push(logger.map_or(("domain", "print".to_owned()), |logger| ("python_logger", logger)));
        mailbox.notify(Notice { level, message, meta, fd: None });
        connections::boolean(py, true)
    })
}

/// See `erlang/_extensions.py`.
unsafe extern "C" fn load_in_main(_: *mut ffi::PyObject, args: *mut ffi::PyObject) -> *mut ffi::PyObject {
    guarded_object(|py| {
        // SAFETY: I7: CPython calls attached; its argument lives through the call.
        let (name, path): (String, Option<String>) = unsafe { argument(py, args) }.extract()?;
        let load = move || Python::attach(|py| load(py, &name, path.as_deref()).map_err(|error| error.to_string()));
        // Whoever loads it needs a GIL that may be ours.
        let loaded = gil::detached(py, || interpreter::on_main_thread(load));
        loaded.and_then(|loaded| loaded).map_err(PyImportError::new_err)?;
        Ok(py.None().into_bound(py))
    })
}

fn load(py: Python<'_>, name: &str, path: Option<&str>) -> PyResult<()> {
    let Some(path) = path else {
        // It is to be set up as well, or is built in, and made in no other way.
        return py.import(name).map(drop);
    };
    let loader = py.import("importlib.machinery")?.getattr("ExtensionFileLoader")?.call1((name, path))?;
    let spec = py.import("importlib.util")?.call_method1("spec_from_loader", (name, loader))?;
    py.import("_imp")?.call_method1("create_dynamic", (spec,)).map(drop)
}
