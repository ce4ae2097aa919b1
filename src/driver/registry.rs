//! Which descriptors of this process belong to a reactor, or were made for one.
//!
//! Descriptor numbers are used again, so a number alone proves nothing: what it named is remembered, by device and inode,
//! and compared before a number is closed, shut down or adopted.

use crate::base::token::ConnId;
use crate::driver::Io;
use crate::mail::command::Command;
use crate::mail::mailbox::Mailbox;
use std::collections::{HashMap, HashSet};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

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
    duplicates: HashMap<RawFd, Identity>,
    /// Sockets and ends of pipes that a reactor serves.
    pub(super) served: HashSet<(Identity, Abilities)>,
    /// Connections by number, for `signal_write_ready` and whoever names one.
    pub(super) connections: HashMap<RawFd, Served>,
    /// The same until the descriptor is closed: one that lingers is found by nobody, but still has its number.
    pub(super) holders: HashMap<RawFd, Served>,
    /// How many there have been.
    pub(super) connections_ever: u64,
    /// Pipes and terminals that were made non-blocking: how many descriptors of each are served, and the flags before.
    /// The flag belongs to what is open (an end of a pipe), not to the descriptor, so the last one puts it back.
    unblocked: HashMap<(Identity, Abilities), (usize, i32)>,
}

impl Registry {
    pub(super) fn unblock(&mut self, fd: RawFd, which: (Identity, Abilities)) {
        // SAFETY: no pointers.
        let flags = unsafe { libc::fcntl(fd, libc::F_GETFL) };
        self.unblocked.entry(which).or_insert((0, flags)).0 += 1;
        // SAFETY: no pointers.
        unsafe { libc::fcntl(fd, libc::F_SETFL, flags | libc::O_NONBLOCK) };
    }

    pub(super) fn block_again(&mut self, fd: Option<RawFd>, which: (Identity, Abilities)) {
        let Some((count, flags)) = self.unblocked.get_mut(&which) else { return };
        *count -= 1;
        if *count == 0 {
            if let Some(fd) = fd {
                // Whoever else holds it did not ask for non-blocking calls.
                // SAFETY: no pointers.
                unsafe { libc::fcntl(fd, libc::F_SETFL, *flags) };
            }
            self.unblocked.remove(&which);
        }
    }
}

/// A connection, as it is found by its number.
#[derive(Clone)]
pub struct Served {
    /// Of its context.
    pub mailbox: Arc<Mailbox>,
    /// What the context calls it.
    pub id: ConnId,
    /// No other connection of this VM ever has it.
    pub serial: u64,
    /// Where its protocol is. Whoever is attached to the interpreter of its context may take it for an object: the reactor
    /// is attached when it drops that, and has unregistered the connection before.
    pub protocol: usize,
}

impl Served {
    /// What tells it from all others, besides its number.
    pub fn handle(&self) -> (u64, u64) {
        (self.mailbox.serial, self.serial)
    }
}

static REGISTRY: LazyLock<Mutex<Registry>> = LazyLock::new(Mutex::default);

pub(super) fn registry() -> MutexGuard<'static, Registry> {
    REGISTRY.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(super) fn status(fd: RawFd) -> io::Result<libc::stat> {
    // SAFETY: `stat` is plain data, filled in by the call when it succeeds.
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
    // SAFETY: no pointers; the result is checked.
    let copy = unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 0) };
    if copy < 0 {
        return Err(io::Error::last_os_error());
    }
    is_new(copy);
    // SAFETY: a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(copy) })
}

/// The kernel has just given us the number: whoever had it before has closed it. If that was a connection, somebody else
/// has; its reactor is told before anybody is served under the number.
pub(super) fn is_new(fd: RawFd) {
    let mut registry = registry();
    registry.duplicates.remove(&fd);
    registry.connections.remove(&fd);
    let robbed = registry.holders.remove(&fd);
    drop(registry);
    if let Some(Served { mailbox, id, .. }) = robbed {
        // Refused, its thread ends, and with it the connection.
        let _ = mailbox.inbox.post(Command::Disown { id });
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
    // SAFETY: we made it and the user has not given it to anybody: it still names the same file.
    names(fd, made).then(|| unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The connection that `fd` is.
pub fn find(fd: RawFd) -> Option<Served> {
    registry().connections.get(&fd).cloned()
}
