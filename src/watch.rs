//! One thread for all contexts, which looks now and then whether a callback takes too long: so nobody who calls one has to
//! look at the clock. It sleeps while nothing runs.

#![forbid(unsafe_code)]

use crate::config::{WATCH_LOOKS, WATCH_MIN_MS};
use crate::python::running::Running;
use crate::sync::lock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, Once, PoisonError};
use std::time::{Duration, Instant};

/// A context that is watched.
struct Watched {
    running: Arc<Running>,
    threshold: Duration,
    /// The call that was seen last, and when first.
    seen: (u64, Instant),
}

impl Watched {
    /// Looks at the context. Answers whether something runs, or has since the last look.
    fn look(&mut self, now: Instant) -> bool {
        let number = self.running.number();
        let (last, since) = self.seen;
        if number != last {
            self.seen = (number, now);
            return true;
        }
        let runs = !number.is_multiple_of(2);
        if runs && now.duration_since(since) >= self.threshold {
            self.running.note_slow(number, since);
        }
        runs
    }
}

static CONTEXTS: Mutex<Vec<Watched>> = Mutex::new(Vec::new());
static WAKE: Condvar = Condvar::new();
static ASLEEP: AtomicBool = AtomicBool::new(false);

/// Watches a context from now on; without a thread for it, nothing is watched.
pub fn add(running: &Arc<Running>, threshold: Duration) {
    static START: Once = Once::new();
    START.call_once(|| drop(std::thread::Builder::new().name("py_watch".into()).spawn(watch)));
    running.set_watched(true);
    let seen = (running.number(), Instant::now());
    lock(&CONTEXTS).push(Watched { running: Arc::clone(running), threshold, seen });
    wake();
}

/// Watches it no more.
pub fn remove(running: &Arc<Running>) {
    lock(&CONTEXTS).retain(|watched| !Arc::ptr_eq(&watched.running, running));
}

/// Something is about to run.
#[inline]
pub fn stay_awake() {
    if ASLEEP.load(Ordering::Relaxed) {
        wake();
    }
}

#[cold]
fn wake() {
    let _contexts = lock(&CONTEXTS);
    ASLEEP.store(false, Ordering::Relaxed);
    WAKE.notify_one();
}

fn watch() {
    let mut contexts = lock(&CONTEXTS);
    loop {
        let now = Instant::now();
        let mut busy = false;
        for watched in contexts.iter_mut() {
            busy |= watched.look(now);
        }
        // Whoever began just now may not have seen that we are to sleep: so one more look comes before the sleep.
        let was_asleep = ASLEEP.swap(!busy, Ordering::Relaxed);
        contexts = if busy || !was_asleep {
            let shortest = contexts.iter().map(|watched| watched.threshold).min().unwrap_or_default();
            let pause = (shortest / WATCH_LOOKS).max(Duration::from_millis(WATCH_MIN_MS));
            WAKE.wait_timeout(contexts, pause).unwrap_or_else(PoisonError::into_inner).0
        } else {
            WAKE.wait_while(contexts, |_| ASLEEP.load(Ordering::Relaxed)).unwrap_or_else(PoisonError::into_inner)
        };
    }
}
