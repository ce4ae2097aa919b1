//! What the base class's `write_ready` does: the protocol's `write_buffer` is written, and cut by what was taken.
//!
//! Whether there is something in it is asked when somebody signals.
//!
//! What was taken must be gone from it, or it would be sent again. So nothing is taken of one that cannot be cut, and it
//! is cut by means of `bytearray` itself, whatever a subclass makes of them.

use crate::base::config::{GIVEN_BYTES_MIN, KEPT_BUFFER_BYTES, SEND_AT_ONCE_BYTES};
use crate::base::token::ConnId;
use crate::connection::context::{Connection, Context};
use crate::connection::machine::{Action, End, Task};
use crate::connection::outcome::advance;
use crate::driver::{Driver, Outcome, Payload};
use crate::python::instance;
use pyo3::exceptions::PyBufferError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyByteArray, PyByteArrayMethods, PyBytes, PySlice};
use std::ptr;

impl Connection {
    /// `signal_write_ready` was called, not by a callback whose answer is awaited.
    pub fn signalled(&mut self, py: Python<'_>) {
        self.machine.signalled(|| instance::holds_output(self.protocol.bind(py)));
    }

    /// A callback answered.
    #[inline]
    pub fn acted(&mut self, py: Python<'_>, action: Action) {
        self.machine.acted(action, || instance::holds_output(self.protocol.bind(py)));
    }

    /// A task has begun.
    pub fn task_began(&mut self, py: Python<'_>, task: Task) {
        self.machine.task_began(task, || instance::holds_output(self.protocol.bind(py)));
    }

    /// `connection_made`, or another callback that answers nothing, returned.
    pub fn made(&mut self, py: Python<'_>) {
        self.machine.made(|| instance::holds_output(self.protocol.bind(py)));
    }
}

impl Context {
    /// Queues what there is room for of the protocol's `write_buffer`, and answers whether that emptied it. A large one that
    /// nobody else can see is sent from where it is, and the protocol gets a new one.
    ///
    /// # Errors
    /// `TypeError`: it is no bytearray. `BufferError`: somebody holds a view of it.
    pub fn drain(&self, id: ConnId, protocol: &Bound<'_, PyAny>) -> PyResult<bool> {
        let buffer = instance::write_buffer(protocol)?;
        if buffer.is_empty() {
            return Ok(true);
        }
        refuse_viewed(&buffer)?;
        let object = buffer.as_ptr();
        // Two references, the protocol's and ours: no other code can see it, nor a view of it, which would have a third.
        // SAFETY: I7, by the token.
        let alone = unsafe { ffi::PyByteArray_CheckExact(object) == 1 && ffi::Py_REFCNT(object) == 2 };
        let mut fresh = match alone && buffer.len() >= GIVEN_BYTES_MIN {
            true => Some(instance::new_write_buffer(buffer.py())?),
            false => None,
        };
        let mut given = false;
        // SAFETY: I7, by the token, and from here on no Python code runs that could change it.
        let bytes = unsafe { buffer.as_bytes() };
        let len = bytes.len();
        let taken = self.accept(id, bytes, fresh.is_some(), |connection, taken| {
            let sent = if taken < SEND_AT_ONCE_BYTES { 0 } else { self.send_first(connection, &bytes[..taken]) };
            let rest = &bytes[sent..taken];
            match fresh.take_if(|_| taken == len) {
                _ if rest.is_empty() => {}
                Some(fresh) => {
                    // I2: from here on the outbox alone has it, so nobody changes it.
                    instance::set_write_buffer(protocol, fresh);
                    connection.outbox.push_object(buffer.clone().into_any().unbind(), rest.as_ptr(), rest.len());
                    given = true;
                }
                None => connection.outbox.push_copy(rest, &mut self.spares.borrow_mut()),
            }
        })?;
        if !given && let Err(error) = cut(&buffer, taken) {
            // No memory: not even an exception that is caught may send it again.
            if let Some(connection) = self.table.borrow_mut().get(id) {
                connection.machine.link.close(End::Exception);
            }
            return Err(error);
        }
        Ok(taken == len)
    }

    /// Sends `bytes`, many that were just taken, from where they are, if nothing waits before them or has arrived that
    /// will be answered, too. Answers how many have left.
    #[inline(never)] // It is rare, and `drain` is not.
    fn send_first(&self, connection: &mut Connection, bytes: &[u8]) -> usize {
        if connection.datagrams.is_some() || !connection.inbox.is_empty() {
            return 0;
        }
        let mut driver = self.driver.borrow_mut();
        let Some(driver) = driver.as_mut().filter(|driver| driver.is_home()) else { return 0 };
        if !connection.machine.sends_first(bytes.len()) {
            return 0;
        }
        let payload = Payload::Bytes(bytes.as_ptr(), bytes.len());
        // SAFETY: I2: the bytes stay as they are while they are borrowed, and the call uses them no longer.
        let sent = unsafe { driver.send_now(connection.descriptor.target(), payload) }.unwrap_or(Outcome::Sent(0));
        // Nothing was in the outbox: nothing of it is to be dropped.
        advance(connection, sent, self, &mut Vec::new());
        if let Outcome::Sent(len) = sent { len as usize } else { 0 }
    }
}

/// The same by `write` as Python code defines it. While that runs, which may change or look at anything, the bytes are not in
/// the `write_buffer`; what was not taken comes back to its front.
///
/// # Errors
/// As for [`Context::drain`], and what `write` raised.
pub fn drain_by_write(protocol: &Bound<'_, PyAny>) -> PyResult<bool> {
    let buffer = instance::write_buffer(protocol)?;
    if buffer.is_empty() {
        return Ok(true);
    }
    refuse_viewed(&buffer)?;
    // SAFETY: I7, by the token, and copied at once.
    let bytes = PyBytes::new(buffer.py(), unsafe { buffer.as_bytes() });
    buffer.resize(0)?;
    let written = protocol.call_method1("write", (&bytes,)).and_then(|written| written.extract::<usize>());
    let taken = written.as_ref().map_or(0, |written| *written);
    put_back(protocol, &buffer, bytes.as_bytes().get(taken..).unwrap_or_default())?;
    written?;
    Ok(instance::write_buffer(protocol)?.is_empty())
}

/// Puts `bytes` before what is in `buffer`; if somebody holds a view of that by now, in a new one.
fn put_back(protocol: &Bound<'_, PyAny>, buffer: &Bound<'_, PyByteArray>, bytes: &[u8]) -> PyResult<()> {
    if bytes.is_empty() {
        return Ok(());
    }
    let all = [bytes, &buffer.to_vec()].concat();
    let buffer = match refuse_viewed(buffer) {
        Ok(()) => buffer.clone(),
        Err(_) => {
            let fresh = instance::new_write_buffer(buffer.py())?;
            instance::set_write_buffer(protocol, fresh);
            instance::write_buffer(protocol)?
        }
    };
    buffer.resize(all.len())?;
    // SAFETY: I7, by the token, and no Python code runs meanwhile.
    unsafe { buffer.as_bytes_mut() }.copy_from_slice(&all);
    Ok(())
}

fn refuse_viewed(buffer: &Bound<'_, PyByteArray>) -> PyResult<()> {
    // SAFETY: I7, by the token; a bytearray.
    match unsafe { (*buffer.as_ptr().cast::<ffi::PyByteArrayObject>()).ob_exports } {
        0 => Ok(()),
        _ => Err(PyBufferError::new_err(
            "write_buffer cannot be sent while there is a memoryview of it: release that first",
        )),
    }
}

/// Takes all bytes off one that nobody has a view of. What little memory it has, it keeps: given back, it would be asked for again
/// for the next message.
fn empty(buffer: &Bound<'_, PyByteArray>) -> PyResult<()> {
    let this = buffer.as_ptr().cast::<ffi::PyByteArrayObject>();
    // SAFETY: I7, by the token; a bytearray with at least one byte, so that it has memory, and a NUL behind its bytes. That is how
    // CPython shortens one that keeps its memory, too, in the versions whose layout this is.
    unsafe {
        if cfg!(Py_3_15) || (*this).ob_alloc > KEPT_BUFFER_BYTES {
            return buffer.resize(0);
        }
        (*this).ob_start = (*this).ob_bytes;
        *(*this).ob_start = 0;
        (*this).ob_base.ob_size = 0;
    }
    Ok(())
}

/// Takes the first `count` bytes off.
fn cut(buffer: &Bound<'_, PyByteArray>, count: usize) -> PyResult<()> {
    match count {
        0 => return Ok(()),
        _ if count == buffer.len() => return empty(buffer),
        _ => {}
    }
    let first = PySlice::new(buffer.py(), 0, count as isize, 1);
    // SAFETY: I7, by the token; `bytearray` is a static type that has this slot, for its own instances and those of
    // subclasses.
    let cut = unsafe {
        let mapping = ffi::PyByteArray_Type.tp_as_mapping;
        let delete = mapping.as_ref().and_then(|mapping| mapping.mp_ass_subscript);
        delete.map_or(-1, |delete| delete(buffer.as_ptr(), first.as_ptr(), ptr::null_mut()))
    };
    if cut < 0 { Err(PyErr::fetch(buffer.py())) } else { Ok(()) }
}
