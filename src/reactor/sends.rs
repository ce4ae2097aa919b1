//! How bytes leave: at the end of a turn, or at once where they are many.

use super::Reactor;
use super::transports::is_robbed;
use crate::base::config::SEND_AT_ONCE_BYTES;
use crate::base::token::ConnId;
use crate::connection::context::Connection;
use crate::connection::outcome::advance;
use crate::driver::{Driver, Event, Outcome};
use pyo3::prelude::*;

/// Whether it is worth a call of its own. Datagrams are sent many at a time.
#[inline]
pub(super) fn has_much_to_send(connection: &Connection) -> bool {
    connection.machine.link.queued_bytes() >= SEND_AT_ONCE_BYTES && connection.datagrams.is_none()
}

impl Reactor {
    /// One send for each connection that has something to send, and has not sent it yet.
    pub(super) fn flush(&mut self, py: Python<'_>) {
        let mut sends = std::mem::take(&mut self.sends);
        for id in sends.drain(..) {
            if let Some(outcome) = self.send(py, id) {
                self.events.push(Event { id, outcome });
            }
        }
        self.sends = sends;
    }

    /// The one door by which bytes leave, at once or at the end of the turn: what is to be done to them on the way is done
    /// here. Sends what a connection has to send. Answers the outcome, if there is one already.
    pub(super) fn send(&mut self, py: Python<'_>, id: ConnId) -> Option<Outcome> {
        let mut table = self.context.table.borrow_mut();
        let connection = table.get(id)?;
        if connection.machine.link.is_finished() {
            // It was cut after the send was planned: an operation that begins now would not see the abort.
            connection.machine.link.send_forgone();
            drop(table);
            self.context.touch(id);
            return None;
        }
        if is_robbed(py, connection) {
            return Some(Outcome::SendFailed(libc::EBADF));
        }
        let target = connection.descriptor.target();
        match connection.outbox.payload() {
            // SAFETY: I2: the outbox keeps what is in flight until it is told of the send's end, by its outcome alone.
            Some(payload) => unsafe { self.driver.send(id, target, payload) },
            None => {
                connection.machine.sent(0, &self.context.limits);
                None
            }
        }
    }

    /// Tells a connection's machine of what happened, where no buffer came with it.
    pub(super) fn advance(&mut self, id: ConnId, outcome: Outcome) {
        if let Some(connection) = self.context.table.borrow_mut().get(id) {
            advance(connection, outcome, &self.context, &mut self.sent);
        }
        // A destructor may run here: nothing is borrowed.
        self.sent.clear();
    }
}
