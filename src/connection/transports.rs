//! Connections of asyncio's transports: what these do to their own.

use crate::base::token::ConnId;
use crate::connection::context::{Connection, Context, Inbound};
use crate::connection::machine::{Directions, End, Machine, Marks};
use crate::connection::outcome::advance;
use crate::driver::descriptor::Descriptor;
use crate::driver::{Driver, Outcome};
use crate::mail::command::Command;
use crate::mail::notice::Notice;
use crate::python::bytes_like;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyWeakrefMethods, PyWeakrefReference};
use std::collections::VecDeque;
use std::collections::hash_map::Entry;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::time::Duration;

/// A transport is kept by its connection as long as something may come of that. Else, as one of asyncio is, by its program alone:
/// it goes with the last reference that the program has, and by it its connection is abandoned.
impl Connection {
    /// Whoever it serves: its protocol, or its transport, unless nobody has that any more.
    pub fn served<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyAny>> {
        let served = self.protocol.bind(py);
        match self.is_loose {
            false => Some(served.clone()),
            true => served.cast::<PyWeakrefReference>().ok()?.upgrade(),
        }
    }

    /// Keeps its transport no longer, to which this is a weak reference. Answers the reference that it had, which is to be
    /// dropped when nothing is borrowed.
    pub fn loosen(&mut self, weakly: Py<PyAny>) -> Py<PyAny> {
        self.is_loose = true;
        std::mem::replace(&mut self.protocol, weakly)
    }

    /// Has its transport kept again.
    pub fn hold(&mut self, transport: Bound<'_, PyAny>) {
        self.protocol = transport.unbind();
        self.is_loose = false;
        self.machine.hold();
    }

    /// Whatever happens to it: its transport is there meanwhile, or it is abandoned.
    #[cold]
    pub fn hold_or_abandon(&mut self, py: Python<'_>) {
        match self.served(py) {
            Some(transport) => self.hold(transport),
            None => self.machine.link.abandon(),
        }
    }
}

impl Context {
    /// A connection for `transport`, which waits until it is made.
    pub fn open_transport(&self, descriptor: Descriptor, transport: Py<PyAny>, marks: Marks) -> ConnId {
        let directions = Directions { readable: true, writable: true, half_closes: true };
        let machine = Machine::of_transport(directions, marks);
        let mut connection = Connection::new(machine, descriptor, transport, None);
        connection.is_transport = true;
        let fd = connection.descriptor.number();
        let id = self.table.borrow_mut().insert(connection);
        self.transports.borrow_mut().insert(fd, id);
        self.mailbox.stats.transports.count();
        let mailbox = Arc::clone(&self.mailbox);
        self.with_own(id, |connection| {
            connection.descriptor.if_robbed(move || {
                // Refused, its thread ends, and with it the connection.
                let _ = mailbox.inbox.post(Command::Disown { id });
            });
        });
        id
    }

    /// The transport whose socket has that number, unless that is lent to who writes to it themselves.
    pub fn transport_of(&self, py: Python<'_>, fd: RawFd) -> Option<Py<PyAny>> {
        let id = self.transports.borrow().get(&fd).copied()?;
        let found = self.with_own(id, |connection| {
            let machine = &connection.machine;
            let is_found = !machine.is_lent() && machine.link.end() != End::Abandoned;
            if is_found { connection.served(py) } else { None }
        });
        found.flatten().map(Bound::unbind)
    }

    /// A transport's connection has gone.
    pub fn forget_transport(&self, connection: &Connection, id: ConnId) {
        self.mailbox.stats.transports.release();
        let mut transports = self.transports.borrow_mut();
        if let Entry::Occupied(entry) = transports.entry(connection.descriptor.number())
            && *entry.get() == id
        {
            entry.remove();
        }
    }

    /// What `f` answers of a connection that is there.
    pub fn with_own<R>(&self, id: ConnId, f: impl FnOnce(&mut Connection) -> R) -> Option<R> {
        self.table.try_borrow_mut().ok()?.get(id).map(f)
    }

    /// A transport's `write`, of anything bytes-like: all of it is queued. Answers whether its protocol is to pause, and
    /// whether the connection is gone. If it `is_robbed`, nothing is sent by the number of its descriptor (I4).
    ///
    /// # Errors
    /// It has no bytes.
    pub fn transport_write(&self, id: ConnId, data: &Bound<'_, PyAny>, is_robbed: bool) -> PyResult<(bool, bool)> {
        // SAFETY: I7, by the token; pointers are taken of objects that `data` keeps alive, and of immutable ones only
        // kept together with a reference.
        unsafe {
            let object = data.as_ptr();
            if ffi::PyBytes_Check(object) != 0 {
                let start = ffi::PyBytes_AS_STRING(object).cast::<u8>();
                let len = ffi::Py_SIZE(object) as usize;
                return Ok(self.queue(id, len, is_robbed, |connection| match connection.outbox.joins(len) {
                    true => {
                        let bytes = std::slice::from_raw_parts(start, len);
                        connection.outbox.push_copy(bytes, &mut self.spares.borrow_mut());
                    }
                    false => connection.outbox.push_object(data.clone().unbind(), start, len),
                }));
            }
        }
        bytes_like::with_bytes(data, |bytes| {
            Ok(self.queue(id, bytes.len(), is_robbed, |connection| {
                connection.outbox.push_copy(bytes, &mut self.spares.borrow_mut());
            }))
        })
    }

    fn queue(&self, id: ConnId, len: usize, is_robbed: bool, push: impl FnOnce(&mut Connection)) -> (bool, bool) {
        let mut sent = Vec::new();
        let pauses = self.with_own(id, |connection| {
            if len == 0 || connection.machine.link.is_finished() {
                return (false, connection.machine.link.is_finished());
            }
            push(connection);
            if connection.machine.queued(len) {
                let ended = match is_robbed {
                    true => Some(Outcome::SendFailed(libc::EBADF)),
                    false => self.send_now(id, connection),
                };
                if let Some(outcome) = ended {
                    advance(connection, outcome, self, &mut sent);
                }
            }
            let is_gone = connection.machine.link.is_finished();
            (!is_gone && connection.machine.pauses_writer(), is_gone)
        });
        // A destructor may run here: nothing is borrowed.
        drop(sent);
        self.touch(id);
        let (pauses, is_gone) = pauses.unwrap_or_default();
        if is_gone {
            self.closes.set(true);
        }
        (pauses, is_gone)
    }

    /// What is queued is sent, as far as the kernel takes it: the machine has said that a send begins.
    fn send_now(&self, id: ConnId, connection: &mut Connection) -> Option<Outcome> {
        let mut driver = self.driver.borrow_mut();
        let driver = driver.as_mut().filter(|driver| driver.is_home());
        match (driver, connection.outbox.payload()) {
            // SAFETY: I2: the outbox keeps what is in flight until it is told of the send's end, by its outcome alone.
            (Some(driver), Some(payload)) => unsafe {
                driver.send_at_once(id, connection.descriptor.target(), payload)
            },
            // Not begun: the next turn does.
            _ => Some(Outcome::Sent(0)),
        }
    }

    /// A transport's connection ends, at once unless what was written is to be delivered; what has arrived is thrown away.
    /// Answers whether anything is to be delivered.
    pub fn end_transport(&self, id: ConnId, at_once: bool) -> bool {
        let ended = self.with_own(id, |connection| {
            if connection.machine.is_lent() && !connection.machine.link.has_output() {
                // Whoever writes to it is to hear of its end. Who still waits to do so is told.
                connection.descriptor.shut_down(libc::SHUT_RDWR);
            }
            match at_once {
                true => connection.machine.link.fail(End::Closed),
                false => connection.machine.link.close(End::Closed),
            }
            (connection.machine.link.has_output(), std::mem::take(&mut connection.inbox))
        });
        self.closes.set(true);
        self.touch(id);
        let (has_output, unread): (bool, VecDeque<Inbound>) = ended.unwrap_or_default();
        drop(unread);
        has_output
    }

    /// Nobody has `transport` any more, unless the connection `id` still keeps it. If not, it does until it is closed, which begins
    /// with the next turn. Answers whether that is so. On any thread: nothing is borrowed while another one is attached.
    pub fn abandon_transport(&self, id: ConnId, transport: &Bound<'_, PyAny>) -> bool {
        let abandoned = self.with_own(id, |connection| {
            if connection.is_loose {
                connection.hold(transport.clone());
                connection.machine.link.abandon();
                return true;
            }
            false
        });
        let abandoned = abandoned.unwrap_or_default();
        if abandoned {
            self.touch(id);
            self.mailbox.inbox.wake();
        }
        abandoned
    }

    /// Runs the factory of a server's protocols.
    pub fn call_factory<R>(&self, py: Python<'_>, f: impl FnOnce() -> R) -> R {
        let (result, slow) = self.mailbox.running.call(py, f);
        if let Some(took) = slow {
            self.tell_slow("the factory of a server's protocols", took);
        }
        result
    }

    #[cold]
    fn tell_slow(&self, what: &str, took: Duration) {
        let ms = took.as_millis();
        let message = format!("{what} took at least {ms} ms; meanwhile its context served nobody (slow_callback_ms)");
        self.mailbox.notify(Notice { level: "warning", message, meta: Vec::new(), fd: None });
    }

    /// Runs a callback of the protocol of `transport`, whose connection is `id`.
    #[inline]
    pub fn transport_callback<R>(
        &self,
        transport: &Bound<'_, PyAny>,
        id: ConnId,
        method: &'static str,
        f: impl FnOnce() -> R,
    ) -> R {
        self.calling.set(Some(id));
        let (result, slow) = self.mailbox.running.call(transport.py(), f);
        self.calling.set(None);
        if let Some(took) = slow {
            self.tell_slow(&format!("{method} of a transport's protocol"), took);
        }
        result
    }
}
