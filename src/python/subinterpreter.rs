//! An interpreter of one context's own: apart from all others, and from Python 3.12 on with a GIL of its own.
//!
//! It is made on the thread that holds the main interpreter, and used and ended on the reactor thread. The reactor
//! thread's very first thread state is thus one of its own interpreter: that is the one which CPython's `PyGILState`
//! functions, and with them [`Python::attach`](pyo3::Python::attach), attach to from then on.

use crate::base::config::SHUT_DOWN_MS;
use crate::base::gil;
use crate::python::audit;
use crate::python::interpreter;
use pyo3::ffi;
use pyo3::prelude::*;
use std::ptr::NonNull;
use std::time::{Duration, Instant};

/// Whether subinterpreters of this Python run in parallel.
pub const HAS_OWN_GIL: bool = cfg!(Py_3_12);

/// A subinterpreter, current on the thread that made this value whenever that thread attaches.
pub struct Subinterpreter {
    state: NonNull<ffi::PyThreadState>,
}

/// What the thread that made an interpreter sends: the thread state that it was made with, detached.
struct Made(NonNull<ffi::PyThreadState>);
// SAFETY: I7: nobody else knows the state, or the interpreter; any thread may attach it, or delete it.
unsafe impl Send for Made {}

impl Subinterpreter {
    /// Makes an interpreter for the calling thread, which has never been attached to Python.
    ///
    /// # Errors
    /// Python's own words on why there is none.
    pub fn new() -> Result<Self, String> {
        let Made(first) = interpreter::on_main_thread(make)??;
        // SAFETY: I7: the interpreter is new and nobody else is in it. Making a state needs no GIL. The first state goes
        // when there is another one, because 3.11 cannot have none.
        unsafe {
            let interpreter = ffi::PyThreadState_GetInterpreter(first.as_ptr());
            let state =
                NonNull::new(ffi::PyThreadState_New(interpreter)).ok_or("no memory for a Python thread state")?;
            attach(state.as_ptr());
            ffi::PyThreadState_Clear(first.as_ptr());
            ffi::PyThreadState_Delete(first.as_ptr());
            ffi::PyEval_SaveThread();
            Ok(Subinterpreter { state })
        }
    }

    /// Ends the interpreter, on the thread that made this value, detached, once nothing of the context is left in it and
    /// after [`end_program`].
    ///
    /// # Errors
    /// A thread that need not be waited for is still inside: the interpreter stays for ever, because CPython would
    /// abort the process.
    pub fn end(self) -> Result<(), &'static str> {
        let state = self.state.as_ptr();
        let deadline = Instant::now() + Duration::from_millis(SHUT_DOWN_MS);
        // SAFETY: I7: the interpreter is there; nobody else ends it.
        let id = unsafe { ffi::PyInterpreterState_GetID(ffi::PyThreadState_GetInterpreter(state)) };
        // SAFETY: I7: the state belongs to this thread, which is detached. It is not used again.
        unsafe {
            attach(state);
            while !is_alone(state) {
                if Instant::now() > deadline {
                    ffi::PyThreadState_Clear(state);
                    ffi::PyThreadState_DeleteCurrent();
                    return Err("a thread that was started in it does not end");
                }
                ffi::PyEval_SaveThread();
                std::thread::sleep(POLL);
                attach(state);
            }
            // What is run from here on can start no thread, so this one stays alone.
            ffi::Py_EndInterpreter(state);
            release_shared_gil();
        }
        audit::forget_ended(id);
        Ok(())
    }
}

/// # Safety
/// As for `PyEval_RestoreThread`: `state` is not attached, and the calling thread is not.
unsafe fn attach(state: *mut ffi::PyThreadState) {
    let _wait = gil::Wait::begin();
    // SAFETY: the caller's promise.
    unsafe { ffi::PyEval_RestoreThread(state) };
}

/// How often a thread is looked for that is about to leave the interpreter: nothing tells.
const POLL: Duration = Duration::from_millis(5);

/// # Safety
/// `state` is current.
unsafe fn is_alone(state: *mut ffi::PyThreadState) -> bool {
    // SAFETY: I7: the list changes only while other threads are attached, or with their lock held for a moment.
    unsafe {
        let head = ffi::PyInterpreterState_ThreadHead(ffi::PyThreadState_GetInterpreter(state));
        head == state && ffi::PyThreadState_Next(head).is_null()
    }
}

/// What the end of a Python program does, in an interpreter of a context's own: waits for the threads that Python code has
/// started, and runs what was registered with `atexit`; see `erlang/_ending.py`. From then on no thread is started there.
pub fn end_program(py: Python<'_>) {
    let ended = py.import("erlang._ending").and_then(|ending| ending.call_method0("end_program"));
    if let Err(error) = ended {
        // What is left will show in the list of threads.
        error.write_unraisable(py, None);
    }
    audit::refuse_threads(py);
}

/// Makes an interpreter; on the thread of the main one, attached to it, and so it is again at the end.
fn make() -> Result<Made, String> {
    // SAFETY: I7: the caller is attached to the main interpreter, with its state current. Every path makes it current
    // again.
    unsafe {
        let main = ffi::PyThreadState_Get();
        let first = new_interpreter()?;
        ffi::PyEval_SaveThread();
        attach(main);
        NonNull::new(first).map(Made).ok_or_else(|| "an interpreter without a thread state".to_owned())
    }
}

/// Daemon threads would outlive the interpreter. `fork` and `exec` are refused everywhere, with reasons (`audit.rs`).
#[cfg(Py_3_12)]
unsafe fn new_interpreter() -> Result<*mut ffi::PyThreadState, String> {
    let config = ffi::PyInterpreterConfig {
        use_main_obmalloc: 0,
        allow_fork: 1,
        allow_exec: 1,
        allow_threads: 1,
        allow_daemon_threads: 0,
        check_multi_interp_extensions: 1,
        gil: ffi::PyInterpreterConfig_OWN_GIL,
    };
    let mut state = std::ptr::null_mut();
    // SAFETY: I7: the caller is attached to the main interpreter; the configuration is read during the call.
    let status = unsafe { ffi::Py_NewInterpreterFromConfig(&raw mut state, &raw const config) };
    // SAFETY: I10: any status may be asked.
    if unsafe { ffi::PyStatus_Exception(status) } != 0 || state.is_null() {
        return Err(interpreter::text(status.err_msg));
    }
    Ok(state)
}

#[cfg(not(Py_3_12))]
unsafe fn new_interpreter() -> Result<*mut ffi::PyThreadState, String> {
    // SAFETY: I7: the caller is attached to the main interpreter, and stays so if this fails.
    let state = unsafe { ffi::Py_NewInterpreter() };
    if state.is_null() { Err("Py_NewInterpreter refused".to_owned()) } else { Ok(state) }
}

/// Before 3.12, `Py_EndInterpreter` answers with the GIL held and nobody to hold it.
///
/// # Safety
/// Right after `Py_EndInterpreter`.
unsafe fn release_shared_gil() {
    #[cfg(not(Py_3_12))]
    // SAFETY: I7: the new state is this thread's, and gone at the end, together with the hold on the GIL.
    unsafe {
        let main = ffi::PyThreadState_New(ffi::PyInterpreterState_Main());
        ffi::PyThreadState_Swap(main);
        ffi::PyThreadState_Clear(main);
        ffi::PyThreadState_DeleteCurrent();
    }
}
