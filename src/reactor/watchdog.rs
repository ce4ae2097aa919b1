//! One thread for all contexts, which looks now and then whether a callback takes too long: so nobody who calls one has to
//! look at the clock. It sleeps while nothing runs.

#![forbid(unsafe_code)]

use crate::base::config::{STUCK_THRESHOLDS, WATCHDOG_LOOKS, WATCHDOG_MIN_MS};
use crate::base::sync::lock;
use crate::mail::mailbox::Mailbox;
use crate::mail::notice::Notice;
use crate::mail::running::WATCHDOG;
use std::ptr;
use std::sync::{Arc, Mutex, Once};
use std::time::{Duration, Instant};

/// A context that is watched.
struct Watched {
    mailbox: Arc<Mailbox>,
    threshold: Duration,
    /// The call that was seen last, and when first.
    seen: (u64, Instant),
    /// It was said of that call that it does not return.
    said: bool,
}

impl Watched {
    /// Looks at the context. Answers whether something runs, or has since the last look.
    fn look(&mut self, now: Instant) -> bool {
        let number = self.mailbox.running.number();
        let (last, since) = self.seen;
        if number != last {
            (self.seen, self.said) = ((number, now), false);
            return true;
        }
        let runs = !number.is_multiple_of(2);
        let lasted = now.duration_since(since);
        if runs && lasted >= self.threshold {
            self.mailbox.running.note_slow(number, since);
        }
        if runs && lasted >= self.threshold * STUCK_THRESHOLDS && !std::mem::replace(&mut self.said, true) {
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
}

static CONTEXTS: Mutex<Vec<Watched>> = Mutex::new(Vec::new());

/// Watches a context from now on; without a thread for it, nothing is watched.
pub fn add(mailbox: &Arc<Mailbox>, threshold: Duration) {
    static START: Once = Once::new();
    START.call_once(|| drop(std::thread::Builder::new().name("py_watch".into()).spawn(watch)));
    mailbox.running.set_watched(true);
    let seen = (mailbox.running.number(), Instant::now());
    lock(&CONTEXTS).push(Watched { mailbox: Arc::clone(mailbox), threshold, seen, said: false });
    WATCHDOG.wake();
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
        for watched in contexts.iter_mut() {
            busy |= watched.look(now);
        }
        let shortest = contexts.iter().map(|watched| watched.threshold).min().unwrap_or_default();
        drop(contexts);
        WATCHDOG.rest(busy, (shortest / WATCHDOG_LOOKS).max(Duration::from_millis(WATCHDOG_MIN_MS)));
    }
}
