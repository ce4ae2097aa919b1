//! Receives straight into the `bytes` that a transport's protocol gets, of those that get much (`Intake`).

use super::Reactor;
use super::transports::{WHOLE_BYTES_MAX, is_robbed};
use crate::base::token::ConnId;
use crate::connection::context::{Connection, Inbound, arrival_cost};
use crate::driver::shared::Shared;
use crate::driver::{Driver, Outcome};
use crate::module::transport_calls;
use crate::python::bytes_like;
use pyo3::prelude::*;
use std::mem::MaybeUninit;

/// So much of a transport has arrived in a buffer: what comes next may be left where it is. A protocol that has a buffer of
/// its own is given copies anyway.
#[inline]
pub(super) fn arrived(py: Python<'_>, driver: &mut Shared, id: ConnId, of: &mut Connection, len: usize, buffer: usize) {
    let leaves = of.intake.buffered(len, buffer, WHOLE_BYTES_MAX) && !of.is_loose;
    if leaves && !transport_calls::is_buffered(of.protocol.bind(py)) {
        driver.leave_input(id, true);
    }
}

impl Reactor {
    /// Something has arrived for a transport that was left where it is.
    pub(super) fn receive_directly(&mut self, py: Python<'_>, id: ConnId) {
        let buffer = self.pool.borrow().capacity();
        let mut table = self.context.table.borrow_mut();
        // One that ends reads no more: its receive is cancelled.
        let Some(connection) = table.get(id).filter(|connection| connection.machine.link.is_open()) else { return };
        if connection.is_loose {
            connection.hold_or_abandon(py);
        }
        if is_robbed(py, connection) {
            self.driver.cancel_receive(id);
            drop(table);
            return self.advance(id, Outcome::ReceiveFailed(libc::EBADF));
        }
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
            Err(_) if !taken => self.driver.leave_input(id, false),
            Err(error) => {
                drop(table);
                self.lose_arrived(py, id, &error);
            }
        }
    }
}
