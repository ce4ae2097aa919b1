//! A loop of one's own may stop on one thread and go on on another, where another driver drives it (I1). So that its connections
//! can go along, nothing of them runs while it does not: a ring tells another thread of nothing, and might receive what would be
//! missing.

#![forbid(unsafe_code)]

use super::Reactor;
use super::arrivals::Part;
use crate::base::config::SHUT_DOWN_MS;
use crate::base::token::ConnId;
use crate::driver::{Driver, Event, Outcome};
use pyo3::prelude::*;
use std::time::{Duration, Instant};

/// After which those that have not ended are cancelled again.
const PATIENCE: Duration = Duration::from_millis(10);

impl Reactor {
    /// The loop has stopped: ends the receives and sends of its connections, and keeps what they bring. No Python code runs. What
    /// has not ended in time goes on, and that connection does not go along.
    pub(super) fn rest(&mut self, py: Python<'_>) {
        let deadline = Instant::now() + Duration::from_millis(SHUT_DOWN_MS);
        let mut kept = Vec::new();
        self.flush(py);
        let mut running = self.context.table.borrow().ids();
        loop {
            for event in std::mem::take(&mut self.events) {
                kept.extend(self.rests_by(py, event));
            }
            running.retain(|id| self.with(*id, |connection| connection.machine.link.runs()).unwrap_or_default());
            if running.is_empty() || Instant::now() >= deadline {
                break;
            }
            for id in &running {
                self.driver.cancel_receive(*id);
                self.driver.cancel_send(*id);
            }
            let mut pool = self.pool.borrow_mut();
            let wait = || self.driver.wait(Some(PATIENCE), &mut pool, &mut self.events);
            if self.context.waiting(py, wait).is_err() {
                break;
            }
        }
        // What is the loop's own business waits for it.
        self.events = kept;
    }

    /// What has happened to a connection that is to rest; its machine is asked when the loop goes on. Answers what happened to none.
    fn rests_by(&mut self, py: Python<'_>, event: Event) -> Option<Event> {
        let Event { id, outcome } = event;
        match outcome {
            Outcome::Woken | Outcome::Watched => return Some(event),
            Outcome::Accepted(_) | Outcome::AcceptFailed(_) | Outcome::Connected(_) => return Some(event),
            Outcome::Received { buffer, len, more } => {
                let part = Part { slot: buffer, offset: 0, len: len as usize, from: None };
                self.received(py, id, part, more);
            }
            Outcome::Readable => self.receive_unasked(py, id),
            // It begins anew with what is left.
            Outcome::SendFailed(libc::ECANCELED) => self.advance(id, Outcome::Sent(0)),
            outcome => self.advance(id, outcome),
        }
        self.context.touch(id);
        None
    }

    /// On another thread than its own: its connections are for the next one, but for those of which something still runs.
    pub(super) fn hand_over(mut self, py: Python<'_>) {
        self.context.driver.take();
        let ids = self.context.table.borrow().ids();
        for id in ids {
            match self.with(id, |connection| connection.machine.link.runs()) {
                Some(true) => self.cut(py, id, false),
                _ => self.moves(id),
            }
        }
    }

    fn moves(&mut self, id: ConnId) {
        self.with(id, |connection| {
            connection.machine.link.moved();
            connection.rests = true;
            connection.intake.uses_buffers();
        });
        self.context.touch(id);
    }
}
