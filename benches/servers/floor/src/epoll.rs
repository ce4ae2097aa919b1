//! Stream echo over level-triggered epoll: one read for each readiness, and the write at once. Only a connection whose
//! peer reads too slowly is watched for room, and not read from until that peer has got everything.

use crate::sockets;
use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{self, RecvFlags, SendFlags, SocketFlags};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

const STDIN: u64 = u64::MAX;
const LISTENER: u64 = u64::MAX - 1;

/// Bytes of one read. More would only leave the cache.
const READ_BYTES: usize = 64 * 1024;
const EVENTS_PER_WAIT: usize = 256;

struct Connection {
    socket: OwnedFd,
    /// What the peer has not taken yet; while there is some, nothing is read.
    unsent: Vec<u8>,
}

struct Server {
    epoll: OwnedFd,
    listener: OwnedFd,
    /// By number of the descriptor.
    connections: Vec<Option<Connection>>,
    buffer: Box<[u8]>,
}

/// Serves until standard input ends.
///
/// # Errors
/// The listener or the epoll instance failed.
pub fn serve(listener: OwnedFd) -> io::Result<()> {
    rustix::io::ioctl_fionbio(&listener, true)?;
    let epoll = epoll::create(CreateFlags::CLOEXEC)?;
    epoll::add(&epoll, &listener, EventData::new_u64(LISTENER), EventFlags::IN)?;
    if epoll::add(&epoll, rustix::stdio::stdin(), EventData::new_u64(STDIN), EventFlags::IN) == Err(Errno::PERM) {
        // A file, or /dev/null: there is nothing to wait for.
        return Ok(());
    }
    let buffer = vec![0; READ_BYTES].into_boxed_slice();
    let mut server = Server { epoll, listener, connections: Vec::new(), buffer };
    let mut events = Vec::with_capacity(EVENTS_PER_WAIT);
    loop {
        events.clear();
        match epoll::wait(&server.epoll, spare_capacity(&mut events), None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        for Event { flags, data } in events.drain(..) {
            match data.u64() {
                STDIN if sockets::input_ended() => return Ok(()),
                STDIN => {}
                LISTENER => server.accept()?,
                index => {
                    if server.ready(index as usize, flags).is_err() {
                        server.connections[index as usize] = None;
                    }
                }
            }
        }
    }
}

impl Server {
    fn accept(&mut self) -> io::Result<()> {
        loop {
            let socket = match net::accept_with(&self.listener, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
                Ok(socket) => socket,
                Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::CONNABORTED | Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            };
            let index = socket.as_raw_fd() as usize;
            epoll::add(&self.epoll, &socket, EventData::new_u64(index as u64), EventFlags::IN)?;
            if self.connections.len() <= index {
                self.connections.resize_with(index + 1, || None);
            }
            self.connections[index] = Some(Connection { socket, unsent: Vec::new() });
        }
    }

    /// An error means that the connection is over.
    fn ready(&mut self, index: usize, flags: EventFlags) -> Result<(), Errno> {
        let Some(connection) = &mut self.connections[index] else { return Ok(()) };
        if flags.contains(EventFlags::OUT) {
            return connection.flush(&self.epoll);
        }
        let (len, _) = match net::recv(&connection.socket, &mut self.buffer[..], RecvFlags::empty()) {
            Ok((0, _)) => return Err(Errno::PIPE),
            Err(Errno::AGAIN | Errno::INTR) => return Ok(()),
            received => received?,
        };
        let sent = send(&connection.socket, &self.buffer[..len])?;
        if sent < len {
            connection.unsent.extend_from_slice(&self.buffer[sent..len]);
            connection.watch(&self.epoll, EventFlags::OUT)?;
        }
        Ok(())
    }
}

impl Connection {
    fn flush(&mut self, epoll: &OwnedFd) -> Result<(), Errno> {
        let sent = send(&self.socket, &self.unsent)?;
        self.unsent.drain(..sent);
        if self.unsent.is_empty() {
            self.watch(epoll, EventFlags::IN)?;
        }
        Ok(())
    }

    fn watch(&self, epoll: &OwnedFd, flags: EventFlags) -> Result<(), Errno> {
        epoll::modify(epoll, &self.socket, EventData::new_u64(self.socket.as_raw_fd() as u64), flags)
    }
}

fn send(socket: &OwnedFd, bytes: &[u8]) -> Result<usize, Errno> {
    match net::send(socket, bytes, SendFlags::NOSIGNAL) {
        Err(Errno::AGAIN | Errno::INTR) => Ok(0),
        result => result,
    }
}
