//! What Python code may not do because the process is the VM's: the audit hook of all interpreters.

use crate::python::glue::guarded;
use pyo3::exceptions::PyPermissionError;
use pyo3::ffi;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::sync::atomic::{AtomicBool, Ordering};

unsafe extern "C" {
    // Not among pyo3's.
    fn PySys_AddAuditHook(hook: AuditHook, data: *mut c_void) -> c_int;
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
    // SAFETY: allowed before the initialisation; the hook keeps nothing.
    let status = unsafe { PySys_AddAuditHook(hook, std::ptr::null_mut()) };
    if status == 0 { Ok(()) } else { Err("no memory for Python's audit hook".to_owned()) }
}

/// What an event would do to the VM, if it is one that we refuse.
fn harm(event: &[u8]) -> Option<&'static str> {
    match event {
        b"os.fork" | b"os.forkpty" | b"pty.spawn" => Some(
            "the child would be a copy of the Erlang VM with one of its threads, and locks that nobody releases. Start \
             programs from Erlang, with open_port/2 or os:cmd/1; for workers, multiprocessing has the start method spawn",
        ),
        b"os.exec" => Some(
            "it would end the Erlang VM, whose process this is. Start programs from Erlang, with open_port/2 or os:cmd/1",
        ),
        b"subprocess.Popen" | b"os.system" | b"os.posix_spawn" | b"os.spawn"
            if !ALLOW_SUBPROCESS.load(Ordering::Relaxed) =>
        {
            Some(
                "programs are started from Erlang, with open_port/2 or os:cmd/1, which owns them and sees how they end. \
                 To start them in Python all the same, set allow_subprocess of the application py_reactor to true",
            )
        }
        _ => None,
    }
}

/// Called for every event, on whatever thread it happens; almost all of them end at the first comparison.
unsafe extern "C" fn hook(event: *const c_char, _: *mut ffi::PyObject, _: *mut c_void) -> c_int {
    // SAFETY: CPython passes a NUL-terminated name.
    let event = unsafe { CStr::from_ptr(event) };
    let Some(harm) = harm(event.to_bytes()) else { return 0 };
    let message = format!("{} is refused inside the Erlang VM: {harm}", event.to_string_lossy());
    // An OSError: libraries that try to start a program take it for one that is not there.
    guarded(-1, |_| Err(PyPermissionError::new_err((libc::EPERM, message))))
}
