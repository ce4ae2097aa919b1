//! What a reactor has called of a transport's protocol, and what follows if that fails.

use crate::base::token::ConnId;
use crate::connection::context::Context;
use crate::module::loop_layout::core;
use crate::module::transport_layout::{Transport, detach, field, knows, layout, put, word};
use crate::module::{transport_abandoned, transport_accepted, transport_socket};
use crate::python::methods::Method;
use crate::python::{bytes_like, variables};
use pyo3::exceptions::{PyKeyboardInterrupt, PyRuntimeError, PySystemExit};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use std::mem::MaybeUninit;
use std::ptr;

/// The transport of a connection, while its callbacks run.
pub struct Serving<'a, 'py> {
    pub context: &'a Context,
    pub id: ConnId,
    pub transport: &'a Bound<'py, PyAny>,
}

impl<'py> Serving<'_, 'py> {
    fn it(&self) -> *mut Transport {
        layout(self.transport)
    }

    fn py(&self) -> Python<'py> {
        self.transport.py()
    }

    /// Runs `f`, which calls the protocol, in the transport's variables.
    #[inline]
    fn call<R>(&self, method: &'static str, f: impl FnOnce() -> R) -> R {
        // SAFETY: I7, by the token; a transport; the transport keeps it, and nothing replaces it once it is open.
        let variables = unsafe { (*self.it()).variables };
        let within = || variables::within(self.py(), variables, f);
        self.context.transport_callback(self.transport, self.id, method, within)
    }

    /// What a callback has raised: it costs the connection.
    ///
    /// # Errors
    /// What is meant to end a loop.
    pub fn failed(&self, error: PyErr, message: &str) -> PyResult<()> {
        let py = self.py();
        if error.is_instance_of::<PyKeyboardInterrupt>(py) || error.is_instance_of::<PySystemExit>(py) {
            return Err(error);
        }
        self.context.mailbox.stats.exceptions.add(1);
        if let Some(traceback) = error.traceback(py) {
            // Before 3.12 the exception itself does not know it yet.
            error.value(py).setattr("__traceback__", traceback)?;
        }
        self.transport.call_method1("_fatal_error", (error.value(py), message)).map(drop)
    }

    fn protocol(&self) -> Bound<'py, PyAny> {
        field(self.transport, |it| it.protocol).unwrap_or_else(|| self.py().None().into_bound(self.py()))
    }

    /// Passes `data` on, which is plain `bytes`.
    ///
    /// # Errors
    /// What is meant to end a loop.
    #[inline]
    pub fn received(&self, data: &Bound<'py, PyAny>) -> PyResult<()> {
        let called = self.call("data_received", || {
            // What it was when this arrived, and kept: what runs meanwhile may set another protocol.
            let receive = field(self.transport, |it| it.receive);
            if self.feed_stream(data)? {
                return Ok(());
            }
            let Some(receive) = receive else {
                return self.protocol().call_method1("data_received", (data,)).map(drop);
            };
            let mut args = [ptr::null_mut(), data.as_ptr()];
            // SAFETY: I7, by the token; one borrowed argument follows a spare slot; a new reference, or null with an exception.
            unsafe {
                let count = 1 | ffi::PY_VECTORCALL_ARGUMENTS_OFFSET;
                let result =
                    ffi::PyObject_Vectorcall(receive.as_ptr(), args.as_mut_ptr().add(1), count, ptr::null_mut());
                Bound::from_owned_ptr_or_err(self.py(), result).map(drop)
            }
        });
        match called {
            Ok(()) => Ok(()),
            Err(error) => self.failed(error, "Fatal error: protocol.data_received() call failed."),
        }
    }

    /// Passes `data` on, if the protocol is asyncio's own, of streams, and what it feeds is, too. Answers whether that is so.
    ///
    /// # Errors
    /// What `data_received` would raise.
    #[inline]
    fn feed_stream(&self, data: &Bound<'py, PyAny>) -> PyResult<bool> {
        // SAFETY: I7, by the token; a transport.
        if unsafe { (*self.it()).feeds_stream } == 0 {
            return Ok(false);
        }
        // Kept while it is fed: the program may close the transport.
        let Some(event_loop) = field(self.transport, |it| it.event_loop) else { return Ok(false) };
        // SAFETY: I7, by the token; what a transport has is a loop of ours.
        let streams = unsafe { &core(event_loop.as_ptr().cast()).words.streams };
        match data.cast_exact::<PyBytes>() {
            Ok(data) => streams.feed(&self.protocol(), data),
            Err(_) => Ok(false),
        }
    }

    /// Passes `data` on, by way of the protocol's own buffers. Answers what is left of it: they were too small and the
    /// protocol takes no more now, or it has raised what is meant to end a loop.
    pub fn fill_buffers(&self, data: &Bound<'py, PyAny>) -> (Option<Bound<'py, PyBytes>>, PyResult<()>) {
        let data = match data.cast::<PyBytes>() {
            Ok(data) => data.as_bytes(),
            Err(error) => return (None, Err(error.into())),
        };
        let (mut done, mut began) = (0, None);
        let mut filled = Ok(());
        // Where nothing was put into it, another protocol is to be asked.
        while done < data.len() && filled.is_ok() && began != Some(done) {
            // SAFETY: I7, by the token; a transport.
            let (goes_on, buffered) = unsafe {
                let it = &*self.it();
                (it.closing == 0 && it.paused == 0, it.buffered != 0)
            };
            if !(goes_on && buffered) {
                break;
            }
            began = Some(done);
            filled = self.fill(|room| {
                let len = room.len().min(data.len() - done);
                room[..len].write_copy_of_slice(&data[done..done + len]);
                done += len;
                len
            });
        }
        ((done < data.len()).then(|| PyBytes::new(self.py(), &data[done..])), filled)
    }

    /// Has the protocol's own buffer filled by `fill`, which answers how many bytes it has put there, from the first, and runs no Python
    /// code; says so to the protocol, unless that is nothing. Has nothing filled if the protocol is another one meanwhile.
    ///
    /// # Errors
    /// What is meant to end a loop.
    pub fn fill(&self, fill: impl FnOnce(&mut [MaybeUninit<u8>]) -> usize) -> PyResult<()> {
        let protocol = self.protocol();
        let get_buffer = word(self.transport, "get_buffer", |words| &words.get_buffer);
        let is_asked = || field(self.transport, |it| it.protocol).is_some_and(|now| now.is(&protocol));
        let filled = self.call("get_buffer", || {
            let buffer = protocol.call_method1(get_buffer, (-1,))?;
            match buffer.len()? {
                0 => Err(PyRuntimeError::new_err("get_buffer() returned an empty buffer")),
                _ if is_asked() => Ok(bytes_like::fill(&buffer, fill)),
                _ => Ok(Ok(0)),
            }
        });
        let len = match filled {
            Ok(Ok(0)) => return Ok(()),
            Ok(Ok(len)) => len,
            Ok(Err(error)) => return self.failed(error, "Fatal read error on socket transport"),
            Err(error) => return self.failed(error, "Fatal error: protocol.get_buffer() call failed."),
        };
        let buffer_updated = word(self.transport, "buffer_updated", |words| &words.buffer_updated);
        match self.call("buffer_updated", || protocol.call_method1(buffer_updated, (len,)).map(drop)) {
            Ok(()) => Ok(()),
            Err(error) => self.failed(error, "Fatal error: protocol.buffer_updated() call failed."),
        }
    }

    /// The peer sends no more. Answers whether the transport stays open.
    ///
    /// # Errors
    /// What is meant to end a loop.
    pub fn eof_received(&self) -> PyResult<bool> {
        let protocol = self.protocol();
        let name = word(self.transport, "eof_received", |words| &words.eof_received);
        let eof_received = || {
            let method = Method::of(&protocol, &name)?;
            let ignores_it = knows(self.transport, |words| words.ignores_eof.iter().any(|known| method.is(known)));
            if ignores_it { Ok(false) } else { method.call(None)?.is_truthy() }
        };
        match self.call("eof_received", eof_received) {
            Ok(stays) => Ok(stays),
            Err(error) => self.failed(error, "Fatal error: protocol.eof_received() call failed.").map(|()| true),
        }
    }

    /// What `eof_received` has answered means that the transport ends, too.
    ///
    /// # Errors
    /// What is meant to end a loop.
    pub fn close(&self) -> PyResult<()> {
        self.transport.call_method0(word(self.transport, "close", |words| &words.close)).map(drop)
    }

    /// Its queue has fallen, or will not any more.
    ///
    /// # Errors
    /// What is meant to end a loop.
    pub fn drained(&self) -> PyResult<()> {
        let waits = field(self.transport, |it| it.empty_waiter).is_some_and(|waiter| !waiter.is_none());
        let tell = |is_over: bool| match waits {
            true => self.transport.call_method1("_tell_waiter", (is_over,)).map(drop),
            false => Ok(()),
        };
        if waits && self.context.with_own(self.id, |it| it.machine.link.is_finished()).unwrap_or(true) {
            return tell(true);
        }
        // SAFETY: I7, by the token; a transport.
        let was_paused = unsafe { std::mem::take(&mut (*self.it()).protocol_paused) } != 0;
        let resumed = match was_paused {
            true => self.call("resume_writing", || self.transport.call_method0("_resume_protocol").map(drop)),
            false => Ok(()),
        };
        // Whatever that has raised: somebody waits.
        resumed.and(tell(false))
    }

    /// Tells the protocol, for the first and last time, that its connection is gone: by the system's `errno`, unless there
    /// is another reason.
    ///
    /// # Errors
    /// What is meant to end a loop.
    pub fn lost(&self, errno: Option<i32>) -> PyResult<()> {
        // SAFETY: I7, by the token; a transport.
        let is_connected = unsafe {
            let it = self.it();
            (*it).closing = 1;
            (*it).conn_lost = (*it).conn_lost.max(1);
            (*it).protocol_connected != 0
        };
        if !is_connected {
            return Ok(());
        }
        let failure = field(self.transport, |it| it.failure);
        let failure = failure.or_else(|| errno.and_then(|errno| os_error(self.py(), errno).ok()));
        let protocol = self.protocol();
        let name = word(self.transport, "connection_lost", |words| &words.connection_lost);
        let connection_lost = || {
            let method = Method::of(&protocol, &name)?;
            let none = || self.py().None().into_bound(self.py());
            match knows(self.transport, |words| method.is(&words.ignores_loss)) {
                true => Ok(()),
                false => method.call(Some(&failure.unwrap_or_else(none))).map(drop),
            }
        };
        match self.call("connection_lost", connection_lost) {
            Ok(()) => Ok(()),
            Err(error) if error.is_instance_of::<PyKeyboardInterrupt>(self.py()) => Err(error),
            Err(error) if error.is_instance_of::<PySystemExit>(self.py()) => Err(error),
            Err(error) => {
                self.context.mailbox.stats.exceptions.add(1);
                self.transport.call_method1("_lost_failed", (error.value(self.py()),)).map(drop)
            }
        }
    }
}

/// Whether the protocol of a transport has buffers of its own.
pub fn is_buffered(transport: &Bound<'_, PyAny>) -> bool {
    // SAFETY: I7, by the token; only transports get here.
    unsafe { (*layout(transport)).buffered != 0 }
}

/// As the system's error is raised.
fn os_error(py: Python<'_>, errno: i32) -> PyResult<Bound<'_, PyAny>> {
    let text = py.import("os")?.call_method1("strerror", (errno,))?;
    py.import("builtins")?.getattr("OSError")?.call1((errno, text))
}

/// The connection is gone, and nothing names its descriptor any more: the socket is closed, unless its number `was_robbed`.
///
/// # Errors
/// What is meant to end a loop; it is closed all the same.
pub fn closed(transport: &Bound<'_, PyAny>, was_robbed: bool) -> PyResult<()> {
    detach(transport);
    if was_robbed {
        transport_socket::forget_number(transport);
    }
    let waits = field(transport, |it| it.empty_waiter).is_some_and(|waiter| !waiter.is_none());
    let close = || match waits {
        true => transport.call_method0("_close_socket").map(drop),
        false => transport_accepted::closed(transport),
    };
    // Interrupted, it has not been closed yet, or its server not been told.
    let closed = close().or_else(|error| close().and(Err(error)));
    let_go(transport);
    closed
}

/// It holds nothing any more.
pub fn let_go(transport: &Bound<'_, PyAny>) {
    put(transport, |it| &mut it.sock, None);
    put(transport, |it| &mut it.protocol, None);
    put(transport, |it| &mut it.receive, None);
    put(transport, |it| &mut it.event_loop, None);
    put(transport, |it| &mut it.server, None);
    put(transport, |it| &mut it.failure, None);
}

/// Its loop is driven no more: it keeps its socket, and has no connection. One that nobody has is closed.
///
/// # Errors
/// What is meant to end a loop; it is closed all the same.
pub fn orphaned(transport: &Bound<'_, PyAny>) -> PyResult<()> {
    match transport_abandoned::is_abandoned(transport) {
        true => closed(transport, false),
        false => {
            detach(transport);
            Ok(())
        }
    }
}
