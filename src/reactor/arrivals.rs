//! What the driver tells, and what it does to connections. What has arrived goes into their inboxes; of each connection the
//! first event of a turn is followed up at once, while its data is in the cache, the others in turns to come: a peer that
//! floods the reactor fills its own inbox, and delays nobody.

#![forbid(unsafe_code)]

use super::Reactor;
use super::transports::{WHOLE_BYTES_MAX, is_buffered};
use crate::base::token::ConnId;
use crate::connection::callbacks::format_exception;
use crate::connection::context::{Connection, Inbound, arrival_cost};
use crate::connection::intake::OWN_MUCH;
use crate::connection::machine::End;
use crate::driver::address::Address;
use crate::driver::shared::Shared;
use crate::driver::{Driver, Event, Io, Outcome};
use crate::mail::notice::Notice;
use crate::python::reactor_buffer;
use pyo3::prelude::*;
use std::io;

/// What of a transport is so short is copied as it arrives: its buffer is free again.
const COPIED_AT_ONCE_MAX: usize = 2048;

/// So much has arrived in a buffer: what comes next may be left where it is.
#[inline]
fn arrived(py: Python<'_>, driver: &mut Shared, id: ConnId, of: &mut Connection, len: usize, buffer: usize) {
    let begins = match len >= OWN_MUCH && is_buffered(py, of) {
        true => of.intake.overflowed(len, buffer, WHOLE_BYTES_MAX),
        false => of.intake.buffered(len, buffer, WHOLE_BYTES_MAX),
    };
    if begins {
        match is_stream(of) {
            true => driver.leave_input(id, true),
            false => of.intake.uses_buffers(),
        }
    }
}

/// Others are received from by calls, or a message at a time.
pub(super) fn is_stream(connection: &Connection) -> bool {
    connection.descriptor.target().io == Io::Socket
}

impl Reactor {
    pub(super) fn wait(&mut self, py: Python<'_>) -> io::Result<()> {
        self.turn += 1;
        let timeout = self.loop_timeout(py, self.timeout());
        let mut pool = self.pool.borrow_mut();
        pool.collect_returns();
        let (slots, lent) = pool.usage();
        let stats = &self.context.mailbox.stats;
        stats.turns.add(1);
        stats.buffers_lent.set(lent as u64);
        stats.buffers_free.set((slots - lent) as u64);
        self.context.waiting(py, || self.driver.wait(timeout, &mut pool, &mut self.events))
    }

    pub(super) fn step(&mut self, py: Python<'_>) {
        let mut events = std::mem::take(&mut self.events);
        for nth in 0..events.len() {
            let Event { id, outcome } = events[nth];
            match outcome {
                Outcome::Woken => {
                    self.commands_wait = true;
                    continue;
                }
                Outcome::Watched => {
                    self.make_readers_ready(py);
                    continue;
                }
                Outcome::Accepted(_) | Outcome::AcceptFailed(_) | Outcome::Connected(_) => {
                    let event = Event { id, outcome };
                    if !self.accepted(py, event) {
                        self.opened(py, event);
                    }
                    continue;
                }
                Outcome::Received { buffer, len, more } => {
                    let part = Part { slot: buffer, offset: 0, len: len as usize, from: None };
                    self.received(py, id, part, more);
                    // What has arrived at once is followed up at once.
                    let is_more = |next: &Event| next.id == id && matches!(next.outcome, Outcome::Received { .. });
                    if events.get(nth + 1).is_some_and(is_more) {
                        continue;
                    }
                }
                Outcome::Readable => self.readable(py, id, &events[nth..]),
                Outcome::Datagram { buffer, more } => self.datagram(py, id, buffer, more),
                Outcome::EndOfFile | Outcome::Heard(_) => self.peer_closed(py, id, outcome),
                Outcome::ReceiveFailed(errno @ libc::ENOSPC) | Outcome::Deaf(errno) => {
                    self.watched_no_more(id, outcome, errno);
                }
                _ => match self.datagram_error(id, outcome) {
                    Some(errno) => self.datagram_failed(py, id, outcome, errno),
                    None => self.advance(id, outcome),
                },
            }
            self.settle(py, id);
        }
        events.clear();
        self.events = events;
        self.receives = None;
        self.repeats = None;
    }

    pub(super) fn received(&mut self, py: Python<'_>, id: ConnId, part: Part, more: bool) {
        let Part { slot, offset, len, from } = part;
        let mut pool = self.pool.borrow_mut();
        let mut table = self.context.table.borrow_mut();
        // I6: data for a connection that is gone, or that reads no more, frees its buffer and reaches nobody.
        let Some(connection) = table.get(id) else { return pool.release(slot) };
        connection.traffic.received(len);
        if !connection.machine.link.received(arrival_cost(len, from.is_some()), more) {
            return pool.release(slot);
        }
        arrived(py, &mut self.driver, id, connection, len, pool.capacity());
        let stats = &self.context.mailbox.stats;
        stats.bytes_in.add(len as u64);
        // What makes an object of it runs no Python code, so that all this is borrowed.
        let received = match connection.is_transport && len <= COPIED_AT_ONCE_MAX {
            true => reactor_buffer::take_bytes(py, &mut pool, slot, offset, len).map(|data| (data, false)),
            false => reactor_buffer::lend(py, self.context.buffer_type.bind(py), &mut pool, slot, offset, len),
        };
        match received {
            Ok((data, copied)) => {
                stats.buffers_copied.add(u64::from(copied));
                connection.inbox.push_back(Inbound { data: data.unbind(), from });
            }
            Err(error) => {
                drop((pool, table));
                self.lose_arrived(py, id, &error);
            }
        }
    }

    /// There was no memory for what has arrived: it is lost, and so is the connection.
    pub(super) fn lose_arrived(&self, py: Python<'_>, id: ConnId, error: &PyErr) {
        if let Some(connection) = self.context.table.borrow_mut().get(id) {
            connection.machine.link.fail(End::Exception);
        }
        let message = format!("a connection was cut: {}", format_exception(py, error));
        self.context.mailbox.notify(Notice { level: "error", message, meta: Vec::new(), fd: None });
    }
}

/// Received bytes, where they lie, and who sent them if they are a datagram.
pub(super) struct Part {
    pub(super) slot: u16,
    pub(super) offset: usize,
    pub(super) len: usize,
    pub(super) from: Option<Box<Address>>,
}
