//! An event loop as the reactor that drives it sees it: when it has to be run, and what of it in one turn.

use crate::base::config::{LOOP_LOOK, LOOP_TIME_PER_TURN};
use crate::driver::shared::Shared;
use crate::driver::{Event, Outcome};
use crate::mail::mailbox::Mailbox;
use crate::mail::notice::Notice;
use crate::mail::running::Running;
use crate::module::datagrams;
use crate::module::handle;
use crate::module::loop_calls::now;
use crate::module::loop_layout::{Core, Handle, LoopObject, Ref, core, release};
use crate::module::readers;
use crate::module::transport_accepted;
use crate::python::frames;
use crate::python::glue::{argument, guarded};
use crate::python::types::Types;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyString;
use std::os::fd::{AsRawFd, RawFd};
use std::ptr;
use std::time::{Duration, Instant};

/// No wait needs to be longer.
const WAIT_MAX_SECONDS: f64 = 86_400.0;

/// What an interrupt has that was for a request.
const FOR_REQUEST: &str = "_for_request";

/// The loop that a reactor drives.
pub struct EventLoop(Py<PyAny>);

impl EventLoop {
    /// `object` is an instance of `_Loop`.
    pub fn new(object: &Bound<'_, PyAny>) -> Self {
        EventLoop(object.clone().unbind())
    }

    fn layout(&self) -> *mut LoopObject {
        self.0.as_ptr().cast()
    }

    fn core(&self, _py: Python<'_>) -> &Core {
        // SAFETY: I7: attached, as the token says; this keeps the object.
        unsafe { core(self.layout()) }
    }

    /// How long the driver may wait at most, as far as the loop is concerned.
    pub fn timeout(&self, py: Python<'_>) -> Option<Duration> {
        let core = self.core(py);
        if self.is_stopping(py) || core.schedule.borrow().ready() > 0 || !core.flushes.borrow().is_empty() {
            return Some(Duration::ZERO);
        }
        let mut dead = Vec::new();
        let next = core.schedule.borrow_mut().next_at(&mut dead);
        // SAFETY: I7: attached, as the token says; the schedule has given them up.
        unsafe { release(dead) };
        let seconds = (next? - now()).clamp(0.0, WAIT_MAX_SECONDS);
        // Rounded up: woken too early, it would have to wait once more.
        Some(Duration::from_nanos((seconds * 1e9).ceil() as u64))
    }

    /// Whether there is something to run that nothing has to happen for.
    pub fn has_ready(&self, py: Python<'_>) -> bool {
        self.core(py).schedule.borrow().ready() > 0
    }

    /// Puts down how much there is to run, before a wait.
    pub fn note(&self, py: Python<'_>, mailbox: &Mailbox) {
        let schedule = self.core(py).schedule.borrow();
        mailbox.running.set_busy(schedule.ready() > 0);
        mailbox.stats.ready.set(schedule.ready() as u64);
        mailbox.stats.timers.set(schedule.pending() as u64);
    }

    /// Whether `stop` was called.
    pub fn is_stopping(&self, _py: Python<'_>) -> bool {
        // SAFETY: I7: attached, as the token says; this keeps the object.
        unsafe { (*self.layout()).stopping != 0 }
    }

    /// Runs what is due and what is ready, batch by batch, until nothing is, or its time is over, or a task is to be cancelled,
    /// which may be whose step is next. Answers whether a batch has come to its end.
    ///
    /// # Errors
    /// A `KeyboardInterrupt` or its like; what is left of the batch comes later.
    pub fn run(&self, py: Python<'_>, mailbox: &Mailbox) -> PyResult<bool> {
        let core = self.core(py);
        let mut schedule = core.schedule.borrow_mut();
        if schedule.timers() > 0 {
            schedule.make_due_ready(now(), |seconds| mailbox.stats.loop_lag.record(seconds));
        }
        mailbox.stats.ready.set(schedule.ready() as u64);
        if !schedule.begin_batch() {
            return Ok(true);
        }
        drop(schedule);
        mailbox.running.set_busy(true);
        let began = Instant::now();
        let mut since_look = 0;
        loop {
            if mailbox.has_cancelled() {
                return Ok(false);
            }
            // Borrowed for a moment: whatever runs may schedule more.
            let task = core.schedule.borrow_mut().take();
            let Some(task) = task else {
                if self.is_stopping(py)
                    || core.context.borrow().as_ref().is_some_and(|context| context.closes.get())
                    || began.elapsed() >= LOOP_TIME_PER_TURN
                    || !core.schedule.borrow_mut().begin_batch()
                {
                    return Ok(true);
                }
                since_look = 0;
                continue;
            };
            self.run_task(py, mailbox, task)?;
            since_look += 1;
            if since_look == LOOP_LOOK {
                since_look = 0;
                if began.elapsed() >= LOOP_TIME_PER_TURN {
                    return Ok(false);
                }
            }
        }
    }

    #[inline]
    fn run_task(&self, py: Python<'_>, mailbox: &Mailbox, Ref(object): Ref) -> PyResult<()> {
        let core = self.core(py);
        // SAFETY: I7: attached, as the token says; the schedule's reference is ours now.
        let (task, class) = unsafe { (Bound::from_owned_ptr(py, object), ffi::Py_TYPE(object)) };
        let is_ours = class == core.handle_type || class == core.timer_type;
        // SAFETY: I7: attached, as the token says; this keeps the object.
        let debug = unsafe { (*self.layout()).debug != 0 };
        let (ran, slow) = mailbox.running.call(py, || {
            if mailbox.running.is_next_step_wanted() {
                interrupt_here(&task, mailbox)?;
            }
            let ran = match is_ours && !debug {
                // SAFETY: I7: attached, as the token says; it is a handle of ours, which we keep.
                true => unsafe { handle::run(py, object.cast::<Handle>(), Some(&mailbox.running)) },
                false => run_other(&task, debug, &mailbox.running),
            };
            ran.inspect_err(|error| mark(py, error, mailbox.running.is_for_request()))
        });
        if let Some(took) = slow {
            tell_slow(mailbox, &task, took);
        }
        let Err(error) = ran else { return Ok(()) };
        // Its task ends by that, and whoever called it has been answered.
        let is_known = error.value(py).hasattr(FOR_REQUEST).unwrap_or_default();
        handle::failed(&task, error).or_else(|error| if is_known { Ok(()) } else { Err(error) })
    }

    /// Sends what its datagram endpoints have put down until now.
    ///
    /// # Errors
    /// What is meant to end a loop; what the others have put down is sent all the same.
    pub fn flush(&self, py: Python<'_>) -> PyResult<()> {
        let core = self.core(py);
        let mut flushed = Ok(());
        let told = core.flushes.take();
        for endpoint in told {
            // SAFETY: I7: attached, as the token says; the reference was the loop's, and nothing is borrowed.
            flushed = flushed.and(unsafe { datagrams::flush_told(py, endpoint) });
        }
        flushed
    }

    /// What tells of its descriptors (`None`: it waits for none), if the driver does not know it yet.
    pub fn new_readers(&self, py: Python<'_>) -> Option<Option<RawFd>> {
        let core = self.core(py);
        core.readers_are_new.take().then(|| core.readers.borrow().as_ref().map(AsRawFd::as_raw_fd))
    }

    /// Whose servers and connects these are from now on; nobody: the driver goes.
    pub fn drive_by(&self, py: Python<'_>, driver: Option<&Shared>) {
        self.core(py).openings.drive_by(driver);
    }

    /// Begins what has to be begun, before a wait.
    pub fn begin_openings(&self, py: Python<'_>) {
        self.core(py).openings.begin();
    }

    /// What one of them has come to.
    ///
    /// # Errors
    /// What Python code has raised.
    pub fn opened(&self, py: Python<'_>, event: Event) -> PyResult<()> {
        let Some(arrivals) = self.core(py).openings.ended(event) else { return Ok(()) };
        let (of, number) = (self.0.bind(py), event.id.bits());
        let (method, errno) = match event.outcome {
            Outcome::AcceptFailed(errno) => ("_accept_failed", errno),
            Outcome::Connected(errno) => ("_connected", errno),
            _ => {
                // Whatever becomes of one, the others are served.
                let serve = |arrival| transport_accepted::serve(of, number, arrival);
                return arrivals.into_iter().map(serve).fold(Ok(()), Result::and);
            }
        };
        of.call_method1(method, (number, errno)).map(drop).or_else(|error| {
            // Interrupted, it may not have begun: it is told once more, and takes what it was told already for nothing.
            of.call_method1("call_soon", (of.getattr(method)?, number, errno))?;
            Err(error)
        })
    }

    /// Some of its descriptors are ready.
    ///
    /// # Errors
    /// The kernel tells of them no more.
    pub fn make_readers_ready(&self, py: Python<'_>) -> PyResult<()> {
        readers::make_ready(py, self.core(py))
    }
}

/// The step that begins is to be interrupted, unless it is asyncio's own.
#[cold]
fn interrupt_here(task: &Bound<'_, PyAny>, mailbox: &Mailbox) -> PyResult<()> {
    let callback = task.getattr("_callback")?;
    if serves(callback.as_ptr(), ptr::null_mut(), ptr::null_mut()) && mailbox.running.take_next_step() {
        mailbox.running.raise_here(&Types::of(task.py())?.interrupted);
    }
    Ok(())
}

/// Whether `callback`, which a loop runs, is a step of `task`, or of one that it waits for; with null, whether it is anybody's
/// but asyncio's own. It has come so far as the frames of that state say, or begins (null). Attached; all are there.
pub fn serves(callback: *mut ffi::PyObject, task: *mut ffi::PyObject, state: *mut ffi::PyThreadState) -> bool {
    guarded(task.is_null(), |py| {
        // SAFETY: I7: the caller is attached, and the objects are there as long as nobody else is: from here on we keep them.
        let (callback, task) = unsafe { (argument(py, callback), Bound::from_borrowed_ptr_or_opt(py, task)) };
        // Imported with the loop, and not here: who holds the lock of imports may wait for the very step that does not return.
        let name = PyString::new(py, handle::HELPERS);
        // SAFETY: I7, by the token; a new reference or null.
        let helpers = unsafe { Bound::from_owned_ptr_or_opt(py, ffi::PyImport_GetModule(name.as_ptr())) };
        let unknown = task.is_none();
        let serves = |helpers: Bound<'_, PyAny>| match helpers.call_method1("serves", (callback, task))? {
            // It goes by where the thread is.
            told if told.is_none() => is_out_of(py, state, &helpers.getattr("TELLING")?),
            told => told.is_truthy(),
        };
        // An exception that it leaves behind would be in the way of the next one that is asked about.
        Ok(helpers.map_or(Ok(unknown), serves).unwrap_or(unknown))
    })
}

/// Whether that thread has begun, and has left the code of these modules.
fn is_out_of(py: Python<'_>, state: *mut ffi::PyThreadState, modules: &Bound<'_, PyAny>) -> PyResult<bool> {
    if state.is_null() {
        return Ok(false);
    }
    // SAFETY: I7: the caller of `serves` has it.
    match unsafe { frames::module_of(py, state) } {
        None => Ok(false),
        Some(None) => Ok(true),
        Some(Some(name)) => Ok(!modules.contains(name)?),
    }
}

/// An interrupt that ends what runs for a request which was given up says so, wherever it is raised again.
#[cold]
fn mark(py: Python<'_>, error: &PyErr, is_for_request: bool) {
    if is_for_request {
        // Of what cannot be marked, people are told once too often.
        let _ = error.value(py).setattr(FOR_REQUEST, true);
    }
}

fn run_other(task: &Bound<'_, PyAny>, debug: bool, running: &Running) -> PyResult<()> {
    if task.getattr("_cancelled")?.is_truthy()? {
        return Ok(());
    }
    let callback = task.getattr("_callback")?;
    running.begin_step(task.py(), callback.as_ptr());
    let ran = match debug {
        true => handle::run_in_debug_mode(task),
        false => task.call_method0("_run").map(drop),
    };
    running.end_step(task.py());
    ran
}

fn tell_slow(mailbox: &Mailbox, task: &Bound<'_, PyAny>, took: Duration) {
    let shown = task.repr().map_or_else(|_| "a callback of the event loop".to_owned(), |text| text.to_string());
    let ms = took.as_millis();
    let message = format!("{shown} took at least {ms} ms; meanwhile its context served nobody (slow_callback_ms)");
    mailbox.notify(Notice { level: "warning", message, meta: Vec::new(), fd: None });
}
