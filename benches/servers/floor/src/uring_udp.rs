//! Datagram echo over io_uring: one multishot receive; each datagram is sent from the buffer that it came in.

use crate::ring::{GROUP, Kind, Ring, parse, token};
use crate::sockets;
use io_uring::types::{Fd, RecvMsgOut};
use io_uring::{cqueue, opcode};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

const BUFFERS: u16 = 1024;
/// The longest datagram, its sender, and the kernel's header.
const BUFFER_BYTES: usize = 65536 + 64;

/// What a send needs until it has ended, one for each buffer.
#[derive(Clone, Copy)]
struct Outgoing {
    message: libc::msghdr,
    vector: libc::iovec,
}

struct Server {
    ring: Ring,
    socket: OwnedFd,
    /// What a received datagram consists of: boxed, because the kernel keeps its address until the submission.
    shape: Box<libc::msghdr>,
    outgoing: Box<[Outgoing]>,
}

/// Serves until standard input ends.
///
/// # Errors
/// The socket or the ring failed.
pub fn serve(socket: OwnedFd) -> io::Result<()> {
    // SAFETY: all-zero is a valid `msghdr` and a valid `iovec`.
    let (mut shape, nothing): (Box<libc::msghdr>, Outgoing) =
        unsafe { (Box::new(std::mem::zeroed()), std::mem::zeroed()) };
    shape.msg_namelen = size_of::<libc::sockaddr_in>() as libc::socklen_t;
    let ring = Ring::new(BUFFERS, BUFFER_BYTES)?;
    let outgoing = vec![nothing; usize::from(BUFFERS)].into_boxed_slice();
    let mut server = Server { ring, socket, shape, outgoing };
    server.ring.watch_stdin()?;
    server.receive()?;
    let mut completions = Vec::new();
    loop {
        server.ring.turn(&mut completions)?;
        let mut receives = true;
        for completion in completions.drain(..) {
            match parse(completion.user_data()) {
                (Some(Kind::Receive), _) => receives &= server.received(&completion)?,
                (Some(Kind::Send), buffer) => server.ring.buffers.give_back(buffer as u16),
                (Some(Kind::Stdin), _) if sockets::input_ended() => return Ok(()),
                (Some(Kind::Stdin), _) => server.ring.watch_stdin()?,
                _ => {}
            }
        }
        if !receives {
            server.receive()?;
        }
    }
}

impl Server {
    fn receive(&mut self) -> io::Result<()> {
        let receive = opcode::RecvMsgMulti::new(Fd(self.socket.as_raw_fd()), &raw const *self.shape, GROUP).build();
        // SAFETY: the shape and the buffers live as long as the ring.
        unsafe { self.ring.push(receive.user_data(token(Kind::Receive, 0))) }
    }

    /// Answers whether the receive goes on.
    fn received(&mut self, completion: &cqueue::Entry) -> io::Result<bool> {
        let goes_on = cqueue::more(completion.flags());
        let Some(buffer) = self.ring.buffers.taken(completion) else {
            return match -completion.result() {
                // No buffer: the running sends will give some back. Or an earlier datagram was refused.
                libc::ENOBUFS | libc::ECONNREFUSED => Ok(goes_on),
                errno => Err(io::Error::from_raw_os_error(errno)),
            };
        };
        let bytes = self.ring.buffers.bytes(buffer, completion.result().max(0) as usize);
        let Ok(datagram) = RecvMsgOut::parse(bytes, &self.shape) else {
            self.ring.buffers.give_back(buffer);
            return Ok(goes_on);
        };
        let (name, payload) = (datagram.name_data(), datagram.payload_data());
        let Outgoing { message, vector } = &mut self.outgoing[usize::from(buffer)];
        *vector = libc::iovec { iov_base: payload.as_ptr().cast_mut().cast(), iov_len: payload.len() };
        message.msg_iov = vector;
        message.msg_iovlen = 1;
        message.msg_name = name.as_ptr().cast_mut().cast();
        message.msg_namelen = name.len() as libc::socklen_t;
        let send = opcode::SendMsg::new(Fd(self.socket.as_raw_fd()), &raw const *message).build();
        // SAFETY: the message and the buffer stay as they are until the send's completion gives the buffer back.
        unsafe { self.ring.push(send.user_data(token(Kind::Send, u32::from(buffer))))? };
        Ok(goes_on)
    }
}
