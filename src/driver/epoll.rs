//! An epoll set, without policy: all of the epoll driver, and of the io_uring driver the ears.

use crate::base::ear::{Ear, Heard};
use crate::base::token::ConnId;
use crate::driver::Opening;
use crate::driver::syscalls::check;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

/// Descriptors reported per wait, so that commands and timers are never starved (I9); and so few that what they received is
/// still in the cache when it is answered (docs/performance.md).
const BATCH: usize = 16;

/// `epoll_event.u64` of the wake-up eventfd; connections have at most 56 bits.
const WAKE: u64 = u64::MAX;

/// Marks what opens connections: above the bits of its name.
const OPENING: u64 = 1 << 56;

/// And of a descriptor that is watched for somebody else.
const WATCHED: u64 = u64::MAX - 1;

/// Of a number for which nothing was taken in.
const NOBODY: u64 = u64::MAX - 2;

/// What is waited for.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Interest {
    /// Data, the end of file, or an error.
    pub read: bool,
    /// Room, or an error.
    pub write: bool,
    /// The end.
    pub ear: Ear,
}

impl Interest {
    fn events(self) -> u32 {
        let read = if self.read { libc::EPOLLIN as u32 } else { 0 };
        let write = if self.write { libc::EPOLLOUT as u32 } else { 0 };
        // That the peer is gone is told without being asked for.
        let ear = if self.ear == Ear::Input { libc::EPOLLRDHUP as u32 } else { 0 };
        read | write | ear
    }
}

/// What is there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Readiness {
    /// A read would not wait.
    pub read: bool,
    /// A write would not wait.
    pub write: bool,
    /// What can be heard.
    pub heard: Option<Heard>,
}

/// An epoll instance and the events of its last wait.
pub struct Set {
    epoll: OwnedFd,
    events: Vec<libc::epoll_event>,
    /// By their numbers, for whom descriptors were taken in last. The kernel goes by numbers: what somebody has closed, and whose
    /// number is another's by now, would be changed for that one (I4).
    owners: Vec<u64>,
}

impl Set {
    /// An empty set.
    ///
    /// # Errors
    /// No descriptor was left.
    pub fn new() -> io::Result<Self> {
        Self::with_room(BATCH)
    }

    /// An empty set, of which each wait reports so many descriptors.
    ///
    /// # Errors
    /// No descriptor was left.
    pub fn with_room(room: usize) -> io::Result<Self> {
        // SAFETY: I10: no pointers; the result is checked, and is then ours alone.
        let epoll = unsafe { OwnedFd::from_raw_fd(check(libc::epoll_create1(libc::EPOLL_CLOEXEC))?) };
        Ok(Set { epoll, events: vec![libc::epoll_event { events: 0, u64: 0 }; room], owners: Vec::new() })
    }

    /// Adds the wake-up eventfd.
    ///
    /// # Errors
    /// No memory.
    pub fn add_wake(&mut self, fd: RawFd) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_ADD, fd, libc::EPOLLIN as u32, WAKE)
    }

    /// Tells of input of `fd`, as long as there is some, and whatever becomes of it.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn watch(&mut self, fd: RawFd) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_ADD, fd, libc::EPOLLIN as u32, WATCHED)
    }

    /// Tells of it no more. One that is closed is gone already.
    pub fn unwatch(&mut self, fd: RawFd) {
        let _ = self.control(libc::EPOLL_CTL_DEL, fd, 0, WATCHED);
    }

    /// Tells when it is worth to look. Sets that wait to accept from one socket are told one at a time, of those whose thread
    /// waits: whoever was added first.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn add_opening(&mut self, fd: RawFd, id: ConnId, opening: Opening) -> io::Result<()> {
        let events = match opening {
            Opening::Accept { .. } => libc::EPOLLIN | libc::EPOLLEXCLUSIVE,
            Opening::Connect => libc::EPOLLOUT,
        };
        self.control(libc::EPOLL_CTL_ADD, fd, events as u32, OPENING | id.bits())
    }

    /// Tells of it no more. One that is closed is gone already.
    pub fn remove_opening(&mut self, fd: RawFd, id: ConnId) {
        let _ = self.control(libc::EPOLL_CTL_DEL, fd, 0, OPENING | id.bits());
    }

    fn control(&mut self, operation: i32, fd: RawFd, events: u32, data: u64) -> io::Result<()> {
        let place = usize::try_from(fd).map_err(|_| io::Error::from_raw_os_error(libc::EBADF))?;
        if operation != libc::EPOLL_CTL_ADD && self.owners.get(place) != Some(&data) {
            return Err(io::Error::from_raw_os_error(libc::ENOENT));
        }
        #[cfg(test)]
        if operation == libc::EPOLL_CTL_ADD && full::is_full() {
            return Err(io::Error::from_raw_os_error(libc::ENOSPC));
        }
        let mut event = libc::epoll_event { events, u64: data };
        // SAFETY: I10: a valid event on the stack.
        check(unsafe { libc::epoll_ctl(self.epoll.as_raw_fd(), operation, fd, &raw mut event) })?;
        if self.owners.len() <= place {
            self.owners.resize(place + 1, NOBODY);
        }
        self.owners[place] = if operation == libc::EPOLL_CTL_DEL { NOBODY } else { data };
        Ok(())
    }

    /// Makes the set hold `to` for `fd` where it held `from`.
    ///
    /// # Errors
    /// The kernel refused: no memory, or a descriptor that cannot be waited for.
    pub fn change(&mut self, fd: RawFd, id: ConnId, from: Interest, to: Interest) -> io::Result<()> {
        if from == to {
            return Ok(());
        }
        let none = Interest::default();
        let operation = if from == none {
            libc::EPOLL_CTL_ADD
        } else if to == none {
            libc::EPOLL_CTL_DEL
        } else {
            libc::EPOLL_CTL_MOD
        };
        self.control(operation, fd, to.events(), id.bits())
    }

    /// Makes the set hold `to` for `fd`, for which it holds something.
    ///
    /// # Errors
    /// It does not (`ENOENT`): the number names something else by now.
    pub fn modify(&mut self, fd: RawFd, id: ConnId, to: Interest) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_MOD, fd, to.events(), id.bits())
    }

    /// The same, where it holds that for somebody who is gone.
    ///
    /// # Errors
    /// It does not.
    pub fn take_over(&mut self, fd: RawFd, id: ConnId, to: Interest) -> io::Result<()> {
        if let Some(owner) = usize::try_from(fd).ok().and_then(|place| self.owners.get_mut(place)) {
            *owner = id.bits();
        }
        self.modify(fd, id, to)
    }

    /// Waits at most `timeout`; answers how many descriptors are ready.
    ///
    /// # Errors
    /// The set can no longer be used.
    pub fn wait(&mut self, timeout: Option<Duration>) -> io::Result<usize> {
        // Rounded up: a timeout that is rounded down to nothing would spin until it is due.
        let timeout_ms = match timeout {
            None => -1,
            Some(timeout) => i32::try_from(timeout.as_nanos().div_ceil(1_000_000)).unwrap_or(i32::MAX),
        };
        let room = self.events.len() as i32;
        // SAFETY: I10: room for as many events.
        let ready = unsafe { libc::epoll_wait(self.epoll.as_raw_fd(), self.events.as_mut_ptr(), room, timeout_ms) };
        match check(ready) {
            Ok(ready) => Ok(ready as usize),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(0),
            Err(error) => Err(error),
        }
    }

    /// Whether one of the descriptors that the last wait found ready is the one that is watched.
    pub fn is_watched(&self, index: usize) -> bool {
        self.events[index].u64 == WATCHED
    }

    /// What opens connections by one of the descriptors that the last wait found ready, if it is such a one.
    pub fn opening(&self, index: usize) -> Option<ConnId> {
        let data = self.events[index].u64;
        (data >> 56 == OPENING >> 56).then(|| ConnId::from_bits(data))
    }

    /// One of the descriptors that the last wait found ready; `None`: the wake-up.
    pub fn ready(&self, index: usize) -> Option<(ConnId, Readiness)> {
        let libc::epoll_event { events, u64: data } = self.events[index];
        if data == WAKE {
            return None;
        }
        let id = ConnId::from_bits(data);
        let has = |event: i32| events & event as u32 != 0;
        // A hang-up or an error ends whatever waits.
        let over = has(libc::EPOLLHUP) || has(libc::EPOLLERR);
        let heard = if has(libc::EPOLLERR) {
            Some(Heard::Failed)
        } else if has(libc::EPOLLHUP) {
            Some(Heard::HungUp)
        } else {
            has(libc::EPOLLRDHUP).then_some(Heard::InputEnds)
        };
        Some((id, Readiness { read: over || has(libc::EPOLLIN), write: over || has(libc::EPOLLOUT), heard }))
    }
}

impl AsRawFd for Set {
    fn as_raw_fd(&self) -> RawFd {
        self.epoll.as_raw_fd()
    }
}

/// For tests, a kernel that watches nothing more for the calling thread.
#[cfg(test)]
pub mod full {
    use std::cell::Cell;

    thread_local! {
        static IS_FULL: Cell<bool> = const { Cell::new(false) };
    }

    pub fn is_full() -> bool {
        IS_FULL.get()
    }

    /// From now on it does not, or does again.
    pub fn set(full: bool) {
        IS_FULL.set(full);
    }
}
