//! Accepts and connects: waits for readiness, then calls (`driver::openings`).

#![forbid(unsafe_code)]

use super::Uring;
use crate::base::token::{ConnId, Kind, Token};
use crate::driver::{Event, Opening, Queue};
use io_uring::opcode;
use io_uring::types::Fd;
use std::os::fd::RawFd;
use std::time::Duration;

/// A cancel misses an operation that is just completing; the next one does not.
const CANCELS_MAX: usize = 8;

impl Uring {
    /// A poll that is exclusive stands in the queue of those that wait for the socket, and leaves it when it is woken.
    pub(super) fn poll_opening(&mut self, id: ConnId, fd: RawFd, opening: Opening) {
        let events = match opening {
            Opening::Accept { queue: Queue::Relayed, .. } => libc::POLLIN as u32 | libc::EPOLLEXCLUSIVE as u32,
            // A poll takes the wake-up along, also while its thread is busy, or its ring is being closed.
            Opening::Accept { .. } => libc::POLLIN as u32,
            Opening::Connect => libc::POLLOUT as u32,
        };
        self.push(opcode::PollAdd::new(Fd(fd), events).build().user_data(Token::new(Kind::Opening, id).0));
    }

    /// It is worth to look, or the wait failed. One that was stopped, nobody is told of.
    pub(super) fn opening_polled(&mut self, id: ConnId, result: i32) -> Option<Event> {
        let (fd, opening) = self.openings.get(id)?;
        let ended = if result < 0 { self.openings.failed(id, -result) } else { self.openings.ready(id) };
        if ended.is_none() {
            self.poll_opening(id, fd, opening);
        }
        ended.map(|outcome| Event { id, outcome })
    }

    /// The kernel lets go of the descriptor before this returns: completions that come meanwhile wait for the next wait.
    pub(super) fn end_opening(&mut self, id: ConnId) {
        if self.openings.end(id).is_none() {
            return;
        }
        let token = Token::new(Kind::Opening, id).0;
        for _ in 0..CANCELS_MAX {
            self.cancel(Kind::Opening, Kind::CancelOpening, id);
            self.push_backlog();
            // Should the ring be broken, the next wait says so.
            let _ = self.enter(0, Some(Duration::ZERO));
            let before = self.early.len();
            let arrived: Vec<_> = self.ring.completion().collect();
            self.early.extend(arrived);
            if self.early.range(before..).any(|entry| entry.user_data() == token) {
                break;
            }
        }
    }
}
