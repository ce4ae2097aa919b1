//! An eventfd, and the flag that keeps a burst of calls from writing it more than once.

#![cfg_attr(not(test), forbid(unsafe_code))]

use crate::base::eventfd::{EventFd, Waiter};
use crate::base::sync::atomic::{AtomicBool, Ordering};
use std::io;

/// Wakes a thread that waits for the eventfd to become readable.
#[derive(Debug)]
pub struct Wake {
    eventfd: EventFd,
    pending: AtomicBool,
}

impl Wake {
    /// Makes the eventfd.
    ///
    /// # Errors
    /// No descriptor was left.
    pub fn new() -> io::Result<Self> {
        Ok(Wake { eventfd: EventFd::new()?, pending: AtomicBool::new(false) })
    }

    /// What the side that waits reads.
    ///
    /// # Errors
    /// No descriptor was left, or it is closed.
    pub fn waiter(&self) -> io::Result<Waiter> {
        self.eventfd.waiter()
    }

    /// Closes the eventfd: nobody waits any more, although handles may live as long as Erlang terms do.
    pub fn close(&self) {
        self.eventfd.close();
    }

    /// Makes the eventfd readable, unless it is already. Call after publishing what the waiter shall find.
    pub fn signal(&self) {
        if !self.pending.swap(true, Ordering::AcqRel) {
            self.eventfd.ring();
        }
    }

    /// The waiter was woken and has emptied the eventfd, and looks for work after this.
    pub fn clear(&self) {
        // A swap, not a store: what the waiter looks at next must not be read before.
        self.pending.swap(false, Ordering::AcqRel);
    }

    /// As [`Wake::clear`], and empties the eventfd first: a signal between the two finds the flag set, and is seen.
    pub fn consume(&self) {
        self.eventfd.empty();
        self.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::{AsRawFd, OwnedFd};

    fn is_readable(fd: &OwnedFd) -> bool {
        let mut poll = libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one valid pollfd.
        unsafe { libc::poll(&raw mut poll, 1, 0) == 1 }
    }

    #[test]
    fn a_signal_is_seen_until_it_is_consumed() {
        let wake = Wake::new().unwrap();
        let waiter = wake.waiter().unwrap();
        assert!(!is_readable(&waiter));
        wake.signal();
        wake.signal();
        assert!(is_readable(&waiter));
        wake.consume();
        assert!(!is_readable(&waiter));
        wake.signal();
        assert!(is_readable(&waiter));
    }

    #[test]
    fn a_closed_one_can_be_signalled() {
        let wake = Wake::new().unwrap();
        wake.close();
        wake.signal();
        wake.consume();
        assert!(wake.waiter().is_err());
    }
}
