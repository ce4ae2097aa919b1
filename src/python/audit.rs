//! What Python code may not do because the process is the VM's: the audit hook of all interpreters.

use crate::base::gil;
use crate::base::sync::{Mutex, lock};
use crate::python::glue::guarded;
use pyo3::Python;
use pyo3::exceptions::{PyPermissionError, PyRuntimeError};
use pyo3::ffi;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::sync::atomic::{AtomicBool, Ordering};

unsafe extern "C" {
    // Not among pyo3's.
    fn PySys_AddAuditHook(hook: AuditHook, data: *mut c_void) -> c_int;
    #[cfg(not(Py_3_12))]
    fn _PyInterpreterState_GetConfig(interpreter: *mut ffi::PyInterpreterState) -> *const ffi::PyConfig;
}

type AuditHook = unsafe extern "C" fn(*const c_char, *mut ffi::PyObject, *mut c_void) -> c_int;

static ALLOW_SUBPROCESS: AtomicBool = AtomicBool::new(false);

/// Whether Python code may start programs; in the whole process, from now on.
pub fn allow_subprocess(allowed: bool) {
    ALLOW_SUBPROCESS.store(allowed, Ordering::Relaxed);
}

/// Installs the hook. Before Python is initialised: then every interpreter has it, and no code can come before it.
///
/// # Errors
/// No memory.
pub fn install() -> Result<(), String> {
    // SAFETY: I10: allowed before the initialisation; the hook keeps nothing.
    let status = unsafe { PySys_AddAuditHook(hook, std::ptr::null_mut()) };
    if status == 0 { Ok(()) } else { Err("no memory for Python's audit hook".to_owned()) }
}

/// Numbers of the interpreters that are about to end.
static ENDING: Mutex<Vec<i64>> = Mutex::new(Vec::new());

/// From now on no thread is started in the calling interpreter: CPython would abort the process if one were there at its
/// end. From 3.12 on it refuses most of them itself.
pub fn refuse_threads(py: Python<'_>) {
    lock(&ENDING).push(gil::current_id(py));
    // Before 3.12 no event tells of the start of a thread.
    #[cfg(not(Py_3_12))]
    // SAFETY: I7, by the token, and so nobody reads the flag meanwhile; the configuration is the interpreter's own, and
    // writable memory although the function's type says otherwise.
    unsafe {
        let config = _PyInterpreterState_GetConfig(gil::current(py));
        (*config.cast_mut())._isolated_interpreter = 1;
    }
}

/// It has ended.
pub fn forget_ended(interpreter: i64) {
    lock(&ENDING).retain(|other| *other != interpreter);
}

/// Why an event is refused.
enum Refusal {
    /// It would do this to the VM.
    Harm(&'static str),
    /// Its interpreter is about to end.
    Ending,
}

/// What a program would be started by, and how one may be.
const PROGRAMS: &str = "programs are started from Erlang, with open_port/2 or os:cmd/1, which owns them and sees how they \
                        end. To start them in Python all the same, set allow_subprocess of the application py_reactor to true";

/// What a forked child would be.
const FORK: &str = "the child would be a copy of the Erlang VM with one of its threads, and locks that nobody releases. Start \
                    programs from Erlang, with open_port/2 or os:cmd/1; for workers, multiprocessing has the start method \
                    spawn, in a context of mode worker";

/// Why multiprocessing's fork server is not started: it outlives who asked for it, and Python announces no other step of it
/// (and from 3.14 on takes it where nobody chose a start method).
const FORK_SERVER: &str = "it is a program, which stays and starts others. For workers, choose the start method spawn, \
                           multiprocessing.get_context('spawn'), in a context of mode worker. To have the server all the same, \
                           set allow_subprocess of the application py_reactor to true; programs are started from Erlang, with \
                           open_port/2 or os:cmd/1";

/// What whoever starts the fork server needs.
const FORK_SERVER_MODULE: &[u8] = b"multiprocessing.forkserver";

/// The name of the module that an event of the kind `import` is about.
///
/// # Safety
/// `args` are those of such an event, on an attached thread. The answer is used before the event is over.
unsafe fn imported<'a>(args: *mut ffi::PyObject) -> Option<&'a [u8]> {
    // SAFETY: I10, by the caller's promise: CPython passes a tuple; its items, and their text, live as long as it does.
    unsafe {
        if ffi::PyTuple_Check(args) == 0 || ffi::PyTuple_Size(args) < 1 {
            return None;
        }
        let name = ffi::PyTuple_GetItem(args, 0);
        if ffi::PyUnicode_Check(name) == 0 {
            return None;
        }
        let mut size = 0;
        let text = ffi::PyUnicode_AsUTF8AndSize(name, &raw mut size);
        if text.is_null() {
            // A lone surrogate.
            ffi::PyErr_Clear();
            return None;
        }
        Some(std::slice::from_raw_parts(text.cast(), size as usize))
    }
}

/// Whether and why an event is refused. On an attached thread, if it is the start of a thread.
///
/// # Safety
/// As CPython calls its audit hooks.
unsafe fn refusal(event: &[u8], args: *mut ffi::PyObject) -> Option<Refusal> {
    match event {
        b"os.fork" | b"os.forkpty" | b"pty.spawn" => Some(Refusal::Harm(FORK)),
        b"os.exec" => Some(Refusal::Harm(
            "it would end the Erlang VM, whose process this is. Start programs from Erlang, with open_port/2 or os:cmd/1",
        )),
        b"subprocess.Popen" | b"os.system" | b"os.posix_spawn" | b"os.spawn"
            if !ALLOW_SUBPROCESS.load(Ordering::Relaxed) =>
        {
            Some(Refusal::Harm(PROGRAMS))
        }
        b"import" if !ALLOW_SUBPROCESS.load(Ordering::Relaxed) => {
            // SAFETY: I10, by the caller's promise.
            let name = unsafe { imported(args) };
            (name == Some(FORK_SERVER_MODULE)).then_some(Refusal::Harm(FORK_SERVER))
        }
        b"_thread.start_new_thread" | b"_thread.start_joinable_thread" => {
            // SAFETY: I7: attached, as Python code that starts a thread is.
            let here = unsafe { ffi::PyInterpreterState_GetID(ffi::PyInterpreterState_Get()) };
            lock(&ENDING).contains(&here).then_some(Refusal::Ending)
        }
        _ => None,
    }
}

/// Called for every event, on whatever thread it happens; almost all of them end at the first comparison.
unsafe extern "C" fn hook(event: *const c_char, args: *mut ffi::PyObject, _: *mut c_void) -> c_int {
    // SAFETY: I10: CPython passes a NUL-terminated name.
    let event = unsafe { CStr::from_ptr(event) };
    // SAFETY: I10: CPython calls this as its hook.
    let Some(refusal) = (unsafe { refusal(event.to_bytes(), args) }) else { return 0 };
    guarded(-1, |_| {
        Err(match refusal {
            Refusal::Ending => PyRuntimeError::new_err("can't start new thread: the interpreter is ending"),
            // An OSError: libraries that try to start a program take it for one that is not there.
            Refusal::Harm(harm) => {
                let what = if event == c"import" { c"multiprocessing's start method forkserver" } else { event };
                let message = format!("{} is refused inside the Erlang VM: {harm}", what.to_string_lossy());
                PyPermissionError::new_err((libc::EPERM, message))
            }
        })
    })
}
