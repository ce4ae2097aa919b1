//! Which Python code a context's thread runs just now: so that it can be interrupted, and found to be slow.
//!
//! Stretches are numbered: each call of a callback is one, and so is what lies between two of them, where Python code of the
//! user may run as well: a destructor, the text of an exception, the conversion of a result. Nobody has to say where. That
//! costs a callback two stores and five loads, and no look at the clock.

use crate::base::gil::Wait;
use crate::base::sleeper::Sleeper;
use crate::base::sync::{Mutex, lock};
use crate::beam::resource::Ref;
use crate::mail::request_timeout::{Ticket, Unwanted};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyType;
use std::ffi::c_long;
use std::io;
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// The sleep of the thread that finds out who is slow. It ends when something that is watched begins.
pub static WATCHDOG: Sleeper = Sleeper::new();

/// What a context's thread does with Python, as others may see it.
pub struct Running {
    /// Odd while Python code may run, in a call or between two; even while the thread waits. Written by the context's thread
    /// alone, while it is attached: whoever is attached to its interpreter and reads an odd number knows that this very
    /// stretch goes on, and that it has let go of the GIL, as Python code does and ours between calls does not.
    stretch: AtomicU64,
    /// The watchdog looks at this.
    watched: AtomicBool,
    /// An exception has been set since the last [`Running::settle`].
    raised: AtomicBool,
    /// An interrupt has been raised in the stretch that runs; see [`Running::take_interrupted`].
    interrupted: AtomicBool,
    /// Something was done to a stretch: see [`Running::settle`].
    noted: AtomicBool,
    /// The stretch that was found to be slow, and since when it has been seen.
    slow: Mutex<Option<(u64, Instant)>>,
    /// How long the slowest stretch between calls took that has not been told of, in milliseconds; 0: there is none.
    slow_between_ms: AtomicU64,
    /// An interrupt is under way.
    interrupting: AtomicBool,
    /// Requests that were given up, what runs for which is to be interrupted whatever else is under way.
    given_up: Mutex<Vec<GivenUp>>,
    /// The callback that an event loop calls just now, in this very stretch; null: none. Written by the context's thread alone,
    /// attached: whoever is attached and reads it has an object that is there.
    step: AtomicPtr<ffi::PyObject>,
    /// The interrupt in this stretch was for a request that was given up.
    for_request: AtomicBool,
    /// Odd while an event loop always has something ready: its steps are short, and no interrupt would ever find one that
    /// still runs. Written by the context's thread alone.
    busy: AtomicU64,
    /// The next step of that loop is to be interrupted.
    next_step: AtomicBool,
    /// What wakes loops of one's own that may wait on this thread, in what runs.
    rousers: Mutex<Vec<(u64, Rouse)>>,
    /// Taken away, by a detached thread, before the interpreter may end.
    target: Mutex<Option<Target>>,
}

/// Whom an interrupt reaches.
pub struct Target {
    interpreter: *mut ffi::PyInterpreterState,
    /// Python's number of the thread.
    pub thread: c_long,
    /// Its state in that interpreter.
    pub state: *mut ffi::PyThreadState,
    /// `erlang.reactor.Interrupted` of the interpreter.
    exception: Py<PyType>,
    serves: Serves,
}
// SAFETY: I7: the pointers are used under the lock around them; as long as it is there, the interpreter and the state are.
unsafe impl Send for Target {}

/// Whether a callback of an event loop is a step of that task, or of one that it waits for; with null, whether it is anybody's
/// but asyncio's own, on which others wait. On the thread of that state; called attached, may run Python code.
pub type Serves = fn(callback: *mut ffi::PyObject, task: *mut ffi::PyObject, state: *mut ffi::PyThreadState) -> bool;

/// Wakes whoever waits, from any thread, without Python.
pub type Rouse = Box<dyn Fn() + Send + Sync>;

/// As long as this is there, somebody is woken by interrupts.
pub struct Roused {
    running: Arc<Running>,
    number: u64,
}

impl Drop for Roused {
    fn drop(&mut self) {
        lock(&self.running.rousers).retain(|(number, _)| *number != self.number);
    }
}

/// A request that was given up.
struct GivenUp {
    ticket: Ref<Ticket>,
    unwanted: Unwanted,
}

/// What somebody wants to be interrupted by its number: a stretch, or the next step of a loop that has been busy since then.
#[derive(Clone, Copy)]
struct Aim {
    stretch: u64,
    busy: u64,
}

/// Why there is no interrupt.
pub enum NoInterrupt {
    /// No Python code runs.
    Idle,
    /// Another one is under way.
    Busy,
    /// The system refused a thread.
    Resources(io::Error),
}

/// Has an exception that was raised in this thread, and has reached nothing yet, reach nothing. It is not taken back: before 3.13 an
/// interpreter would look for it at each of its steps, for ever, and Python 3.11 not get beyond the first one of what is traced.
pub fn receive_raised(py: Python<'_>) {
    aside(py, || {
        let _ = py.eval(c"0", None, None);
        release_imports(py);
    });
}

/// Runs `f`, which may fail; what is raised already stays so.
fn aside(py: Python<'_>, f: impl FnOnce()) {
    let before = PyErr::take(py);
    f();
    if let Some(error) = before {
        error.restore(py);
    }
}

/// Gives back CPython's lock of imports, if this thread has it: what is raised from outside may come when that has just been
/// taken, and the code that gives it back does not run yet. Then nobody could import any more, until 3.11 in no interpreter.
/// It is held for a few steps of the import system only, none of which comes here.
fn release_imports(py: Python<'_>) {
    while py.import("_imp").and_then(|imp| imp.call_method0("release_lock")).is_ok() {}
}

impl Running {
    /// Of a thread that runs nothing yet.
    pub fn new() -> Self {
        Running {
            stretch: AtomicU64::new(0),
            watched: AtomicBool::new(false),
            raised: AtomicBool::new(false),
            interrupted: AtomicBool::new(false),
            noted: AtomicBool::new(false),
            slow: Mutex::new(None),
            slow_between_ms: AtomicU64::new(0),
            interrupting: AtomicBool::new(false),
            given_up: Mutex::default(),
            step: AtomicPtr::new(ptr::null_mut()),
            for_request: AtomicBool::new(false),
            busy: AtomicU64::new(0),
            next_step: AtomicBool::new(false),
            rousers: Mutex::default(),
            target: Mutex::new(None),
        }
    }

    /// Whenever something is interrupted, `rouse` is called, until what is answered is dropped.
    pub fn rouse_by(self: &Arc<Self>, rouse: Rouse) -> Roused {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        lock(&self.rousers).push((number, rouse));
        Roused { running: Arc::clone(self), number }
    }

    /// From now on the calling thread, attached, can be interrupted, by this exception.
    pub fn publish(&self, py: Python<'_>, exception: Py<PyType>, serves: Serves) {
        // SAFETY: I7, by the token.
        let (state, thread) = unsafe { (ffi::PyThreadState_Get(), ffi::PyThread_get_thread_ident()) };
        // SAFETY: I7, by the token.
        let interpreter = unsafe { ffi::PyThreadState_GetInterpreter(state) };
        let target = Target { interpreter, thread: thread as c_long, state, exception, serves };
        let before = crate::base::gil::detached(py, || lock(&self.target).replace(target));
        drop(before);
    }

    /// From now on it cannot. Whoever interrupts holds the lock and may wait for the GIL, so this waits without it.
    pub fn retire(&self, py: Python<'_>) {
        let target = crate::base::gil::detached(py, || lock(&self.target).take());
        drop(target);
        aside(py, || release_imports(py));
    }

    /// The thread, attached, may run Python code from now on.
    #[inline]
    pub fn resume(&self) {
        self.next_stretch();
        if self.watched.load(Ordering::Relaxed) {
            WATCHDOG.stay_awake();
        }
    }

    /// It runs none before [`Running::resume`]. Answers how long Python code has run since then that was no call, if the
    /// watchdog found it slow.
    #[inline]
    pub fn pause(&self, py: Python<'_>) -> Option<Duration> {
        self.end_between(py);
        let number = self.stretch.load(Ordering::Relaxed);
        self.stretch.store(number + number % 2, Ordering::Relaxed);
        match self.slow_between_ms.load(Ordering::Relaxed) {
            0 => None,
            ms => {
                self.slow_between_ms.store(0, Ordering::Relaxed);
                Some(Duration::from_millis(ms))
            }
        }
    }

    /// Runs `f`, which calls Python code of the user. Answers its result and, if the watchdog found it slow, how long it
    /// took at least.
    #[inline]
    pub fn call<R>(&self, py: Python<'_>, f: impl FnOnce() -> R) -> (R, Option<Duration>) {
        self.end_between(py);
        let number = self.next_stretch();
        if self.watched.load(Ordering::Relaxed) {
            WATCHDOG.stay_awake();
        }
        let result = f();
        self.next_stretch();
        let slow = if self.noted.load(Ordering::Acquire) { self.settle(py, number) } else { None };
        (result, slow)
    }

    /// Begins another stretch, and answers its number.
    #[inline]
    fn next_stretch(&self) -> u64 {
        let number = (self.stretch.load(Ordering::Relaxed) + 1) | 1;
        self.stretch.store(number, Ordering::Relaxed);
        number
    }

    /// A stretch between calls is over.
    #[inline]
    fn end_between(&self, py: Python<'_>) {
        if self.noted.load(Ordering::Acquire)
            && let Some(took) = self.settle(py, self.stretch.load(Ordering::Relaxed))
        {
            let ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX).max(1);
            self.slow_between_ms.fetch_max(ms, Ordering::Relaxed);
        }
    }

    /// After a stretch that something was done to: an interrupt that came too late for it must reach no other.
    #[cold]
    fn settle(&self, py: Python<'_>, number: u64) -> Option<Duration> {
        self.noted.store(false, Ordering::Relaxed);
        self.interrupted.store(false, Ordering::Relaxed);
        self.for_request.store(false, Ordering::Relaxed);
        // Others may be attached meanwhile, and raise another one.
        while self.raised.swap(false, Ordering::Relaxed) {
            receive_raised(py);
        }
        let slow = lock(&self.slow).take();
        slow.filter(|(which, _)| *which == number).map(|(_, since)| since.elapsed())
    }

    /// Whether the watchdog looks at this from now on.
    pub fn set_watched(&self, watched: bool) {
        self.watched.store(watched, Ordering::Relaxed);
    }

    /// Whether an interrupt has been raised in the stretch that runs since this was asked the last time. On its thread.
    pub fn take_interrupted(&self) -> bool {
        self.interrupted.swap(false, Ordering::Relaxed)
    }

    /// Whether the event loop of the context has something ready, when it begins to run that and before each wait.
    #[inline]
    pub fn set_busy(&self, busy: bool) {
        let number = self.busy.load(Ordering::Relaxed);
        if number.is_multiple_of(2) == busy {
            self.busy.store(number + 1, Ordering::Release);
            self.next_step.store(false, Ordering::Relaxed);
        }
    }

    /// Whether the step of the event loop that begins now is to be interrupted. On its thread.
    #[inline]
    pub fn is_next_step_wanted(&self) -> bool {
        self.next_step.load(Ordering::Relaxed)
    }

    /// It is. Answers true once.
    pub fn take_next_step(&self) -> bool {
        self.next_step.swap(false, Ordering::Relaxed)
    }

    /// In the stretch that runs, an event loop calls this until [`Running::end_step`]: the caller keeps it as long.
    #[inline]
    pub fn begin_step(&self, _py: Python<'_>, callback: *mut ffi::PyObject) {
        self.step.store(callback, Ordering::Relaxed);
    }

    /// It has returned.
    #[inline]
    pub fn end_step(&self, _py: Python<'_>) {
        self.step.store(ptr::null_mut(), Ordering::Relaxed);
    }

    /// Whether an interrupt in the stretch that runs was for a request that was given up. On its thread.
    pub fn is_for_request(&self) -> bool {
        self.for_request.load(Ordering::Relaxed)
    }

    /// Has the exception raised in what runs now. On its thread.
    pub fn raise_here(&self, exception: &Bound<'_, PyType>) {
        // SAFETY: I7, by the token that `exception` has; this thread's own number.
        unsafe { ffi::PyThreadState_SetAsyncExc(ffi::PyThread_get_thread_ident() as c_long, exception.as_ptr()) };
        self.note_raised();
    }

    fn note_raised(&self) {
        self.raised.store(true, Ordering::Relaxed);
        self.interrupted.store(true, Ordering::Relaxed);
        self.noted.store(true, Ordering::Release);
    }

    /// The number of the stretch that runs, or an even one.
    pub fn number(&self) -> u64 {
        self.stretch.load(Ordering::Acquire)
    }

    /// The stretch of that number has been running since then, at least, and that is too long.
    pub fn note_slow(&self, number: u64, since: Instant) {
        *lock(&self.slow) = Some((number, since));
        self.noted.store(true, Ordering::Release);
    }

    /// Interrupts the Python code that runs now, and no later one; but where an event loop goes from step to step without a
    /// pause, its next step. `done` is told, on another thread, whether it still ran.
    ///
    /// # Errors
    /// None runs, or it cannot be done now.
    pub fn interrupt(self: &Arc<Self>, done: impl FnOnce(bool) + Send + 'static) -> Result<(), NoInterrupt> {
        let aim = Aim { stretch: self.number(), busy: self.busy.load(Ordering::Acquire) };
        if aim.stretch.is_multiple_of(2) && aim.busy.is_multiple_of(2) {
            return Err(NoInterrupt::Idle);
        }
        self.start_interrupt(Some(aim), done)
    }

    /// Interrupts what runs for a request that was given up, if anything still does once Python lets us: its stretch, or a
    /// step of the task that it has become, and nothing else: while that cleans up after its cancellation, leftovers only.
    ///
    /// # Errors
    /// The system refused a thread.
    pub fn interrupt_request(self: &Arc<Self>, ticket: Ref<Ticket>, unwanted: Unwanted) -> io::Result<()> {
        lock(&self.given_up).push(GivenUp { ticket, unwanted });
        // One that is under way looks at this when it is over.
        match self.start_interrupt(None, drop) {
            Ok(()) | Err(NoInterrupt::Idle | NoInterrupt::Busy) => Ok(()),
            Err(NoInterrupt::Resources(error)) => Err(error),
        }
    }

    fn start_interrupt(
        self: &Arc<Self>,
        aim: Option<Aim>,
        done: impl FnOnce(bool) + Send + 'static,
    ) -> Result<(), NoInterrupt> {
        if self.interrupting.swap(true, Ordering::SeqCst) {
            return Err(NoInterrupt::Busy);
        }
        let running = Arc::clone(self);
        // It waits for the GIL, for as long as an extension module keeps that.
        let spawned = std::thread::Builder::new().name("py_interrupt".into()).spawn(move || {
            let raised = running.raise(aim);
            running.interrupting.store(false, Ordering::SeqCst);
            done(raised);
            let is_more = !lock(&running.given_up).is_empty();
            if is_more {
                // There is this thread, which ends now: so there is one for it.
                let _ = running.start_interrupt(None, drop);
            }
        });
        spawned.map(drop).map_err(|error| {
            self.interrupting.store(false, Ordering::SeqCst);
            NoInterrupt::Resources(error)
        })
    }

    /// Has the exception raised where it is aimed at, if that still runs, and in what runs for a request that was given up.
    /// Answers the first. On a thread that Python does not know.
    fn raise(&self, aim: Option<Aim>) -> bool {
        let raised = self.enter(|target| {
            let given_up = std::mem::take(&mut *lock(&self.given_up));
            if given_up.iter().any(|request| self.runs_for(target, request)) && self.raise_in(target) {
                self.for_request.store(true, Ordering::Relaxed);
            }
            aim.is_some_and(|aim| self.raise_at(target, aim))
        });
        if raised.is_none() {
            // Nothing runs for anybody any more.
            lock(&self.given_up).clear();
        }
        raised.unwrap_or_default()
    }

    fn raise_at(&self, target: &Target, aim: Aim) -> bool {
        if !aim.stretch.is_multiple_of(2) && self.number() == aim.stretch {
            let step = self.step.load(Ordering::Relaxed);
            let is_anybodys = step.is_null() || (target.serves)(step, ptr::null_mut(), target.state);
            return is_anybodys && self.number() == aim.stretch && self.raise_in(target);
        }
        let goes_on = !aim.busy.is_multiple_of(2) && self.busy.load(Ordering::Acquire) == aim.busy;
        if goes_on {
            self.next_step.store(true, Ordering::Relaxed);
        }
        goes_on
    }

    /// Has the exception raised in the stretch that runs: since the caller found that out, the calling thread has been attached
    /// all the time, so that no stretch has ended or begun.
    fn raise_in(&self, target: &Target) -> bool {
        // SAFETY: I7: attached, as whoever has the target is.
        let raised = unsafe { ffi::PyThreadState_SetAsyncExc(target.thread, target.exception.as_ptr()) } == 1;
        if raised {
            self.note_raised();
            lock(&self.rousers).iter().for_each(|(_, rouse)| rouse());
        }
        raised
    }

    /// Whether what runs now runs for that request. Attached, and so since then if the answer is yes.
    fn runs_for(&self, target: &Target, GivenUp { ticket, unwanted }: &GivenUp) -> bool {
        let number = self.number();
        if number.is_multiple_of(2) {
            return false;
        }
        if ticket.dooms(number) {
            return true;
        }
        if ticket.is_told() && *unwanted != Unwanted::Leftovers {
            return false;
        }
        let (step, task) = (self.step.load(Ordering::Relaxed), ticket.task());
        let serves = !step.is_null() && !task.is_null() && (target.serves)(step, task, target.state);
        // Python code may have let others run meanwhile.
        serves && self.number() == number
    }

    /// Runs `f` attached to the context's interpreter, as soon as Python lets us, with whom an interrupt would reach; `None` if
    /// that has ended. On a thread that Python does not know.
    pub fn enter<R>(&self, f: impl FnOnce(&Target) -> R) -> Option<R> {
        let target = lock(&self.target);
        let target = target.as_ref()?;
        // SAFETY: I7: the interpreter does not end while the lock is held. The state is this thread's, used here only.
        unsafe {
            let state = ffi::PyThreadState_New(target.interpreter);
            if state.is_null() {
                return None;
            }
            let wait = Wait::begin();
            ffi::PyEval_RestoreThread(state);
            drop(wait);
            let result = f(target);
            ffi::PyThreadState_Clear(state);
            ffi::PyThreadState_DeleteCurrent();
            Some(result)
        }
    }
}
