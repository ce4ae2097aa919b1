//! One thread for all contexts, which looks now and then whether a callback takes too long, so nobody who calls one has to
//! look at the clock; and whether a context that accepts is held up, so that others do. It sleeps while nothing runs.

#![forbid(unsafe_code)]

use crate::base::config::{ACCEPT_RELAY_MS, STUCK_THRESHOLDS, WATCHDOG_LOOKS, WATCHDOG_MIN_MS};
use crate::base::sync::lock;
use crate::mail::listening::Listening;
use crate::mail::mailbox::Mailbox;
use crate::mail::notice::Notice;
use crate::mail::running::WATCHDOG;
use std::ptr;
use std::sync::{Arc, Mutex, Once};
use std::time::{Duration, Instant};

const RELAY_AFTER: Duration = Duration::from_millis(ACCEPT_RELAY_MS);

/// A context that is watched.
struct Watched {
    mailbox: Arc<Mailbox>,
    /// How long a callback may take, if that is bounded.
    threshold: Option<Duration>,
    /// The call that was seen last, and when first.
    seen: (u64, Instant),
    /// It was said of that call that it does not return.
    said: bool,
    /// What it accepts from.
    listeners: Vec<Arc<Listening>>,
    /// The turn that was seen last, and when first.
    turn: (u64, Instant),
}

impl Watched {
    fn new(mailbox: &Arc<Mailbox>) -> Self {
        let now = Instant::now();
        Watched {
            mailbox: Arc::clone(mailbox),
            threshold: None,
            seen: (mailbox.running.number(), now),
            said: false,
            listeners: Vec::new(),
            turn: (mailbox.stats.turns.get(), now),
        }
    }

    /// How long the next look may wait.
    fn pause(&self) -> Option<Duration> {
        let slow = self.threshold.map(|threshold| threshold / WATCHDOG_LOOKS);
        let relay = self.listeners.iter().any(|listening| listening.is_shared()).then_some(RELAY_AFTER);
        [slow, relay].into_iter().flatten().min()
    }

    /// Looks at the context. Answers whether something runs, or has since the last look.
    fn look(&mut self, now: Instant) -> bool {
        let number = self.mailbox.running.number();
        self.look_at_turn(number, now);
        let (last, since) = self.seen;
        if number != last {
            (self.seen, self.said) = ((number, now), false);
            return true;
        }
        let runs = !number.is_multiple_of(2);
        let Some(threshold) = self.threshold else { return runs };
        let lasted = now.duration_since(since);
        if runs && lasted >= threshold {
            self.mailbox.running.note_slow(number, since);
        }
        if runs && lasted >= threshold * STUCK_THRESHOLDS && !std::mem::replace(&mut self.said, true) {
            // Who returns is named then; this one may never.
            let message = format!(
                "Python code has been running for {} ms and has not returned: nobody else is served meanwhile; \
                 py_reactor_context:interrupt/1 ends it",
                lasted.as_millis()
            );
            self.mailbox.notify(Notice { level: "warning", message, meta: Vec::new(), fd: None });
        }
        runs
    }

    /// Whoever is in the same turn for long may have been woken for a connection, and does not hear of it.
    fn look_at_turn(&mut self, number: u64, now: Instant) {
        let turn = self.mailbox.stats.turns.get();
        if turn != self.turn.0 || number.is_multiple_of(2) {
            self.turn = (turn, now);
        } else if now.duration_since(self.turn.1) >= RELAY_AFTER {
            self.listeners.iter().for_each(|listening| listening.relay(self.mailbox.serial));
        }
    }
}

static CONTEXTS: Mutex<Vec<Watched>> = Mutex::new(Vec::new());

/// Changes what is watched of a context; without a thread for it, nothing is watched.
fn change(mailbox: &Arc<Mailbox>, change: impl FnOnce(&mut Watched)) {
    static START: Once = Once::new();
    START.call_once(|| drop(std::thread::Builder::new().name("py_watch".into()).spawn(watch)));
    let mut contexts = lock(&CONTEXTS);
    let place = contexts.iter().position(|watched| ptr::eq(&*watched.mailbox, &**mailbox));
    let place = place.unwrap_or_else(|| {
        contexts.push(Watched::new(mailbox));
        contexts.len() - 1
    });
    change(&mut contexts[place]);
    if contexts[place].threshold.is_none() && contexts[place].listeners.is_empty() {
        contexts.swap_remove(place);
        mailbox.running.set_watched(false);
    }
    // Others may share a listener with it from now on.
    for watched in contexts.iter() {
        watched.mailbox.running.set_watched(watched.pause().is_some());
    }
    drop(contexts);
    WATCHDOG.wake();
}

/// From now on its callbacks are to take no longer than that.
pub fn add(mailbox: &Arc<Mailbox>, threshold: Duration) {
    change(mailbox, |watched| watched.threshold = Some(threshold));
}

/// From now on it accepts from that socket.
pub fn add_listener(mailbox: &Arc<Mailbox>, listening: &Arc<Listening>) {
    change(mailbox, |watched| watched.listeners.push(Arc::clone(listening)));
}

/// It does not any more.
pub fn remove_listener(mailbox: &Arc<Mailbox>, listening: &Arc<Listening>) {
    change(mailbox, |watched| watched.listeners.retain(|other| !Arc::ptr_eq(other, listening)));
}

/// Watches it no more.
pub fn remove(mailbox: &Mailbox) {
    lock(&CONTEXTS).retain(|watched| !ptr::eq(&*watched.mailbox, mailbox));
}

fn watch() {
    loop {
        let now = Instant::now();
        let mut busy = false;
        let mut contexts = lock(&CONTEXTS);
        let mut shortest = None;
        for watched in contexts.iter_mut() {
            let Some(pause) = watched.pause() else { continue };
            busy |= watched.look(now);
            shortest = Some(shortest.map_or(pause, |other: Duration| other.min(pause)));
        }
        drop(contexts);
        WATCHDOG.rest(busy, shortest.unwrap_or_default().max(Duration::from_millis(WATCHDOG_MIN_MS)));
    }
}
