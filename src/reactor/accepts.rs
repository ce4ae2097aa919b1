//! Connections to listeners that this context shares: accepted on its own thread, at most as many as it has room for.

#![forbid(unsafe_code)]

use super::expiry::Due;
use super::{Ending, Reactor};
use crate::base::config::ACCEPT_RETRY_MS;
use crate::base::token::ConnId;
use crate::driver::address::Meaning;
use crate::driver::descriptor::Descriptor;
use crate::driver::{Arrival, Driver, Event, Opening, Outcome, Queue, openings};
use crate::mail::command::Info;
use crate::mail::listening::Listening;
use crate::mail::place::{Place, no_place};
use crate::reactor::watchdog;
use pyo3::prelude::*;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// As many as are accepted at once: the others have a right to their turn.
const AT_ONCE_MAX: usize = 16;

/// A listener of which this context has a share.
pub(super) struct Accepts {
    listening: Arc<Listening>,
    /// The accept that runs.
    running: Option<ConnId>,
    /// How many calls the next one makes: what finds nobody costs as much as what does.
    batch: usize,
    /// The turn in which somebody came last.
    turn: u64,
    /// This context was full when it last looked.
    full: bool,
    /// It failed a moment ago.
    pauses: bool,
}

impl Reactor {
    /// From now on this context accepts from it, too.
    pub(super) fn accept_from(&mut self, listening: Arc<Listening>) {
        watchdog::add_listener(&self.context.mailbox, &listening);
        self.accepts.push(Accepts { listening, running: None, batch: 1, turn: 0, full: false, pauses: false });
    }

    /// Begins the accepts that do not run, at the end of a turn, and stops those that nobody wants.
    #[inline]
    pub(super) fn begin_accepts(&mut self, py: Python<'_>) {
        if !self.accepts.is_empty() {
            self.look_at_listeners(py);
        }
    }

    fn look_at_listeners(&mut self, py: Python<'_>) {
        let mailbox = Arc::clone(&self.context.mailbox);
        let ends = !matches!(self.ending, Ending::No) || mailbox.inbox.is_draining();
        let open = usize::try_from(mailbox.stats.connections.get()).unwrap_or(usize::MAX);
        let room = self.max_connections.saturating_sub(open);
        let again = mailbox.accept_again.load(Ordering::Relaxed) && mailbox.accept_again.swap(false, Ordering::Acquire);
        for mut accepts in std::mem::take(&mut self.accepts) {
            if ends || accepts.listening.is_over() {
                let _ = self.stop_accept(py, &mut accepts);
                watchdog::remove_listener(&mailbox, &accepts.listening);
                accepts.listening.leave(mailbox.serial);
                continue;
            }
            let full = room == 0;
            let turns_away = match full || full != accepts.full {
                true => accepts.listening.set_full(mailbox.serial, full),
                false => false,
            };
            accepts.full = full;
            let wanted = (!full || turns_away) && !accepts.pauses;
            if !wanted && self.stop_accept(py, &mut accepts) {
                // It may have been woken for somebody.
                accepts.listening.relay(mailbox.serial);
            } else if again {
                let _ = self.stop_accept(py, &mut accepts);
            }
            if wanted && accepts.running.is_none() {
                let id = openings::new_id();
                let most = if full { accepts.batch } else { accepts.batch.min(room) };
                accepts.running = Some(id);
                self.driver.open(id, accepts.listening.as_raw_fd(), Opening::Accept { most, queue: Queue::Relayed });
            }
            self.accepts.push(accepts);
        }
    }

    /// Answers whether one ran.
    fn stop_accept(&mut self, py: Python<'_>, accepts: &mut Accepts) -> bool {
        let Some(id) = accepts.running.take() else { return false };
        self.driver.stop_opening(id);
        self.take_arrivals(py, &accepts.listening, id);
        true
    }

    /// An accept has ended. Answers false where it is none of a listener's.
    pub(super) fn accepted(&mut self, py: Python<'_>, Event { id, outcome }: Event) -> bool {
        let Some(accepts) = self.accepts.iter_mut().find(|accepts| accepts.running == Some(id)) else { return false };
        accepts.running = None;
        let listening = Arc::clone(&accepts.listening);
        match outcome {
            Outcome::Accepted(count) => {
                let count = count as usize;
                let crowded = self.turn == std::mem::replace(&mut accepts.turn, self.turn) + 1;
                accepts.batch = match count < accepts.batch {
                    true => count,
                    // Turn after turn somebody comes: there may be more.
                    false if crowded => (2 * count).min(AT_ONCE_MAX),
                    false => count,
                };
                listening.has_trouble(0);
            }
            Outcome::AcceptFailed(errno) if !listening.is_over() => {
                accepts.pauses = true;
                self.deadlines.ask(Due::Accepts, Instant::now() + Duration::from_millis(ACCEPT_RETRY_MS));
                listening.has_trouble(errno);
            }
            _ => {}
        }
        self.take_arrivals(py, &listening, id);
        true
    }

    /// Those that failed are tried again.
    pub(super) fn accept_again(&mut self) {
        self.accepts.iter_mut().for_each(|accepts| accepts.pauses = false);
    }

    fn take_arrivals(&mut self, py: Python<'_>, listening: &Listening, id: ConnId) {
        while let Some(Arrival { socket, peer }) = self.driver.arrival(id) {
            let Ok(descriptor) = Descriptor::accepted(socket) else { continue };
            let peer = match peer.meaning() {
                Meaning::Ip(address) => address,
                _ => SocketAddr::from(([0, 0, 0, 0], 0)),
            };
            let mailbox = Arc::clone(&self.context.mailbox);
            let takes = mailbox.inbox.takes_connections();
            match takes.then(|| Place::take(&mailbox.stats, self.max_connections)).flatten() {
                Some(place) => self.adopt(py, descriptor, place, &Info::Peer(peer)),
                None => {
                    // It is closed when it has been counted: whoever sees the end finds it so.
                    let Err(_refused) = listening.pass_on(mailbox.serial, descriptor, peer) else { continue };
                    match takes {
                        true => mailbox.turned_away(&no_place(self.max_connections)),
                        false => mailbox.turned_away("no context takes connections now"),
                    }
                }
            }
        }
    }

    /// The driver is shut down: others go on.
    pub(super) fn leave_listeners(&mut self) {
        let mailbox = &self.context.mailbox;
        for Accepts { listening, .. } in self.accepts.drain(..) {
            watchdog::remove_listener(mailbox, &listening);
            listening.leave(mailbox.serial);
        }
    }
}
