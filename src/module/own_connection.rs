//! Methods of `Protocol` that reach its own connection or nobody, from any thread: what the functions of `erlang.reactor`
//! do by name.

use crate::connection::directory::{Served, find};
use crate::driver::registry;
use crate::mail::command::Name;
use crate::mail::inbox::Signal;
use crate::module::connections::{boolean, handle_object, leave, signal};
use crate::python::glue::{argument, guarded_object};
use crate::python::instance::{self, Attachment, instance};
use crate::python::types;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyTuple;
use std::ffi::{c_char, c_int, c_void};
use std::os::fd::IntoRawFd;
use std::ptr;

/// What a protocol serves now.
enum Own {
    /// Nothing, perhaps any more.
    Nothing,
    /// A connection that is driven by hand, or was.
    ByHand,
    /// A connection of a reactor.
    Served(Served),
}

fn own(protocol: &Bound<'_, PyAny>) -> Own {
    // SAFETY: I7, by the token; methods of the type are called with its instances only.
    let attachment = unsafe { (*instance(protocol)).attachment };
    match (instance::handle(protocol), attachment) {
        (Some(_), Attachment::Plain) => Own::ByHand,
        (Some((fd, context, serial)), Attachment::Served(_)) => {
            find(Name { fd, exactly: Some((context, serial)) }).map_or(Own::Nothing, Own::Served)
        }
        (_, Attachment::Lost) | (None, _) => Own::Nothing,
    }
}

/// Whether `protocol` has, or had, a connection that is driven by hand.
pub fn is_by_hand(protocol: &Bound<'_, PyAny>) -> bool {
    matches!(own(protocol), Own::ByHand)
}

/// What `erlang._by_hand` does with a connection.
fn by_hand<'py>(
    protocol: &Bound<'py, PyAny>,
    function: &str,
    message: Option<Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyAny>> {
    let py = protocol.py();
    let handle = handle_object(py, instance::handle(protocol))?;
    let arguments = PyTuple::new(py, std::iter::once(handle).chain(message).collect::<Vec<_>>())?;
    py.import("erlang._by_hand")?.call_method1(function, arguments)
}

/// `signal_write_ready()`.
pub unsafe extern "C" fn signal_write_ready(this: *mut ffi::PyObject, _: *mut ffi::PyObject) -> *mut ffi::PyObject {
    guarded_object(|py| {
        // SAFETY: I7: CPython calls attached; its argument lives through the call.
        let protocol = unsafe { argument(py, this) };
        match own(&protocol) {
            Own::Served(connection) => boolean(py, signal(py, Some(connection), Signal::WriteReady)),
            Own::ByHand => by_hand(&protocol, "is_served", None),
            Own::Nothing => boolean(py, false),
        }
    })
}

/// `close()`.
pub unsafe extern "C" fn close(this: *mut ffi::PyObject, _: *mut ffi::PyObject) -> *mut ffi::PyObject {
    guarded_object(|py| {
        // SAFETY: I7: CPython calls attached; its argument lives through the call.
        let protocol = unsafe { argument(py, this) };
        match own(&protocol) {
            Own::Served(connection) => _ = signal(py, Some(connection), Signal::Close),
            Own::ByHand => _ = by_hand(&protocol, "close", None)?,
            Own::Nothing => {}
        }
        Ok(py.None().into_bound(py))
    })
}

/// `notify(message)`.
pub unsafe extern "C" fn notify(this: *mut ffi::PyObject, message: *mut ffi::PyObject) -> *mut ffi::PyObject {
    guarded_object(|py| {
        // SAFETY: I7: CPython calls attached; its arguments live through the call.
        let (protocol, message) = unsafe { (argument(py, this), argument(py, message)) };
        match own(&protocol) {
            Own::Served(connection) => boolean(py, leave(connection, message)?),
            Own::ByHand => by_hand(&protocol, "notify", Some(message)),
            Own::Nothing => boolean(py, false),
        }
    })
}

/// `get_extra_info(name, default=None)`.
pub unsafe extern "C" fn get_extra_info(
    this: *mut ffi::PyObject,
    args: *mut ffi::PyObject,
    kwargs: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    guarded_object(|py| {
        let (mut name, mut default) = (ptr::null_mut(), ptr::null_mut());
        let mut names: [*const c_char; 3] = [c"name".as_ptr(), c"default".as_ptr(), ptr::null()];
        // SAFETY: I7: CPython calls attached; its arguments live through the call; the format takes one or two objects,
        // borrowed.
        let parsed = unsafe {
            ffi::PyArg_ParseTupleAndKeywords(
                args,
                kwargs,
                c"O|O:get_extra_info".as_ptr(),
                names.as_mut_ptr().cast(),
                &raw mut name,
                &raw mut default,
            )
        };
        if parsed == 0 {
            return Err(PyErr::fetch(py));
        }
        // SAFETY: I7: CPython calls attached; the format has filled the others with borrowed objects; `default` stays
        // null if it was not given.
        let (protocol, name, default) =
            unsafe { (argument(py, this), argument(py, name), Bound::from_borrowed_ptr_or_opt(py, default)) };
        let open = match own(&protocol) {
            Own::Served(_) => instance::handle(&protocol).map(|(fd, ..)| fd),
            Own::ByHand => instance::fd_by_hand(&protocol),
            Own::Nothing => None,
        };
        // While it is registered the number is ours, and stays so as long as we are attached, for its reactor is when it closes.
        // So it is duplicated here: no Python code runs in between, which might let others run.
        let duplicate = open.and_then(|fd| registry::duplicate(fd).ok()).map(IntoRawFd::into_raw_fd);
        let known = instance::extra(&protocol)?;
        let info = instance::client_info(&protocol);
        py.import("erlang._extra_info")?.call_method1("get", (duplicate, known, info, name, default))
    })
}

/// Of a protocol whose `connection_lost` has returned: what `get_extra_info` had opened is closed.
pub fn close_extra(protocol: &Bound<'_, PyAny>) {
    let close = |extra| protocol.py().import("erlang._extra_info")?.call_method1("close", (extra,)).map(drop);
    if let Some(extra) = instance::asked_extra(protocol) {
        // What does not close is closed when it is collected.
        let _: PyResult<()> = close(extra);
    }
}

/// `handle`, as an attribute of the class: a descriptor that yields to one of the instance's own.
unsafe extern "C" fn get_handle(
    this: *mut ffi::PyObject,
    object: *mut ffi::PyObject,
    _: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    guarded_object(|py| {
        if object.is_null() {
            // SAFETY: I7: CPython calls attached; its argument lives through the call.
            return Ok(unsafe { argument(py, this) });
        }
        // SAFETY: I7: CPython calls attached; its arguments live through the call.
        let object = unsafe { argument(py, object) };
        handle_object(py, if instance::is_protocol(&object) { instance::handle(&object) } else { None })
    })
}

/// The descriptor behind `handle`.
///
/// # Errors
/// The Python exception.
pub fn make_handle(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    let slots = [
        (ffi::Py_tp_doc, c"The name of the connection, which no later one has.".as_ptr() as *mut c_void),
        (ffi::Py_tp_descr_get, get_handle as *mut c_void),
        (ffi::Py_tp_traverse, traverse_handle as *mut c_void),
    ];
    let size = size_of::<ffi::PyObject>();
    types::make(py, c"erlang.reactor.Handle", size, ffi::Py_TPFLAGS_HAVE_GC, &slots, None)?.call0()
}

/// Without this the collector would not see that the class hangs on what it collects: it would stay when its interpreter ends.
unsafe extern "C" fn traverse_handle(object: *mut ffi::PyObject, visit: ffi::visitproc, arg: *mut c_void) -> c_int {
    // SAFETY: I7: the collector calls this attached, with an instance; nothing is allocated or released.
    unsafe { visit(ffi::Py_TYPE(object).cast(), arg) }
}
