//! Receives from those that flood: by a call, a few buffers of each per turn, until there is no more.
//!
//! A multishot would take up to 32 buffers of each before anybody else is looked at. To submit one receive after the other, of
//! a buffer each, costs half as much again: each tells the peer of the room that it has made, and fills the buffer that has lain
//! for the longest time, while a call gets those that were given back just now, and are in the cache (docs/performance.md).

#![forbid(unsafe_code)]

use super::Uring;
use super::slot::Life;
use crate::base::token::ConnId;
use crate::buffer::Pool;
use crate::driver::Event;
use crate::driver::gathered::{self, Gathered};

/// So many of them have their turn between two looks at the others.
const FLOODING_PER_TURN: usize = 16;

impl Uring {
    /// The next wait receives from `id`.
    pub(super) fn receive_by_calls(&mut self, id: ConnId) {
        let slot = self.slot(id);
        slot.receive = Life::Called;
        if !std::mem::replace(&mut slot.among_flooding, true) {
            self.flooding.push_back(id);
        }
    }

    /// Receives from those whose turn it is.
    pub(super) fn receive_floods(&mut self, pool: &mut Pool, events: &mut Vec<Event>) {
        let mut left = FLOODING_PER_TURN;
        while left > 0
            && let Some(id) = self.flooding.pop_front()
        {
            let slot = self.slot(id);
            // Otherwise it is gone, or it was cancelled meanwhile.
            if slot.id == Some(id) {
                slot.among_flooding = false;
                if slot.receive == Life::Called {
                    self.receive_flood(id, pool, events);
                    left -= 1;
                }
            }
        }
    }

    fn receive_flood(&mut self, id: ConnId, pool: &mut Pool, events: &mut Vec<Event>) {
        let fd = self.slot(id).target.fd;
        let gathered = gathered::receive(id, fd, false, pool, events);
        self.slot(id).floods = matches!(gathered, Gathered::Data { full: true });
        match gathered {
            Gathered::Data { .. } => self.slot(id).receive = Life::Idle,
            Gathered::Ended(ended) => events.push(self.receive_ended(id, ended)),
            // Nothing is there, or no buffer: the ring's receive waits for both.
            Gathered::Nothing => self.arm_receive(id),
        }
    }
}
