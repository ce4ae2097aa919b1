//! Figures of a context that anybody may read without asking its thread (B6).
//!
//! The reactor thread is the only writer (but for `connections` and `refused`), so a plain load and store will do.

#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! stats {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// Counters and gauges of one context.
        #[derive(Default, Debug)]
        pub struct Stats {
            $($(#[$doc])* pub $name: Figure,)*
            /// How late callbacks of the event loop were that were to run at a time.
            pub loop_lag: Lag,
        }

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
    /// Connections of asyncio's transports that are open now.
    transports,
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
    /// Tasks of connections and of requests that have not ended.
    tasks,
    /// Callbacks of the event loop that are to run at a time.
    timers,
    /// Callbacks of the event loop that are to run at once.
    ready,
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

/// Each power of two has so many buckets, so that a bucket is no wider than a quarter of what it is for.
const PARTS: u64 = 4;
/// More than an hour, in microseconds, goes into the last bucket.
const BUCKETS: usize = 128;

/// Durations in microseconds: how many there were of about which length. The reactor thread is the only writer.
#[derive(Debug)]
pub struct Lag {
    buckets: [Figure; BUCKETS],
    max: Figure,
}

/// What half of them, and 99 of 100, did not exceed, and none did; in microseconds.
#[derive(Debug, PartialEq, Eq)]
pub struct Quantiles {
    /// The median.
    pub p50: u64,
    /// The 99th percentile.
    pub p99: u64,
    /// The longest.
    pub max: u64,
}

impl Default for Lag {
    fn default() -> Self {
        Lag { buckets: std::array::from_fn(|_| Figure::default()), max: Figure::default() }
    }
}

impl Lag {
    /// One more.
    pub fn record(&self, seconds: f64) {
        let micros = (seconds * 1e6) as u64;
        if let Some(bucket) = self.buckets.get(bucket_of(micros)) {
            bucket.add(1);
        }
        if micros > self.max.get() {
            self.max.set(micros);
        }
    }

    /// What they are by now; from any thread. All are 0 if there were none.
    pub fn quantiles(&self) -> Quantiles {
        let counts: [u64; BUCKETS] = std::array::from_fn(|nth| self.buckets[nth].get());
        let all: u64 = counts.iter().sum();
        let max = self.max.get();
        let within = |percent: u64| {
            let wanted = (all * percent).div_ceil(100);
            let mut seen = 0;
            let nth = counts.iter().position(|count| {
                seen += count;
                seen >= wanted
            });
            nth.map_or(max, largest_of).min(max)
        };
        Quantiles { p50: within(50), p99: within(99), max }
    }
}

fn bucket_of(micros: u64) -> usize {
    if micros < PARTS {
        return micros as usize;
    }
    let shift = u64::from(micros.ilog2()) - u64::from(PARTS.ilog2());
    ((PARTS * shift + (micros >> shift)) as usize).min(BUCKETS - 1)
}

/// The longest duration that goes into that bucket.
fn largest_of(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    if bucket < PARTS {
        return bucket;
    }
    let shift = bucket / PARTS - 1;
    ((PARTS + bucket % PARTS + 1) << shift) - 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn nothing_recorded_nothing_late() {
        assert_eq!(Lag::default().quantiles(), Quantiles { p50: 0, p99: 0, max: 0 });
    }

    #[test]
    fn one_in_a_thousand_shows_in_the_maximum_only() {
        let lag = Lag::default();
        (0..999).for_each(|_| lag.record(0.000_1));
        lag.record(2.5);
        let Quantiles { p50, p99, max } = lag.quantiles();
        assert!((100..=125).contains(&p50) && p99 == p50 && max == 2_500_000, "{p50} {p99} {max}");
    }

    #[test]
    fn what_is_no_duration_is_taken_as_none_or_as_the_longest() {
        let lag = Lag::default();
        [f64::NAN, -1.0, f64::INFINITY].into_iter().for_each(|seconds| lag.record(seconds));
        assert_eq!(lag.quantiles().p50, 0);
        assert_eq!(lag.quantiles().max, u64::MAX);
    }

    proptest! {
        #[test]
        fn a_bucket_is_at_most_a_quarter_wide(micros in 0u64..4_000_000_000) {
            let bucket = bucket_of(micros);
            let largest = largest_of(bucket);
            prop_assert_eq!(bucket_of(largest), bucket);
            prop_assert!(bucket == BUCKETS - 1 || bucket_of(largest + 1) == bucket + 1);
            prop_assert!(largest >= micros && largest - micros <= micros / 4);
        }
    }
}
