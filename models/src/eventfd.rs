//! In the place of `src/base/eventfd.rs`: what the kernel promises of an eventfd.
//!
//! Whoever waits for one that is never rung again is a deadlock, which loom reports: a lost wake-up.

use crate::base::sync::{Mutex, lock};
use loom::sync::{Arc, Condvar};
use std::io;

#[derive(Debug, Default)]
struct Kernel {
    count: Mutex<u64>,
    rung: Condvar,
}

/// The side that waits.
pub struct Waiter(Arc<Kernel>);

#[derive(Debug)]
pub struct EventFd(Arc<Kernel>);

impl EventFd {
    pub fn new() -> io::Result<Self> {
        Ok(EventFd(Arc::new(Kernel { count: Mutex::new(0), rung: Condvar::new() })))
    }

    pub fn waiter(&self) -> io::Result<Waiter> {
        Ok(Waiter(Arc::clone(&self.0)))
    }

    pub fn ring(&self) {
        *lock(&self.0.count) += 1;
        self.0.rung.notify_all();
    }

    pub fn empty(&self) {
        *lock(&self.0.count) = 0;
    }

    pub fn close(&self) {}
}

impl Waiter {
    /// Waits until it is readable and empties it, as the read of a ring does.
    pub fn read(&self) {
        let mut count = self.wait();
        *count = 0;
    }

    /// Waits until it is readable, as epoll does.
    pub fn poll(&self) {
        drop(self.wait());
    }

    /// How often it was rung since it was emptied.
    pub fn count(&self) -> u64 {
        *lock(&self.0.count)
    }

    fn wait(&self) -> crate::base::sync::MutexGuard<'_, u64> {
        let mut count = lock(&self.0.count);
        while *count == 0 {
            count = self.0.rung.wait(count).expect("nobody panics under the lock");
        }
        count
    }
}
