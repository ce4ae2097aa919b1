//! Listening sockets: accepted in batches when the VM says that one is ready, and handed straight to the contexts.

use crate::beam::resource::Ref;
use crate::border::handle::ContextHandle;
use crate::driver::address::{Address, Meaning};
use crate::driver::descriptor::Descriptor;
use crate::driver::syscalls::check;
use crate::mail::command::{Command, Info};
use crate::mail::place::{Place, no_place};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// How a batch ended.
pub enum Rest {
    /// The queue may hold more.
    More,
    /// The queue is empty.
    Empty,
    /// No context takes connections any more: those who wait stay in the queue, for a context that will.
    Unwanted,
    /// `accept` failed.
    Failed(io::Error),
}

/// Opens a non-blocking listening socket with `SO_REUSEADDR`, and answers it with the port it got.
///
/// # Errors
/// Those of `socket`, `bind` and `listen`.
pub fn open(ip: IpAddr, port: u16, backlog: i32) -> io::Result<(OwnedFd, u16)> {
    let family = if ip.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    // SAFETY: I10: no pointers; the result is checked, and is then ours alone.
    let socket = unsafe {
        let fd = check(libc::socket(family, libc::SOCK_STREAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC, 0))?;
        OwnedFd::from_raw_fd(fd)
    };
    let fd = socket.as_raw_fd();
    let on = 1i32;
    let wanted = Address::from(SocketAddr::new(ip, port));
    let mut bound = Address::empty();
    // SAFETY: I10: pointers to locals with their sizes.
    unsafe {
        let size = size_of::<i32>() as libc::socklen_t;
        check(libc::setsockopt(fd, libc::SOL_SOCKET, libc::SO_REUSEADDR, (&raw const on).cast(), size))?;
        let (address, len) = wanted.as_c();
        check(libc::bind(fd, address, len))?;
        check(libc::listen(fd, backlog))?;
        let (address, len) = bound.as_c_mut();
        check(libc::getsockname(fd, address, len))?;
    }
    match bound.meaning() {
        Meaning::Ip(address) => Ok((socket, address.port())),
        _ => Ok((socket, port)),
    }
}

/// Accepts up to `max` connections and gives them to `contexts` in turn, the first one to `contexts[first]`.
/// Answers how many there were, and how the batch ended.
pub fn accept(socket: BorrowedFd<'_>, contexts: &[Ref<ContextHandle>], first: usize, max: usize) -> (usize, Rest) {
    if !contexts.iter().any(|handle| handle.mailbox.inbox.takes_connections()) {
        return (0, Rest::Unwanted);
    }
    let mut count = 0;
    while count < max {
        let (accepted, peer) = match accept_one(socket) {
            Ok(accepted) => accepted,
            Err(error) => match error.raw_os_error() {
                Some(libc::EAGAIN) => return (count, Rest::Empty),
                // The client gave up while it waited; the next one may be there.
                Some(libc::ECONNABORTED | libc::EINTR | libc::EPROTO) => continue,
                _ => return (count, Rest::Failed(error)),
            },
        };
        hand_over(contexts, first.wrapping_add(count), accepted, peer);
        count += 1;
    }
    (count, Rest::More)
}

/// Gives an accepted descriptor to the context whose turn it is or, where that does not take it, to the next that does.
/// One that nobody takes is closed.
fn hand_over(contexts: &[Ref<ContextHandle>], turn: usize, accepted: OwnedFd, peer: SocketAddr) {
    let Ok(mut descriptor) = Descriptor::accepted(accepted) else { return };
    let mut why = "no context takes connections now".to_owned();
    for offset in 0..contexts.len() {
        let ContextHandle { mailbox, max_connections, .. } = &*contexts[turn.wrapping_add(offset) % contexts.len()];
        let Some(place) = Place::take(&mailbox.stats, *max_connections) else {
            why = no_place(*max_connections);
            continue;
        };
        let posted = mailbox.inbox.post(Command::Adopt { descriptor, place, info: Info::Peer(peer) });
        let Err((_, Command::Adopt { descriptor: refused, .. })) = posted else { return };
        descriptor = refused;
    }
    contexts[turn % contexts.len()].mailbox.turned_away(&why);
}

fn accept_one(socket: BorrowedFd<'_>) -> io::Result<(OwnedFd, SocketAddr)> {
    let mut peer = Address::empty();
    let (address, len) = peer.as_c_mut();
    let flags = libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // SAFETY: I10: the call fills in an address of our own, whose size it knows; the result is checked, and is then ours
    // alone.
    let accepted = unsafe { OwnedFd::from_raw_fd(check(libc::accept4(socket.as_raw_fd(), address, len, flags))?) };
    match peer.meaning() {
        Meaning::Ip(address) => Ok((accepted, address)),
        _ => Ok((accepted, SocketAddr::from(([0, 0, 0, 0], 0)))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_in_use_is_an_error() {
        let (_socket, port) = open(IpAddr::from([127, 0, 0, 1]), 0, 16).unwrap();
        let error = open(IpAddr::from([127, 0, 0, 1]), port, 16).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    }
}
