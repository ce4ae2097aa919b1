//! A request of Erlang's whose caller may give it up, as when its time is over: one that has not begun is dropped then, and
//! of one that runs what runs is interrupted; nothing else is. One that has become a task is cancelled, and a step of it that
//! runs just then is interrupted, too.

#![forbid(unsafe_code)]

use crate::beam::resource::{Kind, Resource};
use pyo3::ffi;
use rustler::NifUnitEnum;
use std::ffi::CStr;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, Ordering};

/// What of a request nobody wants any more.
#[derive(NifUnitEnum, Clone, Copy, PartialEq, Eq)]
pub enum Unwanted {
    /// All of it: its caller's time is over.
    Request,
    /// The task that it becomes, or has become: its caller has died.
    Task,
    /// What still runs for it, long after that.
    Leftovers,
}

/// What the caller, and the thread that the request is for, know of it together.
pub struct Ticket {
    serial: u64,
    given_up: AtomicBool,
    /// Nobody waits for the task that it becomes, or has become.
    cancelled: AtomicBool,
    /// That task has been told, and may be cleaning up.
    told: AtomicBool,
    /// The stretch of Python code that runs for it, or did; 0: none has begun.
    stretch: AtomicU64,
    /// The task that it has become, while that runs; null: none. Written, and looked at, attached to its interpreter: so
    /// whoever reads it has an object that is there.
    task: AtomicPtr<ffi::PyObject>,
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
        Ticket {
            serial: next_serial(),
            given_up: AtomicBool::new(false),
            cancelled: AtomicBool::new(false),
            told: AtomicBool::new(false),
            stretch: AtomicU64::new(0),
            task: AtomicPtr::new(ptr::null_mut()),
        }
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

    /// It has become that task. Answers whether that is still wanted, as [`Ticket::runs`] does.
    pub fn became(&self, task: *mut ffi::PyObject) -> bool {
        self.task.store(task, Ordering::SeqCst);
        !self.cancelled.load(Ordering::SeqCst)
    }

    /// The task that it has become has been cancelled, on its thread.
    pub fn told(&self) {
        self.told.store(true, Ordering::SeqCst);
    }

    /// Whether its task has been cancelled.
    pub fn is_told(&self) -> bool {
        self.told.load(Ordering::SeqCst)
    }

    /// The task that it had become has ended.
    pub fn ended(&self) {
        self.task.store(ptr::null_mut(), Ordering::SeqCst);
    }

    /// The task that it has become, while that runs, or null. Attached.
    pub fn task(&self) -> *mut ffi::PyObject {
        self.task.load(Ordering::SeqCst)
    }

    /// It is not wanted any more, neither what runs for it nor its task.
    pub fn give_up(&self) {
        self.given_up.store(true, Ordering::SeqCst);
    }

    /// Its task is not wanted any more. Answers true the first time.
    pub fn cancel(&self) -> bool {
        !self.cancelled.swap(true, Ordering::SeqCst)
    }

    /// Whether the stretch of that number is to be interrupted, since it runs for a request that is not wanted.
    pub fn dooms(&self, stretch: u64) -> bool {
        self.given_up.load(Ordering::SeqCst) && self.stretch.load(Ordering::SeqCst) == stretch
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
        assert!(!ticket.dooms(5));
        ticket.give_up();
        assert!(ticket.dooms(5) && !ticket.dooms(3));
        assert!(!ticket.runs(7));
        let ticket = Ticket::new();
        ticket.give_up();
        assert!(!ticket.runs(9));
    }

    #[test]
    fn a_task_is_cancelled_once_and_what_runs_before_it_goes_on() {
        let ticket = Ticket::new();
        assert!(ticket.runs(3));
        assert!(ticket.cancel());
        assert!(!ticket.cancel());
        assert!(!ticket.dooms(3));
        assert!(ticket.runs(5));
        assert!(!ticket.became(ptr::dangling_mut()));
        ticket.ended();
        assert!(ticket.task().is_null());
    }
}
