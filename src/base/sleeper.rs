//! The sleep of a thread that looks now and then whether somebody needs it, and not at all while there is nobody: those who
//! may need it pay one load for that.

#![forbid(unsafe_code)]

use crate::base::sync::lock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

/// One such thread, as it is woken.
pub struct Sleeper {
    /// It is about to sleep, or sleeps.
    asleep: AtomicBool,
    door: Mutex<()>,
    wake: Condvar,
}

impl Sleeper {
    /// Of a thread that is awake.
    pub const fn new() -> Self {
        Sleeper { asleep: AtomicBool::new(false), door: Mutex::new(()), wake: Condvar::new() }
    }

    /// Somebody may need it from now on.
    #[inline]
    pub fn stay_awake(&self) {
        if self.asleep.load(Ordering::Relaxed) {
            self.wake();
        }
    }

    /// It is to look now.
    #[cold]
    pub fn wake(&self) {
        let _door = lock(&self.door);
        self.asleep.store(false, Ordering::Relaxed);
        self.wake.notify_one();
    }

    /// The thread itself, between two looks: pauses if it was `needed`; otherwise sleeps until it is woken. Whoever began
    /// just now may not have seen that it is to sleep: so one more look, after a pause, comes before the sleep. Answers
    /// whether it has slept.
    pub fn rest(&self, needed: bool, pause: Duration) -> bool {
        let was_asleep = self.asleep.swap(!needed, Ordering::Relaxed);
        let door = lock(&self.door);
        let sleeps = !needed && was_asleep;
        if sleeps {
            let woken = self.wake.wait_while(door, |()| self.asleep.load(Ordering::Relaxed));
            drop(woken.unwrap_or_else(PoisonError::into_inner));
        } else {
            drop(self.wake.wait_timeout(door, pause).unwrap_or_else(PoisonError::into_inner));
        }
        sleeps
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    #[test]
    fn one_more_look_comes_before_the_sleep_and_whoever_needs_it_ends_that() {
        static SLEEPER: Sleeper = Sleeper::new();
        static SLEPT: AtomicUsize = AtomicUsize::new(0);
        assert!(!SLEEPER.rest(true, Duration::ZERO));
        assert!(!SLEEPER.rest(false, Duration::ZERO), "one more look");
        let thread = std::thread::spawn(|| {
            // Woken before it slept, it looks once more.
            while !SLEEPER.rest(false, Duration::ZERO) {}
            SLEPT.store(1, Ordering::Release);
        });
        while SLEPT.load(Ordering::Acquire) == 0 {
            std::thread::sleep(Duration::from_millis(1));
            SLEEPER.stay_awake();
        }
        thread.join().unwrap();
    }

    #[test]
    fn who_was_woken_meanwhile_looks_again() {
        let sleeper = Sleeper::new();
        assert!(!sleeper.rest(false, Duration::ZERO));
        sleeper.stay_awake();
        assert!(!sleeper.rest(false, Duration::ZERO), "somebody came");
    }
}
