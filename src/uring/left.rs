//! Input that is left where it is until somebody takes it: who has some is told of, a few per turn.
//!
//! A multishot would take up to 32 buffers of each that sends much before anybody else is looked at, and fill those that have lain
//! for the longest time. What is taken by a call as it is needed is as much as one may have of a turn, into memory that was used just now
//! and is in the cache (docs/performance.md).

#![forbid(unsafe_code)]

use super::Uring;
use super::slot::Life;
use crate::base::token::{ConnId, Kind};
use crate::buffer::Pool;
use crate::driver::gathered::{self, Gathered};
use crate::driver::{Event, Outcome, syscalls};
use std::mem::MaybeUninit;

/// So many of them are told of between two looks at the others.
const TOLD_PER_TURN: usize = 16;

impl Uring {
    /// What arrives is left from now on, or is not any more: the receive that runs goes on that way.
    pub(super) fn change_receive(&mut self, id: ConnId, left: bool) {
        let Some(slot) = self.slots.get_mut(id.index as usize).filter(|slot| slot.id == Some(id)) else { return };
        slot.left = left;
        if left && slot.receive.renew() {
            self.cancel(Kind::Receive, Kind::CancelReceive, id);
        } else if !left && slot.receive == Life::Told {
            self.arm_receive(id);
        }
    }

    /// There is something for `id`, perhaps: one of the next waits says so.
    pub(super) fn tell_soon(&mut self, id: ConnId) {
        let slot = self.slot(id);
        slot.receive = Life::Told;
        if !std::mem::replace(&mut slot.among_told, true) {
            self.told.push_back(id);
        }
    }

    /// Tells of those whose turn it is.
    pub(super) fn tell(&mut self, events: &mut Vec<Event>) {
        let mut most = TOLD_PER_TURN;
        while most > 0
            && let Some(id) = self.told.pop_front()
        {
            let slot = self.slot(id);
            // Otherwise it is gone, or it was cancelled or changed meanwhile.
            if slot.id == Some(id) {
                slot.among_told = false;
                if slot.receive == Life::Told {
                    events.push(Event { id, outcome: Outcome::Readable });
                    most -= 1;
                }
            }
        }
    }

    /// Receives into `room`, and goes on.
    ///
    /// # Errors
    /// The receive has ended.
    pub(super) fn take_into(&mut self, id: ConnId, room: &mut [MaybeUninit<u8>]) -> Result<usize, Outcome> {
        let Some(fd) = self.left_of(id) else { return Ok(0) };
        let received = syscalls::receive_into(fd, room);
        match received {
            Ok(len) => self.goes_on(id, len == room.len()),
            Err(_) => _ = self.receive_ended(id, Outcome::Readable),
        }
        received
    }

    /// Receives into a few buffers, and goes on.
    pub(super) fn take(&mut self, id: ConnId, pool: &mut Pool, events: &mut Vec<Event>) {
        let Some(fd) = self.left_of(id) else { return };
        match gathered::receive(id, fd, pool, events) {
            Gathered::Data { full } => self.goes_on(id, full),
            Gathered::Nothing => self.goes_on(id, false),
            Gathered::Ended(ended) => events.push(self.receive_ended(id, ended)),
        }
    }

    /// The descriptor of one that was told of, unless it was cancelled meanwhile.
    fn left_of(&mut self, id: ConnId) -> Option<i32> {
        let slot = self.slot(id);
        (slot.id == Some(id) && slot.receive == Life::Told).then_some(slot.target.fd)
    }

    /// Where all room was filled there is more, most of the time: it need not be waited for.
    fn goes_on(&mut self, id: ConnId, full: bool) {
        match full {
            true => self.tell_soon(id),
            false => self.arm_receive(id),
        }
    }
}
