//! The native base class `Protocol`: four attributes, default callbacks, and the way from `write` and `read` to the
//! connection.
//!
//! An instance is *plain* until a reactor serves it: then `write` and `read` use `fd` directly, so that a protocol can
//! be driven by hand. Once served it reaches its own connection by generation-tagged name and nothing else: when that
//! connection is gone, `write` answers 0 and `read` `b""`, for ever, whoever owns the descriptor number by then.

use crate::base::token::ConnId;
use crate::python::glue::{self, Static, argument, class_name, guarded_object, inherits, method};

use crate::connection::context::{self, Context};
use crate::module;
use crate::module::manual_io;

use pyo3::exceptions::{PyNotImplementedError, PyRuntimeError, PyTypeError, PyValueError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyByteArray, PyBytes, PyDict, PyString};
use std::ffi::{CStr, c_char, c_int, c_void};
use std::mem::offset_of;
use std::ptr;
use std::rc::Rc;

/// What an instance's `write` and `read` reach.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Link {
    /// The descriptor `fd`, by system calls.
    Plain,
    /// A connection of the context with this serial number.
    Served { context: u64, id: ConnId },
    /// Nothing any more.
    Lost,
}

/// The C layout of an instance.
#[repr(C)]
struct Instance {
    head: ffi::PyObject,
    client_info: *mut ffi::PyObject,
    write_buffer: *mut ffi::PyObject,
    link: Link,
    fd: c_int,
    closed: c_char,
}

/// A borrowed instance. Fields are read and written through raw pointers: Python code may change them at any time.
fn instance(protocol: &Bound<'_, PyAny>) -> *mut Instance {
    protocol.as_ptr().cast()
}

/// Connects `protocol` (checked to be a `Protocol`) to its connection, before `connection_made`.
///
/// # Errors
/// The instance serves, or has served, another connection.
pub fn attach(
    protocol: &Bound<'_, PyAny>,
    context: &Context,
    id: ConnId,
    fd: c_int,
    info: &Bound<'_, PyDict>,
) -> PyResult<()> {
    let this = instance(protocol);
    // SAFETY: the caller checked the type, so this is the layout; attached; the old dict is released after the new one
    // is in place.
    unsafe {
        if (*this).link != Link::Plain || (*this).fd >= 0 {
            return Err(PyRuntimeError::new_err(format!(
                "the protocol factory returned an instance that already served fd {}: make a new one for each connection",
                (*this).fd
            )));
        }
        (*this).link = Link::Served { context: context.mailbox.serial, id };
        (*this).fd = fd;
        (*this).closed = 0;
        let old = std::mem::replace(&mut (*this).client_info, info.clone().into_ptr());
        ffi::Py_XDECREF(old);
    }
    Ok(())
}

/// Disconnects `protocol` (a `Protocol`), before `connection_lost`.
pub fn detach(protocol: &Bound<'_, PyAny>) {
    let this = instance(protocol);
    // SAFETY: only served protocols, whose type was checked, get here.
    unsafe {
        (*this).link = Link::Lost;
        (*this).closed = 1;
    }
}

/// The `write_buffer` of `protocol` (a `Protocol`).
///
/// # Errors
/// `TypeError`: it was set to something else, or deleted.
pub fn write_buffer<'py>(protocol: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyByteArray>> {
    // SAFETY: as in `detach`.
    let buffer = unsafe { Bound::from_borrowed_ptr_or_opt(protocol.py(), (*instance(protocol)).write_buffer) };
    let wrong = match buffer.map(Bound::cast_into::<PyByteArray>) {
        Some(Ok(buffer)) => return Ok(buffer),
        Some(Err(error)) => class_name(&error.into_inner().get_type()),
        None => "deleted".to_owned(),
    };
    Err(PyTypeError::new_err(format!("write_buffer must be a bytearray, not {wrong}")))
}

/// An empty one.
///
/// # Errors
/// No memory.
pub fn new_write_buffer(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    // SAFETY: attached; a new reference, or null with an exception set.
    unsafe { Bound::from_owned_ptr_or_err(py, ffi::PyByteArray_FromStringAndSize(ptr::null(), 0)) }
}

/// Gives `protocol` (a `Protocol`) another `write_buffer`.
pub fn set_write_buffer(protocol: &Bound<'_, PyAny>, buffer: Bound<'_, PyAny>) {
    // SAFETY: as in `detach`; the old one is released after the new one is in place.
    unsafe {
        let old = ptr::replace(&raw mut (*instance(protocol)).write_buffer, buffer.into_ptr());
        ffi::Py_XDECREF(old);
    }
}

/// The number of the descriptor of `protocol` (a `Protocol`), if it has one.
pub fn fd(protocol: &Bound<'_, PyAny>) -> Option<c_int> {
    // SAFETY: as in `detach`.
    let fd = unsafe { (*instance(protocol)).fd };
    (fd >= 0).then_some(fd)
}

/// The `client_info` of `protocol` (a `Protocol`), unless it was deleted.
pub fn client_info<'py>(protocol: &Bound<'py, PyAny>) -> Option<Bound<'py, PyAny>> {
    // SAFETY: as in `detach`.
    unsafe { Bound::from_borrowed_ptr_or_opt(protocol.py(), (*instance(protocol)).client_info) }
}

/// How an instance does I/O now.
enum Route {
    Context(Rc<Context>, ConnId),
    Descriptor(c_int),
    Nowhere,
}

fn route(protocol: &Bound<'_, PyAny>) -> PyResult<Route> {
    let this = instance(protocol);
    // SAFETY: methods of the type are called with its instances only.
    let (link, fd, closed) = unsafe { ((*this).link, (*this).fd, (*this).closed) };
    match link {
        Link::Lost => Ok(Route::Nowhere),
        Link::Plain if closed != 0 || fd < 0 => Ok(Route::Nowhere),
        Link::Plain => Ok(Route::Descriptor(fd)),
        Link::Served { context, id } => match context::current() {
            Some(current) if current.mailbox.serial == context => Ok(Route::Context(current, id)),
            _ => Err(PyRuntimeError::new_err(
                "write() and read() may be called on the thread of the protocol's context only; from another thread \
                 hand the data over and call erlang.reactor.signal_write_ready(fd)",
            )),
        },
    }
}

unsafe extern "C" fn new(
    class: *mut ffi::PyTypeObject,
    _: *mut ffi::PyObject,
    _: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    guarded_object(|py| {
        // SAFETY: the type's own allocator gives zeroed memory of its size; every field is filled in before anybody
        // else sees the instance.
        unsafe {
            let alloc = (*class).tp_alloc.ok_or_else(|| PyTypeError::new_err("Protocol cannot be made"))?;
            let object = Bound::from_owned_ptr_or_err(py, alloc(class, 0))?;
            let this = instance(&object);
            (*this).link = Link::Plain;
            (*this).fd = -1;
            (*this).client_info = PyDict::new(py).into_ptr();
            (*this).write_buffer = new_write_buffer(py)?.into_ptr();
            Ok(object)
        }
    })
}

unsafe extern "C" fn traverse(object: *mut ffi::PyObject, visit: ffi::visitproc, arg: *mut c_void) -> c_int {
    // SAFETY: the collector calls this attached, with an instance; nothing is allocated or released.
    unsafe {
        let this = object.cast::<Instance>();
        for field in [(*this).client_info, (*this).write_buffer, ffi::Py_TYPE(object).cast()] {
            if !field.is_null() {
                let result = visit(field, arg);
                if result != 0 {
                    return result;
                }
            }
        }
    }
    0
}

unsafe extern "C" fn clear(object: *mut ffi::PyObject) -> c_int {
    // SAFETY: as in `traverse`. Each field is emptied before its object is released.
    unsafe {
        let this = object.cast::<Instance>();
        for field in [&raw mut (*this).client_info, &raw mut (*this).write_buffer] {
            let old = ptr::replace(field, ptr::null_mut());
            ffi::Py_XDECREF(old);
        }
    }
    0
}

unsafe extern "C" fn dealloc(object: *mut ffi::PyObject) {
    // SAFETY: the last reference is gone; the usual order for a heap type with garbage collection.
    unsafe {
        let class = ffi::Py_TYPE(object);
        ffi::PyObject_GC_UnTrack(object.cast());
        clear(object);
        if let Some(free) = (*class).tp_free {
            free(object.cast());
        }
        ffi::Py_DECREF(class.cast());
    }
}

fn integer(py: Python<'_>, value: usize) -> PyResult<Bound<'_, PyAny>> {
    Ok(value.into_pyobject(py)?.into_any())
}

unsafe extern "C" fn write(this: *mut ffi::PyObject, data: *mut ffi::PyObject) -> *mut ffi::PyObject {
    guarded_object(|py| {
        // SAFETY: CPython's arguments.
        let (protocol, data) = unsafe { (argument(py, this), argument(py, data)) };
        match route(&protocol)? {
            Route::Context(context, id) => integer(py, context.write(id, &data)?),
            Route::Descriptor(fd) => integer(py, manual_io::write(py, fd, &data)?),
            Route::Nowhere => integer(py, 0),
        }
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
        // SAFETY: CPython's arguments; the format takes one optional Py_ssize_t.
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
        // SAFETY: CPython's argument.
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
        // SAFETY: CPython's arguments; the format takes an int and an object.
        if unsafe { ffi::PyArg_ParseTuple(args, c"iO:connection_made".as_ptr(), &raw mut fd, &raw mut info) } == 0 {
            return Err(PyErr::fetch(py));
        }
        let this = this.cast::<Instance>();
        // SAFETY: `self` is an instance; the old object is released after the new one is in place.
        unsafe {
            if (*this).link == Link::Plain {
                (*this).fd = fd;
                ffi::Py_INCREF(info);
                let old = ptr::replace(&raw mut (*this).client_info, info);
                ffi::Py_XDECREF(old);
            }
        }
        Ok(py.None().into_bound(py))
    })
}

unsafe extern "C" fn data_received(this: *mut ffi::PyObject, _: *mut ffi::PyObject) -> *mut ffi::PyObject {
    guarded_object(|py| {
        // SAFETY: CPython's argument.
        let class = unsafe { argument(py, this) }.get_type();
        Err(PyNotImplementedError::new_err(format!("{} must define data_received(self, data)", class.name()?)))
    })
}

/// The default passes the data on, without the address: `write` answers the sender all the same.
unsafe extern "C" fn datagram_received(this: *mut ffi::PyObject, args: *mut ffi::PyObject) -> *mut ffi::PyObject {
    guarded_object(|py| {
        let (mut data, mut from) = (ptr::null_mut(), ptr::null_mut::<ffi::PyObject>());
        // SAFETY: CPython's arguments; the format takes two objects, borrowed.
        let parsed =
            unsafe { ffi::PyArg_ParseTuple(args, c"OO:datagram_received".as_ptr(), &raw mut data, &raw mut from) };
        if parsed == 0 {
            return Err(PyErr::fetch(py));
        }
        // SAFETY: as above.
        unsafe { argument(py, this).call_method1("data_received", (argument(py, data),)) }
    })
}

unsafe extern "C" fn error_received(_: *mut ffi::PyObject, _: *mut ffi::PyObject) -> *mut ffi::PyObject {
    guarded_object(|py| Ok(py.None().into_bound(py)))
}

unsafe extern "C" fn sendto(this: *mut ffi::PyObject, args: *mut ffi::PyObject) -> *mut ffi::PyObject {
    guarded_object(|py| {
        let (mut data, mut to) = (ptr::null_mut(), ptr::null_mut());
        // SAFETY: CPython's arguments; the format takes one or two objects, borrowed.
        if unsafe { ffi::PyArg_ParseTuple(args, c"O|O:sendto".as_ptr(), &raw mut data, &raw mut to) } == 0 {
            return Err(PyErr::fetch(py));
        }
        // SAFETY: as above; `to` stays null if it was not given.
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
        // SAFETY: CPython's argument.
        let class = unsafe { argument(py, this) }.get_type();
        match context::current() {
            Some(context) => context.say_unaware(class_name(&class)),
            None => py.import("erlang._plain")?.call_method1("say_unaware", (class,)).map(drop)?,
        }
        Ok(PyString::intern(py, "continue").into_any())
    })
}

/// `write_ready` as Python code calls it (`super().write_ready()`); a reactor drains without coming here.
unsafe extern "C" fn write_ready(this: *mut ffi::PyObject, _: *mut ffi::PyObject) -> *mut ffi::PyObject {
    guarded_object(|py| {
        // SAFETY: CPython's argument.
        let protocol = unsafe { argument(py, this) };
        let base = py.import(module::NAME.to_string_lossy().as_ref())?.getattr("Protocol")?;
        let native = inherits(&protocol, &PyString::intern(py, "write"), &base.getattr("write")?)?;
        let drained = match route(&protocol)? {
            Route::Context(context, id) if native => context.drain(id, &protocol)?,
            _ if write_buffer(&protocol)?.is_empty() => true,
            _ => {
                let buffer = write_buffer(&protocol)?;
                let bytes = py.get_type::<PyBytes>().call1((&buffer,))?;
                let written: usize = protocol.call_method1("write", (bytes,))?.extract()?;
                buffer.del_item(pyo3::types::PySlice::new(py, 0, written as isize, 1))?;
                buffer.is_empty()
            }
        };
        Ok(PyString::intern(py, if drained { "read_pending" } else { "continue" }).into_any())
    })
}

const DOC: &CStr = c"Base class of protocols: one instance serves one connection. See erlang.reactor.";

static METHODS: Static<[ffi::PyMethodDef; 12]> = Static([
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
    ffi::PyMethodDef {
        ml_name: c"read".as_ptr(),
        ml_meth: ffi::PyMethodDefPointer { PyCFunctionWithKeywords: read },
        ml_flags: ffi::METH_VARARGS | ffi::METH_KEYWORDS,
        ml_doc: c"read($self, size=65536)\n--\n\nBytes that arrived and were not delivered; b\"\" at the end; None if there are none now.".as_ptr(),
    },
    ffi::PyMethodDef::zeroed(),
]);

const fn member(name: &'static CStr, kind: c_int, offset: usize, doc: &'static CStr) -> ffi::PyMemberDef {
    let offset = offset as ffi::Py_ssize_t;
    ffi::PyMemberDef { name: name.as_ptr(), type_code: kind, offset, flags: 0, doc: doc.as_ptr() }
}

static MEMBERS: Static<[ffi::PyMemberDef; 5]> = Static([
    member(c"fd", ffi::Py_T_INT, offset_of!(Instance, fd), c"Number of the descriptor; -1 before there is one."),
    member(c"closed", ffi::Py_T_BOOL, offset_of!(Instance, closed), c"Whether the connection is gone."),
    member(
        c"client_info",
        ffi::Py_T_OBJECT_EX,
        offset_of!(Instance, client_info),
        c"What Erlang said of the connection.",
    ),
    // Not a property that checks what it is set to: Python reads a member without calling anything, several times for each
    // message. `write_buffer` below checks.
    member(
        c"write_buffer",
        ffi::Py_T_OBJECT_EX,
        offset_of!(Instance, write_buffer),
        c"Output that the base class's write_ready sends: a bytearray.",
    ),
    ffi::PyMemberDef { name: ptr::null(), type_code: 0, offset: 0, flags: 0, doc: ptr::null() },
]);

/// Makes the type for the interpreter that `module` belongs to.
///
/// # Errors
/// The Python exception.
pub fn make_type<'py>(module: &Bound<'py, PyModule>) -> PyResult<Bound<'py, PyAny>> {
    let slots = [
        (ffi::Py_tp_doc, DOC.as_ptr() as *mut c_void),
        (ffi::Py_tp_new, new as *mut c_void),
        (ffi::Py_tp_traverse, traverse as *mut c_void),
        (ffi::Py_tp_clear, clear as *mut c_void),
        (ffi::Py_tp_dealloc, dealloc as *mut c_void),
        (ffi::Py_tp_methods, METHODS.0.as_ptr() as *mut c_void),
        (ffi::Py_tp_members, MEMBERS.0.as_ptr() as *mut c_void),
    ];
    let flags = ffi::Py_TPFLAGS_BASETYPE | ffi::Py_TPFLAGS_HAVE_GC;
    glue::make_type(module, c"erlang.reactor.Protocol", size_of::<Instance>(), flags, &slots, None)
}
