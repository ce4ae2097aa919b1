//! Opening connections: many, without waiting for each, and without running out of ports.

use super::poll::Poll;
use super::{Fault, SILENCE};
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, connect, socket_with, sockopt};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Instant;

/// Connections that are being made at the same time: below the backlog of every server, so that no SYN is lost.
const MAKING_MAX: usize = 64;

/// Loopback addresses to connect from. A port stays taken for a minute after a connection from it was closed, and one
/// address has 28 000: each connection takes the next address.
#[derive(Default)]
pub(super) struct Sources {
    next: u8,
}

impl Sources {
    fn next_for(&mut self, target: SocketAddr) -> Option<SocketAddr> {
        if target.ip() != IpAddr::V4(Ipv4Addr::LOCALHOST) {
            return None;
        }
        self.next = self.next % 250 + 1;
        Some(SocketAddr::from(([127, 0, 1, self.next], 0)))
    }
}

/// A socket that connects to `target`; it is writable when it has.
pub(super) fn begin(target: SocketAddr, sources: &mut Sources) -> Result<OwnedFd, (&'static str, Errno)> {
    let socket = new_socket(target, SocketType::STREAM).map_err(|errno| ("socket", errno))?;
    sockopt::set_tcp_nodelay(&socket, true).map_err(|errno| ("TCP_NODELAY", errno))?;
    if let Some(source) = sources.next_for(target) {
        bind(&socket, &source).map_err(|errno| ("bind", errno))?;
    }
    match connect(&socket, &target) {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(socket),
        Err(errno) => Err(("connect", errno)),
    }
}

/// A non-blocking socket of the family of `target`.
pub(super) fn new_socket(target: SocketAddr, kind: SocketType) -> Result<OwnedFd, Errno> {
    let family = if target.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    socket_with(family, kind, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC, None)
}

/// Whether the attempt to connect has succeeded.
pub(super) fn result(socket: &OwnedFd) -> Result<(), Errno> {
    sockopt::socket_error(socket)?
}

/// `count` connections to `target`.
pub(super) fn all(target: SocketAddr, count: usize, sources: &mut Sources) -> Result<Vec<OwnedFd>, Fault> {
    let mut sockets = Vec::with_capacity(count);
    let mut made = 0;
    let mut poll = Poll::new().map_err(|errno| Fault::failed(0, "epoll_create", errno))?;
    let mut progress = Instant::now();
    while made < count {
        while sockets.len() < count && sockets.len() - made < MAKING_MAX {
            let connection = sockets.len();
            let socket = begin(target, sources).map_err(|(doing, errno)| Fault::failed(connection, doing, errno))?;
            poll.add(&socket, connection).map_err(|errno| Fault::failed(connection, "epoll_ctl", errno))?;
            sockets.push(socket);
        }
        let events = poll.wait(SILENCE).map_err(|errno| Fault::failed(made, "epoll_wait", errno))?;
        for at in 0..events {
            let (connection, _) = poll.event(at);
            result(&sockets[connection]).map_err(|errno| Fault::failed(connection, "connect", errno))?;
            // Whatever else happens on it must not count as another connection.
            poll.remove(&sockets[connection]).map_err(|errno| Fault::failed(connection, "epoll_ctl", errno))?;
            made += 1;
            progress = Instant::now();
        }
        if progress.elapsed() >= SILENCE {
            return Err(Fault::Silent { doing: "connecting", waiting: count - made, connections: count });
        }
    }
    Ok(sockets)
}
