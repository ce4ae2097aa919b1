//! What moves on a connection: for people, and for the looks that find dead ones (`src/reactor/expiry.rs`).

#![forbid(unsafe_code)]

use std::time::Instant;

/// What a connection has moved.
#[derive(Clone, Copy, Default)]
pub struct Traffic {
    /// Bytes received.
    pub received: u64,
    /// Bytes whose sends have ended.
    pub sent: u64,
    /// How often either happened: a datagram may be empty.
    pub events: u64,
}

impl Traffic {
    /// Counts a receive.
    pub fn received(&mut self, bytes: usize) {
        self.received = self.received.wrapping_add(bytes as u64);
        self.events = self.events.wrapping_add(1);
    }

    /// Counts a send that has ended.
    pub fn sent(&mut self, bytes: usize) {
        self.sent = self.sent.wrapping_add(bytes as u64);
        self.events = self.events.wrapping_add(1);
    }
}

/// What tells whether a connection is alive, sampled when it is looked at.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Pulse {
    /// When one of the others last changed.
    pub at: Instant,
    /// [`Traffic::events`].
    pub events: u64,
    /// [`Descriptor::progress`](crate::driver::descriptor::Descriptor::progress) while there is output: a long send shows here first.
    pub taken: u64,
}

impl Pulse {
    /// Of a connection that has just begun.
    pub fn new() -> Self {
        Pulse { at: Instant::now(), events: 0, taken: 0 }
    }
}
