//! The C layout of a transport, what Python sees of it, and how its connection is found.

use crate::base::token::ConnId;
use crate::connection::context::Context;
use crate::connection::machine::Marks;
use crate::driver::address::Address;
use crate::module::loop_layout::{LoopObject, core, this_thread};
use crate::module::words::Words;
use crate::python::glue::{Static, class_name, member};
use crate::python::sockets;
use pyo3::exceptions::PyRuntimeError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyString;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::mem::offset_of;
use std::os::fd::{FromRawFd, OwnedFd};
use std::ptr;
use std::rc::Rc;

/// The layout of asyncio's own base class, by which asyncio knows transports that can be paused: the slot of `BaseTransport`, and
/// those that ours have other members for. Whoever makes the type checks that it is this one.
#[repr(C)]
pub struct Base {
    head: ffi::PyObject,
    /// A dict; null where nobody has asked for it yet.
    pub extra: *mut ffi::PyObject,
    unused: [*mut ffi::PyObject; 4],
}

/// A transport. Every pointer may be null.
#[repr(C)]
pub struct Transport {
    pub base: Base,
    /// A loop of ours, until `connection_lost` has returned.
    pub event_loop: *mut ffi::PyObject,
    pub protocol: *mut ffi::PyObject,
    /// The socket object, which owns the descriptor; null where nobody has asked for one yet, see `owns_number`.
    pub sock: *mut ffi::PyObject,
    pub server: *mut ffi::PyObject,
    /// The `contextvars.Context` that callbacks of the protocol run in.
    pub variables: *mut ffi::PyObject,
    /// The protocol's `data_received`, or `get_buffer`; null where it has to be looked up.
    pub receive: *mut ffi::PyObject,
    /// A future of who waits until nothing is left to send.
    pub empty_waiter: *mut ffi::PyObject,
    /// With what `connection_lost` is called, if it ended by that.
    pub failure: *mut ffi::PyObject,
    /// Our end of a connection that was accepted, as Python has it.
    pub own_name: *mut ffi::PyObject,
    pub weak_references: *mut ffi::PyObject,
    /// The addresses of a connection that was accepted, until somebody asks for them.
    pub names: Option<Box<Names>>,
    id: u64,
    pub high: ffi::Py_ssize_t,
    pub low: ffi::Py_ssize_t,
    /// How often something was written although it had ended, from the end on.
    pub conn_lost: c_int,
    pub sock_fd: c_int,
    /// Whether a reactor serves it: `id` names its connection.
    attached: c_char,
    /// Its connection may not keep it.
    pub loose: c_char,
    /// It had a connection once.
    pub opened: c_char,
    pub closing: c_char,
    pub paused: c_char,
    pub eof: c_char,
    pub protocol_connected: c_char,
    pub protocol_paused: c_char,
    /// Its protocol is an `asyncio.BufferedProtocol`.
    pub buffered: c_char,
    /// It is asyncio's own, of streams, which is fed natively.
    pub feeds_stream: c_char,
    /// The socket object says its number.
    pub tells_number: c_char,
    /// The descriptor is the transport's alone.
    pub owns_number: c_char,
    /// It has been counted by its server, which counts by itself and need not be told whom.
    pub is_counted: c_char,
}

/// The two ends of a connection.
pub struct Names {
    pub peer: Address,
    /// Ours, unless all connections of the server have one name.
    pub own: Option<Address>,
}

/// Above and below which a protocol is told to pause and to go on, unless its transport is told otherwise.
pub const MARKS: Marks = Marks { high: 64 * 1024, low: 16 * 1024 };

/// How many pointers there are to look after.
const POINTERS: usize = 14;

impl Transport {
    fn pointers(&mut self) -> [&mut *mut ffi::PyObject; POINTERS] {
        let [one, two, three, four] = &mut self.base.unused;
        [
            one,
            two,
            three,
            four,
            &mut self.base.extra,
            &mut self.event_loop,
            &mut self.protocol,
            &mut self.sock,
            &mut self.server,
            &mut self.variables,
            &mut self.receive,
            &mut self.empty_waiter,
            &mut self.failure,
            &mut self.own_name,
        ]
    }
}

const fn object(name: &'static CStr, offset: usize) -> ffi::PyMemberDef {
    // The kind that is `None` where there is none.
    #[allow(deprecated, reason = "the other kind raises AttributeError instead")]
    member(name, ffi::_Py_T_OBJECT, offset, ffi::Py_READONLY)
}

const fn flag(name: &'static CStr, offset: usize) -> ffi::PyMemberDef {
    member(name, ffi::Py_T_BOOL, offset, ffi::Py_READONLY)
}

/// What asyncio's own transports have by these names, and libraries look at.
pub static MEMBERS: Static<[ffi::PyMemberDef; 18]> = Static([
    object(c"_loop", offset_of!(Transport, event_loop)),
    object(c"_protocol", offset_of!(Transport, protocol)),
    object(c"_server", offset_of!(Transport, server)),
    object(c"_context", offset_of!(Transport, variables)),
    #[allow(deprecated, reason = "the other kind raises AttributeError instead")]
    member(c"_empty_waiter", ffi::_Py_T_OBJECT, offset_of!(Transport, empty_waiter), 0),
    member(c"_high_water", ffi::Py_T_PYSSIZET, offset_of!(Transport, high), ffi::Py_READONLY),
    member(c"_low_water", ffi::Py_T_PYSSIZET, offset_of!(Transport, low), ffi::Py_READONLY),
    member(c"_conn_lost", ffi::Py_T_INT, offset_of!(Transport, conn_lost), ffi::Py_READONLY),
    member(c"_sock_fd", ffi::Py_T_INT, offset_of!(Transport, sock_fd), ffi::Py_READONLY),
    flag(c"_closing", offset_of!(Transport, closing)),
    flag(c"_paused", offset_of!(Transport, paused)),
    flag(c"_eof", offset_of!(Transport, eof)),
    flag(c"_protocol_connected", offset_of!(Transport, protocol_connected)),
    flag(c"_protocol_paused", offset_of!(Transport, protocol_paused)),
    flag(c"_buffered", offset_of!(Transport, buffered)),
    flag(c"_attached", offset_of!(Transport, attached)),
    member(c"__weaklistoffset__", ffi::Py_T_PYSSIZET, offset_of!(Transport, weak_references), ffi::Py_READONLY),
    ffi::PyMemberDef { name: ptr::null(), type_code: 0, offset: 0, flags: 0, doc: ptr::null() },
]);

/// A borrowed transport. Its fields are read and written through raw pointers: Python code may change them at any time.
pub fn layout(transport: &Bound<'_, PyAny>) -> *mut Transport {
    debug_assert!(is_as_large(transport), "this is no transport, but a {}", class_name(&transport.get_type()));
    transport.as_ptr().cast()
}

/// Whether an object is not too small to be a transport, as a weak reference to one is.
fn is_as_large(object: &Bound<'_, PyAny>) -> bool {
    // SAFETY: I7, by the token; every object has a type, which it keeps.
    unsafe { (*ffi::Py_TYPE(object.as_ptr())).tp_basicsize as usize >= size_of::<Transport>() }
}

/// A borrowed field, if there is something.
pub fn field<'py>(
    transport: &Bound<'py, PyAny>,
    which: impl FnOnce(&Transport) -> *mut ffi::PyObject,
) -> Option<Bound<'py, PyAny>> {
    // SAFETY: I7, by the token; only transports get here; the field keeps its object, of which this makes a reference.
    unsafe { Bound::from_borrowed_ptr_or_opt(transport.py(), which(&*layout(transport))) }
}

/// Puts something, or nothing, into a field.
pub fn put(
    transport: &Bound<'_, PyAny>,
    which: impl FnOnce(&mut Transport) -> &mut *mut ffi::PyObject,
    value: Option<Bound<'_, PyAny>>,
) {
    drop(exchange(transport, which, value));
}

/// The same; answers what was there, whose end may run code.
#[must_use]
pub fn exchange<'py>(
    transport: &Bound<'py, PyAny>,
    which: impl FnOnce(&mut Transport) -> &mut *mut ffi::PyObject,
    value: Option<Bound<'py, PyAny>>,
) -> Option<Bound<'py, PyAny>> {
    // SAFETY: I7, by the token; only transports get here; a field has a reference of its own, or nothing.
    unsafe {
        let new = value.map_or(ptr::null_mut(), Bound::into_ptr);
        let old = std::mem::replace(which(&mut *layout(transport)), new);
        Bound::from_owned_ptr_or_opt(transport.py(), old)
    }
}

/// Whether its socket has been closed by its program: the number may be a stranger's by now.
#[inline]
pub fn is_robbed(transport: &Bound<'_, PyAny>) -> bool {
    // SAFETY: I7, by the token; only transports get here; a socket of which it is known keeps its layout.
    unsafe {
        let it = &*layout(transport);
        it.tells_number != 0 && !it.sock.is_null() && sockets::number(it.sock) != it.sock_fd
    }
}

/// A name, which its loop knows as long as it has one.
pub fn word<'py>(
    transport: &Bound<'py, PyAny>,
    name: &str,
    which: impl FnOnce(&Words) -> &Py<PyString>,
) -> Bound<'py, PyString> {
    let py = transport.py();
    // SAFETY: I7, by the token; only transports get here; what it has is a loop of ours, which it keeps.
    let known = unsafe {
        let event_loop = (*layout(transport)).event_loop;
        (!event_loop.is_null()).then(|| which(&core(event_loop.cast()).words).clone_ref(py).into_bound(py))
    };
    known.unwrap_or_else(|| PyString::new(py, name))
}

/// Whether its loop, as long as it has one, knows something.
pub fn knows(transport: &Bound<'_, PyAny>, whether: impl FnOnce(&Words) -> bool) -> bool {
    // SAFETY: I7, by the token; only transports get here; what it has is a loop of ours, which it keeps.
    unsafe {
        let event_loop = (*layout(transport)).event_loop;
        !event_loop.is_null() && whether(&core(event_loop.cast()).words)
    }
}

/// Sees whether its protocol can be fed natively, if it has a loop already, which knows.
pub fn see_stream(transport: &Bound<'_, PyAny>) {
    // Both are kept: a class that is asked what it has may run code.
    let (protocol, event_loop) = (field(transport, |it| it.protocol), field(transport, |it| it.event_loop));
    // SAFETY: I7, by the token; only transports get here; what it has is a loop of ours.
    unsafe {
        let words = event_loop.as_ref().map(|event_loop| &core(event_loop.as_ptr().cast()).words);
        let feeds_stream = words.zip(protocol.as_ref()).is_some_and(|(words, protocol)| words.streams.serve(protocol));
        let is_the_same = protocol.is_some_and(|protocol| protocol.as_ptr() == (*layout(transport)).protocol);
        (*layout(transport)).feeds_stream = (feeds_stream && is_the_same).into();
    }
}

/// Whether its socket is not closed, be it an object or a bare number.
pub fn has_socket(transport: &Bound<'_, PyAny>) -> bool {
    // SAFETY: I7, by the token; only transports get here.
    unsafe { (*layout(transport)).owns_number != 0 || !(*layout(transport)).sock.is_null() }
}

/// From now on its connection is `id`, of its loop's context.
pub fn attach(transport: &Bound<'_, PyAny>, id: ConnId) {
    // SAFETY: I7, by the token; only transports get here.
    unsafe {
        (*layout(transport)).id = id.bits();
        (*layout(transport)).attached = 1;
    }
}

/// It has no connection any more.
pub fn detach(transport: &Bound<'_, PyAny>) {
    // SAFETY: I7, by the token; only transports get here.
    unsafe { (*layout(transport)).attached = 0 };
}

/// Its connection, and the context of that; `None` if it has none any more. That keeps it until the next turn has looked.
///
/// # Errors
/// This is not the thread of its loop.
pub fn reach(transport: &Bound<'_, PyAny>) -> PyResult<Option<(Rc<Context>, ConnId)>> {
    let found = find(transport)?;
    // SAFETY: I7, by the token; only transports get here.
    if unsafe { (*layout(transport)).loose } != 0
        && let Some((context, id)) = &found
    {
        // SAFETY: I7, by the token; as above.
        unsafe { (*layout(transport)).loose = 0 };
        context.with_own(*id, |connection| connection.hold(transport.clone()));
        context.touch(*id);
    }
    Ok(found)
}

/// The same, only to look at it.
///
/// # Errors
/// This is not the thread of its loop.
pub fn find(transport: &Bound<'_, PyAny>) -> PyResult<Option<(Rc<Context>, ConnId)>> {
    let found = find_anywhere(transport);
    // SAFETY: I7, by the token; only transports get here; what is found has a loop of ours.
    let runs_on = unsafe {
        match &found {
            Some(_) => core((*layout(transport)).event_loop.cast::<LoopObject>()).thread.get(),
            None => 0,
        }
    };
    if runs_on != 0 && runs_on != this_thread() {
        return Err(PyRuntimeError::new_err(
            "a transport may be used on the thread of its loop only: loop.call_soon_threadsafe(transport.write, data)",
        ));
    }
    Ok(found)
}

/// The same, on any thread.
pub fn find_anywhere(transport: &Bound<'_, PyAny>) -> Option<(Rc<Context>, ConnId)> {
    // SAFETY: I7, by the token; only transports get here; what is attached has a loop of ours.
    unsafe {
        let this = layout(transport);
        if (*this).attached == 0 || (*this).event_loop.is_null() {
            return None;
        }
        let context = core((*this).event_loop.cast::<LoopObject>()).context.borrow().clone();
        context.map(|context| (context, ConnId::from_bits((*this).id)))
    }
}

/// Its marks.
pub fn marks(transport: &Bound<'_, PyAny>) -> Marks {
    // SAFETY: I7, by the token; only transports get here.
    let (high, low) = unsafe { ((*layout(transport)).high, (*layout(transport)).low) };
    Marks { high: usize::try_from(high).unwrap_or_default(), low: usize::try_from(low).unwrap_or_default() }
}

/// `tp_traverse`.
pub unsafe extern "C" fn traverse(object: *mut ffi::PyObject, visit: ffi::visitproc, arg: *mut c_void) -> c_int {
    // SAFETY: I7: the collector calls this attached, with an instance; nothing is allocated or released.
    unsafe {
        let fields = (*object.cast::<Transport>()).pointers().map(|field| *field);
        for field in fields.into_iter().chain([ffi::Py_TYPE(object).cast()]).filter(|field| !field.is_null()) {
            let result = visit(field, arg);
            if result != 0 {
                return result;
            }
        }
    }
    0
}

/// `tp_clear`.
pub unsafe extern "C" fn clear(object: *mut ffi::PyObject) -> c_int {
    // SAFETY: I7: the collector calls attached, with an instance. Each field is emptied before its object is released.
    unsafe {
        for field in (*object.cast::<Transport>()).pointers().map(ptr::from_mut) {
            ffi::Py_XDECREF(ptr::replace(field, ptr::null_mut()));
        }
    }
    0
}

/// `tp_dealloc`.
pub unsafe extern "C" fn dealloc(object: *mut ffi::PyObject) {
    // SAFETY: the last reference is gone; CPython calls this attached (I7). The usual order for a heap type.
    unsafe {
        ffi::PyObject_GC_UnTrack(object.cast());
        if !(*object.cast::<Transport>()).weak_references.is_null() {
            ffi::PyObject_ClearWeakRefs(object);
        }
        clear(object);
        drop((*object.cast::<Transport>()).names.take());
        if (*object.cast::<Transport>()).owns_number != 0 {
            // I4: its connection keeps it as long as an operation names the number.
            drop(OwnedFd::from_raw_fd((*object.cast::<Transport>()).sock_fd));
        }
        let class = ffi::Py_TYPE(object);
        if let Some(free) = (*class).tp_free {
            free(object.cast());
        }
        ffi::Py_DECREF(class.cast());
    }
}
