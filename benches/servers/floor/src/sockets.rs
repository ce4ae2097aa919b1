//! The sockets that a server begins with.

use rustix::net::{self, AddressFamily, SocketFlags, SocketType, sockopt};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;

/// Connections that the kernel keeps until they are accepted.
const BACKLOG: i32 = 4096;

/// A listening TCP socket on 127.0.0.1, and its port. What it accepts inherits `TCP_NODELAY`.
pub fn listen(port: u16) -> io::Result<(OwnedFd, u16)> {
    let socket = bind(SocketType::STREAM, port)?;
    sockopt::set_tcp_nodelay(&socket, true)?;
    net::listen(&socket, BACKLOG)?;
    with_port(socket)
}

/// A UDP socket on 127.0.0.1, and its port.
pub fn bind_udp(port: u16) -> io::Result<(OwnedFd, u16)> {
    with_port(bind(SocketType::DGRAM, port)?)
}

fn bind(kind: SocketType, port: u16) -> io::Result<OwnedFd> {
    let socket = net::socket_with(AddressFamily::INET, kind, SocketFlags::CLOEXEC, None)?;
    sockopt::set_socket_reuseport(&socket, true)?;
    net::bind(&socket, &SocketAddr::from((Ipv4Addr::LOCALHOST, port)))?;
    Ok(socket)
}

fn with_port(socket: OwnedFd) -> io::Result<(OwnedFd, u16)> {
    let address = SocketAddr::try_from(net::getsockname(&socket)?)?;
    Ok((socket, address.port()))
}

/// Reads what is there of standard input, and answers whether it has ended.
pub fn input_ended() -> bool {
    let mut buffer = [0u8; 4096];
    match rustix::io::read(rustix::stdio::stdin(), &mut buffer) {
        Ok(0) => true,
        Ok(_) | Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => false,
        Err(_) => true,
    }
}
