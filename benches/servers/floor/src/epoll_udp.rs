//! Datagram echo over epoll: whatever waits is received in one call and sent back in one call.

use crate::sockets;
use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::io::Errno;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

const STDIN: u64 = 0;
const SOCKET: u64 = 1;

/// Datagrams per call.
const BATCH: usize = 64;
/// No datagram over IPv4 is longer.
const DATAGRAM_BYTES: usize = 65536;

/// Room for a batch of datagrams. The headers point into the other two, which therefore never move.
struct Batch {
    headers: Box<[libc::mmsghdr]>,
    vectors: Box<[libc::iovec]>,
    names: Box<[libc::sockaddr_in]>,
    _data: Box<[u8]>,
}

impl Batch {
    fn new() -> Self {
        let mut data = vec![0u8; BATCH * DATAGRAM_BYTES].into_boxed_slice();
        // SAFETY: all-zero is a valid address and a valid header.
        let (mut names, mut headers): (Box<[libc::sockaddr_in]>, Box<[libc::mmsghdr]>) =
            unsafe { (Box::new([std::mem::zeroed(); BATCH]), Box::new([std::mem::zeroed(); BATCH])) };
        let mut vectors: Box<[libc::iovec]> = data
            .chunks_exact_mut(DATAGRAM_BYTES)
            .map(|part| libc::iovec { iov_base: part.as_mut_ptr().cast(), iov_len: part.len() })
            .collect();
        for (index, header) in headers.iter_mut().enumerate() {
            header.msg_hdr.msg_iov = &raw mut vectors[index];
            header.msg_hdr.msg_iovlen = 1;
            header.msg_hdr.msg_name = (&raw mut names[index]).cast();
        }
        Batch { headers, vectors, names, _data: data }
    }

    /// Receives what waits, without waiting, and answers how many datagrams that is.
    fn receive(&mut self, socket: &OwnedFd) -> io::Result<usize> {
        for (header, vector) in self.headers.iter_mut().zip(&mut self.vectors) {
            header.msg_hdr.msg_namelen = size_of_val(&self.names[0]) as libc::socklen_t;
            vector.iov_len = DATAGRAM_BYTES;
        }
        let headers = self.headers.as_mut_ptr();
        // SAFETY: BATCH headers, each with room for an address and a datagram, as `new` made them.
        let count = unsafe {
            libc::recvmmsg(socket.as_raw_fd(), headers, BATCH as u32, libc::MSG_DONTWAIT as _, std::ptr::null_mut())
        };
        if count >= 0 {
            return Ok(count as usize);
        }
        let error = io::Error::last_os_error();
        match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted | io::ErrorKind::ConnectionRefused => Ok(0),
            _ => Err(error),
        }
    }

    /// Sends the first `count` datagrams back to where they came from.
    fn send_back(&mut self, socket: &OwnedFd, count: usize) -> io::Result<()> {
        for (header, vector) in self.headers.iter().zip(&mut self.vectors).take(count) {
            vector.iov_len = header.msg_len as usize;
        }
        let mut done = 0;
        while done < count {
            let headers = self.headers[done..].as_mut_ptr();
            // SAFETY: `count - done` headers of received datagrams. The call waits where there is no room.
            let sent = unsafe { libc::sendmmsg(socket.as_raw_fd(), headers, (count - done) as u32, 0) };
            if sent < 0 {
                let error = io::Error::last_os_error();
                match error.kind() {
                    io::ErrorKind::Interrupted => {}
                    // An earlier datagram was refused; this one is sent on the next try.
                    io::ErrorKind::ConnectionRefused => {}
                    _ => return Err(error),
                }
            }
            done += sent.max(0) as usize;
        }
        Ok(())
    }
}

/// Serves until standard input ends.
///
/// # Errors
/// The socket or the epoll instance failed.
pub fn serve(socket: OwnedFd) -> io::Result<()> {
    let epoll = epoll::create(CreateFlags::CLOEXEC)?;
    epoll::add(&epoll, &socket, EventData::new_u64(SOCKET), EventFlags::IN)?;
    if epoll::add(&epoll, rustix::stdio::stdin(), EventData::new_u64(STDIN), EventFlags::IN) == Err(Errno::PERM) {
        return Ok(());
    }
    let mut batch = Batch::new();
    let mut events = Vec::with_capacity(2);
    loop {
        events.clear();
        match epoll::wait(&epoll, spare_capacity(&mut events), None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        for event in events.drain(..) {
            if event.data.u64() == STDIN {
                if sockets::input_ended() {
                    return Ok(());
                }
            } else {
                let count = batch.receive(&socket)?;
                batch.send_back(&socket, count)?;
            }
        }
    }
}
