//! Listening sockets: accepted in batches when the VM says that one is ready, and handed straight to the contexts.

use crate::descriptors::{Descriptor, How};
use crate::mailbox::{Command, Parcel, Place};
use crate::resource::ContextHandle;
use rustler::ResourceArc;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// How a batch ended.
pub enum Rest {
    /// The queue may hold more.
    More,
    /// The queue is empty.
    Empty,
    /// `accept` failed.
    Failed(io::Error),
}

fn check(result: i32) -> io::Result<i32> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Opens a non-blocking listening socket with `SO_REUSEADDR`, and answers it with the port it got.
///
/// # Errors
/// Those of `socket`, `bind` and `listen`.
pub fn open(ip: IpAddr, port: u16, backlog: i32) -> io::Result<(OwnedFd, u16)> {
    let family = if ip.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    // SAFETY: no pointers; the result is checked, and is then ours alone.
    let socket = unsafe {
        let fd = check(libc::socket(family, libc::SOCK_STREAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC, 0))?;
        OwnedFd::from_raw_fd(fd)
    };
    let fd = socket.as_raw_fd();
    let on = 1i32;
    let (mut address, len) = encode(SocketAddr::new(ip, port));
    // SAFETY: pointers to locals with their sizes.
    unsafe {
        let size = size_of::<i32>() as libc::socklen_t;
        check(libc::setsockopt(fd, libc::SOL_SOCKET, libc::SO_REUSEADDR, (&raw const on).cast(), size))?;
        check(libc::bind(fd, (&raw const address).cast(), len))?;
        check(libc::listen(fd, backlog))?;
        let mut len = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
        check(libc::getsockname(fd, (&raw mut address).cast(), &raw mut len))?;
    }
    Ok((socket, decode(&address).map_or(port, |address| address.port())))
}

/// Accepts up to `max` connections and gives them to `contexts` in turn, the first one to `contexts[first]`.
/// Answers how many were taken, how many refused, and how the batch ended.
pub fn accept(
    socket: BorrowedFd<'_>,
    contexts: &[ResourceArc<ContextHandle>],
    first: usize,
    max: usize,
    info: impl Fn(SocketAddr) -> Parcel,
) -> (usize, usize, Rest) {
    let (mut taken, mut refused) = (0, 0);
    while taken + refused < max {
        let (fd, peer) = match accept_one(socket) {
            Ok(accepted) => accepted,
            Err(error) => match error.raw_os_error() {
                Some(libc::EAGAIN) => return (taken, refused, Rest::Empty),
                // The client gave up while it waited; the next one may be there.
                Some(libc::ECONNABORTED | libc::EINTR | libc::EPROTO) => continue,
                _ => return (taken, refused, Rest::Failed(error)),
            },
        };
        let handle = &contexts[(first + taken + refused) % contexts.len()];
        if hand_over(handle, fd, || info(peer)).is_some() {
            taken += 1;
        } else {
            refused += 1;
        }
    }
    (taken, refused, Rest::More)
}

/// Gives an accepted descriptor to a context; one that is refused is closed.
fn hand_over(handle: &ContextHandle, fd: RawFd, info: impl FnOnce() -> Parcel) -> Option<()> {
    let descriptor = Descriptor::claim(fd, How::Adopt).ok()?;
    let place = Place::take(&handle.mailbox, handle.max_connections)?;
    handle.mailbox.post(Command::Adopt { descriptor, place, info: info() }).ok()
}

fn accept_one(socket: BorrowedFd<'_>) -> io::Result<(RawFd, SocketAddr)> {
    // SAFETY: an all-zero address is valid, and filled in by the call, which knows its size.
    unsafe {
        let mut address: libc::sockaddr_storage = std::mem::zeroed();
        let mut len = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
        let flags = libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
        let fd = check(libc::accept4(socket.as_raw_fd(), (&raw mut address).cast(), &raw mut len, flags))?;
        Ok((fd, decode(&address).unwrap_or(SocketAddr::from(([0, 0, 0, 0], 0)))))
    }
}

fn encode(address: SocketAddr) -> (libc::sockaddr_storage, libc::socklen_t) {
    // SAFETY: all-zero is a valid address; the families' own types fit into `sockaddr_storage`, by definition.
    unsafe {
        let mut storage: libc::sockaddr_storage = std::mem::zeroed();
        let len = match address {
            SocketAddr::V4(v4) => {
                let target = &mut *(&raw mut storage).cast::<libc::sockaddr_in>();
                target.sin_family = libc::AF_INET as libc::sa_family_t;
                target.sin_port = v4.port().to_be();
                target.sin_addr.s_addr = u32::from_ne_bytes(v4.ip().octets());
                size_of::<libc::sockaddr_in>()
            }
            SocketAddr::V6(v6) => {
                let target = &mut *(&raw mut storage).cast::<libc::sockaddr_in6>();
                target.sin6_family = libc::AF_INET6 as libc::sa_family_t;
                target.sin6_port = v6.port().to_be();
                target.sin6_addr.s6_addr = v6.ip().octets();
                target.sin6_scope_id = v6.scope_id();
                size_of::<libc::sockaddr_in6>()
            }
        };
        (storage, len as libc::socklen_t)
    }
}

fn decode(address: &libc::sockaddr_storage) -> Option<SocketAddr> {
    // SAFETY: the family tells which type the storage holds.
    unsafe {
        match i32::from(address.ss_family) {
            libc::AF_INET => {
                let v4 = &*(&raw const *address).cast::<libc::sockaddr_in>();
                let ip = v4.sin_addr.s_addr.to_ne_bytes();
                Some(SocketAddr::new(IpAddr::from(ip), u16::from_be(v4.sin_port)))
            }
            libc::AF_INET6 => {
                let v6 = &*(&raw const *address).cast::<libc::sockaddr_in6>();
                Some(SocketAddr::new(IpAddr::from(v6.sin6_addr.s6_addr), u16::from_be(v6.sin6_port)))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_survive_the_way_through_c() {
        for text in ["127.0.0.1:80", "[::1]:65535", "10.1.2.3:0", "[2001:db8::5]:443"] {
            let address: SocketAddr = text.parse().unwrap();
            assert_eq!(decode(&encode(address).0), Some(address));
        }
    }

    #[test]
    fn a_port_in_use_is_an_error() {
        let (_socket, port) = open(IpAddr::from([127, 0, 0, 1]), 0, 16).unwrap();
        let error = open(IpAddr::from([127, 0, 0, 1]), port, 16).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    }
}
