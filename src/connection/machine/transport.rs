//! The contract of asyncio's transports above a link: reading that the user pauses, and writes that are always taken, with marks.

#![forbid(unsafe_code)]

use super::link::{Link, Wish};
use super::vocabulary::{Mode, Next};

/// Where `pause_writing` and `resume_writing` are called: above the first, and not above the second any more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Marks {
    /// Bytes.
    pub high: usize,
    /// Bytes.
    pub low: usize,
}

/// What a transport waits for.
#[derive(Clone, Debug)]
pub(super) struct TransportPolicy {
    marks: Marks,
    /// `connection_made` was called, or was to be: before that nothing happens.
    made: bool,
    /// `pause_reading` was called.
    paused: bool,
    /// `pause_writing` was called, and `resume_writing` not yet.
    holds_writer: bool,
    /// Somebody waits for an empty queue, or to hear that there will be none.
    awaits_empty: bool,
    /// Somebody else writes to the socket, or waits until they may: it is not closed meanwhile.
    lent: bool,
    /// It is kept by more than its program.
    held: bool,
}

impl TransportPolicy {
    pub(super) fn new(marks: Marks) -> Self {
        TransportPolicy {
            marks,
            made: false,
            paused: false,
            holds_writer: false,
            awaits_empty: false,
            lent: false,
            held: true,
        }
    }

    /// Whether it waits for input and for nothing else.
    #[inline(always)]
    pub(super) fn only_reads(&self) -> bool {
        self.made && !(self.paused || self.holds_writer || self.awaits_empty)
    }

    /// What comes before anything that the link has to do.
    pub(super) fn comes_first(&mut self, link: &Link) -> Option<Next> {
        if !self.made {
            return Some(Next::Nothing);
        }
        if self.holds_writer || self.awaits_empty {
            let (queued, is_over) = (link.queued_bytes(), link.is_finished());
            let resumes = self.holds_writer && !is_over && queued <= self.marks.low;
            // It will not be empty any more where the link is over: whoever waits ends the loan, without which nothing ends.
            let is_told = self.awaits_empty && (is_over || queued == 0);
            self.holds_writer &= !resumes;
            self.awaits_empty &= !is_told;
            return (resumes || is_told).then_some(Next::Drained);
        }
        None
    }

    pub(super) fn wish(&self, link: &Link) -> Wish {
        let callback = match () {
            () if self.paused => Next::Nothing,
            () if link.has_input() => Next::DataReceived,
            () if link.owes_eof() => Next::EofReceived,
            () => Next::Nothing,
        };
        Wish { callback, mode: self.mode(), reads: !self.paused, may_end: !self.lent }
    }

    /// Whether what arrives now would be delivered at once, nothing before it.
    pub(super) fn delivers(&self, link: &Link) -> bool {
        self.made && !self.paused && link.is_open() && !link.has_input() && !link.peer_ended()
    }

    /// Whether it is kept no longer, for nothing follows: it reads no more, and has nothing to write. Answers so once.
    #[cold]
    pub(super) fn lets_go(&mut self, link: &Link) -> bool {
        let is_idle = (self.paused || link.has_told_eof()) && link.is_open() && !link.has_output() && !self.lent;
        is_idle && std::mem::take(&mut self.held)
    }

    pub(super) fn hold(&mut self) {
        self.held = true;
    }

    pub(super) fn mode(&self) -> Mode {
        if self.paused { Mode::Async } else { Mode::Read }
    }

    pub(super) fn made(&mut self) {
        self.made = true;
    }

    pub(super) fn pause_reading(&mut self, pauses: bool) {
        self.paused = pauses;
    }

    pub(super) fn exceeds(&self, link: &Link) -> bool {
        link.queued_bytes() > self.marks.high
    }

    /// Something was written, or the marks were changed. Answers whether `pause_writing` is to be called.
    pub(super) fn is_too_much(&mut self, link: &Link) -> bool {
        self.exceeds(link) && !std::mem::replace(&mut self.holds_writer, true)
    }

    pub(super) fn lend(&mut self, lends: bool) {
        self.awaits_empty = lends;
        self.lent = lends;
    }

    pub(super) fn is_lent(&self) -> bool {
        self.lent
    }

    pub(super) fn set_marks(&mut self, marks: Marks) {
        self.marks = marks;
    }
}
