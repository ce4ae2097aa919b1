//! The life of a link: what is received, sent, half closed, lingered for and ended, whatever contract stands above it.
//!
//! It knows no callbacks. The contract says which one is due and what it waits for ([`Wish`]); what the link has to do with
//! bytes, FINs and the end, it decides alone: B1 (flush, FIN, drain, close), B11 (the end is heard), I3 (one send at a
//! time), I4 (closed only when no operation runs), and that `connection_lost` comes once and last (B9).
//!
//! The link of a transport ends as asyncio's transports do ([`Link::plain`]): it is not lingered for, it ends by nobody's
//! half close, and `connection_lost` comes when no operation runs any more, for the socket is closed right after it. What the peer
//! sent before it reset the connection is delivered.

#![forbid(unsafe_code)]

mod ends;

use super::states::{Eof, Failure, Output, Phase, Receive, Retiring};
use super::vocabulary::{Directions, End, Mode, Next};
use crate::base::ear::{Ear, Heard};
use crate::base::limits::Limits;

/// What the contract above an open link says when it is asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Wish {
    /// The callback that is due, or [`Next::Nothing`].
    pub callback: Next,
    /// What it waits for: whether the link may end is a matter of that, where it is to.
    pub mode: Mode,
    /// Whether more is to be received than what is under way.
    pub reads: bool,
    /// Whether nothing of the protocol's runs any more that is to end before it is told of the end.
    pub may_end: bool,
}

/// The state of one link.
#[derive(Clone, Debug)]
pub struct Link {
    directions: Directions,
    is_plain: bool,
    phase: Phase,
    receive: Receive,
    output: Output,
    eof: Eof,
    ear: Ear,
    /// Heard while nothing was received: the peer sends no more, and does not receive any more.
    input_ends: bool,
    hung_up: bool,
    /// Heard, and nothing of it told by a receive: of a transport, what came before is received even if its reader pauses.
    drains: bool,
    /// A transport's receive or send has failed, but what came before is to be delivered.
    failure: Option<Failure>,
    /// Something has happened by which it ends, or a half of it: before that nothing of what tells how is looked at, for each
    /// message. Never taken back.
    ends: bool,
    sending: bool,
    /// `connection_lost` is still owed.
    owes_lost: bool,
    aborted: bool,
    /// The first cause of the end.
    end: Option<End>,
    retiring: Retiring,
    inbox_bytes: usize,
    queued_bytes: usize,
    discarded_bytes: usize,
}

impl Link {
    pub(super) fn new(directions: Directions) -> Self {
        Link {
            directions,
            is_plain: false,
            phase: Phase::Open,
            receive: Receive::Idle,
            output: Output::Open,
            eof: Eof::NotYet,
            ear: Ear::Off,
            input_ends: false,
            hung_up: false,
            drains: false,
            failure: None,
            ends: false,
            sending: false,
            owes_lost: true,
            aborted: false,
            end: None,
            retiring: Retiring::No,
            inbox_bytes: 0,
            queued_bytes: 0,
            discarded_bytes: 0,
        }
    }

    /// A transport's.
    pub(super) fn plain(directions: Directions) -> Self {
        Link { is_plain: true, ..Link::new(directions) }
    }

    #[inline(always)] // Out of line, it costs 100 instructions of some 4000 for each message.
    pub(super) fn next(&mut self, limits: &Limits, wish: Wish, may_call: bool) -> Next {
        match self.phase {
            Phase::Open => self.next_open(limits, wish, may_call),
            Phase::Flushing => self.next_flushing(limits, wish.may_end),
            Phase::Lingering => self.next_lingering(limits, wish.may_end),
            Phase::Finished => self.next_finished(wish.may_end),
        }
    }

    #[inline(always)]
    fn next_open(&mut self, limits: &Limits, wish: Wish, may_call: bool) -> Next {
        debug_assert!(self.ends || self.is_undisturbed());
        if self.ends
            && let Some(next) = self.next_ending(limits, wish)
        {
            return next;
        }
        let Wish { callback, reads, .. } = wish;
        if may_call && callback != Next::Nothing {
            if callback == Next::EofReceived {
                self.eof = Eof::Told;
            }
            return callback;
        }
        if self.send_due() {
            return Next::Send;
        }
        if self.ends && self.output == Output::Ending && self.queued_bytes == 0 {
            self.output = Output::Ended;
            return Next::ShutdownWrite;
        }
        let is_full = self.inbox_bytes >= limits.inbox_bytes;
        let retires = self.ends && self.retiring != Retiring::No;
        match self.receive {
            Receive::Idle if (reads || self.drains) && self.may_arrive() && !retires && !is_full => {
                self.receive = Receive::Running;
                Next::Receive
            }
            Receive::Running if retires || is_full => {
                self.receive = Receive::Cancelling;
                Next::CancelReceive
            }
            _ => self.listen(if callback == Next::Nothing { Next::Nothing } else { Next::Yield }),
        }
    }

    /// Whether it waits for input, and perhaps for the end of a send, and for nothing else.
    #[inline(always)]
    pub(super) fn is_at_rest(&self) -> bool {
        self.phase == Phase::Open
            && !self.ends
            && self.receive == Receive::Running
            && self.ear == Ear::Off
            && self.inbox_bytes == 0
            && (self.sending || self.queued_bytes == 0)
    }

    /// The end of the peer is heard by the receive, or else by an ear (B11). Says so if that changes, or `otherwise`.
    #[inline(always)]
    fn listen(&mut self, otherwise: Next) -> Next {
        let ear = match self.phase {
            Phase::Open if self.receive != Receive::Idle || self.hung_up => Ear::Off,
            Phase::Open if self.may_arrive() && !self.input_ends => Ear::Input,
            Phase::Open => Ear::Gone,
            // A send is under way, which will be told.
            Phase::Flushing => self.ear,
            Phase::Lingering | Phase::Finished => Ear::Off,
        };
        if std::mem::replace(&mut self.ear, ear) == ear { otherwise } else { Next::Listen(ear) }
    }

    fn may_arrive(&self) -> bool {
        self.directions.readable && self.eof == Eof::NotYet && self.failure.is_none()
    }

    /// I3: one send at a time.
    fn send_due(&mut self) -> bool {
        let due = !self.sending && self.queued_bytes > 0 && !self.failure.is_some_and(|failure| failure.of_send);
        self.sending |= due;
        due
    }

    /// Whether a send is to begin at once, before the contract is asked for anything.
    pub(super) fn sends_now(&mut self) -> bool {
        matches!(self.phase, Phase::Open | Phase::Flushing) && self.send_due()
    }

    // What the driver tells.

    /// Data arrived; `more` tells whether the receive goes on. Answers whether to keep the data (`false`: discard it).
    pub fn received(&mut self, bytes: usize, more: bool) -> bool {
        if !more {
            self.receive = Receive::Idle;
        }
        if self.phase == Phase::Open {
            self.inbox_bytes += bytes;
            true
        } else {
            self.discarded_bytes += bytes;
            false
        }
    }

    /// The receive ended with EOF.
    pub fn received_eof(&mut self) {
        self.receive = Receive::Idle;
        self.eof = Eof::Waiting;
        self.ends = true;
    }

    /// An ear has heard this.
    pub fn heard(&mut self, heard: Heard) {
        self.ends = true;
        self.input_ends = true;
        self.hung_up |= heard == Heard::HungUp;
        match heard {
            // A receive tells why, after what came before.
            Heard::Failed if self.is_plain && self.is_open() && self.may_arrive() => {
                (self.hung_up, self.drains) = (true, true);
            }
            Heard::Failed => self.failed(Failure { errno: None, of_send: false }),
            Heard::InputEnds | Heard::HungUp => {}
        }
    }

    /// An ear was refused. Unless something is received by now, nobody would hear the end.
    pub fn deaf(&mut self, errno: i32) {
        if self.receive == Receive::Idle {
            self.failed(Failure { errno: Some(errno), of_send: false });
        }
    }

    /// The receive ended because we cancelled it.
    pub fn receive_cancelled(&mut self) {
        self.receive = Receive::Idle;
    }

    /// The receive ended with an error: the peer is gone.
    pub fn receive_failed(&mut self, errno: i32) {
        self.receive = Receive::Idle;
        // A transport that is closed reads no more: if its peer is gone, the send will fail.
        if !self.is_plain || self.phase == Phase::Open {
            self.failed(Failure { errno: Some(errno), of_send: false });
        }
    }

    fn failed(&mut self, failure: Failure) {
        if self.is_plain && self.is_open() && self.inbox_bytes > 0 {
            self.ends = true;
            self.hung_up = true;
            // If a send has failed too, that may not wait for a reader that pauses.
            self.failure = Some(match self.failure {
                Some(before) => Failure { of_send: before.of_send || failure.of_send, ..before },
                None => failure,
            });
        } else {
            self.fail(End::Reset(failure.errno));
        }
    }

    /// The cancel missed the receive. If that still runs, [`Link::next`] asks for another cancel where one is due.
    pub fn cancel_missed(&mut self) {
        if self.receive != Receive::Idle {
            self.receive = Receive::Running;
            self.aborted = false;
        }
    }

    /// The send ended; the kernel took `bytes`. The contract hears of it by way of the machine.
    pub(super) fn sent(&mut self, bytes: usize) {
        self.sending = false;
        self.queued_bytes = self.queued_bytes.saturating_sub(bytes);
    }

    /// The send ended with an error: the peer is gone.
    pub fn send_failed(&mut self, errno: i32) {
        self.sending = false;
        self.failed(Failure { errno: Some(errno), of_send: true });
    }

    /// The send was not begun: the link had ended before.
    pub fn send_forgone(&mut self) {
        debug_assert!(self.is_finished());
        self.sending = false;
    }

    /// Another driver serves it from now on, which listens for nothing yet. Nothing of it runs.
    pub fn moved(&mut self) {
        debug_assert!(!self.runs());
        self.ear = Ear::Off;
    }

    /// The time to linger is over.
    pub fn linger_expired(&mut self) {
        if self.phase == Phase::Lingering {
            self.phase = Phase::Finished;
        }
    }

    // What the contract takes and gives.

    /// The oldest waiting `bytes` were passed to the protocol (or taken by its `read`).
    pub fn delivered(&mut self, bytes: usize) {
        debug_assert!(bytes <= self.inbox_bytes);
        self.inbox_bytes -= bytes;
    }

    /// `bytes` that were delivered go back to the front of what waits.
    pub fn undelivered(&mut self, bytes: usize) {
        self.inbox_bytes += bytes;
    }

    /// `bytes` wait to be sent.
    pub(super) fn queue(&mut self, bytes: usize) {
        self.queued_bytes += bytes;
    }

    /// Nothing more is written: FIN is sent once what was is out, and reading goes on.
    pub fn end_output(&mut self) {
        if self.phase == Phase::Open && self.output == Output::Open {
            self.output = Output::Ending;
            self.ends = true;
        }
    }

    // What it is like.

    /// Whether the protocol still has its connection: callbacks run and `write` may take bytes.
    pub fn is_open(&self) -> bool {
        self.phase == Phase::Open
    }

    /// Whether it takes what is written, should there be room.
    pub(super) fn takes_output(&self) -> bool {
        self.phase == Phase::Open && self.output == Output::Open && self.directions.writable
    }

    /// Whether nothing more will ever leave, all that was accepted being out: `write_eof` was called.
    pub(super) fn has_ended_output(&self) -> bool {
        self.output != Output::Open && self.queued_bytes == 0
    }

    /// Whether `connection_lost` has not been called yet, and must be.
    pub fn owes_lost(&self) -> bool {
        self.owes_lost
    }

    /// Why it ends: the first cause. Who tears it down without one was killed.
    pub fn end(&self) -> End {
        self.end.unwrap_or(End::Killed)
    }

    /// Whether only the end of the running operations is awaited.
    pub fn is_finished(&self) -> bool {
        self.phase == Phase::Finished
    }

    /// What it can do at all.
    pub(super) fn directions(&self) -> Directions {
        self.directions
    }

    /// Whether something that has arrived waits.
    pub(super) fn has_input(&self) -> bool {
        self.inbox_bytes > 0
    }

    /// Whether the end of file has arrived, and nobody was told.
    pub(super) fn owes_eof(&self) -> bool {
        self.eof == Eof::Waiting
    }

    /// Whether the end of file has arrived.
    pub(super) fn peer_ended(&self) -> bool {
        self.eof != Eof::NotYet
    }

    /// Whether the contract knows that nothing more arrives.
    pub(super) fn has_told_eof(&self) -> bool {
        self.eof == Eof::Told
    }

    /// The operations that run, for people.
    pub fn operations(&self) -> impl Iterator<Item = &'static str> {
        let receive = match self.receive {
            Receive::Idle => None,
            Receive::Running => Some("receive"),
            Receive::Cancelling => Some("receive (being cancelled)"),
        };
        let listen = (self.ear != Ear::Off).then_some("listen for the end");
        [receive, self.sending.then_some("send"), listen].into_iter().flatten()
    }

    /// Whether a receive or a send runs.
    pub fn runs(&self) -> bool {
        self.sending || self.receive != Receive::Idle
    }

    /// Accepted bytes that the kernel has not taken.
    pub fn queued_bytes(&self) -> usize {
        self.queued_bytes
    }

    /// Whether accepted bytes wait for the peer.
    pub fn has_output(&self) -> bool {
        self.queued_bytes > 0
    }

    /// Whether the peer sends no more; what it sent before may still wait.
    pub fn peer_closed(&self) -> bool {
        self.eof != Eof::NotYet || self.input_ends
    }

    /// Whether nothing more can be read: `read` answers `b""` once the inbox is empty.
    pub fn is_at_eof(&self) -> bool {
        self.eof != Eof::NotYet || self.phase != Phase::Open
    }
}
