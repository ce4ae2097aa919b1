//! The native half of asyncio's stream transports, under `python/erlang/_transports.py`: what is called for each message, and
//! what reaches the connection.

use crate::driver::descriptor::{Descriptor, Unfit};
use crate::module::event_loop::{context_of, is_loop};
use crate::module::loop_calls::call_soon_natively;
use crate::module::transport_abandoned;
use crate::module::transport_calls;
use crate::module::transport_layout::{
    Base, MARKS, MEMBERS, Transport, attach, clear, dealloc, exchange, field, find, is_robbed, layout, marks, put,
    reach, see_stream, traverse,
};
use crate::module::transport_socket;
use crate::python::glue::{Static, argument, class_name, guarded_object, method};
use crate::python::sockets;
use crate::python::types;
use crate::python::variables;
use pyo3::exceptions::{PyNotImplementedError, PyOSError, PyRuntimeError, PyTypeError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyByteArray, PyBytes, PyMemoryView, PyType};
use std::ffi::{CStr, c_int, c_void};

type Object = *mut ffi::PyObject;

fn none(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    Ok(py.None().into_bound(py))
}

fn boolean(py: Python<'_>, value: bool) -> PyResult<Bound<'_, PyAny>> {
    Ok(value.into_pyobject(py)?.to_owned().into_any())
}

/// `_open(loop, sock, server, context, connection_made)`: makes its connection, which begins once that was called, in the next turn;
/// its protocol is called in the context, or in a copy of the caller's. `NotImplementedError`: no socket that it could be made of.
unsafe extern "C" fn open(this: Object, args: Object) -> Object {
    guarded_object(|py| {
        // SAFETY: I7: CPython calls attached; its arguments live through the call.
        let (transport, args) = unsafe { (argument(py, this), argument(py, args)) };
        let [event_loop, sock, server, variables, connection_made]: [Bound<'_, PyAny>; 5] = args.extract()?;
        if !is_loop(&event_loop)? {
            return Err(PyTypeError::new_err("a transport of py_reactor needs a loop of py_reactor"));
        }
        // SAFETY: I7, by the token; methods of the type are called with its instances only.
        if unsafe { (*layout(&transport)).opened } != 0 {
            return Err(PyRuntimeError::new_err("a transport is opened once"));
        }
        let fd: c_int = sock.call_method0("fileno")?.extract()?;
        let context = context_of(&event_loop)?;
        let mut descriptor = Descriptor::lent(fd).map_err(|unfit| match unfit {
            Unfit::Bad => PyOSError::new_err((libc::EBADF, "the socket of a transport is closed")),
            Unfit::Served => PyRuntimeError::new_err(format!(
                "File descriptor {fd} is used by a transport, or by a connection of the reactor: close that one first"
            )),
            unfit => PyNotImplementedError::new_err(format!("not a connected stream socket: {unfit:?}")),
        })?;
        descriptor.prepare();
        put(&transport, |it| &mut it.event_loop, Some(event_loop.clone()));
        see_stream(&transport);
        let tells_number = sockets::is_known(&sock, fd);
        put(&transport, |it| &mut it.sock, Some(sock));
        put(&transport, |it| &mut it.server, (!server.is_none()).then_some(server));
        let variables = if variables.is_none() { variables::copy(py)? } else { variables };
        put(&transport, |it| &mut it.variables, Some(variables));
        // SAFETY: I7, by the token; methods of the type are called with its instances only.
        unsafe {
            (*layout(&transport)).opened = 1;
            (*layout(&transport)).sock_fd = fd;
            (*layout(&transport)).tells_number = tells_number.into();
            (*layout(&transport)).high = MARKS.high as ffi::Py_ssize_t;
            (*layout(&transport)).low = MARKS.low as ffi::Py_ssize_t;
        }
        begin_soon(&transport, &event_loop, &connection_made)?;
        let id = context.open_transport(descriptor, transport.clone().unbind(), MARKS);
        attach(&transport, id);
        none(py)
    })
}

/// Has `connection_made` called in the next turn, and then the connection begin. No Python code runs until then, which could be
/// interrupted: whoever is connected is served.
fn begin_soon(
    transport: &Bound<'_, PyAny>,
    event_loop: &Bound<'_, PyAny>,
    connection_made: &Bound<'_, PyAny>,
) -> PyResult<()> {
    let variables = field(transport, |it| it.variables);
    call_soon_natively(event_loop, connection_made, &[transport], variables.as_ref())?;
    call_soon_natively(event_loop, &transport.getattr("_begin")?, &[], None)
}

/// `_begin()`: `connection_made` was called.
unsafe extern "C" fn begin(this: Object, _: Object) -> Object {
    guarded_object(|py| {
        // SAFETY: I7: CPython calls attached; its argument lives through the call.
        let transport = unsafe { argument(py, this) };
        if let Some((context, id)) = reach(&transport)? {
            context.with_own(id, |connection| connection.machine.made(|| false));
            context.touch(id);
        }
        none(py)
    })
}

/// `_set_protocol(protocol, buffered)`.
unsafe extern "C" fn set_protocol(this: Object, args: Object) -> Object {
    guarded_object(|py| {
        // SAFETY: I7: CPython calls attached; its arguments live through the call.
        let (transport, args) = unsafe { (argument(py, this), argument(py, args)) };
        let (protocol, buffered): (Bound<'_, PyAny>, bool) = args.extract()?;
        // One that has none is told so when it is called.
        let receive = protocol.getattr(if buffered { "get_buffer" } else { "data_received" }).ok();
        // What was there before goes when all is in place: its end may set another one.
        let _before = [
            exchange(&transport, |it| &mut it.protocol, Some(protocol)),
            exchange(&transport, |it| &mut it.receive, receive),
        ];
        // SAFETY: I7, by the token; methods of the type are called with its instances only.
        unsafe {
            (*layout(&transport)).feeds_stream = 0;
            (*layout(&transport)).buffered = buffered.into();
            (*layout(&transport)).protocol_connected = 1;
        }
        see_stream(&transport);
        none(py)
    })
}

unsafe extern "C" fn get_protocol(this: Object, _: Object) -> Object {
    guarded_object(|py| {
        // SAFETY: I7: CPython calls attached; its argument lives through the call.
        let transport = unsafe { argument(py, this) };
        Ok(field(&transport, |it| it.protocol).unwrap_or_else(|| py.None().into_bound(py)))
    })
}

/// Of what is about to be written: whether it is taken.
///
/// # Errors
/// Nothing may be written now.
fn takes(transport: &Bound<'_, PyAny>, method: &str) -> PyResult<()> {
    // SAFETY: I7, by the token; methods of the type are called with its instances only.
    let (eof, waiter) = unsafe { ((*layout(transport)).eof, (*layout(transport)).empty_waiter) };
    if eof != 0 {
        return Err(PyRuntimeError::new_err(format!("Cannot call {method}() after write_eof()")));
    }
    // SAFETY: I7, by the token: `None` is there for ever.
    if !waiter.is_null() && waiter != unsafe { ffi::Py_None() } {
        return Err(PyRuntimeError::new_err(format!("unable to {method}; sendfile is in progress")));
    }
    Ok(())
}

/// Writes one piece, that was checked. Answers whether the protocol is to pause.
fn write_piece(transport: &Bound<'_, PyAny>, data: &Bound<'_, PyAny>) -> PyResult<bool> {
    // SAFETY: I7, by the token; methods of the type are called with its instances only.
    if unsafe { (*layout(transport)).conn_lost } == 0
        && let Some((context, id)) = reach(transport)?
    {
        let (pauses, is_gone) = context.transport_write(id, data, is_robbed(transport))?;
        if is_gone {
            // SAFETY: I7, by the token; as above. Whoever writes without a pause sees by this that it is in vain.
            unsafe {
                (*layout(transport)).closing = 1;
                (*layout(transport)).conn_lost = 1;
            }
        }
        return Ok(pauses);
    }
    transport.call_method0("_written_in_vain").map(|_| false)
}

fn pause_protocol(transport: &Bound<'_, PyAny>) -> PyResult<()> {
    // SAFETY: I7, by the token; methods of the type are called with its instances only.
    let variables = unsafe {
        (*layout(transport)).protocol_paused = 1;
        (*layout(transport)).variables
    };
    // Whoever writes may be in another context.
    variables::within(transport.py(), variables, || transport.call_method0("_pause_protocol").map(drop))
}

unsafe extern "C" fn write(this: Object, data: Object) -> Object {
    guarded_object(|py| {
        // SAFETY: I7: CPython calls attached; its arguments live through the call.
        let (transport, data) = unsafe { (argument(py, this), argument(py, data)) };
        let is_empty = if let Ok(bytes) = data.cast::<PyBytes>() {
            bytes.as_bytes().is_empty()
        } else if data.is_instance_of::<PyByteArray>() || data.is_instance_of::<PyMemoryView>() {
            !data.is_truthy()?
        } else {
            let class = data.get_type();
            return Err(PyTypeError::new_err(format!(
                "data argument must be a bytes-like object, not '{}'",
                class.name()?
            )));
        };
        takes(&transport, "write")?;
        if !is_empty && write_piece(&transport, &data)? {
            pause_protocol(&transport)?;
        }
        none(py)
    })
}

unsafe extern "C" fn writelines(this: Object, pieces: Object) -> Object {
    guarded_object(|py| {
        // SAFETY: I7: CPython calls attached; its arguments live through the call.
        let (transport, pieces) = unsafe { (argument(py, this), argument(py, pieces)) };
        takes(&transport, "writelines")?;
        let mut pauses = false;
        // All of them or none, should one be no piece.
        let pieces = pieces.try_iter()?.collect::<PyResult<Vec<_>>>()?;
        for piece in &pieces {
            // SAFETY: I7, by the token; an object.
            if unsafe { ffi::PyObject_CheckBuffer(piece.as_ptr()) } == 0 {
                let class = class_name(&piece.get_type());
                return Err(PyTypeError::new_err(format!("a bytes-like object is required, not '{class}'")));
            }
        }
        for piece in &pieces {
            pauses |= write_piece(&transport, piece)?;
        }
        if pauses {
            pause_protocol(&transport)?;
        }
        none(py)
    })
}

unsafe extern "C" fn write_eof(this: Object, _: Object) -> Object {
    guarded_object(|py| {
        // SAFETY: I7: CPython calls attached; its argument lives through the call.
        let transport = unsafe { argument(py, this) };
        let it = layout(&transport);
        // SAFETY: I7, by the token; methods of the type are called with its instances only.
        if unsafe { (*it).closing != 0 || (*it).eof != 0 } {
            return none(py);
        }
        let reached = reach(&transport)?;
        // SAFETY: I7, by the token; as above.
        unsafe { (*it).eof = 1 };
        if let Some((context, id)) = reached {
            context.with_own(id, |connection| connection.machine.link.end_output());
            context.touch(id);
        }
        none(py)
    })
}

unsafe extern "C" fn can_write_eof(_: Object, _: Object) -> Object {
    guarded_object(|py| boolean(py, true))
}

unsafe extern "C" fn close(this: Object, _: Object) -> Object {
    guarded_object(|py| {
        // SAFETY: I7: CPython calls attached; its argument lives through the call.
        let transport = unsafe { argument(py, this) };
        // SAFETY: I7, by the token; methods of the type are called with its instances only.
        if unsafe { (*layout(&transport)).closing } == 0 {
            end(&transport, false)?;
        }
        none(py)
    })
}

/// `_force_close(exc)`.
unsafe extern "C" fn force_close(this: Object, failure: Object) -> Object {
    guarded_object(|py| {
        // SAFETY: I7: CPython calls attached; its arguments live through the call.
        let (transport, failure) = unsafe { (argument(py, this), argument(py, failure)) };
        // SAFETY: I7, by the token; methods of the type are called with its instances only.
        if unsafe { (*layout(&transport)).conn_lost } == 0 {
            put(&transport, |it| &mut it.failure, (!failure.is_none()).then_some(failure));
            end(&transport, true)?;
        }
        none(py)
    })
}

unsafe extern "C" fn abort(this: Object, _: Object) -> Object {
    // SAFETY: I7: CPython's own argument; `None` is there for ever.
    unsafe { force_close(this, ffi::Py_None()) }
}

/// Ends it. One without a connection, whose loop has been closed perhaps, has lost that already.
fn end(transport: &Bound<'_, PyAny>, at_once: bool) -> PyResult<()> {
    let reached = reach(transport)?;
    let it = layout(transport);
    // SAFETY: I7, by the token; methods of the type are called with its instances only.
    unsafe { (*it).closing = 1 };
    let over = match reached {
        Some((context, id)) => !context.end_transport(id, at_once),
        None => {
            transport.call_method0("_end_unattached")?;
            true
        }
    };
    if over || at_once {
        // SAFETY: I7, by the token; as above.
        unsafe { (*it).conn_lost += 1 };
    }
    Ok(())
}

unsafe extern "C" fn is_closing(this: Object, _: Object) -> Object {
    // SAFETY: I7: CPython calls attached, with an instance.
    unsafe { ffi::PyBool_FromLong((*this.cast::<Transport>()).closing.into()) }
}

/// # Safety
/// An instance.
unsafe fn reads(this: Object) -> bool {
    // SAFETY: I7: the caller's promise.
    unsafe { (*this.cast::<Transport>()).closing == 0 && (*this.cast::<Transport>()).paused == 0 }
}

unsafe extern "C" fn is_reading(this: Object, _: Object) -> Object {
    // SAFETY: I7: CPython calls attached, with an instance.
    unsafe { ffi::PyBool_FromLong(reads(this).into()) }
}

unsafe extern "C" fn pause_reading(this: Object, _: Object) -> Object {
    guarded_object(|py| {
        // SAFETY: I7: CPython calls attached, with an instance.
        if unsafe { reads(this) } {
            // SAFETY: I7, by the token; as above.
            set_paused(&unsafe { argument(py, this) }, true)?;
        }
        none(py)
    })
}

unsafe extern "C" fn resume_reading(this: Object, _: Object) -> Object {
    guarded_object(|py| {
        // SAFETY: I7: CPython calls attached, with an instance.
        let (transport, it) = unsafe { (argument(py, this), &*this.cast::<Transport>()) };
        if it.closing == 0 && it.paused != 0 {
            set_paused(&transport, false)?;
        }
        none(py)
    })
}

fn set_paused(transport: &Bound<'_, PyAny>, paused: bool) -> PyResult<()> {
    let reached = reach(transport)?;
    // SAFETY: I7, by the token; methods of the type are called with its instances only.
    unsafe { (*layout(transport)).paused = paused.into() };
    if let Some((context, id)) = reached {
        context.with_own(id, |connection| connection.machine.pause_reading(paused));
        context.touch(id);
    }
    Ok(())
}

unsafe extern "C" fn get_write_buffer_size(this: Object, _: Object) -> Object {
    guarded_object(|py| {
        // SAFETY: I7: CPython calls attached; its argument lives through the call.
        let found = find(&unsafe { argument(py, this) })?;
        let queued =
            found.and_then(|(context, id)| context.with_own(id, |connection| connection.machine.link.queued_bytes()));
        Ok(queued.unwrap_or_default().into_pyobject(py)?.into_any())
    })
}

/// `_set_marks(high, low)`.
unsafe extern "C" fn set_marks(this: Object, args: Object) -> Object {
    guarded_object(|py| {
        // SAFETY: I7: CPython calls attached; its arguments live through the call.
        let (transport, args) = unsafe { (argument(py, this), argument(py, args)) };
        let (high, low): (ffi::Py_ssize_t, ffi::Py_ssize_t) = args.extract()?;
        let reached = reach(&transport)?;
        // SAFETY: I7, by the token; methods of the type are called with its instances only.
        unsafe { ((*layout(&transport)).high, (*layout(&transport)).low) = (high, low) };
        let marks = marks(&transport);
        let set =
            reached.and_then(|(context, id)| context.with_own(id, |connection| connection.machine.set_marks(marks)));
        if set.unwrap_or_default() {
            pause_protocol(&transport)?;
        }
        none(py)
    })
}

/// `_lend(lends)`: `_empty_waiter` waits until nothing is left to send, to write to the socket itself; or has done so.
unsafe extern "C" fn lend(this: Object, lends: Object) -> Object {
    guarded_object(|py| {
        // SAFETY: I7: CPython calls attached; its arguments live through the call.
        let (transport, lends) = unsafe { (argument(py, this), argument(py, lends).is_truthy()?) };
        if let Some((context, id)) = reach(&transport)? {
            context.with_own(id, |connection| connection.machine.lend(lends));
            context.touch(id);
        }
        none(py)
    })
}

/// `_count_lost()`: something was written in vain.
unsafe extern "C" fn count_lost(this: Object, _: Object) -> Object {
    guarded_object(|py| {
        // SAFETY: I7: CPython calls attached, with an instance.
        unsafe { (*this.cast::<Transport>()).conn_lost += 1 };
        none(py)
    })
}

/// `_close_it()`: closes the socket, be it an object or a bare number.
unsafe extern "C" fn close_it(this: Object, _: Object) -> Object {
    guarded_object(|py| {
        // SAFETY: I7: CPython calls attached; its argument lives through the call.
        transport_socket::close(&unsafe { argument(py, this) })?;
        none(py)
    })
}

/// `_let_go()`: it is closed.
unsafe extern "C" fn let_go(this: Object, _: Object) -> Object {
    guarded_object(|py| {
        // SAFETY: I7: CPython calls attached; its argument lives through the call.
        transport_calls::let_go(&unsafe { argument(py, this) });
        none(py)
    })
}

const DOC: &CStr = c"The native half of a stream transport. See erlang._transports.";

static METHODS: Static<[ffi::PyMethodDef; 24]> = Static([
    method(c"write", write, ffi::METH_O, c"write($self, data, /)\n--\n\nWrites all of it, in time."),
    method(c"writelines", writelines, ffi::METH_O, c"writelines($self, list_of_data, /)\n--\n\nWrites all of them."),
    method(c"write_eof", write_eof, ffi::METH_NOARGS, c"write_eof($self, /)\n--\n\nEnds the output; reading goes on."),
    method(c"can_write_eof", can_write_eof, ffi::METH_NOARGS, c"can_write_eof($self, /)\n--\n\nTrue."),
    method(c"close", close, ffi::METH_NOARGS, c"close($self, /)\n--\n\nCloses it, once what was written is out."),
    method(c"abort", abort, ffi::METH_NOARGS, c"abort($self, /)\n--\n\nCloses it at once."),
    method(c"_force_close", force_close, ffi::METH_O, c"Closes it at once, for that reason."),
    method(c"is_closing", is_closing, ffi::METH_NOARGS, c"is_closing($self, /)\n--\n\nWhether it was closed."),
    method(c"is_reading", is_reading, ffi::METH_NOARGS, c"is_reading($self, /)\n--\n\nWhether it receives."),
    method(c"pause_reading", pause_reading, ffi::METH_NOARGS, c"pause_reading($self, /)\n--\n\nReceives no more."),
    method(c"resume_reading", resume_reading, ffi::METH_NOARGS, c"resume_reading($self, /)\n--\n\nReceives again."),
    method(c"get_protocol", get_protocol, ffi::METH_NOARGS, c"get_protocol($self, /)\n--\n\nIts protocol."),
    method(
        c"get_write_buffer_size",
        get_write_buffer_size,
        ffi::METH_NOARGS,
        c"get_write_buffer_size($self, /)\n--\n\nBytes that were written and the kernel has not taken.",
    ),
    method(
        c"_known",
        transport_socket::known,
        ffi::METH_NOARGS,
        c"The dict of get_extra_info, which may lack the socket yet.",
    ),
    method(c"_close_it", close_it, ffi::METH_NOARGS, c"Closes its socket."),
    method(
        c"_open",
        open,
        ffi::METH_VARARGS,
        c"Makes its connection: loop, sock, server or None, context or None, connection_made.",
    ),
    method(c"_begin", begin, ffi::METH_NOARGS, c"connection_made was called."),
    method(c"_set_protocol", set_protocol, ffi::METH_VARARGS, c"Its protocol, and whether that has buffers."),
    method(c"_set_marks", set_marks, ffi::METH_VARARGS, c"High and low."),
    method(c"_lend", lend, ffi::METH_O, c"_empty_waiter waits, to write to the socket; or has done so."),
    method(c"_count_lost", count_lost, ffi::METH_NOARGS, c"Something was written in vain."),
    method(
        c"_abandon",
        transport_abandoned::abandon,
        ffi::METH_NOARGS,
        c"Nobody has it any more; whether it has a connection.",
    ),
    method(c"_let_go", let_go, ffi::METH_NOARGS, c"It is closed, and holds nothing any more."),
    ffi::PyMethodDef::zeroed(),
]);

fn make_type(py: Python<'_>) -> PyResult<Bound<'_, PyType>> {
    // By this, `loop.sendfile` knows a transport that it can use.
    let base = py.import("asyncio.transports")?.getattr("_FlowControlMixin")?;
    let size: usize = base.getattr("__basicsize__")?.extract()?;
    if size != size_of::<Base>() {
        return Err(PyNotImplementedError::new_err(format!("asyncio's transports have a layout of {size} bytes")));
    }
    let slots = [
        (ffi::Py_tp_doc, DOC.as_ptr() as *mut c_void),
        (ffi::Py_tp_traverse, traverse as *mut c_void),
        (ffi::Py_tp_clear, clear as *mut c_void),
        (ffi::Py_tp_dealloc, dealloc as *mut c_void),
        (ffi::Py_tp_methods, METHODS.0.as_ptr() as *mut c_void),
        (ffi::Py_tp_members, MEMBERS.0.as_ptr() as *mut c_void),
        (ffi::Py_tp_getset, transport_socket::PROPERTIES.0.as_ptr() as *mut c_void),
        (ffi::Py_tp_finalize, transport_abandoned::finalize as *mut c_void),
    ];
    let flags = ffi::Py_TPFLAGS_BASETYPE | ffi::Py_TPFLAGS_HAVE_GC;
    types::make(py, c"erlang._Transport", size_of::<Transport>(), flags, &slots, Some(&base))
}

/// `transport_type()`.
pub unsafe extern "C" fn transport_type(_: Object, _: Object) -> Object {
    guarded_object(|py| types::kept_as(py, "_py_reactor.transport", || Ok(make_type(py)?.into_any())))
}
