//! Datagrams: bounds are kept, empty ones are not the end of anything, and an error costs one datagram.

use super::Reactor;
use super::arrivals::Part;
use crate::base::token::ConnId;
use crate::connection::callbacks::{Fault, nothing};
use crate::driver::Outcome;
use crate::driver::datagram;
use crate::mail::notice::Notice;
use pyo3::exceptions::{PyException, PyOSError};
use pyo3::prelude::*;

impl Reactor {
    /// A datagram arrived in a slot of the pool.
    pub(super) fn datagram(&mut self, py: Python<'_>, id: ConnId, slot: u16, more: bool) {
        // SAFETY: I2: the driver has filled the slot with a datagram, and gave it to us.
        let parsed = unsafe {
            let pool = self.pool.borrow();
            datagram::parse(pool.data(slot), pool.capacity())
        };
        if parsed.truncated {
            self.pool.borrow_mut().release(slot);
            self.with(id, |connection| connection.machine.link.received(0, more));
            let room = self.pool.borrow().capacity() - datagram::PAYLOAD_OFFSET;
            let message =
                format!("a datagram of more than {room} bytes was dropped: no receive buffer holds it (buffer_bytes)");
            let fd = self.with(id, |connection| connection.descriptor.number());
            return self.context.mailbox.notify(Notice { level: "warning", message, meta: Vec::new(), fd });
        }
        let part = Part { slot, offset: datagram::PAYLOAD_OFFSET, len: parsed.len, from: Some(Box::new(parsed.from)) };
        self.received(py, id, part, more);
    }

    /// Whether a fault in `method` costs the datagram that it was called for, and not the socket: else whoever may send to
    /// it could end it for all. What is no `Exception` (an interrupt, an exit) is meant for the socket.
    pub(super) fn costs_a_datagram(&self, py: Python<'_>, id: ConnId, method: &str, fault: &Fault) -> bool {
        let from_outside = matches!(method, "data_received" | "datagram_received" | "error_received");
        let meant = matches!(fault, Fault::Raised(error) if !error.is_instance_of::<PyException>(py));
        from_outside && !meant && self.is_datagrams(id)
    }

    pub(super) fn is_datagrams(&self, id: ConnId) -> bool {
        self.with(id, |connection| connection.datagrams.is_some()).unwrap_or_default()
    }

    /// The error of one datagram (the peer's port is closed, the network is away, it is too long), if it is not about
    /// the socket.
    pub(super) fn datagram_error(&self, id: ConnId, outcome: Outcome) -> Option<i32> {
        // What a datagram that was sent has come to is told to whoever receives next.
        const ABOUT_ONE_SENT_BEFORE: [i32; 6] = [
            libc::ECONNREFUSED,
            libc::EHOSTUNREACH,
            libc::ENETUNREACH,
            libc::EHOSTDOWN,
            libc::ENETDOWN,
            libc::EMSGSIZE,
        ];
        let errno = match outcome {
            // Whom to send to is often the choice of a stranger: a port 0, an address that the firewall forbids.
            Outcome::SendFailed(errno) if ![libc::EBADF, libc::ENOTSOCK, libc::ECANCELED].contains(&errno) => errno,
            Outcome::ReceiveFailed(errno) if ABOUT_ONE_SENT_BEFORE.contains(&errno) => errno,
            _ => return None,
        };
        self.with(id, |connection| connection.datagrams.is_some()).unwrap_or_default().then_some(errno)
    }

    /// Tells the protocol of such an error, by `error_received(exc)`; the socket goes on.
    pub(super) fn datagram_failed(&mut self, py: Python<'_>, id: ConnId, outcome: Outcome, errno: i32) {
        let open = self.with(id, |connection| {
            if matches!(outcome, Outcome::SendFailed(_)) {
                let (_, cost) = connection.outbox.sent_datagrams(1, &mut self.context.spares.borrow_mut());
                connection.machine.sent(cost, &self.context.limits);
            } else {
                connection.machine.link.receive_cancelled();
            }
            connection.machine.link.is_open()
        });
        if open != Some(true) {
            return;
        }
        let Some(protocol) = self.protocol(py, id) else { return };
        let text = std::io::Error::from_raw_os_error(errno).to_string();
        let error = PyOSError::new_err((errno, text));
        let tell = || protocol.call_method1("error_received", (error.value(py),));
        let told = self.context.callback(&protocol, Some(id), "error_received", tell);
        if let Err(fault) = nothing(told) {
            self.failed(&protocol, id, "error_received", fault);
        }
        // A signal from within it is as one that comes just after.
        self.with(id, |connection| connection.made(py));
    }
}
