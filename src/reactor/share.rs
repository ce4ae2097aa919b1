//! What one connection may have of a turn, so that the others have theirs: callbacks, bytes and time (I9).

#![forbid(unsafe_code)]

use crate::base::config::{BYTES_PER_TURN, CALLBACKS_PER_TURN, MICROSECONDS_PER_TURN, RECEIVES_MAX, RECEIVES_PER_TURN};
use std::time::{Duration, Instant};

const TIME_PER_TURN: Duration = Duration::from_micros(MICROSECONDS_PER_TURN);

/// How often each of so many is received from that have much to be received.
pub(super) fn receives_each(waiting: usize) -> u32 {
    (RECEIVES_PER_TURN / u32::try_from(waiting).unwrap_or(u32::MAX).max(1)).clamp(1, RECEIVES_MAX)
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

    /// Whether there is something left of callbacks and of time, should it be received from once more.
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
