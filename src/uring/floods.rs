//! Receives from those that flood: by a call, a few buffers of each per turn, until there is no more.
//!
//! A multishot would take up to 32 buffers of each before anybody else is looked at. To submit one receive after the other, of
//! a buffer each, costs half as much again: each tells the peer of the room that it has made, and fills the buffer that has lain
//! for the longest time, while a call gets those that were given back just now, and are in the cache (docs/performance.md).

use super::Uring;
use super::slot::Life;
use crate::base::config::BYTES_PER_TURN;
use crate::base::token::ConnId;
use crate::buffer::Pool;
use crate::driver::{Event, Outcome, syscalls};
use std::ptr;

/// So many of them have their turn between two looks at the others.
const FLOODING_PER_TURN: usize = 16;

/// However small the buffers are.
const BUFFERS_MAX: usize = 32;

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
        let mut buffers = [0; BUFFERS_MAX];
        let mut vectors = [libc::iovec { iov_base: ptr::null_mut(), iov_len: pool.capacity() }; BUFFERS_MAX];
        let mut count = 0;
        while count < (BYTES_PER_TURN / pool.capacity()).clamp(1, BUFFERS_MAX)
            && let Some((buffer, address)) = pool.post()
        {
            pool.reap(buffer);
            (buffers[count], vectors[count].iov_base) = (buffer, address.cast());
            count += 1;
        }
        let outcome = match count {
            0 => None,
            // SAFETY: I2, kept here: the slots of the pool are ours, and each has room for its capacity.
            _ => unsafe { syscalls::receive_gathered(self.slot(id).target.fd, buffers[0], &mut vectors[..count]) },
        };
        let len = if let Some(Outcome::Received { len, .. }) = outcome { len as usize } else { 0 };
        let used = len.div_ceil(pool.capacity());
        buffers[used..count].iter().rev().for_each(|buffer| pool.release(*buffer));
        self.slot(id).floods = len > 0 && len == count * pool.capacity();
        match outcome {
            Some(Outcome::Received { .. }) => {
                self.slot(id).receive = Life::Idle;
                events.extend(buffers[..used].iter().enumerate().map(|(nth, buffer)| {
                    let len = (len - nth * pool.capacity()).min(pool.capacity()) as u32;
                    Event { id, outcome: Outcome::Received { buffer: *buffer, len, more: nth + 1 < used } }
                }));
            }
            Some(ended) => events.push(self.receive_ended(id, ended)),
            // Nothing is there, or no buffer: the ring's receive waits for both.
            None => self.arm_receive(id),
        }
    }
}
