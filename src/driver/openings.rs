//! What opens connections: accepts, and connects that were begun. The part that both drivers have in common; what differs is
//! how they hear that it is worth to look.
//!
//! An accept is a wait for somebody who connects, and then calls: an operation of io_uring would take whom nobody has counted.
//! Drivers that wait for one listening socket are woken one at a time, whoever has waited longest first, if they see to it that this
//! helps.

use crate::base::numbers::NumberMap;
use crate::base::token::ConnId;
use crate::driver::address::Address;
use crate::driver::syscalls::{check, errno_of};
use crate::driver::{Arrival, Opening, Outcome};
use std::collections::VecDeque;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicU64, Ordering};

/// Clients that gave up before they were accepted are passed over, so many at a time.
const PASSED_OVER_MAX: usize = 64;

/// A name for something that opens connections; nothing of this process ever has had it.
pub fn new_id() -> ConnId {
    static LAST: AtomicU64 = AtomicU64::new(0);
    ConnId::from_bits(LAST.fetch_add(1, Ordering::Relaxed) + 1)
}

/// What runs of a driver, and what it has accepted.
#[derive(Default)]
pub struct Openings {
    running: NumberMap<ConnId, (RawFd, Opening)>,
    arrivals: VecDeque<(ConnId, Arrival)>,
}

impl Openings {
    /// It is waited for from now on.
    pub fn begin(&mut self, id: ConnId, fd: RawFd, opening: Opening) {
        self.running.insert(id, (fd, opening));
    }

    /// It is waited for no more. Answers the descriptor, if it was.
    pub fn end(&mut self, id: ConnId) -> Option<RawFd> {
        self.running.remove(&id).map(|(fd, _)| fd)
    }

    /// What `id` waits for, and by which descriptor.
    pub fn get(&self, id: ConnId) -> Option<(RawFd, Opening)> {
        self.running.get(&id).copied()
    }

    /// All that are waited for.
    pub fn iter(&self) -> impl Iterator<Item = (ConnId, RawFd, Opening)> {
        self.running.iter().map(|(id, (fd, opening))| (*id, *fd, *opening))
    }

    /// The next connection that `id` has accepted.
    pub fn arrival(&mut self, id: ConnId) -> Option<Arrival> {
        let place = self.arrivals.iter().position(|(of, _)| *of == id)?;
        self.arrivals.remove(place).map(|(_, arrival)| arrival)
    }

    /// The kernel will not wait for it.
    pub fn failed(&mut self, id: ConnId, errno: i32) -> Option<Outcome> {
        let (_, opening) = self.running.remove(&id)?;
        Some(match opening {
            Opening::Accept { .. } => Outcome::AcceptFailed(errno),
            Opening::Connect => Outcome::Connected(errno),
        })
    }

    /// It is worth to look. Answers how it has ended; `None`: it is to be waited for again, or not at all.
    pub fn ready(&mut self, id: ConnId) -> Option<Outcome> {
        let (fd, opening) = self.get(id)?;
        let outcome = match opening {
            Opening::Connect => Outcome::Connected(connect_error(fd)),
            Opening::Accept { most, .. } => self.accept(id, fd, most)?,
        };
        self.running.remove(&id);
        Some(outcome)
    }

    fn accept(&mut self, id: ConnId, fd: RawFd, most: usize) -> Option<Outcome> {
        let mut accepted = 0;
        for _ in 0..most + PASSED_OVER_MAX {
            match accept_one(fd) {
                Ok(arrival) => {
                    accepted += 1;
                    self.arrivals.push_back((id, arrival));
                    if accepted == most {
                        break;
                    }
                }
                Err(error) => match errno_of(&error) {
                    libc::EAGAIN => break,
                    // A client gave up while it waited, or the network did; the next one may be there.
                    libc::ECONNABORTED
                    | libc::EINTR
                    | libc::EPROTO
                    | libc::ENETDOWN
                    | libc::ENOPROTOOPT
                    | libc::EHOSTDOWN
                    | libc::ENONET
                    | libc::EHOSTUNREACH
                    | libc::ENETUNREACH => {}
                    // What was accepted is told first: whoever tries again hears of it.
                    _ if accepted > 0 => break,
                    errno => return Some(Outcome::AcceptFailed(errno)),
                },
            }
        }
        // Others that wait for the same socket may have been faster.
        (accepted > 0).then_some(Outcome::Accepted(accepted as u32))
    }
}

/// How a connect has ended: 0, or the `errno`.
fn connect_error(fd: RawFd) -> i32 {
    let mut error = 0i32;
    let mut len = size_of::<i32>() as libc::socklen_t;
    // SAFETY: I10: reads an int into a local of that size.
    let code = unsafe { libc::getsockopt(fd, libc::SOL_SOCKET, libc::SO_ERROR, (&raw mut error).cast(), &raw mut len) };
    check(code).map_or_else(|refused| errno_of(&refused), |_| error)
}

fn accept_one(fd: RawFd) -> io::Result<Arrival> {
    let mut peer = Address::empty();
    let (address, len) = peer.as_c_mut();
    let flags = libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // Not the C library's, as in `syscalls`. SAFETY: I10: the call fills in an address of our own, whose size it knows; the
    // result is checked, and is then ours alone.
    let socket = unsafe {
        let accepted = check(libc::syscall(libc::SYS_accept4, fd, address, len, flags) as i32)?;
        OwnedFd::from_raw_fd(accepted)
    };
    Ok(Arrival { socket, peer })
}
