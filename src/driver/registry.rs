//! Which descriptors of this process belong to a reactor, or were made for one.
//!
//! Descriptor numbers are used again, so a number alone proves nothing: what it named is remembered, by device and inode,
//! and compared before a number is closed, shut down or adopted.

use crate::base::numbers::{NumberMap, NumberSet};
use crate::driver::Io;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

/// What a descriptor can do.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Abilities {
    /// The calls it understands.
    pub io: Io,
    /// Whether data can arrive.
    pub readable: bool,
    /// Whether data can leave.
    pub writable: bool,
}

/// What a descriptor names: device and inode. No two things that are open share it.
pub type Identity = (u64, u64);

#[derive(Default)]
pub(super) struct Registry {
    /// Duplicates that `dup_fd` made and nobody has handed over yet.
    duplicates: NumberMap<RawFd, Identity>,
    /// Sockets and ends of pipes that a reactor serves.
    pub(super) served: NumberSet<(Identity, Abilities)>,
    /// Who is told when somebody else has closed a number that is theirs, until they close it.
    pub(super) holders: NumberMap<RawFd, Holder>,
    /// How many there have been.
    pub(super) holders_ever: u64,
    /// Pipes and terminals that were made non-blocking: how many descriptors of each are served, and the flags before.
    /// The flag belongs to what is open (an end of a pipe), not to the descriptor, so the last one puts it back.
    unblocked: NumberMap<(Identity, Abilities), (usize, i32)>,
}

impl Registry {
    pub(super) fn unblock(&mut self, fd: RawFd, which: (Identity, Abilities)) {
        // SAFETY: I10: no pointers.
        let flags = unsafe { libc::fcntl(fd, libc::F_GETFL) };
        self.unblocked.entry(which).or_insert((0, flags)).0 += 1;
        // SAFETY: I10: no pointers.
        unsafe { libc::fcntl(fd, libc::F_SETFL, flags | libc::O_NONBLOCK) };
    }

    pub(super) fn block_again(&mut self, fd: Option<RawFd>, which: (Identity, Abilities)) {
        let Some((count, flags)) = self.unblocked.get_mut(&which) else { return };
        *count -= 1;
        if *count == 0 {
            if let Some(fd) = fd {
                // Whoever else holds it did not ask for non-blocking calls.
                // SAFETY: I10: no pointers.
                unsafe { libc::fcntl(fd, libc::F_SETFL, *flags) };
            }
            self.unblocked.remove(&which);
        }
    }
}

/// Whoever holds a number, and what is done when that has been taken away.
pub(super) struct Holder {
    /// Of all that ever were.
    pub(super) serial: u64,
    /// What the number names for them.
    pub(super) identity: Identity,
    pub(super) robbed: Box<dyn FnOnce() + Send>,
}

static REGISTRY: LazyLock<Mutex<Registry>> = LazyLock::new(Mutex::default);

pub(super) fn registry() -> MutexGuard<'static, Registry> {
    REGISTRY.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(super) fn status(fd: RawFd) -> io::Result<libc::stat> {
    // SAFETY: I10: `stat` is plain data, filled in by the call when it succeeds.
    unsafe {
        let mut stat = std::mem::zeroed();
        if libc::fstat(fd, &raw mut stat) < 0 { Err(io::Error::last_os_error()) } else { Ok(stat) }
    }
}

pub(super) fn identity(stat: &libc::stat) -> Identity {
    (stat.st_dev, stat.st_ino)
}

/// Duplicates `fd` with close-on-exec.
///
/// # Errors
/// It is not open, or no descriptor was left.
pub fn duplicate(fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: I10: no pointers; the result is checked.
    let copy = unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 0) };
    if copy < 0 {
        return Err(io::Error::last_os_error());
    }
    is_new(copy);
    // SAFETY: I4: a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(copy) })
}

/// The kernel has just given us the number: whoever had it before has closed it. If somebody holds it, somebody else has;
/// the holder is told before anybody is served under the number.
pub(super) fn is_new(fd: RawFd) {
    let mut registry = registry();
    registry.duplicates.remove(&fd);
    let robbed = registry.holders.remove(&fd);
    drop(registry);
    if let Some(holder) = robbed {
        (holder.robbed)();
    }
}

/// Whether `fd` still names what it named.
pub(super) fn names(fd: RawFd, what: Identity) -> bool {
    status(fd).is_ok_and(|stat| identity(&stat) == what)
}

/// Duplicates `fd` for the user, and remembers the number so that a handoff adopts it.
///
/// # Errors
/// It is not open, or no descriptor was left.
pub fn duplicate_for_user(fd: RawFd) -> io::Result<RawFd> {
    let copy = duplicate(fd)?;
    let stat = status(copy.as_raw_fd())?;
    let number = copy.into_raw_fd();
    registry().duplicates.insert(number, identity(&stat));
    Ok(number)
}

/// Takes `fd` out of the duplicates, if it is still the one that was made for the user.
pub fn take_duplicate(fd: RawFd) -> Option<OwnedFd> {
    let made = registry().duplicates.remove(&fd)?;
    // SAFETY: I4: we made it and the user has not given it to anybody: it still names the same file.
    names(fd, made).then(|| unsafe { OwnedFd::from_raw_fd(fd) })
}
