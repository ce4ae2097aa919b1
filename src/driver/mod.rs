//! The seam between the reactor and the kernel (see `docs/architecture.md`).
//!
//! The reactor and the connection state machine know nothing of rings or epoll. They ask a [`Driver`] to receive, send
//! and cancel, and get [`Event`]s back. The law every driver keeps is I5: an operation yields any number of events that
//! leave it running and exactly one that ends it, cancelled or not; a send may end without one, at once. All calls come
//! from the one reactor thread (I1).

pub mod address;
pub mod datagram;
pub mod descriptor;
pub mod epoll;
#[cfg(feature = "faults")]
pub mod faults;
pub mod gathered;
pub mod many_datagrams;
pub mod openings;
pub mod registry;
pub mod shared;
pub mod starved;
pub mod syscalls;
#[cfg(test)]
mod tests;
pub mod watch;

use crate::base::ear::{Ear, Heard};
use crate::base::token::ConnId;
use crate::buffer::Pool;
use crate::driver::address::Address;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{OwnedFd, RawFd};
use std::time::{Duration, Instant};

/// What one completion means for a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// `len` bytes arrived in pool buffer `buffer`, which now belongs to whoever holds this event.
    /// Unless `more`, the receive has ended and may be started again.
    Received {
        /// Index of the buffer in the pool.
        buffer: u16,
        /// Bytes that arrived, at least 1.
        len: u32,
        /// Whether the receive goes on.
        more: bool,
    },
    /// A datagram arrived, perhaps an empty one: pool buffer `buffer` holds it as [`crate::driver::datagram`] lays it
    /// out, and belongs to whoever holds this event. Unless `more`, the receive has ended and may be started again.
    Datagram {
        /// Index of the buffer in the pool.
        buffer: u16,
        /// Whether the receive goes on.
        more: bool,
    },
    /// Something has arrived that [`Driver::receive_into`] takes.
    Readable,
    /// The peer sends no more. Ends the receive; it must not be started again.
    EndOfFile,
    /// The receive has ended with this `errno` (`ECANCELED` after a cancel).
    ReceiveFailed(i32),
    /// The send has ended: bytes taken by the kernel, perhaps fewer than were given, but at least 1.
    Sent(u32),
    /// As [`Outcome::Sent`], for [`Payload::Datagrams`]: how many of them, from the first.
    SentDatagrams(u32),
    /// The send has ended with this `errno`; of datagrams, it is about the first.
    SendFailed(i32),
    /// A cancel did not find the receive, which may still be running.
    CancelMissed,
    /// An ear has heard this. What it can still hear, it says when it is asked to listen for that.
    Heard(Heard),
    /// The ear was refused with this `errno`, for want of room: nobody listens. A receive that runs by now is none of its matter.
    Deaf(i32),
    /// Another thread called the reactor.
    Woken,
    /// The descriptor that is watched has input.
    Watched,
    /// The accept has ended: so many connections, at least 1, wait to be taken by [`Driver::arrival`].
    Accepted(u32),
    /// The accept has ended with this `errno`.
    AcceptFailed(i32),
    /// The connect has ended with this `errno`, or 0.
    Connected(i32),
}

impl Outcome {
    /// Whether a buffer of the pool comes with it.
    pub fn has_buffer(self) -> bool {
        matches!(self, Outcome::Received { .. } | Outcome::Datagram { .. })
    }
}

/// A completion and the connection that it belongs to (any value for [`Outcome::Woken`] and [`Outcome::Watched`]).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Event {
    /// The connection.
    pub id: ConnId,
    /// What happened.
    pub outcome: Outcome,
}

/// Bytes to send. Whoever calls [`Driver::send`] keeps the memory unchanged until the send has ended (I2).
#[derive(Clone, Copy, Debug)]
pub enum Payload {
    /// One run of bytes.
    Bytes(*const u8, usize),
    /// Several runs, gathered by the kernel, and how many bytes they are together.
    Gather(*const libc::msghdr, usize),
    /// Datagrams, at least one, each to its destination or to the socket's peer.
    Datagrams(*mut libc::mmsghdr, usize),
}

/// Which system calls a descriptor understands.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Io {
    /// `recv` and `send`.
    Socket,
    /// `recvmsg`, one datagram each, and `sendmmsg`, for several.
    Datagram,
    /// `read` and `write`: pipes and terminals.
    File,
}

/// A descriptor to do I/O on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Target {
    /// Its number.
    pub fd: RawFd,
    /// Its calls.
    pub io: Io,
}

/// What opens connections.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Opening {
    /// Connections to a listening socket, so many at most.
    Accept {
        /// At least 1.
        most: usize,
        /// Where it stands among those that wait for the same socket.
        queue: Queue,
    },
    /// The end of a connect.
    Connect,
}

/// Where an accept stands among those that wait for the same socket.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Queue {
    /// At the end. Somebody sees to it that another one looks where a driver was woken for a connection and is held up: so one is
    /// enough.
    Relayed,
    /// At the end; nobody does.
    Last,
    /// Where it stood when it accepted last, if it is begun before the next wait: that costs no calls.
    Kept,
}

/// A connection that was accepted: non-blocking, closed on `exec`.
pub struct Arrival {
    /// Its socket.
    pub socket: OwnedFd,
    /// The peer.
    pub peer: Address,
}

/// A way to do the I/O of one reactor thread.
pub trait Driver {
    /// Starts receiving into the pool's buffers. At most one receive runs per connection.
    fn receive(&mut self, id: ConnId, target: Target);

    /// Sends `payload`. At most one send runs per connection (I3). One that ends at once is answered so, and has no event.
    ///
    /// # Safety
    /// The memory of `payload` stays valid and unchanged until this answers, or until the event that ends this send.
    unsafe fn send(&mut self, id: ConnId, target: Target, payload: Payload) -> Option<Outcome>;

    /// Sends by a call what fits of `payload`, while no send of that connection runs. Nothing is begun: without an answer nothing fits,
    /// and nobody waits for room.
    ///
    /// # Safety
    /// The memory of `payload` stays valid and unchanged until this answers.
    unsafe fn send_now(&mut self, target: Target, payload: Payload) -> Option<Outcome> {
        // SAFETY: I2: the caller's promise.
        unsafe { syscalls::send(target, payload, false) }
    }

    /// As [`Driver::send`], for who is to know at once how much the kernel takes.
    ///
    /// # Safety
    /// As there.
    unsafe fn send_at_once(&mut self, id: ConnId, target: Target, payload: Payload) -> Option<Outcome> {
        // SAFETY: I2: the caller's promise.
        unsafe { self.send(id, target, payload) }
    }

    /// From now on what arrives for `id`, a stream socket, stays where it is if it is `left`: [`Outcome::Readable`] tells of it.
    /// Otherwise it is received into the pool's buffers, as at first. A receive that runs goes on, that way.
    fn leave_input(&mut self, id: ConnId, left: bool);

    /// Receives what [`Outcome::Readable`] has told of into `room`. Answers how many bytes the kernel has written there, from the
    /// first; with 0 there was nothing, and the receive goes on all the same.
    ///
    /// # Errors
    /// How the receive has ended by that: it has no event.
    fn receive_into(&mut self, id: ConnId, room: &mut [MaybeUninit<u8>]) -> Result<usize, Outcome>;

    /// Receives what [`Outcome::Readable`] has told of into a few buffers of the pool. Appends the events that [`Driver::receive`] has,
    /// none if nothing was there.
    fn receive_left(&mut self, id: ConnId, pool: &mut Pool, events: &mut Vec<Event>);

    /// Asks the receive to end early. Best effort: answers by the receive's own last event, or [`Outcome::CancelMissed`].
    fn cancel_receive(&mut self, id: ConnId);

    /// Asks the send to end early. Best effort; no answer of its own.
    fn cancel_send(&mut self, id: ConnId);

    /// Listens, while nothing is received, for the end of the peer: what comes is one [`Outcome::Heard`]. [`Ear::Off`] stops
    /// that, and comes before the descriptor is closed; what was heard already may still be told. Datagram sockets have
    /// no end. Where the kernel refuses, nothing is heard.
    fn listen(&mut self, id: ConnId, target: Target, ear: Ear);

    /// These connections have moved and are quiet now. A kernel may have lost what ends a receive: one that should have ended
    /// is made to.
    fn look(&mut self, quiet: &[ConnId]);

    /// From now on watches `fd`, which is no connection's, instead of the one before: [`Outcome::Watched`] tells of its input, once
    /// per wait, as long as there is some. Where the kernel refuses, nothing is told.
    fn watch(&mut self, fd: Option<RawFd>);

    /// Waits for connections to a listening socket, or for the end of a connect that was begun, and tells of that by one
    /// [`Outcome::Accepted`], [`Outcome::AcceptFailed`] or [`Outcome::Connected`]. `id` is no connection's, and no other opening's
    /// before, but that of an accept that has ended, which goes on. Of those that wait to accept from one socket, also by other drivers, one is woken for each connection, whoever has
    /// waited longest: unless that might be one that is held up, and nobody sees to it.
    fn open(&mut self, id: ConnId, fd: RawFd, opening: Opening);

    /// Ends that, at once: no event comes, unless it has ended before, and when this returns the descriptor may be closed (I4).
    fn stop_opening(&mut self, id: ConnId);

    /// The next connection that `id` has accepted.
    fn arrival(&mut self, id: ConnId) -> Option<Arrival>;

    /// Hands everything asked for to the kernel and waits for events, at most `timeout` (`None`: without limit).
    /// Appends a bounded batch to `events`. Runs detached from Python.
    ///
    /// # Errors
    /// The driver can no longer be used; operations may still be running in the kernel.
    fn wait(&mut self, timeout: Option<Duration>, pool: &mut Pool, events: &mut Vec<Event>) -> io::Result<()>;

    /// Ends every operation, so that no memory is used by the kernel any more (I2); nothing is asked of the driver afterwards.
    /// Answers whether it did so before `deadline`; if not, the memory of the sends must be leaked. What else the kernel
    /// may still use, a driver that is dropped leaks by itself.
    fn shut_down(&mut self, deadline: Instant) -> bool;
}
