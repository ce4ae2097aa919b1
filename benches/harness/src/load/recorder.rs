//! The window of a measurement: what counts, and when the observer looks.

use super::{Fault, Observer, Outcome, Window};
use crate::latency::Latencies;
use rustix::time::{ClockId, clock_gettime};
use std::time::{Duration, Instant};

/// What a loop does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Goes on.
    Load,
    /// Goes on, but this much time has passed while the observer looked.
    Resume(Duration),
    /// Sends nothing new, and waits for what is under way.
    Drain,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    WarmUp,
    Open,
    Closed,
}

pub(super) struct Recorder<'a> {
    observer: &'a mut dyn Observer,
    window: Window,
    phase: Phase,
    opens: Instant,
    closes: Instant,
    cpu_before: Duration,
    outcome: Outcome,
}

impl<'a> Recorder<'a> {
    pub(super) fn new(window: Window, observer: &'a mut dyn Observer) -> Self {
        let now = Instant::now();
        Recorder {
            observer,
            window,
            phase: Phase::WarmUp,
            opens: now,
            closes: now,
            cpu_before: Duration::ZERO,
            outcome: Outcome {
                messages: 0,
                bytes: 0,
                elapsed: Duration::ZERO,
                latencies: Latencies::default(),
                own_cpu: Duration::ZERO,
                own_waiting: Duration::ZERO,
                retransmissions: 0,
            },
        }
    }

    /// The warm-up begins.
    pub(super) fn start(&mut self) {
        self.opens = Instant::now() + self.window.warm_up;
    }

    /// To be asked once per turn of a loop.
    pub(super) fn next(&mut self, now: Instant) -> Result<Next, Fault> {
        match self.phase {
            Phase::WarmUp if now >= self.opens => self.open(now),
            Phase::Open if now >= self.closes => self.close(now),
            Phase::Closed => Ok(Next::Drain),
            Phase::WarmUp | Phase::Open => Ok(Next::Load),
        }
    }

    /// When the next phase begins: nobody may sleep longer.
    pub(super) fn until_next(&self, now: Instant) -> Duration {
        match self.phase {
            Phase::WarmUp => self.opens.saturating_duration_since(now),
            Phase::Open => self.closes.saturating_duration_since(now),
            Phase::Closed => super::SILENCE,
        }
    }

    fn open(&mut self, now: Instant) -> Result<Next, Fault> {
        self.observer.begin().map_err(Fault::Observer)?;
        self.phase = Phase::Open;
        self.cpu_before = thread_cpu();
        self.opens = Instant::now();
        self.closes = self.opens + self.window.length;
        Ok(Next::Resume(self.opens - now))
    }

    fn close(&mut self, now: Instant) -> Result<Next, Fault> {
        self.phase = Phase::Closed;
        self.closes = now;
        self.outcome.elapsed = now - self.opens;
        self.outcome.own_cpu = thread_cpu() - self.cpu_before;
        self.observer.end().map_err(Fault::Observer)?;
        Ok(Next::Drain)
    }

    /// A message that was sent, or should have been, at `since` is complete. What the window cut into has counts
    /// inside it, and latencies if it began inside: the slowest messages are those that the end would hide.
    #[inline]
    pub(super) fn message(&mut self, since: Instant, now: Instant) {
        self.moved(1);
        self.latency(since, now);
    }

    /// So much was done that is counted.
    #[inline]
    pub(super) fn moved(&mut self, messages: u64) {
        if self.phase == Phase::Open {
            self.outcome.messages += messages;
        }
    }

    /// What was sent at `since` is complete, as [`Recorder::message`], but does not count.
    #[inline]
    pub(super) fn latency(&mut self, since: Instant, now: Instant) {
        if self.phase != Phase::WarmUp && since >= self.opens && since < self.closes {
            self.outcome.latencies.record(now.saturating_duration_since(since));
        }
    }

    /// Bytes came back.
    #[inline]
    pub(super) fn bytes(&mut self, count: usize) {
        if self.phase == Phase::Open {
            self.outcome.bytes += count as u64;
        }
    }

    /// A datagram had to be sent again.
    pub(super) fn retransmission(&mut self) {
        if self.phase == Phase::Open {
            self.outcome.retransmissions += 1;
        }
    }

    /// Time went by in which there was nothing to do but to look at the clock.
    pub(super) fn waited(&mut self, time: Duration) {
        if self.phase == Phase::Open {
            self.outcome.own_waiting += time;
        }
    }

    /// The end of the window; before that, the future.
    pub(super) fn closed_at(&self) -> Instant {
        self.closes
    }

    pub(super) fn finish(self) -> Outcome {
        self.outcome
    }
}

fn thread_cpu() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Counting {
        begun: u32,
        ended: u32,
    }

    impl Observer for Counting {
        fn begin(&mut self) -> anyhow::Result<()> {
            self.begun += 1;
            Ok(())
        }

        fn end(&mut self) -> anyhow::Result<()> {
            self.ended += 1;
            Ok(())
        }
    }

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn only_the_window_counts() {
        let mut observer = Counting::default();
        let mut recorder = Recorder::new(Window { warm_up: Duration::ZERO, length: 100 * MS }, &mut observer);
        recorder.start();
        let early = Instant::now() - 5 * MS;
        recorder.message(early, early);
        recorder.bytes(64);
        assert!(matches!(recorder.next(Instant::now()).unwrap(), Next::Resume(_)));
        let opened = Instant::now();
        // Began before the window: counts, but its latency may be the observer's.
        recorder.message(early, opened);
        recorder.message(opened, opened + 2 * MS);
        recorder.bytes(128);
        assert_eq!(recorder.next(opened + 50 * MS).unwrap(), Next::Load);
        assert_eq!(recorder.next(opened + 120 * MS).unwrap(), Next::Drain);
        assert_eq!(recorder.next(opened + 130 * MS).unwrap(), Next::Drain);
        // Began inside and ends behind: too late to count, but it was slow, and that must show.
        recorder.message(opened + 10 * MS, opened + 400 * MS);
        // Began behind.
        recorder.message(opened + 200 * MS, opened + 900 * MS);
        let outcome = recorder.finish();
        assert_eq!((outcome.messages, outcome.bytes, outcome.latencies.samples()), (2, 128, 2));
        let slowest = outcome.latencies.percentiles().unwrap().max;
        assert!((389_000.0..392_000.0).contains(&slowest), "{slowest}");
        assert!(outcome.elapsed >= 119 * MS);
        assert_eq!((observer.begun, observer.ended), (1, 1));
    }
}
