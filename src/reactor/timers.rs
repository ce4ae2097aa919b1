//! What is due at a time: the end of lingering, the end of a drain, and the sweeps that find dead connections.

use super::{Ending, Reactor};
use crate::atoms;
use crate::config::{Options, SWEEP_MIN_MS, SWEEPS_PER_TIMEOUT};
use crate::context::{Connection, Pulse};
use crate::mailbox::Notice;
use rustler::Encoder;
use std::time::{Duration, Instant};

/// When connections are looked at for timeouts. One pass over all of them, a few times per timeout, costs less than a
/// timer for each.
pub(super) struct Sweeps {
    idle: Option<Duration>,
    write_stall: Option<Duration>,
    every: Duration,
    next: Option<Instant>,
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
        let shortest = idle.into_iter().chain(write_stall).min();
        let every = shortest.unwrap_or_default() / SWEEPS_PER_TIMEOUT;
        let every = every.max(Duration::from_millis(SWEEP_MIN_MS));
        Sweeps { idle, write_stall, every, next: shortest.map(|_| Instant::now() + every) }
    }

    fn examine(&self, connection: &mut Connection, now: Instant) -> Verdict {
        let (received, sent) = connection.moved;
        let in_kernel = connection.descriptor.unsent();
        let before = connection.pulse;
        if (received, sent, in_kernel) != (before.received, before.sent, before.in_kernel) {
            connection.pulse = Pulse { at: now, received, sent, in_kernel };
            return Verdict::Alive;
        }
        let silent = now.saturating_duration_since(before.at);
        let over = |limit: Option<Duration>| limit.is_some_and(|limit| silent >= limit);
        if connection.machine.has_output() && over(self.write_stall) {
            Verdict::Stalled
        } else if connection.machine.is_open() && over(self.idle) {
            Verdict::Idle
        } else {
            Verdict::Alive
        }
    }
}

impl Reactor {
    /// How long the next wait may take at most.
    pub(super) fn timeout(&self) -> Option<Duration> {
        if self.commands_wait || !self.due.is_empty() || !self.context.touched.borrow().is_empty() {
            return Some(Duration::ZERO);
        }
        let linger = self.lingering.front().map(|(deadline, _)| *deadline);
        let drain = if let Ending::Draining(deadline, _) = &self.ending { Some(*deadline) } else { None };
        let until = [linger, drain, self.sweeps.next, self.drains.iter().map(|(deadline, _)| *deadline).min()];
        let until = until.into_iter().flatten().min();
        until.map(|deadline| deadline.saturating_duration_since(Instant::now()))
    }

    /// Does what is due.
    pub(super) fn expire(&mut self) {
        if self.lingering.is_empty() && self.sweeps.next.is_none() && matches!(self.ending, Ending::No) {
            return;
        }
        let now = Instant::now();
        if self.sweeps.next.is_some_and(|next| next <= now) {
            self.sweep(now);
        }
        while let Some((_, id)) = self.lingering.pop_front_if(|(deadline, _)| *deadline <= now) {
            self.with(id, |connection| connection.machine.linger_expired());
            self.due.push(id);
        }
        if let Ending::Draining(deadline, _) = &self.ending
            && *deadline <= now
            && let Ending::Draining(_, reply) = std::mem::replace(&mut self.ending, Ending::No)
        {
            self.ending = Ending::Cutting(Some(reply));
            let ids = self.context.table.borrow().ids();
            for id in &ids {
                self.with(*id, |connection| connection.machine.fail());
            }
            self.due.extend(ids);
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
        self.sweeps.next = Some(now + self.sweeps.every);
        let ids = self.context.table.borrow().ids();
        for id in ids {
            let verdict = self.with(id, |connection| {
                let verdict = self.sweeps.examine(connection, now);
                match verdict {
                    Verdict::Alive => {}
                    Verdict::Idle => connection.machine.close(),
                    Verdict::Stalled => connection.machine.fail(),
                }
                (verdict, connection.descriptor.number())
            });
            let Some((verdict @ (Verdict::Idle | Verdict::Stalled), fd)) = verdict else { continue };
            self.context.mailbox.stats.timed_out.add(1);
            let message = match verdict {
                Verdict::Stalled => "a connection was cut: its peer takes no output (write_stall_timeout_ms)",
                _ => "a connection was closed: it was idle (idle_timeout_ms)",
            };
            let message = message.to_owned();
            self.context.mailbox.notify(Notice { level: "notice", message, meta: Vec::new(), fd: Some(fd) });
            self.due.push(id);
        }
    }
}
