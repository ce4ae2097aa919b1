//! Operations that are tried by a system call and wait for readiness: those on pipes and terminals, sends of datagrams,
//! their receives on kernels without multishot, and what answered `EAGAIN`.

use super::Uring;
use crate::base::token::{ConnId, Kind, Token};
use crate::buffer::Pool;
use crate::driver::syscalls;
use crate::driver::{Event, Io, Outcome, Payload};
use io_uring::opcode;
use io_uring::types::Fd;

impl Uring {
    fn poll(&mut self, id: ConnId, kind: Kind, events: i16) {
        let fd = self.slot(id).target.fd;
        let poll = opcode::PollAdd::new(Fd(fd), events as u32).build().user_data(Token::new(kind, id).0);
        self.push(poll);
    }

    /// READ with provided buffers has had kernel bugs (6.12), and does not report the hangup of a terminal. A single RECVMSG
    /// does not write where from and how long into its buffer.
    pub(super) fn receives_by_call(&self, io: Io) -> bool {
        io == Io::File || (io == Io::Datagram && !self.features.multishot)
    }

    /// Waits until there is something to receive.
    pub(super) fn poll_receive(&mut self, id: ConnId) {
        self.slot(id).polls_receive = true;
        self.poll(id, Kind::PollReceive, libc::POLLIN);
    }

    /// There is something to receive, or the wait failed.
    pub(super) fn polled_receive(&mut self, id: ConnId, result: i32, pool: &mut Pool) -> Option<Event> {
        let slot = self.slot(id);
        slot.polls_receive = false;
        if result < 0 || slot.cancelled_receive {
            let errno = if result < 0 { -result } else { libc::ECANCELED };
            return Some(Event { id, outcome: Outcome::ReceiveFailed(errno) });
        }
        let io = slot.target.io;
        if !self.receives_by_call(io) {
            self.arm_receive(id, false);
            return None;
        }
        let outcome = self.receive_by_call(id, pool)?;
        if matches!(outcome, Outcome::Received { .. } | Outcome::Datagram { .. }) {
            self.poll_receive(id);
        }
        Some(Event { id, outcome })
    }

    fn receive_by_call(&mut self, id: ConnId, pool: &mut Pool) -> Option<Outcome> {
        let Some((buffer, address)) = pool.post() else {
            self.starved.push(id);
            return None;
        };
        pool.reap(buffer);
        let target = self.slot(id).target;
        // SAFETY: I2: the slot of the pool is ours and has room for its capacity.
        let received = unsafe { syscalls::receive(target, address, pool.capacity()) };
        match received {
            Ok(_) if target.io == Io::Datagram => return Some(Outcome::Datagram { buffer, more: true }),
            Ok(len @ 1..) => return Some(Outcome::Received { buffer, len: len as u32, more: true }),
            _ => pool.release(buffer),
        }
        match received {
            Err(libc::EAGAIN | libc::EINTR) => {
                self.poll_receive(id);
                None
            }
            Ok(_) => Some(Outcome::EndOfFile),
            // The other side of a terminal is gone.
            Err(libc::EIO) if target.io == Io::File => Some(Outcome::EndOfFile),
            Err(errno) => Some(Outcome::ReceiveFailed(errno)),
        }
    }

    /// Sends what fits, if anything does. Files know no SEND; and of datagrams, an operation would send one at a time (I3),
    /// a call sends many.
    pub(super) fn send_by_call(&mut self, id: ConnId, payload: Payload) -> Option<Outcome> {
        let slot = self.slot(id);
        // SAFETY: I2: whoever asked for the send keeps its memory until it is told of its end, by what is answered here.
        let outcome = match unsafe { syscalls::send(slot.target, payload) } {
            Ok(outcome) => outcome,
            // There was room, and is none: the queue of the receiving Unix socket is full, of which its sender is never
            // told. To wait would be to spin; it costs one datagram.
            Err(libc::EAGAIN) if slot.polls_send && slot.target.io == Io::Datagram => {
                Outcome::SendFailed(libc::ENOBUFS)
            }
            Err(libc::EAGAIN | libc::EINTR) => return None,
            Err(errno) => Outcome::SendFailed(errno),
        };
        self.slot(id).payload = None;
        Some(outcome)
    }

    /// Waits until there is room to send.
    pub(super) fn poll_send(&mut self, id: ConnId) {
        self.slot(id).polls_send = true;
        self.poll(id, Kind::PollSend, libc::POLLOUT);
    }

    /// A send answered `EAGAIN`: it waits for room, and is then tried again.
    pub(super) fn send_again(&mut self, id: ConnId) -> Option<Event> {
        let slot = self.slot(id);
        if slot.cancelled_send {
            slot.payload = None;
            return Some(Event { id, outcome: Outcome::SendFailed(libc::ECANCELED) });
        }
        self.poll_send(id);
        None
    }

    /// There is room to send, or the wait failed.
    pub(super) fn polled_send(&mut self, id: ConnId, result: i32) -> Option<Event> {
        let slot = self.slot(id);
        if result < 0 || slot.cancelled_send {
            slot.payload = None;
            let errno = if result < 0 { -result } else { libc::ECANCELED };
            return Some(Event { id, outcome: Outcome::SendFailed(errno) });
        }
        // A cancel must find the operation where it is. For datagrams the flag stays, as a mark of the second try.
        slot.polls_send = slot.target.io == Io::Datagram;
        self.try_send(id).map(|outcome| Event { id, outcome })
    }
}
