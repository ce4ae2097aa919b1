//! Figures of a context that anybody may read without asking its thread (B6).
//!
//! The reactor thread is the only writer (but for `connections` and `refused`), so a plain load and store will do.

#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! stats {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// Counters and gauges of one context.
        #[derive(Default, Debug)]
        pub struct Stats { $($(#[$doc])* pub $name: Figure),* }

        impl Stats {
            /// Every figure with its name.
            pub fn figures(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($name), self.$name.get())),*].into_iter()
            }
        }
    };
}

stats! {
    /// Open now (handed over and not closed yet).
    connections,
    /// Handed over since the start.
    accepted,
    /// Closed since the start.
    closed,
    /// Refused because of `max_connections`.
    refused,
    /// Closed because nothing moved, or cut because output made no progress.
    timed_out,
    /// Exceptions and illegal actions of callbacks.
    exceptions,
    /// Bytes received.
    bytes_in,
    /// Bytes sent.
    bytes_out,
    /// Calls of `data_received`.
    messages,
    /// Turns of the loop: system calls that waited.
    turns,
    /// Receive buffers that Python does not hold.
    buffers_free,
    /// Receive buffers that Python holds.
    buffers_lent,
    /// Messages whose bytes were copied to the heap because buffers ran low.
    buffers_copied,
}

/// One number.
#[derive(Default, Debug)]
pub struct Figure(AtomicU64);

impl Figure {
    /// Reads it, from any thread.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Adds to it; only from the one thread that writes it.
    pub fn add(&self, by: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(by), Ordering::Relaxed);
    }

    /// Sets it; only from the one thread that writes it.
    pub fn set(&self, to: u64) {
        self.0.store(to, Ordering::Relaxed);
    }

    /// Adds one, from any thread.
    pub fn count(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// Adds one unless it has reached `max`, from any thread. Answers whether it did.
    pub fn reserve(&self, max: u64) -> bool {
        self.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, |n| (n < max).then_some(n + 1)).is_ok()
    }

    /// Takes one away, from any thread.
    pub fn release(&self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}
