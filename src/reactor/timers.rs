//! What is due at a time: the end of lingering, the end of a drain, and the sweeps that find dead connections.

#![forbid(unsafe_code)]

use super::{Ending, Reactor};
use crate::base::atoms;
use crate::base::config::{FLUSH_STALL_MS, Options, SWEEP_MIN_MS, SWEEPS_PER_TIMEOUT};
use crate::connection::context::Connection;
use crate::connection::machine::End;
use crate::connection::traffic::Pulse;
use crate::mail::notice::Notice;
use rustler::Encoder;
use std::time::{Duration, Instant};

/// When connections are looked at for timeouts. One pass over all of them, a few times per timeout, costs less than a
/// timer for each.
pub(super) struct Sweeps {
    idle: Option<Duration>,
    write_stall: Option<Duration>,
    every: Duration,
    next: Instant,
}

/// What a sweep found.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Alive,
    Idle,
    Stalled,
}

impl Sweeps {
    pub(super) fn new(options: &Options) -> Self {
        let (idle, write_stall) = (options.idle_timeout, options.write_stall_timeout);
        let flush = Duration::from_millis(FLUSH_STALL_MS);
        let shortest = [idle, write_stall].into_iter().flatten().fold(flush, Duration::min);
        let every = (shortest / SWEEPS_PER_TIMEOUT).max(Duration::from_millis(SWEEP_MIN_MS));
        Sweeps { idle, write_stall, every, next: Instant::now() + every }
    }

    fn examine(&self, connection: &mut Connection, now: Instant) -> Verdict {
        let events = connection.traffic.events;
        let taken = if connection.machine.has_output() { connection.descriptor.progress() } else { 0 };
        let before = connection.pulse;
        if (events, taken) != (before.events, before.taken) {
            connection.pulse = Pulse { at: now, events, taken };
            return Verdict::Alive;
        }
        let silent = now.saturating_duration_since(before.at);
        let over = |limit: Option<Duration>| limit.is_some_and(|limit| silent >= limit);
        let open = connection.machine.is_open();
        if connection.machine.has_output() {
            let flush = (!open).then_some(Duration::from_millis(FLUSH_STALL_MS));
            let stalled = over(self.write_stall) || over(self.idle) || over(flush);
            return if stalled { Verdict::Stalled } else { Verdict::Alive };
        }
        if open && over(self.idle) { Verdict::Idle } else { Verdict::Alive }
    }
}

impl Reactor {
    /// How long the next wait may take at most.
    pub(super) fn timeout(&self) -> Option<Duration> {
        if self.commands_wait || !self.events.is_empty() || !self.context.due.borrow().is_empty() {
            return Some(Duration::ZERO);
        }
        let linger = self.lingering.front().map(|(deadline, _)| *deadline);
        // With nobody to look at, nothing wakes an idle thread.
        let sweep = (!self.context.table.borrow().is_empty()).then_some(self.sweeps.next);
        let drain = if let Ending::Draining(deadline) = self.ending { Some(deadline) } else { None };
        let until = [linger, drain, sweep, self.drains.iter().map(|(deadline, _)| *deadline).min()];
        let until = until.into_iter().flatten().min();
        until.map(|deadline| deadline.saturating_duration_since(Instant::now()))
    }

    /// Does what is due.
    pub(super) fn expire(&mut self) {
        let now = Instant::now();
        if self.sweeps.next <= now {
            self.sweep(now);
        }
        let table = &self.context.table;
        let is_over = |(deadline, id): &mut (Instant, _)| *deadline <= now || table.borrow_mut().get(*id).is_none();
        while let Some((_, id)) = self.lingering.pop_front_if(is_over) {
            self.with(id, |connection| connection.machine.linger_expired());
            self.context.touch(id);
        }
        if let Ending::Draining(deadline) = self.ending
            && deadline <= now
        {
            self.ending = Ending::Cutting;
            let ids = self.context.table.borrow().ids();
            for id in &ids {
                self.with(*id, |connection| connection.machine.fail(End::Stopped));
            }
            for id in ids {
                self.context.touch(id);
            }
        }
    }

    /// Tells those who wait for a drain, when it is over or took too long.
    pub(super) fn answer_drains(&mut self) {
        if self.drains.is_empty() {
            return;
        }
        let open = self.context.table.borrow().len();
        let now = Instant::now();
        for (_, reply) in self.drains.extract_if(.., |(deadline, _)| open == 0 || *deadline <= now) {
            reply.send(|env| match open {
                0 => (atoms::ok(), 0).encode(env),
                _ => (atoms::error(), (atoms::connections(), open)).encode(env),
            });
        }
    }

    fn sweep(&mut self, now: Instant) {
        self.sweeps.next = now + self.sweeps.every;
        let ids = self.context.table.borrow().ids();
        for id in ids {
            let verdict = self.with(id, |connection| {
                let verdict = self.sweeps.examine(connection, now);
                match verdict {
                    Verdict::Alive => {}
                    Verdict::Idle => connection.machine.close(End::Idle),
                    Verdict::Stalled => connection.machine.fail(End::Stalled),
                }
                (verdict, connection.descriptor.number())
            });
            let Some((verdict @ (Verdict::Idle | Verdict::Stalled), fd)) = verdict else { continue };
            self.context.mailbox.stats.timed_out.add(1);
            let message = match verdict {
                Verdict::Stalled => {
                    "a connection was cut: its peer took no output for too long (write_stall_timeout_ms, idle_timeout_ms, or a minute while it was being closed)"
                }
                _ => "a connection was closed: it was idle (idle_timeout_ms)",
            };
            let message = message.to_owned();
            self.context.mailbox.notify(Notice { level: "notice", message, meta: Vec::new(), fd: Some(fd) });
            self.context.touch(id);
        }
    }
}
