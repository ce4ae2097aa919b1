//! Socket addresses as the kernel writes them.

use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::os::fd::RawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// An address of any family, with its length.
#[derive(Clone, Copy, Debug)]
pub struct Address {
    storage: libc::sockaddr_storage,
    len: libc::socklen_t,
}

/// What an address says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Meaning {
    /// An IP address and port.
    Ip(SocketAddr),
    /// The path of a Unix socket, in bytes; an abstract name begins with a NUL.
    Path(Vec<u8>),
    /// A Unix socket without a name, or a family that is not ours.
    Unnamed,
}

impl Address {
    /// Room for the kernel to write an address into.
    pub fn empty() -> Self {
        // SAFETY: I10: all-zero is a valid address.
        Address { storage: unsafe { std::mem::zeroed() }, len: size_of::<libc::sockaddr_storage>() as libc::socklen_t }
    }

    /// Our end of a socket.
    pub fn of_socket(fd: RawFd) -> Option<Self> {
        // SAFETY: I10: the call fills in an address of our own, whose size it knows.
        Self::told(|address, len| unsafe { libc::getsockname(fd, address, len) })
    }

    /// The other end of a socket.
    pub fn of_peer(fd: RawFd) -> Option<Self> {
        // SAFETY: I10: the call fills in an address of our own, whose size it knows.
        Self::told(|address, len| unsafe { libc::getpeername(fd, address, len) })
    }

    fn told(ask: impl FnOnce(*mut libc::sockaddr, *mut libc::socklen_t) -> libc::c_int) -> Option<Self> {
        let mut told = Address::empty();
        let (address, len) = told.as_c_mut();
        (ask(address, len) == 0).then_some(told)
    }

    /// An address that lies in memory as the kernel wrote it.
    pub fn from_bytes(bytes: &[u8]) -> Self {
        let mut address = Address::empty();
        let len = bytes.len().min(size_of::<libc::sockaddr_storage>());
        // SAFETY: I10: plain bytes into plain data, no longer than it is.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), (&raw mut address.storage).cast(), len) };
        address.len = len as libc::socklen_t;
        address
    }

    /// The path of a Unix socket; `None` if it is too long.
    pub fn path(path: &Path) -> Option<Self> {
        let mut address = Address::empty();
        let bytes = path.as_os_str().as_bytes();
        // SAFETY: I10: `sockaddr_un` fits into the storage, by definition.
        let unix = unsafe { &mut *(&raw mut address.storage).cast::<libc::sockaddr_un>() };
        if bytes.len() >= unix.sun_path.len() {
            return None;
        }
        unix.sun_family = libc::AF_UNIX as libc::sa_family_t;
        for (to, from) in unix.sun_path.iter_mut().zip(bytes) {
            *to = libc::c_char::from_ne_bytes([*from]);
        }
        address.len = (std::mem::offset_of!(libc::sockaddr_un, sun_path) + bytes.len()) as libc::socklen_t;
        Some(address)
    }

    /// For the kernel: where it is, and how long.
    pub fn as_c(&self) -> (*const libc::sockaddr, libc::socklen_t) {
        ((&raw const self.storage).cast(), self.len)
    }

    /// For the kernel: where to write an address, and its length.
    pub fn as_c_mut(&mut self) -> (*mut libc::sockaddr, *mut libc::socklen_t) {
        ((&raw mut self.storage).cast(), &raw mut self.len)
    }

    /// What it says.
    pub fn meaning(&self) -> Meaning {
        // SAFETY: I10: the family tells which type the storage holds; all of them fit into it, by definition.
        unsafe {
            match i32::from(self.storage.ss_family) {
                libc::AF_INET => {
                    let v4 = &*(&raw const self.storage).cast::<libc::sockaddr_in>();
                    let ip = IpAddr::from(v4.sin_addr.s_addr.to_ne_bytes());
                    Meaning::Ip(SocketAddr::new(ip, u16::from_be(v4.sin_port)))
                }
                libc::AF_INET6 => {
                    let v6 = &*(&raw const self.storage).cast::<libc::sockaddr_in6>();
                    let port = u16::from_be(v6.sin6_port);
                    let flow = u32::from_be(v6.sin6_flowinfo);
                    let ip = v6.sin6_addr.s6_addr.into();
                    Meaning::Ip(SocketAddr::V6(SocketAddrV6::new(ip, port, flow, v6.sin6_scope_id)))
                }
                libc::AF_UNIX => {
                    let unix = &*(&raw const self.storage).cast::<libc::sockaddr_un>();
                    let len = (self.len as usize).saturating_sub(std::mem::offset_of!(libc::sockaddr_un, sun_path));
                    let path: Vec<u8> = unix.sun_path.iter().take(len).flat_map(|byte| byte.to_ne_bytes()).collect();
                    let named = path.first().is_some_and(|first| *first != 0);
                    let end = if named { path.iter().position(|byte| *byte == 0) } else { None };
                    match end.unwrap_or(path.len()) {
                        0 => Meaning::Unnamed,
                        end => Meaning::Path(path[..end].to_vec()),
                    }
                }
                _ => Meaning::Unnamed,
            }
        }
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        let mut made = Address::empty();
        // SAFETY: I10: the families' own types fit into the storage, by definition.
        let len = unsafe {
            match address {
                SocketAddr::V4(v4) => {
                    let target = &mut *(&raw mut made.storage).cast::<libc::sockaddr_in>();
                    target.sin_family = libc::AF_INET as libc::sa_family_t;
                    target.sin_port = v4.port().to_be();
                    target.sin_addr.s_addr = u32::from_ne_bytes(v4.ip().octets());
                    size_of::<libc::sockaddr_in>()
                }
                SocketAddr::V6(v6) => {
                    let target = &mut *(&raw mut made.storage).cast::<libc::sockaddr_in6>();
                    target.sin6_family = libc::AF_INET6 as libc::sa_family_t;
                    target.sin6_port = v6.port().to_be();
                    target.sin6_flowinfo = v6.flowinfo().to_be();
                    target.sin6_addr.s6_addr = v6.ip().octets();
                    target.sin6_scope_id = v6.scope_id();
                    size_of::<libc::sockaddr_in6>()
                }
            }
        };
        made.len = len as libc::socklen_t;
        made
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_survive_the_way_through_c() {
        for text in ["127.0.0.1:80", "[::1]:65535", "10.1.2.3:0", "[2001:db8::5]:443", "[fe80::1%7]:9"] {
            let address: SocketAddr = text.parse().unwrap();
            assert_eq!(Address::from(address).meaning(), Meaning::Ip(address));
        }
    }

    #[test]
    fn paths_survive_too() {
        let address = Address::path(Path::new("/tmp/a socket")).unwrap();
        assert_eq!(address.meaning(), Meaning::Path(b"/tmp/a socket".to_vec()));
        assert_eq!(Address::path(Path::new("")).unwrap().meaning(), Meaning::Unnamed);
        assert!(Address::path(Path::new(&"x".repeat(200))).is_none());
    }
}
