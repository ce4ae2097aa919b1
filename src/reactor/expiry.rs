//! What is due at a time: connections that may be dead, the end of lingering, the end of a drain.
//!
//! A connection that moves is looked at now and then, until it is quiet. Then its driver looks whether its end was lost, and
//! from there on it rests: it is looked at when a timeout of its own may be over, or not at all.

#![forbid(unsafe_code)]

use super::{Ending, Reactor};
use crate::base::atoms;
use crate::base::config::{FLUSH_STALL_MS, LOOK_MIN_MS, LOOKS_PER_TIMEOUT, Options, QUIET_MS};
use crate::base::token::ConnId;
use crate::connection::context::Connection;
use crate::connection::machine::End;
use crate::connection::traffic::Pulse;
use crate::driver::Driver;
use crate::mail::notice::Notice;
use rustler::Encoder;
use std::time::{Duration, Instant};

/// Who is due.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(super) enum Due {
    /// Accepts that have failed.
    Accepts,
    /// Those who wait for a drain.
    Drains,
    /// The context, which is stopped.
    Ending,
    /// The tasks of its event loop, which were cancelled.
    Tasks,
    /// A connection that has to be looked at.
    Connection(ConnId),
    /// One that has ended, whose tasks have not.
    Lost(ConnId),
}

/// How long what may take.
pub(super) struct Timeouts {
    idle: Option<Duration>,
    write_stall: Option<Duration>,
    linger: Duration,
    /// How long a connection that moved is left alone.
    quiet: Duration,
    began: Instant,
}

/// What a look at a connection found.
enum Verdict {
    /// It has moved since the last look.
    Moves,
    /// It has not, and may be over by then.
    Rests(Option<Instant>),
    Idle,
    Stalled,
    Lingered,
}

impl Timeouts {
    pub(super) fn new(options: &Options) -> Self {
        let (idle, write_stall) = (options.idle_timeout, options.write_stall_timeout);
        let part = |timeout: Duration| (timeout / LOOKS_PER_TIMEOUT).max(Duration::from_millis(LOOK_MIN_MS));
        let quiet =
            [idle, write_stall].into_iter().flatten().map(part).fold(Duration::from_millis(QUIET_MS), Duration::min);
        let linger = Duration::from_millis(options.linger_ms);
        Timeouts { idle, write_stall, linger, quiet, began: Instant::now() }
    }

    /// When to look at a connection that moves now. Many are looked at together: a turn for each would cost more.
    pub(super) fn when_quiet(&self, now: Instant) -> Instant {
        let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let grain = nanos(self.quiet / 2).max(1);
        let at = nanos(now.saturating_duration_since(self.began) + self.quiet);
        self.began + Duration::from_nanos(at.div_ceil(grain).saturating_mul(grain))
    }

    fn examine(&self, connection: &mut Connection, now: Instant) -> Verdict {
        if connection.lingers_until.is_some_and(|until| until <= now) {
            return Verdict::Lingered;
        }
        let events = connection.traffic.events;
        let has_output = connection.machine.link.has_output();
        let taken = if has_output { connection.descriptor.progress() } else { 0 };
        let before = connection.pulse;
        if (events, taken) != (before.events, before.taken) {
            connection.pulse = Pulse { at: now, events, taken };
            return Verdict::Moves;
        }
        if connection.is_transport {
            // Its protocol has timeouts of its own.
            return Verdict::Rests(None);
        }
        let open = connection.machine.link.is_open();
        if !has_output {
            let over = self.idle.filter(|_| open).map(|idle| before.at + idle);
            return match over {
                Some(at) if at <= now => Verdict::Idle,
                _ => Verdict::Rests(connection.lingers_until.or(over)),
            };
        }
        let flush = (!open).then_some(Duration::from_millis(FLUSH_STALL_MS));
        match [self.write_stall, self.idle, flush].into_iter().flatten().min() {
            None => Verdict::Rests(None),
            Some(limit) if before.at + limit <= now => Verdict::Stalled,
            // Only a look shows what the peer takes of a long send.
            Some(limit) => Verdict::Rests(Some((before.at + limit).min(now + limit / LOOKS_PER_TIMEOUT))),
        }
    }
}

impl Reactor {
    /// How long the next wait may take at most.
    pub(super) fn timeout(&self) -> Option<Duration> {
        if self.commands_wait || !self.events.is_empty() || !self.context.due.borrow().is_empty() {
            return Some(Duration::ZERO);
        }
        self.deadlines.next().map(|deadline| deadline.saturating_duration_since(Instant::now()))
    }

    /// FIN is sent: how long the peer may go on sending.
    pub(super) fn linger(&mut self, id: ConnId) {
        let until = Instant::now() + self.timeouts.linger;
        self.with(id, |connection| connection.lingers_until = Some(until));
        self.deadlines.ask(Due::Connection(id), until);
    }

    /// Does what is due.
    pub(super) fn expire(&mut self) {
        let now = Instant::now();
        let mut quiet = Vec::new();
        while let Some(due) = self.deadlines.pop(now) {
            match due {
                Due::Connection(id) => self.look(id, now, &mut quiet),
                // Answered before the next wait; others may have more time.
                Due::Drains => {
                    if let Some(next) = self.drains.iter().map(|(deadline, _)| *deadline).filter(|at| *at > now).min() {
                        self.deadlines.ask(Due::Drains, next);
                    }
                }
                Due::Accepts => self.accept_again(),
                Due::Lost(id) => self.give_up_tasks_of(id),
                Due::Ending => self.cut_all(),
                Due::Tasks => self.give_up_tasks(),
            }
        }
        if !quiet.is_empty() {
            self.driver.look(&quiet);
        }
    }

    /// The time to drain is over.
    fn cut_all(&mut self) {
        self.ending = Ending::Cutting;
        let ids = self.context.table.borrow().ids();
        for id in &ids {
            self.with(*id, |connection| {
                connection.machine.link.fail(End::Stopped);
                connection.machine.cancel_tasks_again();
            });
        }
        for id in ids {
            self.context.touch(id);
        }
    }

    /// Tells those who wait for a drain, when it is over or took too long.
    pub(super) fn answer_drains(&mut self) {
        if self.drains.is_empty() {
            return;
        }
        let open = self.served();
        let now = Instant::now();
        for (_, reply) in self.drains.extract_if(.., |(deadline, _)| open == 0 || *deadline <= now) {
            reply.send(|env| match open {
                0 => (atoms::ok(), 0).encode(env),
                _ => (atoms::error(), (atoms::connections(), open)).encode(env),
            });
        }
    }

    fn look(&mut self, id: ConnId, now: Instant, quiet: &mut Vec<ConnId>) {
        let Some(verdict) = self.with(id, |connection| self.timeouts.examine(connection, now)) else { return };
        match verdict {
            Verdict::Moves => {
                let quiet = self.timeouts.when_quiet(now);
                let until = self.with(id, |connection| connection.lingers_until).flatten();
                self.deadlines.ask(Due::Connection(id), until.map_or(quiet, |until| until.min(quiet)));
            }
            Verdict::Rests(until) => {
                if !self.with(id, |connection| std::mem::replace(&mut connection.rests, true)).unwrap_or_default() {
                    match self.is_robbed(id) {
                        true => self.context.touch(id),
                        false => quiet.push(id),
                    }
                }
                if let Some(until) = until {
                    self.deadlines.ask(Due::Connection(id), until);
                }
            }
            Verdict::Lingered => {
                self.with(id, |connection| connection.machine.link.linger_expired());
                self.context.touch(id);
            }
            Verdict::Idle => {
                self.with(id, |connection| connection.machine.link.close(End::Idle));
                self.timed_out(id, "a connection was closed: it was idle (idle_timeout_ms)");
            }
            Verdict::Stalled => {
                self.with(id, |connection| connection.machine.link.fail(End::Stalled));
                self.timed_out(
                    id,
                    "a connection was cut: its peer took no output for too long (write_stall_timeout_ms, idle_timeout_ms, or a minute while it was being closed)",
                );
            }
        }
    }

    fn timed_out(&self, id: ConnId, message: &str) {
        self.context.mailbox.stats.timed_out.add(1);
        let fd = self.with(id, |connection| connection.descriptor.number());
        self.context.mailbox.notify(Notice { level: "notice", message: message.to_owned(), meta: Vec::new(), fd });
        self.context.touch(id);
    }
}
