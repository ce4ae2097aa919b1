//! The load on open connections: exchanges, one at a time on each, in a closed or an open loop.
//!
//! The open loop is that of wrk2: exchange `k` of connection `c` of `n` is due at the start plus `c + k * n` intervals,
//! whatever the server does. If the connection is still busy then, it is sent late, and its latency counts from the
//! time at which it was due. So a server that pauses pays for everything that it kept waiting.

use super::poll::Poll;
use super::recorder::{Next, Recorder};
use super::script::{Script, check};
use super::{Fault, Outcome, SILENCE};
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};
use std::time::{Duration, Instant};

struct Stream {
    socket: OwnedFd,
    /// Which exchange is under way, or comes next.
    exchange: u64,
    sent: usize,
    received: usize,
    since: Instant,
    busy: bool,
}

struct Streams<'a> {
    streams: Vec<Stream>,
    script: &'a Script,
    scratch: &'a mut [u8],
    poll: Poll,
    busy: usize,
    progress: Instant,
}

/// Drives the first `active` of `sockets`; the others say one thing and are then silent. `rate`, in messages per
/// second, makes it an open loop.
pub(super) fn run(
    sockets: Vec<OwnedFd>,
    active: usize,
    script: &Script,
    rate: Option<f64>,
    scratch: &mut [u8],
    mut recorder: Recorder<'_>,
) -> Result<Outcome, Fault> {
    let mut streams = Streams::new(sockets, script, scratch)?;
    streams.greet(&mut recorder)?;
    recorder.start();
    match rate {
        None => streams.closed_loop(active, &mut recorder)?,
        Some(rate) => {
            let interval = Duration::from_secs_f64(script.depth() as f64 / rate);
            streams.open_loop(&mut Schedule::new(interval, active), &mut recorder)?;
        }
    }
    Ok(recorder.finish())
}

impl<'a> Streams<'a> {
    fn new(sockets: Vec<OwnedFd>, script: &'a Script, scratch: &'a mut [u8]) -> Result<Self, Fault> {
        let poll = Poll::new().map_err(|errno| Fault::failed(0, "epoll_create", errno))?;
        let now = Instant::now();
        let stream = |socket| Stream { socket, exchange: 0, sent: 0, received: 0, since: now, busy: false };
        let streams: Vec<Stream> = sockets.into_iter().map(stream).collect();
        for (name, stream) in streams.iter().enumerate() {
            poll.add(&stream.socket, name).map_err(|errno| Fault::failed(name, "epoll_ctl", errno))?;
        }
        Ok(Streams { streams, script, scratch, poll, busy: 0, progress: now })
    }

    /// One exchange on each connection: the server has accepted them all, and has used what a connection needs.
    fn greet(&mut self, recorder: &mut Recorder<'_>) -> Result<(), Fault> {
        let now = Instant::now();
        for name in 0..self.streams.len() {
            self.start(name, now)?;
        }
        while self.busy > 0 {
            self.turn(SILENCE, recorder, |_, _, _| Ok(()))?;
        }
        Ok(())
    }

    fn closed_loop(&mut self, active: usize, recorder: &mut Recorder<'_>) -> Result<(), Fault> {
        let now = Instant::now();
        for name in 0..active {
            self.start(name, now)?;
        }
        while recorder.next(Instant::now())? != Next::Drain {
            let timeout = recorder.until_next(Instant::now());
            self.turn(timeout, recorder, |streams, name, now| streams.start(name, now))?;
        }
        self.drain(recorder)
    }

    fn open_loop(&mut self, schedule: &mut Schedule, recorder: &mut Recorder<'_>) -> Result<(), Fault> {
        loop {
            let now = Instant::now();
            match recorder.next(now)? {
                Next::Load => {}
                Next::Resume(paused) => schedule.shift(paused),
                Next::Drain => break,
            }
            while let Some((name, turn, due)) = schedule.pop(now) {
                // A busy connection takes what has become due when it is free.
                if !self.streams[name].busy && schedule.next_of(name) == turn {
                    schedule.started(name);
                    self.start(name, due)?;
                }
            }
            // Never asleep: waking up would take longer than many a server needs to answer.
            let events =
                self.turn(Duration::ZERO, recorder, |streams, name, now| match schedule.overdue(name, now) {
                    Some(due) => {
                        schedule.started(name);
                        streams.start(name, due)
                    }
                    None => Ok(()),
                })?;
            if events == 0 {
                recorder.waited(now.elapsed());
            }
        }
        // What never was sent has waited until now at the least, each message of it.
        let end = recorder.closed_at();
        for name in 0..schedule.connections() {
            while let Some(due) = schedule.overdue(name, end) {
                schedule.started(name);
                (0..self.script.depth()).for_each(|_| recorder.message(due, end));
            }
        }
        self.drain(recorder)
    }

    /// Waits for what is under way.
    fn drain(&mut self, recorder: &mut Recorder<'_>) -> Result<(), Fault> {
        while self.busy > 0 {
            self.turn(SILENCE, recorder, |_, _, _| Ok(()))?;
        }
        Ok(())
    }

    /// One wait and what it brings. `free` hears of each connection whose exchange is complete. Says how many events
    /// there were.
    fn turn(
        &mut self,
        timeout: Duration,
        recorder: &mut Recorder<'_>,
        mut free: impl FnMut(&mut Self, usize, Instant) -> Result<(), Fault>,
    ) -> Result<usize, Fault> {
        let events = self.poll.wait(timeout).map_err(|errno| Fault::failed(0, "epoll_wait", errno))?;
        for at in 0..events {
            let (name, readable) = self.poll.event(at);
            if !self.streams[name].busy {
                if readable {
                    self.still_open(name)?;
                }
                continue;
            }
            self.send(name)?;
            if readable && let Some(now) = self.receive(name, recorder)? {
                free(self, name, now)?;
            }
        }
        if events > 0 {
            self.progress = Instant::now();
        } else if self.busy > 0 && self.progress.elapsed() >= SILENCE {
            let connections = self.streams.len();
            return Err(Fault::Silent { doing: "under load", waiting: self.busy, connections });
        }
        Ok(events)
    }

    /// A silent connection must stay so.
    fn still_open(&mut self, name: usize) -> Result<(), Fault> {
        match recv(&self.streams[name].socket, &mut *self.scratch, RecvFlags::empty()) {
            Err(Errno::AGAIN | Errno::INTR) => Ok(()),
            Ok((0, _)) | Err(Errno::CONNRESET) => Err(Fault::Ended { connection: name }),
            Ok((count, _)) => Err(Fault::Surplus { connection: name, count }),
            Err(errno) => Err(Fault::failed(name, "recv", errno)),
        }
    }

    /// Begins the next exchange of a connection, whose latency counts from `since`.
    fn start(&mut self, name: usize, since: Instant) -> Result<(), Fault> {
        let stream = &mut self.streams[name];
        debug_assert!(!stream.busy);
        (stream.sent, stream.received, stream.since, stream.busy) = (0, 0, since, true);
        self.busy += 1;
        self.send(name)
    }

    /// Sends what fits of the request.
    fn send(&mut self, name: usize) -> Result<(), Fault> {
        let stream = &mut self.streams[name];
        let request = self.script.request(name, stream.exchange);
        while stream.sent < request.len() {
            match send(&stream.socket, &request[stream.sent..], SendFlags::NOSIGNAL) {
                Ok(count) => stream.sent += count,
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => {}
                Err(Errno::PIPE | Errno::CONNRESET) => return Err(Fault::Ended { connection: name }),
                Err(errno) => return Err(Fault::failed(name, "send", errno)),
            }
        }
        Ok(())
    }

    /// Takes and checks what is there. Says when the exchange was complete, if it is.
    fn receive(&mut self, name: usize, recorder: &mut Recorder<'_>) -> Result<Option<Instant>, Fault> {
        let stream = &mut self.streams[name];
        let answer = self.script.answer(name, stream.exchange);
        loop {
            let count = match recv(&stream.socket, &mut *self.scratch, RecvFlags::empty()) {
                Ok((0, _)) | Err(Errno::CONNRESET) => return Err(Fault::Ended { connection: name }),
                Ok((count, _)) => count,
                Err(Errno::AGAIN) => return Ok(None),
                Err(Errno::INTR) => continue,
                Err(errno) => return Err(Fault::failed(name, "recv", errno)),
            };
            let now = Instant::now();
            check(name, &self.scratch[..count], answer, stream.received)?;
            let before = self.script.complete(stream.received);
            stream.received += count;
            recorder.bytes(count);
            (before..self.script.complete(stream.received)).for_each(|_| recorder.message(stream.since, now));
            if stream.received == answer.len() {
                stream.exchange += 1;
                stream.busy = false;
                self.busy -= 1;
                return Ok(Some(now));
            }
            if count < self.scratch.len() {
                // The socket is empty; the edge-triggered epoll tells of more.
                return Ok(None);
            }
        }
    }
}

/// When each exchange of an open loop is due.
struct Schedule {
    start: Instant,
    interval: Duration,
    /// How many exchanges each connection has begun.
    begun: Vec<u32>,
    /// Exchanges that have become due, of all connections.
    popped: u32,
}

impl Schedule {
    fn new(interval: Duration, connections: usize) -> Self {
        Schedule { start: Instant::now(), interval, begun: vec![0; connections], popped: 0 }
    }

    fn connections(&self) -> usize {
        self.begun.len()
    }

    fn shift(&mut self, by: Duration) {
        self.start += by;
    }

    /// The next exchange that has become due: connection, which of its exchanges, and when.
    fn pop(&mut self, now: Instant) -> Option<(usize, u32, Instant)> {
        let due = self.start + self.interval * self.popped;
        (due <= now).then(|| {
            let connections = self.begun.len() as u32;
            let (name, turn) = (self.popped % connections, self.popped / connections);
            self.popped += 1;
            (name as usize, turn, due)
        })
    }

    fn next_of(&self, name: usize) -> u32 {
        self.begun[name]
    }

    fn started(&mut self, name: usize) {
        self.begun[name] += 1;
    }

    /// When the next exchange of a connection was due, if that is past.
    fn overdue(&self, name: usize, now: Instant) -> Option<Instant> {
        let number = name as u32 + self.begun[name] * self.begun.len() as u32;
        let due = self.start + self.interval * number;
        (due < now).then_some(due)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn exchanges_are_due_in_turn_at_the_rate() {
        let mut schedule = Schedule::new(10 * MS, 3);
        let start = schedule.start;
        let due: Vec<_> = std::iter::from_fn(|| schedule.pop(start + 45 * MS)).collect();
        let expected = [(0, 0, 0), (1, 0, 10), (2, 0, 20), (0, 1, 30), (1, 1, 40)];
        assert_eq!(due, expected.map(|(name, turn, ms)| (name, turn, start + ms * MS)));
    }

    #[test]
    fn a_connection_that_was_busy_catches_up_from_when_it_should_have_sent() {
        let mut schedule = Schedule::new(10 * MS, 2);
        let start = schedule.start;
        let mut late = Vec::new();
        while let Some(due) = schedule.overdue(1, start + 65 * MS) {
            schedule.started(1);
            late.push(due - start);
        }
        assert_eq!(late, [10 * MS, 30 * MS, 50 * MS]);
        assert_eq!(schedule.next_of(1), 3);
    }

    #[test]
    fn a_pause_moves_what_is_still_to_come() {
        let mut schedule = Schedule::new(10 * MS, 1);
        let start = schedule.start;
        schedule.shift(100 * MS);
        assert_eq!(schedule.pop(start + 99 * MS), None);
        assert_eq!(schedule.pop(start + 100 * MS), Some((0, 0, start + 100 * MS)));
    }
}
