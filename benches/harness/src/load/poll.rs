//! Epoll, as the load generator uses it: every socket once, edge-triggered, named by a number.

use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use std::time::Duration;

const EVENTS_MAX: usize = 1024;

pub(super) struct Poll {
    epoll: OwnedFd,
    events: Vec<epoll::Event>,
}

impl Poll {
    pub(super) fn new() -> Result<Poll, Errno> {
        Ok(Poll { epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?, events: Vec::with_capacity(EVENTS_MAX) })
    }

    /// Wakes once whenever bytes arrive, room to send returns after there was none, or the peer is done.
    pub(super) fn add(&self, socket: &OwnedFd, name: usize) -> Result<(), Errno> {
        self.add_for(socket, name, epoll::EventFlags::IN | epoll::EventFlags::OUT)
    }

    /// Wakes once whenever something arrives. Each datagram that is sent makes room when it is received: to hear of that
    /// would be to wake twice for each.
    pub(super) fn add_input(&self, socket: &OwnedFd, name: usize) -> Result<(), Errno> {
        self.add_for(socket, name, epoll::EventFlags::IN)
    }

    fn add_for(&self, socket: &OwnedFd, name: usize, interest: epoll::EventFlags) -> Result<(), Errno> {
        epoll::add(&self.epoll, socket, epoll::EventData::new_u64(name as u64), interest | epoll::EventFlags::ET)
    }

    pub(super) fn remove(&self, socket: &OwnedFd) -> Result<(), Errno> {
        epoll::delete(&self.epoll, socket)
    }

    /// Waits for events, at most for `timeout`, and says how many there are.
    pub(super) fn wait(&mut self, timeout: Duration) -> Result<usize, Errno> {
        self.events.clear();
        // A time that fits: it is SILENCE at most.
        let timeout = Timespec { tv_sec: timeout.as_secs() as i64, tv_nsec: i64::from(timeout.subsec_nanos()) };
        match epoll::wait(&self.epoll, spare_capacity(&mut self.events), Some(&timeout)) {
            Ok(_) | Err(Errno::INTR) => Ok(self.events.len()),
            Err(errno) => Err(errno),
        }
    }

    /// Whose event number `at` is, and whether there may be something to read.
    pub(super) fn event(&self, at: usize) -> (usize, bool) {
        let event = self.events[at];
        let (flags, data) = (event.flags, event.data);
        let quiet = flags == epoll::EventFlags::OUT;
        (data.u64() as usize, !quiet)
    }
}
