//! The descriptor that is watched for an event loop: it is polled anew in each wait, and so told of as long as it is ready.

#![forbid(unsafe_code)]

use super::Uring;
use crate::base::token::{ConnId, GENERATION_MASK, Kind, Token};
use crate::driver::syscalls::is_short;
use crate::driver::{Event, Outcome};
use io_uring::opcode;
use io_uring::types::Fd;
use std::io;
use std::os::fd::RawFd;

/// What is watched, if anything is.
#[derive(Clone, Copy, Default)]
pub(super) struct Watched {
    fd: Option<RawFd>,
    /// Which of all that were.
    serial: u32,
    is_polled: bool,
}

impl Watched {
    /// The name of its poll.
    pub(super) fn id(self) -> ConnId {
        ConnId { index: 0, generation: self.serial }
    }
}

impl Uring {
    pub(super) fn watch_instead(&mut self, fd: Option<RawFd>) {
        let before = self.watched;
        if before.is_polled {
            self.cancel(Kind::Watch, Kind::CancelOpening, before.id());
        }
        self.watched = Watched { fd, serial: (before.serial + 1) & GENERATION_MASK, is_polled: false };
    }

    /// Before a wait.
    pub(super) fn poll_watched(&mut self) {
        if let Watched { fd: Some(fd), is_polled: false, .. } = self.watched {
            self.watched.is_polled = true;
            let token = Token::new(Kind::Watch, self.watched.id());
            self.push(opcode::PollAdd::new(Fd(fd), libc::POLLIN as u32).build().user_data(token.0));
        }
    }

    /// The poll has ended.
    pub(super) fn watched_polled(&mut self, id: ConnId, result: i32) -> Option<Event> {
        // Of one that is watched no more, nobody hears.
        if id != self.watched.id() {
            return None;
        }
        self.watched.is_polled = false;
        if result < 0 {
            // For want of memory it is polled again in the next wait; what cannot be polled is forgotten.
            if !is_short(&io::Error::from_raw_os_error(-result)) {
                self.watched.fd = None;
            }
            return None;
        }
        Some(Event { id, outcome: Outcome::Watched })
    }
}
