//! Operations that are tried by a system call and wait for readiness: those on pipes and terminals, sends of datagrams,
//! their receives on kernels without multishot, and what answered `EAGAIN`.

use super::Uring;
use super::slot::Life;
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
        self.slot(id).receive = Life::Polling;
        self.poll(id, Kind::PollReceive, libc::POLLIN);
    }

    /// There is something to receive, or the wait failed.
    pub(super) fn polled_receive(&mut self, id: ConnId, result: i32, pool: &mut Pool) -> Option<Event> {
        let slot = self.slot(id);
        if result < 0 || slot.receive.is_cancelling() {
            let errno = if result < 0 { -result } else { libc::ECANCELED };
            return Some(self.receive_ended(id, Outcome::ReceiveFailed(errno)));
        }
        if slot.left {
            self.tell_soon(id);
            return None;
        }
        let io = slot.target.io;
        if !self.receives_by_call(io) {
            self.arm_receive(id);
            return None;
        }
        let Some((buffer, address)) = pool.post() else { return self.starve(id) };
        pool.reap(buffer);
        let target = self.slot(id).target;
        // SAFETY: I2: the slot of the pool is ours and has room for its capacity.
        let received = unsafe { syscalls::receive(target, buffer, address, pool.capacity()) };
        if !received.is_some_and(Outcome::has_buffer) {
            pool.release(buffer);
        }
        match received {
            Some(outcome) if !outcome.has_buffer() => return Some(self.receive_ended(id, outcome)),
            Some(_) => self.slot(id).place = None,
            None => {}
        }
        self.poll_receive(id);
        received.map(|outcome| Event { id, outcome })
    }

    /// Sends what fits, if anything does. Files know no SEND; and of datagrams, an operation would send one at a time (I3),
    /// a call sends many.
    pub(super) fn send_by_call(&mut self, id: ConnId, payload: Payload, waited: bool) -> Option<Outcome> {
        let slot = self.slot(id);
        // SAFETY: I2: whoever asked for the send keeps its memory until it is told of its end, by what is answered here.
        let outcome = unsafe { syscalls::send(slot.target, payload, waited) }?;
        self.send_ended(id);
        Some(outcome)
    }

    /// Waits until there is room to send.
    pub(super) fn poll_send(&mut self, id: ConnId) {
        self.slot(id).send = Life::Polling;
        self.poll(id, Kind::PollSend, libc::POLLOUT);
    }

    /// A send answered `EAGAIN`: it waits for room, and is then tried again.
    pub(super) fn send_again(&mut self, id: ConnId) -> Option<Event> {
        if self.slot(id).send.is_cancelling() {
            self.send_ended(id);
            return Some(Event { id, outcome: Outcome::SendFailed(libc::ECANCELED) });
        }
        self.poll_send(id);
        None
    }

    /// There is room to send, or the wait failed.
    pub(super) fn polled_send(&mut self, id: ConnId, result: i32) -> Option<Event> {
        if result < 0 || self.slot(id).send.is_cancelling() {
            self.send_ended(id);
            let errno = if result < 0 { -result } else { libc::ECANCELED };
            return Some(Event { id, outcome: Outcome::SendFailed(errno) });
        }
        self.try_send(id, true).map(|outcome| Event { id, outcome })
    }
}
