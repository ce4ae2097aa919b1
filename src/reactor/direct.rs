//! Receives of those that get much (`Intake`), when they have their turn: into a few buffers, or straight into the `bytes` that a
//! transport's protocol gets.

use super::Reactor;
use super::arrivals::{Part, is_stream};
use super::transports::{WHOLE_BYTES_MAX, is_robbed};
use crate::base::token::ConnId;
use crate::connection::context::{Connection, Inbound, arrival_cost};
use crate::driver::{Driver, Event, Outcome};
use crate::module::transport_calls;
use crate::python::bytes_like;
use pyo3::prelude::*;
use std::mem::MaybeUninit;

impl Reactor {
    /// The inbox of a connection is full: what else it gets is left, until it has room again.
    pub(super) fn stop_receive(&mut self, id: ConnId) {
        self.driver.cancel_receive(id);
        let buffer = self.pool.borrow().capacity();
        let overflowed = |it: &mut Connection| {
            it.machine.link.is_open() && is_stream(it) && it.intake.overflowed(buffer, WHOLE_BYTES_MAX)
        };
        if self.with(id, overflowed) == Some(true) {
            self.driver.leave_input(id, true);
        }
    }

    /// Something has arrived that was left where it is.
    pub(super) fn receive_left(&mut self, py: Python<'_>, id: ConnId) {
        let known = self.with(id, |it| {
            if it.is_loose {
                it.hold_or_abandon(py);
            }
            // A transport that ends reads no more: its receive is cancelled. What comes for a protocol that ends is thrown away.
            let reads = !it.is_transport || it.machine.link.is_open();
            // A protocol that has a buffer of its own is given copies.
            let in_bytes = || it.is_transport && !transport_calls::is_buffered(it.protocol.bind(py));
            reads.then(|| (is_robbed(py, it), in_bytes()))
        });
        match known.flatten() {
            None => {}
            Some((true, _)) => {
                self.driver.cancel_receive(id);
                self.advance(id, Outcome::ReceiveFailed(libc::EBADF));
            }
            Some((_, true)) => self.receive_directly(py, id),
            Some((_, false)) => self.receive_warm(py, id),
        }
    }

    /// Receives into buffers, those that were given back just now.
    fn receive_warm(&mut self, py: Python<'_>, id: ConnId) {
        let capacity = self.pool.borrow().capacity();
        if !self.pool.borrow().has_free() {
            return self.leave_no_more(id);
        }
        let (mut taken, mut received) = (std::mem::take(&mut self.taken), 0);
        self.driver.receive_left(id, &mut self.pool.borrow_mut(), &mut taken);
        for Event { outcome, .. } in taken.drain(..) {
            match outcome {
                Outcome::Received { buffer, len, more } => {
                    received += len as usize;
                    self.received(py, id, Part { slot: buffer, offset: 0, len: len as usize, from: None }, more);
                }
                Outcome::EndOfFile => self.peer_closed(py, id, outcome),
                outcome => self.advance(id, outcome),
            }
        }
        self.taken = taken;
        if received > 0
            && self.with(id, |it| it.intake.received(received, capacity, WHOLE_BYTES_MAX)).unwrap_or_default()
        {
            self.driver.leave_input(id, false);
        }
    }

    /// What arrives for it waits for a buffer, as it did at first.
    fn leave_no_more(&mut self, id: ConnId) {
        self.with(id, |it| it.intake.uses_buffers());
        self.driver.leave_input(id, false);
    }

    /// Receives into the `bytes` that the protocol of a transport gets.
    fn receive_directly(&mut self, py: Python<'_>, id: ConnId) {
        let buffer = self.pool.borrow().capacity();
        let mut table = self.context.table.borrow_mut();
        let Some(connection) = table.get(id) else { return };
        let mut taken = false;
        let fill = |room: &mut [MaybeUninit<u8>]| {
            let received = self.driver.receive_into(id, room);
            taken = received.is_ok_and(|len| len > 0);
            received
        };
        // SAFETY: I2: the kernel has written as many bytes as the driver says.
        let received = unsafe { bytes_like::filled(py, connection.intake.room(), fill) };
        match received {
            Ok(Ok(None)) => {}
            Ok(Ok(Some(data))) => {
                let len = data.as_bytes().len();
                connection.traffic.received(len);
                self.context.mailbox.stats.bytes_in.add(len as u64);
                connection.machine.link.received(arrival_cost(len, false), true);
                connection.inbox.push_back(Inbound { data: data.into_any().unbind(), from: None });
                if connection.intake.received(len, buffer, WHOLE_BYTES_MAX) {
                    self.driver.leave_input(id, false);
                }
            }
            Ok(Err(ended)) => {
                drop(table);
                self.advance(id, ended);
            }
            // No memory for what was to be taken: with what is left of it, a buffer may do.
            Err(_) if !taken => {
                drop(table);
                self.leave_no_more(id);
            }
            Err(error) => {
                drop(table);
                self.lose_arrived(py, id, &error);
            }
        }
    }
}
