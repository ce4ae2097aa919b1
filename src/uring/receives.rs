//! Receives: which operation one is, and what a completion of it means.

#![forbid(unsafe_code)]

use super::Uring;
use super::buffer_ring::BUFFER_GROUP;
use super::slot::{Life, Slot};
use crate::base::token::{ConnId, Kind, Token};
use crate::buffer::Pool;
use crate::driver::{Event, Io, Outcome, Target};
use io_uring::types::Fd;
use io_uring::{opcode, squeue};

/// `ioprio` bit of RECV, from `linux/io_uring.h`: keep going after each completion.
pub(super) const RECV_MULTISHOT: u16 = 2;

impl Uring {
    /// Never with `RECVSEND_POLL_FIRST`: a poll that finds data and the end together is woken for the data alone, and nobody
    /// tells of the end.
    pub(super) fn arm_receive(&mut self, id: ConnId) {
        let Slot { target: Target { fd, io }, left, .. } = *self.slot(id);
        let multishot = if self.features.multishot { RECV_MULTISHOT } else { 0 };
        let receive = match io {
            _ if left || self.receives_by_call(io) => return self.poll_receive(id),
            Io::Datagram => {
                opcode::RecvMsgMulti::new(Fd(fd), &raw const *self.held.datagram_shape, BUFFER_GROUP).ioprio(0).build()
            }
            _ => opcode::Recv::new(Fd(fd), std::ptr::null_mut(), 0).buf_group(BUFFER_GROUP).ioprio(multishot).build(),
        };
        self.slot(id).receive = Life::Submitted;
        self.push(receive.flags(squeue::Flags::BUFFER_SELECT).user_data(Token::new(Kind::Receive, id).0));
    }

    pub(super) fn complete_receive(
        &mut self,
        id: ConnId,
        result: i32,
        more: bool,
        buffer: Option<u16>,
        pool: &mut Pool,
    ) -> Option<Event> {
        let slot = self.slot(id);
        let outcome = match (result, buffer) {
            (0.., Some(buffer)) if slot.target.io == Io::Datagram => Outcome::Datagram { buffer, more },
            (1.., Some(buffer)) => Outcome::Received { buffer, len: result as u32, more },
            (_, unused) => {
                if let Some(slot) = unused {
                    pool.release(slot);
                }
                match -result {
                    0 => Outcome::EndOfFile,
                    libc::ENOBUFS => return self.starve(id),
                    libc::EAGAIN if !slot.receive.is_cancelling() => {
                        self.poll_receive(id);
                        return None;
                    }
                    libc::ECANCELED if slot.receive == Life::Renewing => {
                        self.arm_receive(id);
                        return None;
                    }
                    libc::EAGAIN => Outcome::ReceiveFailed(libc::ECANCELED),
                    errno => Outcome::ReceiveFailed(errno),
                }
            }
        };
        slot.place = None;
        Some(if more { Event { id, outcome } } else { self.receive_ended(id, outcome) })
    }
}
