//! What the driver tells, as a connection takes it.

#![forbid(unsafe_code)]

use crate::connection::context::{Connection, Context};
use crate::connection::outbox::Sent;
use crate::driver::Outcome;

/// Tells the machine of a connection what has happened. What was sent goes into `sent`, to be dropped when nothing is borrowed.
#[inline(always)] // As `Link::next`.
pub fn advance(connection: &mut Connection, outcome: Outcome, context: &Context, sent: &mut Vec<Sent>) {
    let machine = &mut connection.machine;
    match outcome {
        Outcome::EndOfFile => machine.link.received_eof(),
        Outcome::Heard(heard) => machine.link.heard(heard),
        Outcome::Deaf(errno) => machine.link.deaf(errno),
        Outcome::ReceiveFailed(libc::ECANCELED) => machine.link.receive_cancelled(),
        Outcome::ReceiveFailed(errno) => machine.link.receive_failed(errno),
        Outcome::CancelMissed => machine.link.cancel_missed(),
        Outcome::Sent(bytes) => {
            context.mailbox.stats.bytes_out.add(u64::from(bytes));
            connection.traffic.sent(bytes as usize);
            connection.outbox.sent(bytes as usize, sent, &mut context.spares.borrow_mut());
            machine.sent(bytes as usize, &context.limits);
        }
        Outcome::SentDatagrams(count) => {
            let (bytes, cost) = connection.outbox.sent_datagrams(count as usize, &mut context.spares.borrow_mut());
            context.mailbox.stats.bytes_out.add(bytes as u64);
            connection.traffic.sent(bytes);
            machine.sent(cost, &context.limits);
        }
        Outcome::SendFailed(errno) => {
            connection.outbox.sent(0, sent, &mut context.spares.borrow_mut());
            machine.link.send_failed(errno);
        }
        Outcome::Received { .. } | Outcome::Readable | Outcome::Datagram { .. } | Outcome::Woken | Outcome::Watched => {
        }
        Outcome::Accepted(_) | Outcome::AcceptFailed(_) | Outcome::Connected(_) => {}
    }
}
