//! An eventfd, and the flag that keeps a burst of calls from writing it more than once.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Wakes a thread that waits for the eventfd to become readable.
#[derive(Debug)]
pub struct Wake {
    /// Gone once nobody waits any more. The lock is taken only around a system call.
    fd: Mutex<Option<OwnedFd>>,
    pending: AtomicBool,
}

impl Wake {
    /// Makes the eventfd (close-on-exec, non-blocking).
    ///
    /// # Errors
    /// No descriptor was left.
    pub fn new() -> io::Result<Self> {
        // SAFETY: no pointers; the result is checked.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a new descriptor that nobody else owns.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Wake { fd: Mutex::new(Some(fd)), pending: AtomicBool::new(false) })
    }

    /// Another descriptor of the same eventfd, for the side that waits.
    ///
    /// # Errors
    /// No descriptor was left, or it is closed.
    pub fn waiter(&self) -> io::Result<OwnedFd> {
        self.fd().as_ref().ok_or(io::ErrorKind::NotConnected)?.try_clone()
    }

    /// Closes the eventfd: nobody waits any more, although handles may live as long as Erlang terms do.
    pub fn close(&self) {
        self.fd().take();
    }

    fn fd(&self) -> MutexGuard<'_, Option<OwnedFd>> {
        self.fd.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the eventfd readable, unless it is already. Call after publishing what the waiter shall find.
    pub fn signal(&self) {
        if !self.pending.swap(true, Ordering::AcqRel)
            && let Some(fd) = &*self.fd()
        {
            let one = 1u64;
            // SAFETY: writes 8 bytes of a local. It can only fail when the counter is full, and then it is readable.
            unsafe { libc::write(fd.as_raw_fd(), (&raw const one).cast(), 8) };
        }
    }

    /// The waiter was woken, and looks for work after this.
    pub fn clear(&self) {
        // A swap, not a store: what the waiter looks at next must not be read before.
        self.pending.swap(false, Ordering::AcqRel);
    }

    /// As [`Wake::clear`], and empties the eventfd.
    pub fn consume(&self) {
        if let Some(fd) = &*self.fd() {
            let mut count = 0u64;
            // SAFETY: reads 8 bytes into a local.
            unsafe { libc::read(fd.as_raw_fd(), (&raw mut count).cast(), 8) };
        }
        self.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
