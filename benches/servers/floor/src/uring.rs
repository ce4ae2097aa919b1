//! Stream echo over io_uring: multishot accept and receive, and one send at a time for each connection, straight from
//! the buffers that were received into.

use crate::ring::{GROUP, Kind, Ring, parse, token};
use crate::sockets;
use io_uring::types::{CancelBuilder, Fd};
use io_uring::{cqueue, opcode, squeue};
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

const BUFFERS: u16 = 1024;
const BUFFER_BYTES: usize = 16 * 1024;

/// `ioprio` bits of RECV, from `linux/io_uring.h`.
const POLL_FIRST: u16 = 1;
const MULTISHOT: u16 = 2;

/// Buffers that wait for one slow peer before nothing more is received from it, and how few they must be then before
/// that goes on.
const QUEUE_HIGH: usize = 16;
const QUEUE_LOW: usize = 4;

/// Buffers that one send gathers.
const GATHER_MAX: usize = QUEUE_HIGH;

#[derive(PartialEq, Eq, Default)]
enum Receive {
    #[default]
    Idle,
    Running,
    Cancelled,
    /// There was no buffer; it is in [`Server::starved`].
    Starved,
}

/// A connection, kept at the number of its descriptor, which is closed only when no operation names it.
#[derive(Default)]
struct Connection {
    receive: Receive,
    /// Received and not sent: buffer, where it goes on, bytes.
    queue: VecDeque<(u16, usize, usize)>,
    /// How many of the queue the running send has.
    sending: usize,
    /// Nothing more is to be received.
    over: bool,
    gather: Option<Box<Gather>>,
}

struct Gather {
    message: libc::msghdr,
    vectors: [libc::iovec; GATHER_MAX],
}

struct Server {
    ring: Ring,
    listener: OwnedFd,
    connections: Vec<Connection>,
    starved: Vec<RawFd>,
}

/// Serves until standard input ends.
///
/// # Errors
/// The listener or the ring failed.
pub fn serve(listener: OwnedFd) -> io::Result<()> {
    let ring = Ring::new(BUFFERS, BUFFER_BYTES)?;
    let mut server = Server { ring, listener, connections: Vec::new(), starved: Vec::new() };
    server.ring.watch_stdin()?;
    server.accept()?;
    let mut completions = Vec::new();
    loop {
        server.ring.turn(&mut completions)?;
        for completion in completions.drain(..) {
            let (kind, index) = parse(completion.user_data());
            let fd = index as RawFd;
            match kind {
                Some(Kind::Accept) => server.accepted(&completion)?,
                Some(Kind::Receive) => server.received(fd, &completion)?,
                Some(Kind::Send) => server.sent(fd, completion.result())?,
                Some(Kind::Stdin) if sockets::input_ended() => return Ok(()),
                Some(Kind::Stdin) => server.ring.watch_stdin()?,
                Some(Kind::Cancel) => server.cancel_missed(fd)?,
                None => {}
            }
        }
        server.feed_starved()?;
    }
}

impl Server {
    fn accept(&mut self) -> io::Result<()> {
        let accept = opcode::AcceptMulti::new(Fd(self.listener.as_raw_fd())).flags(libc::SOCK_CLOEXEC).build();
        // SAFETY: names no memory.
        unsafe { self.ring.push(accept.user_data(token(Kind::Accept, 0))) }
    }

    fn accepted(&mut self, completion: &cqueue::Entry) -> io::Result<()> {
        let fd = completion.result();
        if fd >= 0 {
            if self.connections.len() <= fd as usize {
                self.connections.resize_with(fd as usize + 1, Connection::default);
            }
            self.receive(fd, false)?;
        } else if fd != -libc::ECONNABORTED {
            return Err(io::Error::from_raw_os_error(-fd));
        }
        if cqueue::more(completion.flags()) { Ok(()) } else { self.accept() }
    }

    fn receive(&mut self, fd: RawFd, poll_first: bool) -> io::Result<()> {
        self.connections[fd as usize].receive = Receive::Running;
        let receive = opcode::Recv::new(Fd(fd), std::ptr::null_mut(), 0)
            .buf_group(GROUP)
            .ioprio(MULTISHOT | if poll_first { POLL_FIRST } else { 0 })
            .build()
            .flags(squeue::Flags::BUFFER_SELECT)
            .user_data(token(Kind::Receive, fd as u32));
        // SAFETY: the buffers live as long as the ring.
        unsafe { self.ring.push(receive) }
    }

    fn received(&mut self, fd: RawFd, completion: &cqueue::Entry) -> io::Result<()> {
        let buffer = self.ring.buffers.taken(completion);
        let connection = &mut self.connections[fd as usize];
        let result = completion.result();
        if let Some(buffer) = buffer {
            if result > 0 && !connection.over {
                connection.queue.push_back((buffer, 0, result as usize));
            } else {
                self.ring.buffers.give_back(buffer);
            }
        }
        match -result {
            0 => connection.over = true,
            errno if errno < 0 || errno == libc::ECANCELED => {}
            libc::ENOBUFS => {
                connection.receive = Receive::Starved;
                self.starved.push(fd);
                return Ok(());
            }
            _ => self.cut(fd),
        }
        if !cqueue::more(completion.flags()) {
            self.connections[fd as usize].receive = Receive::Idle;
        }
        self.go_on(fd)
    }

    /// The receive was just between two completions: it still runs, or is about to say that it has ended.
    fn cancel_missed(&mut self, fd: RawFd) -> io::Result<()> {
        let connection = &mut self.connections[fd as usize];
        if connection.receive != Receive::Cancelled {
            return Ok(());
        }
        connection.receive = Receive::Running;
        self.go_on(fd)
    }

    fn sent(&mut self, fd: RawFd, result: i32) -> io::Result<()> {
        let connection = &mut self.connections[fd as usize];
        let mut left = result.max(0) as usize;
        for _ in 0..std::mem::take(&mut connection.sending) {
            let Some((buffer, offset, len)) = connection.queue.front_mut() else { break };
            if left < *len {
                *offset += left;
                *len -= left;
                break;
            }
            left -= *len;
            self.ring.buffers.give_back(*buffer);
            connection.queue.pop_front();
        }
        if result <= 0 {
            self.cut(fd);
        }
        self.go_on(fd)
    }

    /// Nothing can be sent any more, and nothing need be received.
    fn cut(&mut self, fd: RawFd) {
        let connection = &mut self.connections[fd as usize];
        connection.over = true;
        for (buffer, ..) in connection.queue.drain(connection.sending..) {
            self.ring.buffers.give_back(buffer);
        }
        // SAFETY: no pointers. It ends what runs.
        unsafe { libc::shutdown(fd, libc::SHUT_RDWR) };
    }

    /// Starts what the state of a connection asks for, or closes it.
    fn go_on(&mut self, fd: RawFd) -> io::Result<()> {
        let connection = &mut self.connections[fd as usize];
        if connection.sending == 0 && !connection.queue.is_empty() {
            self.send(fd)?;
        }
        let connection = &mut self.connections[fd as usize];
        match connection.receive {
            Receive::Running if connection.queue.len() >= QUEUE_HIGH && !connection.over => {
                connection.receive = Receive::Cancelled;
                let cancel = CancelBuilder::user_data(token(Kind::Receive, fd as u32));
                let cancel = opcode::AsyncCancel2::new(cancel).build().flags(squeue::Flags::SKIP_SUCCESS);
                // SAFETY: names no memory.
                unsafe { self.ring.push(cancel.user_data(token(Kind::Cancel, fd as u32))) }
            }
            Receive::Idle if connection.over && connection.queue.is_empty() => {
                *connection = Connection::default();
                // SAFETY: accepted by us, and no operation names it any more.
                unsafe { libc::close(fd) };
                Ok(())
            }
            Receive::Idle if !connection.over && connection.queue.len() <= QUEUE_LOW => self.receive(fd, false),
            _ => Ok(()),
        }
    }

    fn send(&mut self, fd: RawFd) -> io::Result<()> {
        let connection = &mut self.connections[fd as usize];
        let flags = libc::MSG_WAITALL | libc::MSG_NOSIGNAL;
        let buffers = &self.ring.buffers;
        let start = |&(buffer, offset, _): &(u16, usize, usize)| buffers.address(buffer).wrapping_add(offset);
        connection.sending = connection.queue.len().min(GATHER_MAX);
        let entry = if let (Some(part), 1) = (connection.queue.front(), connection.sending) {
            opcode::Send::new(Fd(fd), start(part), part.2 as u32).flags(flags).build()
        } else {
            // SAFETY: all-zero is a valid `msghdr` and a valid array of `iovec`.
            let gather = connection.gather.get_or_insert_with(|| unsafe { Box::new(std::mem::zeroed()) });
            for (vector, part) in gather.vectors.iter_mut().zip(&connection.queue) {
                *vector = libc::iovec { iov_base: start(part).cast_mut().cast(), iov_len: part.2 };
            }
            gather.message.msg_iov = gather.vectors.as_mut_ptr();
            gather.message.msg_iovlen = connection.sending;
            opcode::SendMsg::new(Fd(fd), &raw const gather.message).flags(flags as u32).build()
        };
        // SAFETY: the buffers stay in the queue, and the vectors as they are, until the send's completion.
        unsafe { self.ring.push(entry.user_data(token(Kind::Send, fd as u32))) }
    }

    /// Buffers have come back: receives that lacked one go on.
    fn feed_starved(&mut self) -> io::Result<()> {
        if self.starved.is_empty() || !self.ring.buffers.available() {
            return Ok(());
        }
        for fd in std::mem::take(&mut self.starved) {
            let connection = &mut self.connections[fd as usize];
            connection.receive = Receive::Idle;
            if connection.over || connection.queue.len() > QUEUE_LOW {
                self.go_on(fd)?;
            } else {
                self.receive(fd, true)?;
            }
        }
        Ok(())
    }
}
