//! How much arrives of a connection at a time, and so what it is received into. Pure.
//!
//! Most messages are short: they go into the pool's buffers, of which one that waits needs none of its own. Where much arrives, the
//! kernel would fill many of them before the first is looked at, and to make a `bytes` of one is to copy it. Whoever sends so much
//! is received from when it has its turn: into buffers that were used just now, the `bytes` itself, or the protocol's own buffer.

#![forbid(unsafe_code)]

/// So many receives in succession that fill a buffer.
const MUCH: u8 = 2;

/// So many in succession that would leave most of a buffer empty.
const LITTLE: u8 = 8;

/// So much is better received right into a buffer that the protocol has: to copy it costs more.
pub const OWN_MUCH: usize = 4096;

/// What the last receives were like.
#[derive(Default)]
pub struct Intake {
    /// How many in succession speak against how it is received now.
    against: u8,
    /// What the next one gets, if it is not a buffer.
    room: usize,
    /// What arrives is left.
    leaves: bool,
}

impl Intake {
    /// So much has arrived in a buffer. Answers whether to leave what arrives from now on.
    pub fn buffered(&mut self, len: usize, buffer: usize, most: usize) -> bool {
        // What had arrived before it was left says nothing new.
        let begins = !self.leaves && self.counts(len == buffer, MUCH);
        if begins {
            self.leaves = true;
            self.fits(len, buffer, most);
        }
        begins
    }

    /// So much has arrived that what comes next is left, however much that is. Answers whether to leave it from now on.
    pub fn overflowed(&mut self, len: usize, buffer: usize, most: usize) -> bool {
        let begins = !self.leaves;
        if begins {
            (self.leaves, self.against) = (true, 0);
            self.fits(len, buffer, most);
        }
        begins
    }

    /// Nothing is left any more.
    pub fn uses_buffers(&mut self) {
        (self.leaves, self.against) = (false, 0);
    }

    /// What the next receive gets.
    pub fn room(&self) -> usize {
        self.room.max(1)
    }

    /// So much has arrived in what it got, which may be `little`. Answers whether to use buffers from now on.
    pub fn received(&mut self, len: usize, little: usize, buffer: usize, most: usize) -> bool {
        self.fits(len, buffer, most);
        let ends = self.counts(len < little, LITTLE);
        self.leaves &= !ends;
        ends
    }

    fn counts(&mut self, is_against: bool, limit: u8) -> bool {
        self.against = if is_against { self.against + 1 } else { 0 };
        let changes = self.against == limit;
        if changes {
            self.against = 0;
        }
        changes
    }

    /// More than the last: it shows if there was more.
    fn fits(&mut self, len: usize, buffer: usize, most: usize) {
        self.room = (len + 1).next_power_of_two().max(buffer).min(most);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn much_is_left_and_little_is_not() {
        let mut intake = Intake::default();
        assert!(!intake.buffered(100, 100, 1000));
        assert!(!intake.buffered(99, 100, 1000), "one that is full may be an end");
        assert!(!intake.buffered(100, 100, 1000));
        assert!(intake.buffered(100, 100, 1000));
        assert_eq!(intake.room(), 128);
        for len in [128, 256, 512, 1000] {
            assert!(!intake.received(len, 25, 100, 1000));
        }
        assert_eq!(intake.room(), 1000);
        assert!(!intake.received(1, 25, 100, 1000));
        assert_eq!(intake.room(), 100, "a buffer's, at least");
        assert!(!intake.received(25, 25, 100, 1000));
        assert!((1..LITTLE).all(|_| !intake.received(24, 25, 100, 1000)));
        assert!(intake.received(24, 25, 100, 1000));
        assert!(!intake.buffered(100, 100, 1000), "it begins anew");
    }

    #[test]
    fn what_is_left_is_so_until_little_comes_or_it_is_told() {
        let mut intake = Intake::default();
        assert!(intake.overflowed(99, 100, 1000));
        assert_eq!(intake.room(), 128);
        assert!(!intake.overflowed(99, 100, 1000));
        assert!((0..9).all(|_| !intake.buffered(100, 100, 1000)), "these had arrived before");
        intake.uses_buffers();
        assert!(!intake.buffered(100, 100, 1000));
        assert!(intake.buffered(100, 100, 1000));
        assert!((1..LITTLE).all(|_| !intake.received(1, 25, 100, 1000)));
        assert!(intake.received(1, 25, 100, 1000));
        assert!(intake.overflowed(99, 100, 1000));
    }

    #[test]
    fn no_receive_gets_more_than_the_most() {
        let mut intake = Intake::default();
        assert!((0..MUCH).any(|_| intake.buffered(4000, 4000, 1000)));
        assert_eq!(intake.room(), 1000);
        assert!(Intake::default().room() > 0);
    }
}
