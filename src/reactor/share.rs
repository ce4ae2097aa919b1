//! What one connection may have of a turn, so that the others have theirs: callbacks, bytes and time (I9).

#![forbid(unsafe_code)]

use crate::base::config::{BYTES_PER_TURN, CALLBACKS_PER_TURN, MICROSECONDS_PER_TURN};
use std::time::{Duration, Instant};

const TIME_PER_TURN: Duration = Duration::from_micros(MICROSECONDS_PER_TURN);

/// What is left of it.
pub(super) struct Share {
    calls: u32,
    bytes: usize,
    /// When the first callback had returned and more was to come: whose turn is one callback does not ask for the time.
    since: Option<Instant>,
}

impl Share {
    /// A whole one; nothing of it for whoever has had it in this turn.
    pub(super) fn new(had: bool) -> Self {
        Share { calls: if had { 0 } else { CALLBACKS_PER_TURN }, bytes: BYTES_PER_TURN, since: None }
    }

    pub(super) fn is_left(&self) -> bool {
        self.calls > 0
    }

    /// A callback has returned that was given `bytes`. If `more` of its kind are to come, they may have to wait.
    pub(super) fn use_up(&mut self, bytes: usize, more: bool) {
        self.calls = self.calls.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(bytes);
        if more && (self.bytes == 0 || self.since.get_or_insert_with(Instant::now).elapsed() >= TIME_PER_TURN) {
            self.calls = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
