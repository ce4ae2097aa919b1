//! How a link ends: what begins that, and what follows until nothing of it runs.

#![forbid(unsafe_code)]

use super::super::states::{Eof, Failure, Output, Phase, Receive, Retiring};
use super::super::vocabulary::{End, Mode, Next};
use super::{Link, Wish};
use crate::base::limits::Limits;

impl Link {
    /// Of one that is open and ends, or a half of it: what comes before all else.
    #[cold]
    pub(super) fn next_ending(&mut self, limits: &Limits, Wish { callback, mode, may_end, .. }: Wish) -> Option<Next> {
        if self.has_retired(mode) {
            self.close(End::Stopped);
            return Some(self.next_flushing(limits, may_end));
        }
        if let Some(Failure { errno, of_send }) = self.failure
            && (self.inbox_bytes == 0 || (of_send && callback == Next::Nothing))
        {
            self.fail(End::Reset(errno));
            return Some(self.next_finished(may_end));
        }
        if self.hung_up && self.is_gone(callback, mode) {
            self.fail(if self.output == Output::Ended { End::PeerClosed } else { End::Reset(None) });
            return Some(self.next_finished(may_end));
        }
        if self.output == Output::Ended && self.eof == Eof::Told && !self.is_plain {
            // Both have said all that they had to say.
            self.close(End::PeerClosed);
            return Some(self.next_flushing(limits, may_end));
        }
        None
    }

    /// Nothing of it, or of a half of it, ends.
    pub(super) fn is_undisturbed(&self) -> bool {
        self.retiring == Retiring::No
            && self.failure.is_none()
            && self.output == Output::Open
            && self.eof == Eof::NotYet
            && !(self.input_ends || self.hung_up || self.drains)
    }

    /// Of one that has hung up: all that came is dealt with, nothing more can come, and nobody is there to write to.
    fn is_gone(&self, callback: Next, mode: Mode) -> bool {
        let all_came = !self.may_arrive() || (self.retiring != Retiring::No && self.receive == Receive::Idle);
        // The writer of a pipe never received: it has only stopped sending, until its protocol knows or waits for room.
        let waits_for_room = mode == Mode::Write && callback == Next::Nothing;
        let only_reads = self.directions.readable && !self.directions.writable;
        let has_left = !only_reads || self.eof == Eof::Told || waits_for_room;
        !self.is_plain && has_left && self.inbox_bytes == 0 && all_came && callback != Next::EofReceived
    }

    fn has_retired(&self, mode: Mode) -> bool {
        match self.retiring {
            Retiring::No => false,
            Retiring::WhenIdle => mode == Mode::Read && self.inbox_bytes == 0 && self.receive == Receive::Idle,
            Retiring::WhenWritten => match mode {
                Mode::Read => self.inbox_bytes == 0,
                Mode::Write | Mode::Held => false,
                Mode::Async => true,
            },
        }
    }

    pub(super) fn next_flushing(&mut self, limits: &Limits, may_end: bool) -> Next {
        if let Some(Failure { errno, of_send: true }) = self.failure
            && self.queued_bytes > 0
        {
            self.fail(End::Reset(errno));
            return self.next_finished(may_end);
        }
        if self.send_due() {
            return Next::Send;
        }
        if self.queued_bytes == 0 && self.is_plain {
            self.phase = Phase::Finished;
            return self.next_finished(may_end);
        }
        if self.queued_bytes == 0 {
            self.phase = Phase::Lingering;
            self.discarded_bytes = 0;
            return Next::ShutdownWrite;
        }
        if self.receive == Receive::Running && (self.is_plain || self.discarded_bytes > limits.linger_bytes) {
            self.receive = Receive::Cancelling;
            return Next::CancelReceive;
        }
        Next::Nothing
    }

    pub(super) fn next_lingering(&mut self, limits: &Limits, may_end: bool) -> Next {
        if may_end && std::mem::take(&mut self.owes_lost) {
            return Next::ConnectionLost;
        }
        if !self.may_arrive() || !self.directions.half_closes || self.discarded_bytes > limits.linger_bytes {
            self.phase = Phase::Finished;
            return self.next_finished(may_end);
        }
        if self.receive == Receive::Idle {
            self.receive = Receive::Running;
            return Next::Receive;
        }
        self.listen(Next::Nothing)
    }

    pub(super) fn next_finished(&mut self, may_end: bool) -> Next {
        let is_idle = self.receive == Receive::Idle && !self.sending;
        if may_end && (is_idle || !self.is_plain) && std::mem::take(&mut self.owes_lost) {
            return Next::ConnectionLost;
        }
        if is_idle {
            return self.listen(if self.owes_lost { Next::Nothing } else { Next::Close });
        }
        if std::mem::replace(&mut self.aborted, true) { Next::Nothing } else { Next::Abort }
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
            self.ends = true;
        }
    }

    /// Reads nothing new, and closes: at once, but where the contract waits to write, or has not had what has arrived.
    pub(in super::super) fn stop(&mut self, mode: Mode) {
        self.retiring = Retiring::WhenWritten;
        self.ends = true;
        if self.has_retired(mode) {
            self.close(End::Stopped);
        }
    }

    /// The connection is dead: nothing is delivered any more, `connection_lost` is due.
    pub fn fail(&mut self, end: End) {
        if self.is_plain && self.phase == Phase::Flushing {
            // What was written before the close is lost: that is what counts.
            self.end = Some(end);
        }
        self.end.get_or_insert(end);
        self.phase = Phase::Finished;
        self.inbox_bytes = 0;
        self.queued_bytes = 0;
    }

    /// Nobody has the transport any more who might be told: it is dead without `connection_lost`.
    pub fn abandon(&mut self) {
        self.owes_lost = false;
        self.fail(End::Abandoned);
    }

    /// `connection_made` did not return: `connection_lost` must not be called (B9).
    pub fn never_made(&mut self) {
        self.owes_lost = false;
        self.close(End::Exception);
    }
}
