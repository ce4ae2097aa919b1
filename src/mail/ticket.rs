//! A request of Erlang's whose caller may give it up, as when its time is over: one that has not begun is dropped then, and
//! of one that runs what runs is interrupted; nothing else is. One that has become a task is cancelled, by its serial number.

#![forbid(unsafe_code)]

use crate::beam::resource::{Kind, Resource};
use std::ffi::CStr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// What the caller, and the thread that the request is for, know of it together.
pub struct Ticket {
    serial: u64,
    given_up: AtomicBool,
    /// The stretch of Python code that runs for it, or did; 0: none has begun.
    stretch: AtomicU64,
}

impl Resource for Ticket {
    const NAME: &'static CStr = c"py_reactor_ticket";

    fn kind() -> &'static Kind {
        static KIND: Kind = Kind::new();
        &KIND
    }
}

/// A number for a request, which no other one has.
pub fn next_serial() -> u64 {
    static SERIAL: AtomicU64 = AtomicU64::new(1);
    SERIAL.fetch_add(1, Ordering::Relaxed)
}

impl Ticket {
    /// Of a request that has not begun.
    pub fn new() -> Self {
        Ticket { serial: next_serial(), given_up: AtomicBool::new(false), stretch: AtomicU64::new(0) }
    }

    /// The number of the request.
    pub fn serial(&self) -> u64 {
        self.serial
    }

    /// The stretch of that number runs for it from now on. Answers whether it is still wanted: if not, nothing may run.
    ///
    /// Each side writes, then reads what the other writes: so either this sees that it is not wanted, or
    /// [`Ticket::give_up`] sees the number.
    pub fn runs(&self, stretch: u64) -> bool {
        self.stretch.store(stretch, Ordering::SeqCst);
        !self.given_up.load(Ordering::SeqCst)
    }

    /// It is not wanted any more. Answers the stretch to be interrupted, if one has begun.
    pub fn give_up(&self) -> Option<u64> {
        self.given_up.store(true, Ordering::SeqCst);
        Some(self.stretch.load(Ordering::SeqCst)).filter(|stretch| *stretch > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_given_up_does_not_begin_and_what_has_begun_is_named() {
        let ticket = Ticket::new();
        assert!(ticket.runs(3));
        assert!(ticket.runs(5));
        assert_eq!(ticket.give_up(), Some(5));
        assert!(!ticket.runs(7));
        let ticket = Ticket::new();
        assert_eq!(ticket.give_up(), None);
        assert!(!ticket.runs(9));
    }
}
