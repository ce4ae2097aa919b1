//! The C layouts of an event loop and of its handles, which know each other, and what a loop has besides.
//!
//! A loop and its handles are touched by threads that are attached to their interpreter, and so by one at a time. Nothing is
//! borrowed while Python code may run: objects are released after what they were in.

use crate::base::timers::{Schedule, Task};
use crate::connection::context::Context;
use crate::driver::watch::Watch;
use crate::mail::mailbox::Mailbox;
use crate::module::loop_openings::Openings;
use crate::module::words::Words;
use pyo3::ffi;
use pyo3::prelude::*;
use std::cell::{Cell, RefCell};
use std::ffi::c_char;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Arguments that a handle has room for. More are in a tuple.
pub const INLINE: usize = 2;

/// Memory of so many handles is kept by a loop while nobody needs it.
pub const FREE_MAX: usize = 256;

/// A handle, of either type. Every pointer may be null but the loop's.
#[repr(C)]
pub struct Handle {
    pub head: ffi::PyObject,
    pub event_loop: *mut LoopObject,
    /// Null once it is cancelled.
    pub callback: *mut ffi::PyObject,
    pub args: [*mut ffi::PyObject; INLINE],
    /// All arguments, if there are more than `INLINE`.
    pub rest: *mut ffi::PyObject,
    pub context: *mut ffi::PyObject,
    pub source_traceback: *mut ffi::PyObject,
    pub repr: *mut ffi::PyObject,
    pub weak_references: *mut ffi::PyObject,
    pub when: f64,
    /// How many of `args` there are.
    pub count: u8,
    pub cancelled: c_char,
    /// It is among the timers.
    pub scheduled: c_char,
}

/// A reference that a loop owns, to something that it runs: one of our handles, or whatever else was given to `_add_callback`,
/// which is never among the timers.
#[derive(Clone, Copy)]
pub struct Ref(pub *mut ffi::PyObject);

impl Ref {
    fn handle(&self) -> *mut Handle {
        self.0.cast()
    }
}

impl Task for Ref {
    fn is_cancelled(&self) -> bool {
        // SAFETY: timers are our handles, and a loop owns a reference to each (I7: attached, as whoever asks the schedule is).
        unsafe { (*self.handle()).cancelled != 0 }
    }

    fn left_timers(&self) {
        // SAFETY: I7: as in `is_cancelled`.
        unsafe { (*self.handle()).scheduled = 0 };
    }
}

/// Who waits for a descriptor: what is run, and what was given for its number, if that was no number. Both are references of the
/// loop's.
#[derive(Clone, Copy)]
pub struct Reader {
    pub handle: Ref,
    pub object: Option<Ref>,
}

impl Reader {
    /// What the loop has references to.
    pub fn references(self) -> impl Iterator<Item = Ref> {
        [Some(self.handle), self.object].into_iter().flatten()
    }
}

/// An event loop.
#[repr(C)]
pub struct LoopObject {
    pub head: ffi::PyObject,
    /// Never null once the loop is made.
    pub core: *mut Core,
    pub closed: c_char,
    pub debug: c_char,
    pub stopping: c_char,
}

/// What drives a loop of one's own. It stands on a floor above.
pub trait Turns {
    /// Turns once; if the loop is to stop, until its batch is done.
    ///
    /// # Errors
    /// A `KeyboardInterrupt` and its like, or an `OSError` of the driver.
    fn run(&mut self, of: &Bound<'_, PyAny>) -> PyResult<()>;

    /// Its connections.
    fn context(&self) -> Rc<Context>;

    /// Something else drives its connections from now on, on this thread, which is not its own.
    fn hand_over(self: Box<Self>, py: Python<'_>);

    /// It will run no more. On another thread than its own its operations may go on.
    fn end(self: Box<Self>, py: Python<'_>, on_its_thread: bool);
}

/// What is not C's.
pub struct Core {
    pub schedule: RefCell<Schedule<Ref>>,
    /// Memory of handles, none of which is an object any more.
    pub free: RefCell<Vec<*mut Handle>>,
    /// How many handles are being released just now.
    pub releasing: Cell<u32>,
    pub handle_type: *mut ffi::PyTypeObject,
    pub timer_type: *mut ffi::PyTypeObject,
    /// Whose thread runs the loop, once that is known: woken by `call_soon_threadsafe`.
    pub mailbox: RefCell<Option<Arc<Mailbox>>>,
    /// The thread that runs it just now, see [`this_thread`]; 0: none.
    pub thread: Cell<u64>,
    /// What drives it, between two runs, and the thread that it belongs to.
    pub turns: RefCell<Option<(u64, Box<dyn Turns>)>>,
    /// Who waits for descriptors, which the driver is to watch. Made with the loop: later, no descriptor may be left for it.
    pub readers: RefCell<Option<Watch<Reader>>>,
    /// The connections of its transports, once there may be some.
    pub context: RefCell<Option<Rc<Context>>>,
    /// The driver does not know it yet.
    pub readers_are_new: Cell<bool>,
    /// Servers and connects.
    pub openings: Openings,
    pub words: Words,
    /// Datagram endpoints that have something to send at the end of the turn: references of the loop's.
    pub flushes: RefCell<Vec<Ref>>,
}

/// The core of a loop.
///
/// # Safety
/// `this` is a loop that lives longer than what is answered is used, and the calling thread is attached.
pub unsafe fn core<'a>(this: *mut LoopObject) -> &'a Core {
    // SAFETY: the caller's promise; the core is freed with the object.
    unsafe { &*(*this).core }
}

/// Releases references, when nothing is borrowed.
///
/// # Safety
/// Each is owned by the caller, who is attached.
pub unsafe fn release(references: impl IntoIterator<Item = Ref>) {
    for Ref(object) in references {
        // SAFETY: the caller's promise.
        unsafe { ffi::Py_DECREF(object) };
    }
}

/// The calling thread, by a number that no other thread ever has: numbers of the system are used again.
#[inline]
pub fn this_thread() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    thread_local! {
        static NUMBER: u64 = NEXT.fetch_add(1, Ordering::Relaxed);
    }
    NUMBER.with(|number| *number)
}
