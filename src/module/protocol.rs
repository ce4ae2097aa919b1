//! The native base class `Protocol`: four attributes, default callbacks, and the way from `write` and `read` to the
//! connection.

use crate::base::token::ConnId;
use crate::connection::context::{self, Context};
use crate::connection::overrides::{self, BaseMethods, Method};
use crate::connection::write_buffer;
use crate::module::manual_io;
use crate::module::own_connection;
use crate::module::tasks;
use crate::python::glue::{Static, argument, class_name, guarded_object, method};
use crate::python::instance::{self, Attachment, Instance, instance};
use crate::python::types;
use pyo3::exceptions::{PyNotImplementedError, PyRuntimeError, PyValueError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyString, PyType};
use std::ffi::{CStr, c_char, c_int, c_void};
use std::ptr;
use std::rc::Rc;

/// How an instance does I/O now.
enum Route {
    Context(Rc<Context>, ConnId),
    Descriptor(c_int),
    Nowhere,
}

fn route(protocol: &Bound<'_, PyAny>) -> PyResult<Route> {
    let this = instance(protocol);
    // SAFETY: I7, by the token; methods of the type are called with its instances only.
    let (attachment, fd, closed) = unsafe { ((*this).attachment, (*this).fd, (*this).closed) };
    match attachment {
        Attachment::Lost => Ok(Route::Nowhere),
        Attachment::Plain if closed != 0 || fd < 0 => Ok(Route::Nowhere),
        Attachment::Plain => Ok(Route::Descriptor(fd)),
        Attachment::Served(id) => match context::current(protocol.py()) {
            Some(current)
                if Some(current.mailbox.serial) == instance::handle(protocol).map(|(_, context, _)| context) =>
            {
                Ok(Route::Context(current, id))
            }
            _ => Err(PyRuntimeError::new_err(
                "write(), write_eof() and read() may be called on the thread of the protocol's context only; from another thread \
                 hand the data over and call self.signal_write_ready()",
            )),
        },
    }
}

fn integer(py: Python<'_>, value: usize) -> PyResult<Bound<'_, PyAny>> {
    Ok(value.into_pyobject(py)?.into_any())
}

/// `write(data)`.
unsafe extern "C" fn write(this: *mut ffi::PyObject, data: *mut ffi::PyObject) -> *mut ffi::PyObject {
    guarded_object(|py| {
        // SAFETY: I7: CPython calls attached; its arguments live through the call.
        let (protocol, data) = unsafe { (argument(py, this), argument(py, data)) };
        match route(&protocol)? {
            Route::Context(context, id) => integer(py, context.write(id, &data)?),
            Route::Descriptor(fd) => integer(py, manual_io::write(py, fd, &data)?),
            Route::Nowhere => integer(py, 0),
        }
    })
}

/// `write_eof()`.
unsafe extern "C" fn write_eof(this: *mut ffi::PyObject, _: *mut ffi::PyObject) -> *mut ffi::PyObject {
    guarded_object(|py| {
        // SAFETY: I7: CPython calls attached; its argument lives through the call.
        match route(&unsafe { argument(py, this) })? {
            Route::Context(context, id) => context.end_output(id)?,
            Route::Descriptor(fd) => py.import("erlang._plain")?.call_method1("end_output", (fd,)).map(drop)?,
            Route::Nowhere => {}
        }
        Ok(py.None().into_bound(py))
    })
}

unsafe extern "C" fn read(
    this: *mut ffi::PyObject,
    args: *mut ffi::PyObject,
    kwargs: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    guarded_object(|py| {
        let mut size: ffi::Py_ssize_t = 65536;
        let mut names: [*const c_char; 2] = [c"size".as_ptr(), ptr::null()];
        // SAFETY: I7: CPython calls attached; its arguments live through the call; the format takes one optional
        // Py_ssize_t.
        let parsed = unsafe {
            ffi::PyArg_ParseTupleAndKeywords(
                args,
                kwargs,
                c"|n:read".as_ptr(),
                names.as_mut_ptr().cast(),
                &raw mut size,
            )
        };
        if parsed == 0 {
            return Err(PyErr::fetch(py));
        }
        let size = usize::try_from(size).unwrap_or_default();
        if size == 0 {
            return Err(PyValueError::new_err("read() size must be at least 1: b\"\" means the end of file"));
        }
        // SAFETY: I7: CPython calls attached; its argument lives through the call.
        let protocol = unsafe { argument(py, this) };
        let data = match route(&protocol)? {
            Route::Context(context, id) => context.read(py, id, size)?,
            Route::Descriptor(fd) => manual_io::read(py, fd, size),
            Route::Nowhere => Some(PyBytes::new(py, b"")),
        };
        Ok(data.map_or_else(|| py.None().into_bound(py), Bound::into_any))
    })
}

unsafe extern "C" fn connection_made(this: *mut ffi::PyObject, args: *mut ffi::PyObject) -> *mut ffi::PyObject {
    guarded_object(|py| {
        let mut fd: c_int = -1;
        let mut info: *mut ffi::PyObject = ptr::null_mut();
        // SAFETY: I7: CPython calls attached; its arguments live through the call; the format takes an int and an
        // object.
        if unsafe { ffi::PyArg_ParseTuple(args, c"iO:connection_made".as_ptr(), &raw mut fd, &raw mut info) } == 0 {
            return Err(PyErr::fetch(py));
        }
        // SAFETY: I7: CPython calls attached; its arguments live through the call.
        let (protocol, info) = unsafe { (argument(py, this), argument(py, info)) };
        instance::introduce(&protocol, fd, info);
        Ok(py.None().into_bound(py))
    })
}

unsafe extern "C" fn data_received(this: *mut ffi::PyObject, _: *mut ffi::PyObject) -> *mut ffi::PyObject {
    guarded_object(|py| {
        // SAFETY: I7: CPython calls attached; its argument lives through the call.
        let class = unsafe { argument(py, this) }.get_type();
        Err(PyNotImplementedError::new_err(format!("{} must define data_received(self, data)", class.name()?)))
    })
}

/// The default passes the data on, without the address: `write` answers the sender all the same.
unsafe extern "C" fn datagram_received(this: *mut ffi::PyObject, args: *mut ffi::PyObject) -> *mut ffi::PyObject {
    guarded_object(|py| {
        let (mut data, mut from) = (ptr::null_mut(), ptr::null_mut::<ffi::PyObject>());
        // SAFETY: I7: CPython calls attached; its arguments live through the call; the format takes two objects,
        // borrowed.
        let parsed =
            unsafe { ffi::PyArg_ParseTuple(args, c"OO:datagram_received".as_ptr(), &raw mut data, &raw mut from) };
        if parsed == 0 {
            return Err(PyErr::fetch(py));
        }
        // SAFETY: I7: CPython calls attached; the format has filled both with borrowed objects.
        unsafe { argument(py, this).call_method1("data_received", (argument(py, data),)) }
    })
}

unsafe extern "C" fn error_received(_: *mut ffi::PyObject, _: *mut ffi::PyObject) -> *mut ffi::PyObject {
    guarded_object(|py| Ok(py.None().into_bound(py)))
}

unsafe extern "C" fn sendto(this: *mut ffi::PyObject, args: *mut ffi::PyObject) -> *mut ffi::PyObject {
    guarded_object(|py| {
        let (mut data, mut to) = (ptr::null_mut(), ptr::null_mut());
        // SAFETY: I7: CPython calls attached; its arguments live through the call; the format takes one or two objects,
        // borrowed.
        if unsafe { ffi::PyArg_ParseTuple(args, c"O|O:sendto".as_ptr(), &raw mut data, &raw mut to) } == 0 {
            return Err(PyErr::fetch(py));
        }
        // SAFETY: I7: CPython calls attached; the format has filled the others with borrowed objects; `to` stays null if
        // it was not given.
        let (protocol, data, to) =
            unsafe { (argument(py, this), argument(py, data), Bound::from_borrowed_ptr_or_opt(py, to)) };
        let to = to.unwrap_or_else(|| py.None().into_bound(py));
        match route(&protocol)? {
            Route::Context(context, id) => integer(py, context.send_to(id, &data, &to)?),
            Route::Descriptor(fd) => py.import("erlang._plain")?.call_method1("send_datagram", (fd, data, to)),
            Route::Nowhere => integer(py, 0),
        }
    })
}

unsafe extern "C" fn eof_received(_: *mut ffi::PyObject, _: *mut ffi::PyObject) -> *mut ffi::PyObject {
    guarded_object(|py| Ok(PyString::intern(py, "close").into_any()))
}

unsafe extern "C" fn connection_lost(_: *mut ffi::PyObject, _: *mut ffi::PyObject) -> *mut ffi::PyObject {
    guarded_object(|py| Ok(py.None().into_bound(py)))
}

/// The default drops the message, and says once for each class that it does.
unsafe extern "C" fn message_received(this: *mut ffi::PyObject, _: *mut ffi::PyObject) -> *mut ffi::PyObject {
    guarded_object(|py| {
        // SAFETY: I7: CPython calls attached; its argument lives through the call.
        let class = unsafe { argument(py, this) }.get_type();
        match context::current(py) {
            Some(context) => context.say_unaware(class_name(&class)),
            None => py.import("erlang._plain")?.call_method1("say_unaware", (class,)).map(drop)?,
        }
        Ok(PyString::intern(py, "continue").into_any())
    })
}

/// `write_ready` as Python code calls it (`super().write_ready()`); a reactor drains without coming here.
unsafe extern "C" fn write_ready(this: *mut ffi::PyObject, _: *mut ffi::PyObject) -> *mut ffi::PyObject {
    guarded_object(|py| {
        // SAFETY: I7: CPython calls attached; its argument lives through the call.
        let protocol = unsafe { argument(py, this) };
        let native = overrides::inherits(&protocol, &BASE_METHODS, [(Method::Write, &PyString::intern(py, "write"))]);
        let drained = match route(&protocol)? {
            Route::Context(context, id) if native => context.drain(id, &protocol)?,
            _ => write_buffer::drain_by_write(&protocol)?,
        };
        Ok(PyString::intern(py, if drained { "read_pending" } else { "continue" }).into_any())
    })
}

/// What the reactor need not call through Python where a class inherits it.
pub const BASE_METHODS: BaseMethods = [
    (Method::Write, "write", write),
    (Method::WriteReady, "write_ready", write_ready),
    (Method::DatagramReceived, "datagram_received", datagram_received),
];

/// Whether tasks are cancelled when the peer is gone, an attribute of the class.
pub const CANCEL_ON_DISCONNECT: &str = "cancel_on_disconnect";

const DOC: &CStr = c"Base class of protocols: one instance serves one connection. See erlang.reactor.";

static METHODS: Static<[ffi::PyMethodDef; 19]> = Static([
    method(
        c"datagram_received",
        datagram_received,
        ffi::METH_VARARGS,
        c"datagram_received($self, data, addr, /)\n--\n\nA datagram arrived; answers an action. Calls data_received(data).",
    ),
    method(
        c"error_received",
        error_received,
        ffi::METH_O,
        c"error_received($self, exc, /)\n--\n\nA datagram could not be delivered: an OSError.",
    ),
    method(
        c"sendto",
        sendto,
        ffi::METH_VARARGS,
        c"sendto($self, data, addr=None, /)\n--\n\nSends a datagram; answers how many bytes were taken: all or 0.",
    ),
    method(c"connection_made", connection_made, ffi::METH_VARARGS, c"connection_made($self, fd, client_info, /)\n--\n\nThe connection was handed over."),
    method(c"data_received", data_received, ffi::METH_O, c"data_received($self, data, /)\n--\n\nData arrived; answers an action."),
    method(c"write_ready", write_ready, ffi::METH_NOARGS, c"write_ready($self, /)\n--\n\nThere is room to write; answers an action. Drains write_buffer."),
    method(c"eof_received", eof_received, ffi::METH_NOARGS, c"eof_received($self, /)\n--\n\nThe peer sends no more; answers an action: \"close\"."),
    method(c"message_received", message_received, ffi::METH_O, c"message_received($self, message, /)\n--\n\nA message from Erlang or from another protocol; answers an action."),
    method(c"connection_lost", connection_lost, ffi::METH_NOARGS, c"connection_lost($self, /)\n--\n\nThe connection is gone."),
    method(c"write", write, ffi::METH_O, c"write($self, data, /)\n--\n\nAccepts as many bytes as there is room for; answers how many."),
    method(c"write_eof", write_eof, ffi::METH_NOARGS, c"write_eof($self, /)\n--\n\nEnds the output, once what was accepted is delivered; reading goes on."),
    ffi::PyMethodDef {
        ml_name: c"read".as_ptr(),
        ml_meth: ffi::PyMethodDefPointer { PyCFunctionWithKeywords: read },
        ml_flags: ffi::METH_VARARGS | ffi::METH_KEYWORDS,
        ml_doc: c"read($self, size=65536)\n--\n\nBytes that arrived and were not delivered; b\"\" at the end; None if there are none now.".as_ptr(),
    },
    method(c"signal_write_ready", own_connection::signal_write_ready, ffi::METH_NOARGS, c"signal_write_ready($self, /)\n--\n\nEnds the wait of this connection, or has what stands in its write_buffer written; answers whether it is there. From any thread."),
    method(c"close", own_connection::close, ffi::METH_NOARGS, c"close($self, /)\n--\n\nCloses this connection gracefully. From any thread."),
    method(c"create_task", tasks::create_task, ffi::METH_O, c"create_task($self, coro, /)\n--\n\nBegins a task that ends with the connection; answers it. On the thread of the context only."),
    method(c"call_later", tasks::call_later, ffi::METH_VARARGS, c"call_later($self, delay, callback, /, *args)\n--\n\nHas a callback called, unless the connection ends before; answers its handle."),
    method(c"notify", own_connection::notify, ffi::METH_O, c"notify($self, message, /)\n--\n\nLeaves a message for this protocol; answers whether its connection is there. From any thread."),
    ffi::PyMethodDef {
        ml_name: c"get_extra_info".as_ptr(),
        ml_meth: ffi::PyMethodDefPointer { PyCFunctionWithKeywords: own_connection::get_extra_info },
        ml_flags: ffi::METH_VARARGS | ffi::METH_KEYWORDS,
        ml_doc: c"get_extra_info($self, name, default=None)\n--\n\nWhat else is known of the connection: \"peername\", \"sockname\", \"socket\", \"pipe\".".as_ptr(),
    },
    ffi::PyMethodDef::zeroed(),
]);

/// Makes the type for the calling interpreter.
///
/// # Errors
/// The Python exception.
pub fn make_type(py: Python<'_>) -> PyResult<Bound<'_, PyType>> {
    let slots = [
        (ffi::Py_tp_doc, DOC.as_ptr() as *mut c_void),
        (ffi::Py_tp_new, instance::new as *mut c_void),
        (ffi::Py_tp_traverse, instance::traverse as *mut c_void),
        (ffi::Py_tp_clear, instance::clear as *mut c_void),
        (ffi::Py_tp_dealloc, instance::dealloc as *mut c_void),
        (ffi::Py_tp_methods, METHODS.0.as_ptr() as *mut c_void),
        (ffi::Py_tp_members, instance::MEMBERS.0.as_ptr() as *mut c_void),
    ];
    let flags = ffi::Py_TPFLAGS_BASETYPE | ffi::Py_TPFLAGS_HAVE_GC;
    let made = types::make(py, c"erlang.reactor.Protocol", size_of::<Instance>(), flags, &slots, None)?;
    made.setattr("handle", own_connection::make_handle(py)?)?;
    made.setattr(CANCEL_ON_DISCONNECT, true)?;
    Ok(made)
}
