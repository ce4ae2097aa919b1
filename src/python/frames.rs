//! Where the threads of an interpreter are, told at one moment.
//!
//! Not by `sys._current_frames`: it makes objects while it holds a lock of the runtime's that threads need to begin and to end.
//! Before 3.12 the collector may run then, and with it Python code, which lets others have the GIL: whoever ends a thread has it and
//! waits for the lock, for ever. And it follows the frames of all interpreters, whoever has their GILs.

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};

/// Of each thread at most so many frames.
const FRAMES_MAX: usize = 2048;

/// A call: its file, its line, and the name of its function.
type Call = (Py<PyAny>, i32, Py<PyAny>);

/// What a thread does.
pub struct Stack {
    /// The object that `threading` has for it, if it was started by that.
    pub thread: Option<Py<PyAny>>,
    /// The innermost call first.
    pub calls: Vec<Call>,
}

/// While this is there, nothing that is allocated has the collector run, and Python code in it: so the thread that has this keeps
/// the GIL, and the frames of all others stay as they are.
struct Still(bool);

impl Still {
    fn begin(_: Python<'_>) -> Self {
        // SAFETY: I7, by the token.
        Still(unsafe { ffi::PyGC_Disable() } != 0)
    }
}

impl Drop for Still {
    fn drop(&mut self) {
        if self.0 {
            // SAFETY: I7: it does not outlive the functions of this file, which have a token.
            unsafe { ffi::PyGC_Enable() };
        }
    }
}

/// The name of the module whose code a thread of the calling interpreter runs, if it has one; `None`: it runs no Python code.
///
/// # Safety
/// The state is there.
pub unsafe fn module_of(py: Python<'_>, state: *mut ffi::PyThreadState) -> Option<Option<Bound<'_, PyAny>>> {
    let _still = Still::begin(py);
    // SAFETY: I7, by the token; the caller's promise.
    let frame = unsafe { frame_of(py, state) }?;
    // SAFETY: I7, by the token; a frame, whose globals are a new reference.
    let globals = unsafe { Bound::from_owned_ptr_or_opt(py, ffi::PyFrame_GetGlobals(frame.as_ptr().cast())) }?;
    Some(globals.cast_exact::<PyDict>().ok().and_then(|it| it.get_item("__name__").ok().flatten()))
}

/// What the threads of the calling interpreter do, that of `first` first, empty if it runs no Python code; not the calling one, and
/// none that has begun after it.
pub fn stacks(py: Python<'_>, first: *mut ffi::PyThreadState, most: usize) -> Vec<Stack> {
    let still = Still::begin(py);
    let mut found = vec![Stack { thread: None, calls: Vec::new() }];
    // SAFETY: I7, by the token: states of the calling interpreter are deleted by threads that are attached to it. New ones are put
    // before the first by anybody, and may not be whole yet; those behind ours were there before it.
    unsafe {
        let mut state = ffi::PyThreadState_Next(ffi::PyThreadState_Get());
        while !state.is_null() {
            // It may be the last of many.
            if state == first {
                found[0] = stack_of(py, state);
            } else if found.len() < most {
                let stack = stack_of(py, state);
                found.extend((!stack.calls.is_empty()).then_some(stack));
            }
            state = ffi::PyThreadState_Next(state);
        }
    }
    drop(still);
    found
}

/// # Safety
/// The state is there, in the calling interpreter, whose collector is still.
unsafe fn frame_of(py: Python<'_>, state: *mut ffi::PyThreadState) -> Option<Bound<'_, PyAny>> {
    // SAFETY: I7, by the token; the caller's promise; a new reference or null.
    unsafe { Bound::from_owned_ptr_or_opt(py, ffi::PyThreadState_GetFrame(state).cast()) }
}

/// # Safety
/// As for [`frame_of`].
unsafe fn stack_of(py: Python<'_>, state: *mut ffi::PyThreadState) -> Stack {
    let mut stack = Stack { thread: None, calls: Vec::new() };
    // SAFETY: the caller's promise.
    let mut next = unsafe { frame_of(py, state) };
    while let Some(frame) = next.take()
        && stack.calls.len() < FRAMES_MAX
    {
        let pointer = frame.as_ptr().cast::<ffi::PyFrameObject>();
        // SAFETY: I7, by the token; a frame that this has, of a thread that cannot go on; new references or null.
        let (code, line, before) = unsafe {
            (
                Bound::from_owned_ptr_or_opt(py, ffi::PyFrame_GetCode(pointer).cast()),
                ffi::PyFrame_GetLineNumber(pointer),
                Bound::from_owned_ptr_or_opt(py, ffi::PyFrame_GetBack(pointer).cast()),
            )
        };
        // These are members in C.
        let part = |name| code.as_ref().and_then(|code: &Bound<'_, PyAny>| code.getattr(name).ok());
        let (file, function) = (part("co_filename"), part("co_name"));
        if before.is_none() {
            stack.thread = function.as_ref().and_then(|function| started(&frame, function)).map(Bound::unbind);
        }
        if let (Some(file), Some(function)) = (file, function) {
            stack.calls.push((file.unbind(), line, function.unbind()));
        }
        next = before;
    }
    stack
}

/// Whose `threading.Thread._bootstrap`, as it seems, a thread's first call is.
fn started<'py>(frame: &Bound<'py, PyAny>, function: &Bound<'py, PyAny>) -> Option<Bound<'py, PyAny>> {
    let py = frame.py();
    if !function.cast_exact::<PyString>().is_ok_and(|name| name == "_bootstrap") {
        return None;
    }
    // SAFETY: I7, by the token; a frame; a new reference or null.
    let locals = unsafe { Bound::from_owned_ptr_or_opt(py, ffi::PyFrame_GetLocals(frame.as_ptr().cast())) };
    let found = locals.and_then(|locals| locals.get_item("self").ok());
    // What is not there is no error.
    drop(PyErr::take(py));
    found
}
