//! The system calls of an eventfd, without policy. The models (`models/`) put one of their own in its place.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Another descriptor of the same eventfd, for the side that waits.
pub type Waiter = OwnedFd;

/// A counter in the kernel, readable while it is not zero; nothing any more once it is closed. The lock is taken only
/// around a system call.
#[derive(Debug)]
pub struct EventFd(Mutex<Option<OwnedFd>>);

impl EventFd {
    /// Makes one (close-on-exec, non-blocking), empty.
    ///
    /// # Errors
    /// No descriptor was left.
    pub fn new() -> io::Result<Self> {
        // SAFETY: I10: no pointers; the result is checked.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: I4: a new descriptor that nobody else owns.
        Ok(EventFd(Mutex::new(Some(unsafe { OwnedFd::from_raw_fd(fd) }))))
    }

    /// Another descriptor of it.
    ///
    /// # Errors
    /// No descriptor was left, or it is closed.
    pub fn waiter(&self) -> io::Result<Waiter> {
        self.fd().as_ref().ok_or(io::ErrorKind::NotConnected)?.try_clone()
    }

    /// Closes it.
    pub fn close(&self) {
        self.fd().take();
    }

    fn fd(&self) -> MutexGuard<'_, Option<OwnedFd>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes it readable.
    pub fn ring(&self) {
        let Some(fd) = &*self.fd() else { return };
        let one = 1u64;
        // SAFETY: I10: writes 8 bytes of a local. It can only fail when the counter is full, and then it is readable.
        unsafe { libc::write(fd.as_raw_fd(), (&raw const one).cast(), 8) };
    }

    /// Empties it.
    pub fn empty(&self) {
        let Some(fd) = &*self.fd() else { return };
        let mut count = 0u64;
        // SAFETY: I10: reads 8 bytes into a local.
        unsafe { libc::read(fd.as_raw_fd(), (&raw mut count).cast(), 8) };
    }
}
