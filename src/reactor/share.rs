//! What one connection may have of a turn, so that the others have theirs: callbacks, bytes and time (I9).

#![forbid(unsafe_code)]

use crate::base::config::{BYTES_PER_TURN, CALLBACKS_PER_TURN, MICROSECONDS_PER_TURN, RECEIVES_MAX, RECEIVES_PER_TURN};
use crate::base::token::ConnId;
use std::time::{Duration, Instant};

const TIME_PER_TURN: Duration = Duration::from_micros(MICROSECONDS_PER_TURN);

/// How often each of so many is received from that have much to be received.
pub(super) fn receives_each(waiting: usize) -> u32 {
    (RECEIVES_PER_TURN / u32::try_from(waiting).unwrap_or(u32::MAX).max(1)).clamp(1, RECEIVES_MAX)
}

/// Receives of a connection that may follow the one that has filled all it may at a time.
pub(super) struct Repeats {
    pub(super) of: ConnId,
    left: u32,
    /// Before the first callback. A whole receive may be one, after which nothing more waits: then [`Share`] asks for no time.
    since: Instant,
    /// What waited to be sent when it was received from last.
    queued: usize,
}

impl Repeats {
    /// If it may be received from more than once.
    pub(super) fn new(of: ConnId, receives: u32) -> Option<Self> {
        (receives > 1).then(|| Repeats { of, left: receives - 1, since: Instant::now(), queued: 0 })
    }

    pub(super) fn have_time(&self) -> bool {
        self.since.elapsed() < TIME_PER_TURN
    }

    /// For how much there must be room, that what is answered to the next receive, of `arrives` at most, is taken as all before it: for
    /// as much as comes, or as was answered to the last one. So much is `queued` by now.
    pub(super) fn may_answer(&self, arrives: usize, queued: usize) -> usize {
        queued.saturating_sub(self.queued).max(arrives)
    }

    /// One has followed, for which so much was `queued`.
    pub(super) fn followed(self, queued: usize) -> Option<Self> {
        (self.left > 1).then(|| Repeats { left: self.left - 1, queued, ..self })
    }
}

/// What is left of it.
pub(super) struct Share {
    calls: u32,
    bytes: usize,
    /// The bytes are used up, and more of them wait.
    is_spent: bool,
    /// When the first callback had returned and more was to come: whose turn is one callback does not ask for the time.
    since: Option<Instant>,
}

impl Share {
    /// A whole one; nothing of it for whoever has had it in this turn.
    pub(super) fn new(had: bool) -> Self {
        Share { calls: if had { 0 } else { CALLBACKS_PER_TURN }, bytes: BYTES_PER_TURN, is_spent: false, since: None }
    }

    pub(super) fn is_left(&self) -> bool {
        self.calls > 0 && !self.is_spent
    }

    /// Whether callbacks are left, should it be received from once more. Its time is looked at only where more waits: see [`Repeats`].
    pub(super) fn may_receive_again(&self) -> bool {
        self.calls > 0
    }

    /// It was received from once more.
    pub(super) fn received_again(&mut self) {
        (self.bytes, self.is_spent) = (BYTES_PER_TURN, false);
    }

    /// A callback has returned that was given `bytes`. If `more` of its kind are to come, they may have to wait.
    pub(super) fn use_up(&mut self, bytes: usize, more: bool) {
        self.calls = self.calls.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(bytes);
        if more {
            self.is_spent |= self.bytes == 0;
            if self.since.get_or_insert_with(Instant::now).elapsed() >= TIME_PER_TURN {
                self.calls = 0;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_are_received_from_more_often_and_all_together_not_too_often() {
        assert_eq!([0, 1, 4, 5, 8, 9, 16, 1000].map(receives_each), [4, 4, 4, 3, 2, 1, 1, 1]);
        let mut share = Share::new(false);
        // However long this takes here.
        share.since = Some(Instant::now() + Duration::from_secs(3600));
        share.use_up(BYTES_PER_TURN, true);
        assert!(!share.is_left() && share.may_receive_again());
        share.received_again();
        share.use_up(1, true);
        assert!(share.is_left());
        share.since = Instant::now().checked_sub(TIME_PER_TURN);
        share.use_up(0, true);
        assert!(!share.is_left() && !share.may_receive_again());
    }

    #[test]
    fn receives_are_repeated_so_often_and_within_the_time_of_a_turn() {
        assert!(Repeats::new(ConnId::from_bits(1), 1).is_none());
        let mut repeats = Repeats::new(ConnId::from_bits(1), 3).unwrap();
        repeats.since = Instant::now() + Duration::from_secs(3600);
        assert!(repeats.have_time());
        let since = Instant::now().checked_sub(TIME_PER_TURN).unwrap();
        let late = Repeats { since, ..repeats }.followed(0).unwrap();
        assert!(!late.have_time(), "one that has followed begins no new time");
        assert!(late.followed(0).is_none());
    }

    #[test]
    fn the_next_receive_may_be_answered_as_the_last_one() {
        let repeats = Repeats::new(ConnId::from_bits(1), 3).unwrap();
        assert_eq!([0, 64, 192].map(|queued| repeats.may_answer(64, queued)), [64, 64, 192]);
        let repeats = repeats.followed(192).unwrap();
        assert_eq!([100, 192, 300].map(|queued| repeats.may_answer(64, queued)), [64, 64, 108]);
    }

    #[test]
    fn calls_bytes_and_time_end_it() {
        let mut share = Share::new(false);
        (0..CALLBACKS_PER_TURN).for_each(|_| share.use_up(0, false));
        assert!(!share.is_left());
        let mut share = Share::new(false);
        share.use_up(BYTES_PER_TURN, false);
        assert!(share.is_left(), "what follows from it, an answer, belongs to it");
        share.use_up(0, true);
        assert!(!share.is_left());
        let mut share = Share::new(false);
        share.since = Instant::now().checked_sub(TIME_PER_TURN);
        share.use_up(1, true);
        assert!(!share.is_left());
        assert!(!Share::new(true).is_left());
    }
}
