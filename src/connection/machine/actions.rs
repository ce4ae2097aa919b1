//! The contract of `reactor.Protocol` above a link: modes, what callbacks answer, and what `write` takes (B2, B3).
//!
//! It decides which callback is due and what a protocol waits for, and asks the link for nothing but to close. Another
//! contract over the same link has the same three parts: a wish ([`ActionPolicy::wish`]), what its callbacks and calls do
//! to it, and what a queue that falls does ([`ActionPolicy::drained`]). What holds a connection in async mode, the task of an
//! `async def` callback, leaves the mode as it was: what the task answers is said of that.

#![forbid(unsafe_code)]

use super::link::{Link, Wish};
use super::states::Blocked;
use super::tasks::Tasks;
use super::vocabulary::{Action, Directions, End, Mode, Next, Task};
use crate::base::limits::Limits;

/// What a protocol waits for, and what keeps it waiting.
#[derive(Clone, Debug)]
pub(super) struct ActionPolicy {
    mode: Mode,
    /// `write` has refused something, or gone beyond the high-water mark.
    blocked: Blocked,
    /// Signalled by the callback that runs: counts if it answers that it waits.
    signalled_early: bool,
    pub(super) tasks: Tasks,
}

impl ActionPolicy {
    pub(super) fn new(directions: Directions) -> Self {
        // Where nothing can be read, the protocol is asked for output.
        let mode = if directions.readable { Mode::Read } else { Mode::Write };
        ActionPolicy { mode, blocked: Blocked::No, signalled_early: false, tasks: Tasks::default() }
    }

    /// Whether its tasks are to be told, for the first time, that the connection has ended.
    pub(super) fn owe_cancel(&mut self, link: &Link) -> bool {
        self.tasks.are_there() && !link.is_open() && self.tasks.owe_cancel()
    }

    /// Whether it waits for input and for nothing else.
    #[inline(always)]
    pub(super) fn only_reads(&self) -> bool {
        self.mode == Mode::Read && !self.tasks.are_there()
    }

    pub(super) fn mode(&self) -> Mode {
        if self.tasks.hold() { Mode::Held } else { self.mode }
    }

    pub(super) fn wish(&self, link: &Link, limits: &Limits) -> Wish {
        let (mode, full, may_end) = match self.tasks.are_there() {
            true => (self.mode(), self.tasks.are_full(), self.tasks.have_ended()),
            false => (self.mode, false, true),
        };
        let callback = match mode {
            Mode::Read if full => Next::Nothing,
            Mode::Read if link.has_input() => Next::DataReceived,
            Mode::Read if link.owes_eof() => Next::EofReceived,
            Mode::Write if self.may_write(link, limits) => Next::WriteReady,
            Mode::Write if link.has_ended_output() => return self.reads_on(link, full, may_end),
            _ => Next::Nothing,
        };
        Wish { callback, mode, reads: true, may_end }
    }

    /// It has tried to write after its output had ended, and waits for room that there will never be: reading goes on.
    #[cold]
    fn reads_on(&self, link: &Link, full: bool, may_end: bool) -> Wish {
        let callback = match () {
            () if full => Next::Nothing,
            () if link.has_input() => Next::DataReceived,
            () if link.owes_eof() => Next::EofReceived,
            () => Next::Nothing,
        };
        Wish { callback, mode: Mode::Read, reads: true, may_end }
    }

    /// Also where nothing can be written, so that a protocol that has waited goes on; once it has tried, there is no room.
    pub(super) fn may_write(&self, link: &Link, limits: &Limits) -> bool {
        self.blocked == Blocked::No && link.queued_bytes() < limits.write_high_bytes
    }

    /// A callback answered. `buffers`: as for [`ActionPolicy::signalled`].
    #[inline]
    pub(super) fn acted(&mut self, link: &mut Link, action: Action, buffers: impl FnOnce() -> bool) {
        // A signal while a task holds the connection is for what that answers.
        if self.signalled_early && !self.tasks.hold() {
            self.signalled_early = false;
            self.acted_and_signalled(link, action, buffers);
        } else {
            self.answered(link, action);
        }
    }

    /// A callback answered, and has signalled: as a signal that comes just after, but that what stands in `write_buffer` is
    /// written even if the answer would end the connection for want of anything to do.
    #[cold]
    fn acted_and_signalled(&mut self, link: &mut Link, action: Action, buffers: impl FnOnce() -> bool) {
        if action != Action::Close && link.takes_output() && buffers() {
            self.mode = Mode::Write;
        } else {
            self.answered(link, action);
            self.signalled(link, || false);
        }
    }

    #[inline]
    fn answered(&mut self, link: &mut Link, action: Action) {
        if !link.is_open() {
            return;
        }
        match action {
            Action::Continue => {}
            Action::WritePending => self.mode = Mode::Write,
            // Nothing can arrive any more, so there is nothing left to do but to deliver what was written (B2).
            Action::ReadPending if link.has_told_eof() => link.close(End::PeerClosed),
            Action::ReadPending => self.mode = Mode::Read,
            Action::AsyncPending => self.mode = Mode::Async,
            Action::Close if link.has_told_eof() => link.close(End::PeerClosed),
            Action::Close => link.close(End::Closed),
        }
    }

    /// `signal_write_ready` was called. Does nothing unless the protocol waits for it, or holds a half-closed connection, or
    /// `buffers`: something stands in its `write_buffer`. For a signal that comes late, as one by the number of a connection
    /// that is gone, may have ended the wait of the next one's, and whoever has put something there has no other to give.
    pub(super) fn signalled(&mut self, link: &Link, buffers: impl FnOnce() -> bool) {
        if self.tasks.hold() {
            self.signalled_early = true;
            return;
        }
        let nothing_to_read = !link.directions().readable || link.has_told_eof();
        let goes_on = match self.mode {
            Mode::Async => true,
            Mode::Read => nothing_to_read || (link.takes_output() && buffers()),
            Mode::Write | Mode::Held => false,
        };
        if goes_on {
            self.mode = Mode::Write;
        }
    }

    /// A task has begun. The callback of a datagram has returned by that, without an answer: its signal waits for none.
    pub(super) fn task_began(&mut self, link: &Link, task: Task, buffers: impl FnOnce() -> bool) {
        self.tasks.begin(task);
        if task == Task::Datagram && !self.tasks.hold() && std::mem::take(&mut self.signalled_early) {
            self.signalled(link, buffers);
        }
    }

    /// `connection_made` returned. A signal from within it is as one that comes just after.
    pub(super) fn made(&mut self, link: &Link, buffers: impl FnOnce() -> bool) {
        if std::mem::take(&mut self.signalled_early) {
            self.signalled(link, buffers);
        }
    }

    /// `signal_write_ready` was called by the very callback whose answer is awaited.
    pub(super) fn signalled_early(&mut self) {
        self.signalled_early = true;
    }

    /// `write` is offered `bytes` of a stream. Answers how many of them it takes, from the first. Of an immutable object
    /// nothing is copied, so one is taken whole, however long, where nothing else waits (B3).
    pub(super) fn offered(&mut self, link: &mut Link, bytes: usize, immutable: bool, limits: &Limits) -> usize {
        let room = self.room(link, limits);
        if immutable && bytes > room && room > 0 && !link.has_output() {
            self.wrote(link, bytes, bytes);
            self.blocked = Blocked::UntilLow;
            return bytes;
        }
        let taken = bytes.min(room);
        self.wrote(link, bytes, taken);
        if immutable && bytes - taken > limits.write_high_bytes {
            self.blocked = Blocked::UntilEmpty;
        }
        taken
    }

    /// Bytes that `write` may take now, unless it is one object that may be longer (see [`ActionPolicy::offered`]).
    pub(super) fn room(&self, link: &Link, limits: &Limits) -> usize {
        if link.takes_output() { limits.write_high_bytes.saturating_sub(link.queued_bytes()) } else { 0 }
    }

    /// `write` was offered what counts for so much, and took `taken` of it.
    pub(super) fn wrote(&mut self, link: &mut Link, offered: usize, taken: usize) {
        debug_assert!(taken <= offered);
        link.queue(taken);
        if taken < offered && self.blocked == Blocked::No {
            self.blocked = Blocked::UntilLow;
        }
    }

    /// The queue has fallen.
    pub(super) fn drained(&mut self, link: &Link, limits: &Limits) {
        let queued = link.queued_bytes();
        if queued == 0 || (queued <= limits.write_low_bytes && self.blocked == Blocked::UntilLow) {
            self.blocked = Blocked::No;
        }
    }
}
