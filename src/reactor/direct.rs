//! Receives of those that get much (`Intake`), when they have their turn: into a few buffers, or straight into what the protocol of
//! a transport gets: `bytes`, or its own buffer.

use super::Reactor;
use super::arrivals::{Part, is_stream};
use super::share::{Repeats, Share, receives_each};
use super::transports::{WHOLE_BYTES_MAX, is_buffered, is_robbed};
use crate::base::config::BYTES_PER_TURN;
use crate::base::token::ConnId;
use crate::connection::context::{Connection, Inbound, arrival_cost};
use crate::connection::intake::OWN_MUCH;
use crate::connection::machine::Mode;
use crate::driver::{Driver, Event, Outcome};
use crate::module::transport_calls::Serving;
use crate::module::transport_layout;
use crate::python::bytes_like;
use pyo3::prelude::*;
use std::mem::MaybeUninit;

/// What a protocol's own buffer gets at most at a time, however large it is.
const OWN_BYTES_MAX: usize = 256 * 1024;

/// What is received at most at a time into buffers of `capacity`.
fn most_at_a_time(capacity: usize) -> usize {
    (BYTES_PER_TURN / capacity).max(1) * capacity
}

/// What is received into.
enum Way<'py> {
    /// Nothing: the number of its socket may be a stranger's.
    Robbed,
    /// A few buffers of the pool.
    Buffers,
    /// The `bytes` that the protocol of a transport gets.
    Bytes,
    /// What the protocol of this transport has.
    Own(Bound<'py, PyAny>),
}

impl Reactor {
    /// The inbox of a connection is full: what else it gets is left, until it has room again.
    pub(super) fn stop_receive(&mut self, id: ConnId) {
        self.driver.cancel_receive(id);
        let buffer = self.pool.borrow().capacity();
        let overflowed = |it: &mut Connection| {
            it.machine.link.is_open() && is_stream(it) && it.intake.overflowed(buffer - 1, buffer, WHOLE_BYTES_MAX)
        };
        if self.with(id, overflowed) == Some(true) {
            self.driver.leave_input(id, true);
        }
    }

    /// Something has arrived that was left where it is, as the first of these events says.
    #[inline(never)] // It is rare, and `step` is not.
    pub(super) fn readable(&mut self, py: Python<'_>, id: ConnId, events: &[Event]) {
        let waits = |event: &&Event| matches!(event.outcome, Outcome::Readable);
        let each = *self.receives.get_or_insert_with(|| receives_each(events.iter().filter(waits).count()));
        let filled = self.receive_left(py, id);
        self.repeats = if filled { Repeats::new(id, each) } else { None };
    }

    /// Takes what was left where it is. Answers whether that has filled as many buffers as may be filled at a time.
    pub(super) fn receive_left(&mut self, py: Python<'_>, id: ConnId) -> bool {
        let way = match self.way(py, id) {
            Some(Way::Own(_)) if self.receive_own(py, id) => return false,
            // It has failed, or become another protocol's.
            Some(Way::Own(_)) => self.way(py, id),
            way => way,
        };
        self.receive_by(py, id, way)
    }

    /// The same, but that no protocol is asked for its buffer: no Python code runs.
    pub(super) fn receive_unasked(&mut self, py: Python<'_>, id: ConnId) {
        let way = self.way(py, id);
        self.receive_by(py, id, way);
    }

    fn receive_by(&mut self, py: Python<'_>, id: ConnId, way: Option<Way<'_>>) -> bool {
        match way {
            None => {}
            Some(Way::Robbed) => {
                self.driver.cancel_receive(id);
                self.advance(id, Outcome::ReceiveFailed(libc::EBADF));
            }
            Some(Way::Bytes) => self.receive_directly(py, id),
            Some(Way::Own(_) | Way::Buffers) => return self.receive_warm(py, id),
        }
        false
    }

    fn way<'py>(&self, py: Python<'py>, id: ConnId) -> Option<Way<'py>> {
        let way = |it: &mut Connection| {
            if it.is_loose {
                it.hold_or_abandon(py);
            }
            match () {
                // A transport that ends reads no more: its receive is cancelled. What comes for a protocol that ends is thrown away.
                () if it.is_transport && !it.machine.link.is_open() => None,
                () if is_robbed(py, it) => Some(Way::Robbed),
                () if !it.is_transport => Some(Way::Buffers),
                () if !is_buffered(py, it) => Some(Way::Bytes),
                // It cannot be called now: later it is given copies.
                () if it.turn == self.turn || !it.machine.delivers() => Some(Way::Buffers),
                () => Some(Way::Own(it.protocol.clone_ref(py).into_bound(py))),
            }
        };
        self.with(id, way).flatten()
    }

    /// Receives into the buffer that the protocol has, as long as that is filled and the connection has its turn. Answers whether the
    /// driver was asked for anything.
    fn receive_own(&mut self, py: Python<'_>, id: ConnId) -> bool {
        let (mut share, mut was_asked) = (Share::new(false), false);
        while share.is_left()
            && self.raised.is_none()
            && let Some(Way::Own(transport)) = self.way(py, id)
        {
            let mut received = None;
            let filled = Serving { context: &self.context, id, transport: &transport }.fill(|room| {
                // I4: it may have been closed within `get_buffer`.
                if transport_layout::is_robbed(&transport) {
                    return 0;
                }
                let most = room.len().min(OWN_BYTES_MAX);
                let answer = self.driver.receive_into(id, &mut room[..most]);
                received = Some((answer, most));
                answer.unwrap_or_default()
            });
            if let Err(error) = filled {
                self.raised.get_or_insert(error);
            }
            let Some((answer, most)) = received else { break };
            was_asked = true;
            match answer {
                Ok(0) => break,
                Ok(len) => {
                    self.has_filled(id, len);
                    share.use_up(len, true);
                    if len < most {
                        break;
                    }
                }
                Err(ended) => {
                    self.advance(id, ended);
                    break;
                }
            }
        }
        // It has had its turn.
        self.with(id, |it| it.turn = self.turn);
        was_asked
    }

    /// So much has arrived in a buffer of the protocol's own.
    fn has_filled(&mut self, id: ConnId, len: usize) {
        let stats = &self.context.mailbox.stats;
        stats.bytes_in.add(len as u64);
        stats.messages.add(1);
        let capacity = self.pool.borrow().capacity();
        let ends = self.with(id, |it| {
            it.traffic.received(len);
            it.intake.received(len, OWN_MUCH / 2, capacity, WHOLE_BYTES_MAX)
        });
        if ends == Some(true) {
            self.driver.leave_input(id, false);
        }
    }

    /// Receives into buffers, those that were given back just now. Answers whether it has filled all that it may.
    fn receive_warm(&mut self, py: Python<'_>, id: ConnId) -> bool {
        let capacity = self.pool.borrow().capacity();
        if !self.pool.borrow().has_free() {
            self.leave_no_more(id);
            return false;
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
            && self
                .with(id, |it| it.intake.received(received, capacity / 4, capacity, WHOLE_BYTES_MAX))
                .unwrap_or_default()
        {
            self.driver.leave_input(id, false);
        }
        received >= most_at_a_time(capacity)
    }

    /// Receives once more in this turn, where there is more, most of the time, and its protocol has had what came before, and may write
    /// what it answers: else what it has written is sent first. Answers whether it did.
    pub(super) fn receives_more(&mut self, py: Python<'_>, id: ConnId) -> bool {
        let Some(repeats) = self.repeats.take_if(|it| it.of == id && self.raised.is_none()) else {
            return false;
        };
        let arrives = most_at_a_time(self.pool.borrow().capacity());
        let takes_more = |it: &mut Connection| {
            let queued = it.machine.link.queued_bytes();
            let takes = !it.is_transport
                && it.inbox.is_empty()
                && it.machine.mode() == Some(Mode::Read)
                && it.machine.has_room_for(repeats.may_answer(arrives, queued), &self.context.limits);
            takes.then_some(queued)
        };
        let Some(queued) = self.with(id, takes_more).flatten().filter(|_| repeats.have_time()) else {
            return false;
        };
        if self.receive_left(py, id) {
            self.repeats = repeats.followed(queued);
        }
        true
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
                if connection.intake.received(len, buffer / 4, buffer, WHOLE_BYTES_MAX) {
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
