//! Before Python 3.12 all interpreters share one GIL, but whoever waits for it asks only its own interpreter to let go: one
//! that computes would stop all others for as long as it likes. So while somebody waits, a thread of ours asks in the
//! interpreter that has the GIL, by waiting for it there. Those who let go of the GIL in the midst of Python code, to read a file
//! or to sleep, wait without our knowledge: so whoever keeps it is asked as well. That thread sleeps while nobody has it.

use crate::base::config::{GIL_LOOK_MS, GIL_LOOKS_BEFORE_SLEEP};
use crate::base::sleeper::Sleeper;
use crate::base::sync::lock;
use pyo3::ffi;
use pyo3::prelude::*;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, Once, PoisonError};
use std::time::Duration;

unsafe extern "C" {
    // Not among pyo3's.
    fn _PyThreadState_UncheckedGet() -> *mut ffi::PyThreadState;
}

/// A thread of a context, and where to ask if it has the GIL.
struct Thread {
    state: *mut ffi::PyThreadState,
    interpreter: *mut ffi::PyInterpreterState,
    /// Somebody asks there just now.
    asked: bool,
}
// SAFETY: I7: the state is compared and never followed; the interpreter does not end while the thread is listed and
// asked.
unsafe impl Send for Thread {}

static THREADS: Mutex<Vec<Thread>> = Mutex::new(Vec::new());
static ANSWERED: Condvar = Condvar::new();
/// Whether there is more than one interpreter, so that any of this is needed.
static SHARED: AtomicBool = AtomicBool::new(false);
/// Threads that wait for the GIL, or are about to.
static WAITING: AtomicUsize = AtomicUsize::new(0);
static LOOKING: Sleeper = Sleeper::new();

/// The state of the calling thread, attached.
pub fn state(_: Python<'_>) -> *mut ffi::PyThreadState {
    // SAFETY: I7: attached, as the token shows.
    unsafe { ffi::PyThreadState_Get() }
}

/// The calling thread, attached to `interpreter`, is a context's; `shared`: in an interpreter of its own.
pub fn add(py: Python<'_>, interpreter: *mut ffi::PyInterpreterState, shared: bool) {
    static START: Once = Once::new();
    lock(&THREADS).push(Thread { state: state(py), interpreter, asked: false });
    // Without the thread nobody asks.
    START.call_once(|| drop(std::thread::Builder::new().name("py_gil".into()).spawn(look)));
    if shared {
        SHARED.store(true, Ordering::Relaxed);
    }
}

/// The thread of that state, which calls this detached, is a context's no more. Whoever asks in its interpreter has left
/// that when this returns.
pub fn remove(state: *mut ffi::PyThreadState) {
    let is_asked = |threads: &mut Vec<Thread>| threads.iter().any(|thread| thread.state == state && thread.asked);
    let threads = ANSWERED.wait_while(lock(&THREADS), is_asked);
    threads.unwrap_or_else(PoisonError::into_inner).retain(|thread| thread.state != state);
}

/// Whether the calling thread, detached, is to call [`end`] once it is attached again.
#[inline]
pub fn begin() -> bool {
    let shared = SHARED.load(Ordering::Relaxed);
    if shared {
        WAITING.fetch_add(1, Ordering::Relaxed);
        LOOKING.stay_awake();
    }
    shared
}

/// The calling thread waits no more.
#[inline]
pub fn end() {
    WAITING.fetch_sub(1, Ordering::Relaxed);
}

fn look() {
    let (mut waited, mut had, mut idle) = (false, ptr::null_mut(), 0);
    loop {
        let waits = WAITING.load(Ordering::Relaxed) > 0;
        let holder = holder();
        let keeps = holder == had && !holder.is_null();
        if waits && waited || keeps {
            ask(holder);
        }
        (waited, had) = (waits, holder);
        idle = if waits || !holder.is_null() { 0 } else { idle + 1 };
        if LOOKING.rest(idle < GIL_LOOKS_BEFORE_SLEEP, Duration::from_millis(GIL_LOOK_MS)) {
            idle = 0;
        }
    }
}

/// Who has the GIL, or null.
fn holder() -> *mut ffi::PyThreadState {
    // SAFETY: I10: reads a pointer, which is only compared.
    unsafe { _PyThreadState_UncheckedGet() }
}

/// Asks whoever has the GIL to let go: the interpreter of the context whose thread that is; if it is a thread of the user's,
/// all of them, since nobody knows which.
fn ask(holder: *mut ffi::PyThreadState) {
    let mut threads = lock(&THREADS);
    let known = threads.iter().any(|thread| thread.state == holder);
    let mut interpreters: Vec<*mut ffi::PyInterpreterState> = Vec::new();
    for thread in threads.iter_mut().filter(|thread| !holder.is_null() && (!known || thread.state == holder)) {
        if thread.asked || interpreters.contains(&thread.interpreter) {
            continue;
        }
        interpreters.push(thread.interpreter);
        let (interpreter, state) = (thread.interpreter.expose_provenance(), thread.state.addr());
        let asker = std::thread::Builder::new().name("py_gil_ask".into());
        thread.asked = asker.spawn(move || ask_in(ptr::with_exposed_provenance_mut(interpreter), state)).is_ok();
    }
}

/// Waits for the GIL in an interpreter, and lets go of it at once. `state` names the thread that is marked as asked.
fn ask_in(interpreter: *mut ffi::PyInterpreterState, state: usize) {
    // SAFETY: I7: the interpreter does not end while a thread of its is marked as asked ([`remove`] waits). The new
    // state is this thread's, used here only.
    unsafe {
        let own = ffi::PyThreadState_New(interpreter);
        if !own.is_null() {
            ffi::PyEval_RestoreThread(own);
            ffi::PyThreadState_Clear(own);
            ffi::PyThreadState_DeleteCurrent();
        }
    }
    for thread in lock(&THREADS).iter_mut().filter(|thread| thread.state.addr() == state) {
        thread.asked = false;
    }
    ANSWERED.notify_all();
}
