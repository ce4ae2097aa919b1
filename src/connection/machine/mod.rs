//! The life of one connection as a pure state machine: no descriptor, no Python, no system call.
//!
//! Events go in through the methods, [`Machine::next`] says what is to be done, and the doer reports back. All the
//! promises of `docs/reactor.md` about order, modes, half close and closing are kept here:
//! B1 (flush, FIN, drain, close), B2 (writes after the peer's half close), B9 (`connection_lost` once and last),
//! I3 (one send at a time), I4 (closed only when no operation runs).

#![forbid(unsafe_code)]

mod states;
mod vocabulary;

use crate::base::ear::{Ear, Heard};
use crate::base::limits::Limits;
use states::{Blocked, Eof, Phase, Receive, Retiring};

pub use vocabulary::{Action, Directions, End, Mode, Next};

/// The state of one connection.
#[derive(Clone, Debug)]
pub struct Machine {
    directions: Directions,
    phase: Phase,
    mode: Mode,
    receive: Receive,
    eof: Eof,
    ear: Ear,
    /// Heard while nothing was received: the peer sends no more, and does not receive any more.
    input_ends: bool,
    hung_up: bool,
    sending: bool,
    /// `write` has refused something, or gone beyond the high-water mark.
    blocked: Blocked,
    /// `connection_lost` is still owed.
    owes_lost: bool,
    aborted: bool,
    /// The first cause of the end.
    end: Option<End>,
    /// Signalled by the callback that runs: counts if it answers that it waits.
    signalled_early: bool,
    retiring: Retiring,
    inbox_bytes: usize,
    queued_bytes: usize,
    discarded_bytes: usize,
}

impl Machine {
    /// A connection whose `connection_made` is about to be called. Nothing is received before it returns.
    pub fn new(directions: Directions) -> Self {
        Machine {
            directions,
            phase: Phase::Open,
            // Where nothing can be read, the protocol is asked for output.
            mode: if directions.readable { Mode::Read } else { Mode::Write },
            receive: Receive::Idle,
            eof: Eof::NotYet,
            ear: Ear::Off,
            input_ends: false,
            hung_up: false,
            sending: false,
            blocked: Blocked::No,
            owes_lost: true,
            aborted: false,
            end: None,
            signalled_early: false,
            retiring: Retiring::No,
            inbox_bytes: 0,
            queued_bytes: 0,
            discarded_bytes: 0,
        }
    }

    /// What to do next. Call again after doing it, until it says [`Next::Nothing`] or [`Next::Yield`].
    /// Without `may_call`, callbacks wait (but for `connection_lost`).
    pub fn next(&mut self, limits: &Limits, may_call: bool) -> Next {
        match self.phase {
            Phase::Open => self.next_open(limits, may_call),
            Phase::Flushing => self.next_flushing(limits),
            Phase::Lingering => self.next_lingering(limits),
            Phase::Finished => self.next_finished(),
        }
    }

    fn next_open(&mut self, limits: &Limits, may_call: bool) -> Next {
        if self.has_retired() {
            self.close(End::Stopped);
            return self.next_flushing(limits);
        }
        let callback = self.due_callback(limits);
        // All that came is dealt with, nothing more can come, and nobody is there to write to.
        let all_came = !self.may_arrive() || (self.retiring != Retiring::No && self.receive == Receive::Idle);
        if self.hung_up && self.inbox_bytes == 0 && all_came && callback != Next::EofReceived {
            self.fail(End::Reset);
            return self.next_finished();
        }
        if may_call && callback != Next::Nothing {
            if callback == Next::EofReceived {
                self.eof = Eof::Told;
            }
            return callback;
        }
        if self.send_due() {
            return Next::Send;
        }
        match self.receive {
            Receive::Idle
                if self.may_arrive() && self.retiring == Retiring::No && self.inbox_bytes < limits.inbox_bytes =>
            {
                self.receive = Receive::Running;
                Next::Receive
            }
            Receive::Running if self.retiring != Retiring::No || self.inbox_bytes >= limits.inbox_bytes => {
                self.receive = Receive::Cancelling;
                Next::CancelReceive
            }
            _ => self.listen(if callback == Next::Nothing { Next::Nothing } else { Next::Yield }),
        }
    }

    fn has_retired(&self) -> bool {
        match self.retiring {
            Retiring::No => false,
            Retiring::WhenIdle => self.mode == Mode::Read && self.inbox_bytes == 0 && self.receive == Receive::Idle,
            Retiring::WhenWritten => match self.mode {
                Mode::Read => self.inbox_bytes == 0,
                Mode::Write => false,
                Mode::Async => true,
            },
        }
    }

    /// The end of the peer is heard by the receive, or else by an ear (B11). Says so if that changes, or `otherwise`.
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
        self.directions.readable && self.eof == Eof::NotYet
    }

    fn due_callback(&self, limits: &Limits) -> Next {
        match self.mode {
            Mode::Read if self.inbox_bytes > 0 => Next::DataReceived,
            Mode::Read if self.eof == Eof::Waiting => Next::EofReceived,
            Mode::Write if self.may_write(limits) => Next::WriteReady,
            _ => Next::Nothing,
        }
    }

    fn may_write(&self, limits: &Limits) -> bool {
        self.directions.writable && self.blocked == Blocked::No && self.queued_bytes < limits.write_high_bytes
    }

    /// I3: one send at a time.
    fn send_due(&mut self) -> bool {
        let due = !self.sending && self.queued_bytes > 0;
        self.sending |= due;
        due
    }

    fn next_flushing(&mut self, limits: &Limits) -> Next {
        if self.send_due() {
            return Next::Send;
        }
        if self.queued_bytes == 0 {
            self.phase = Phase::Lingering;
            self.discarded_bytes = 0;
            return Next::ShutdownWrite;
        }
        if self.receive == Receive::Running && self.discarded_bytes > limits.linger_bytes {
            self.receive = Receive::Cancelling;
            return Next::CancelReceive;
        }
        Next::Nothing
    }

    fn next_lingering(&mut self, limits: &Limits) -> Next {
        if std::mem::take(&mut self.owes_lost) {
            return Next::ConnectionLost;
        }
        if !self.may_arrive() || !self.directions.half_closes || self.discarded_bytes > limits.linger_bytes {
            self.phase = Phase::Finished;
            return self.next_finished();
        }
        if self.receive == Receive::Idle {
            self.receive = Receive::Running;
            return Next::Receive;
        }
        self.listen(Next::Nothing)
    }

    fn next_finished(&mut self) -> Next {
        if std::mem::take(&mut self.owes_lost) {
            return Next::ConnectionLost;
        }
        if self.receive == Receive::Idle && !self.sending {
            return self.listen(Next::Close);
        }
        if !std::mem::replace(&mut self.aborted, true) {
            return Next::Abort;
        }
        Next::Nothing
    }

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
    }

    /// An ear has heard this.
    pub fn heard(&mut self, heard: Heard) {
        self.input_ends = true;
        self.hung_up |= heard == Heard::HungUp;
        if heard == Heard::Failed {
            self.fail(End::Reset);
        }
    }

    /// The receive ended because we cancelled it.
    pub fn receive_cancelled(&mut self) {
        self.receive = Receive::Idle;
    }

    /// The receive ended with an error: the peer is gone.
    pub fn receive_failed(&mut self) {
        self.receive = Receive::Idle;
        self.fail(End::Reset);
    }

    /// The cancel missed the receive. If that still runs, [`Machine::next`] asks for another cancel where one is due.
    pub fn cancel_missed(&mut self) {
        if self.receive != Receive::Idle {
            self.receive = Receive::Running;
            self.aborted = false;
        }
    }

    /// The oldest waiting `bytes` were passed to the protocol (or taken by its `read`).
    pub fn delivered(&mut self, bytes: usize) {
        debug_assert!(bytes <= self.inbox_bytes);
        self.inbox_bytes -= bytes;
    }

    /// `bytes` that were delivered go back to the front of what waits.
    pub fn undelivered(&mut self, bytes: usize) {
        self.inbox_bytes += bytes;
    }

    /// A callback answered.
    pub fn acted(&mut self, action: Action) {
        let signalled = std::mem::take(&mut self.signalled_early);
        if self.phase != Phase::Open {
            return;
        }
        match action {
            Action::AsyncPending if signalled => self.mode = Mode::Write,
            Action::Continue if signalled => self.signalled(),
            Action::Continue => {}
            Action::WritePending => self.mode = Mode::Write,
            // Nothing can arrive any more, so there is nothing left to do but to deliver what was written (B2).
            Action::ReadPending if self.eof == Eof::Told => self.close(End::PeerClosed),
            Action::ReadPending => {
                self.mode = Mode::Read;
                if signalled {
                    self.signalled();
                }
            }
            Action::AsyncPending => self.mode = Mode::Async,
            Action::Close if self.eof == Eof::Told => self.close(End::PeerClosed),
            Action::Close => self.close(End::Closed),
        }
    }

    /// `signal_write_ready` was called. Does nothing unless the protocol waits for it or holds a half-closed connection.
    pub fn signalled(&mut self) {
        let nothing_to_read = !self.directions.readable || self.eof == Eof::Told;
        if self.mode == Mode::Async || (self.mode == Mode::Read && nothing_to_read) {
            self.mode = Mode::Write;
        }
    }

    /// `connection_made` returned. A signal from within it is as one that comes just after.
    pub fn made(&mut self) {
        if std::mem::take(&mut self.signalled_early) {
            self.signalled();
        }
    }

    /// `signal_write_ready` was called by the very callback whose answer is awaited.
    pub fn signalled_early(&mut self) {
        self.signalled_early = true;
    }

    /// Starts the graceful end: what was written is delivered, nothing more is read.
    pub fn close(&mut self, end: End) {
        self.end.get_or_insert(end);
        if self.phase == Phase::Open {
            self.phase = Phase::Flushing;
            self.inbox_bytes = 0;
        }
    }

    /// Reads nothing new, and closes once what has arrived is dealt with.
    pub fn retire(&mut self) {
        if self.retiring == Retiring::No {
            self.retiring = Retiring::WhenIdle;
        }
    }

    /// Reads nothing new, and closes: at once, but for a protocol in write mode, which writes what it has, or one that has
    /// not had what has arrived.
    pub fn stop(&mut self) {
        self.retiring = Retiring::WhenWritten;
        if self.has_retired() {
            self.close(End::Stopped);
        }
    }

    /// The connection is dead: nothing is delivered any more, `connection_lost` is due.
    pub fn fail(&mut self, end: End) {
        self.end.get_or_insert(end);
        self.phase = Phase::Finished;
        self.inbox_bytes = 0;
        self.queued_bytes = 0;
    }

    /// `connection_made` did not return: `connection_lost` must not be called (B9).
    pub fn never_made(&mut self) {
        self.owes_lost = false;
        self.close(End::Exception);
    }

    /// The time to linger is over.
    pub fn linger_expired(&mut self) {
        if self.phase == Phase::Lingering {
            self.phase = Phase::Finished;
        }
    }

    /// `write` is offered `bytes` of a stream. Answers how many of them it takes, from the first. Of an immutable object
    /// nothing is copied, so one is taken whole, however long, where nothing else waits (B3).
    pub fn offered(&mut self, bytes: usize, immutable: bool, limits: &Limits) -> usize {
        let room = self.room(limits);
        if immutable && bytes > room && room > 0 && !self.has_output() {
            self.wrote(bytes, bytes);
            self.blocked = Blocked::UntilLow;
            return bytes;
        }
        let taken = bytes.min(room);
        self.wrote(bytes, taken);
        if immutable && bytes - taken > limits.write_high_bytes {
            self.blocked = Blocked::UntilEmpty;
        }
        taken
    }

    /// Bytes that `write` may take now, unless it is one object that may be longer (see [`Machine::offered`]).
    pub fn room(&self, limits: &Limits) -> usize {
        match self.phase {
            Phase::Open if self.directions.writable => limits.write_high_bytes.saturating_sub(self.queued_bytes),
            _ => 0,
        }
    }

    /// `write` was offered what counts for so much, and took `taken` of it.
    pub fn wrote(&mut self, offered: usize, taken: usize) {
        debug_assert!(taken <= offered);
        self.queued_bytes += taken;
        if taken < offered && self.blocked == Blocked::No {
            self.blocked = Blocked::UntilLow;
        }
    }

    /// The send ended; the kernel took `bytes`.
    pub fn sent(&mut self, bytes: usize, limits: &Limits) {
        self.sending = false;
        self.queued_bytes = self.queued_bytes.saturating_sub(bytes);
        if self.queued_bytes == 0 || (self.queued_bytes <= limits.write_low_bytes && self.blocked == Blocked::UntilLow)
        {
            self.blocked = Blocked::No;
        }
    }

    /// The send ended with an error: the peer is gone.
    pub fn send_failed(&mut self) {
        self.sending = false;
        self.fail(End::Reset);
    }

    /// Whether the protocol still has its connection: callbacks run and `write` may take bytes.
    pub fn is_open(&self) -> bool {
        self.phase == Phase::Open
    }

    /// Whether `connection_lost` has not been called yet, and must be.
    pub fn owes_lost(&self) -> bool {
        self.owes_lost
    }

    /// Why it ends: the first cause. Who tears it down without one was killed.
    pub fn end(&self) -> End {
        self.end.unwrap_or(End::Killed)
    }

    /// What the protocol waits for, for people: `None` once it is being closed.
    pub fn mode(&self) -> Option<Mode> {
        self.is_open().then_some(self.mode)
    }

    /// Whether only the end of the running operations is awaited.
    pub fn is_finished(&self) -> bool {
        self.phase == Phase::Finished
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

#[cfg(test)]
mod tests;
#[cfg(test)]
mod world;
