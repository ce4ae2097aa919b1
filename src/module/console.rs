//! What `print` writes, on its way to the console: whole, whatever else is printed meanwhile.
//!
//! No Python code runs in here, so a destructor that prints while something is printed finds nothing half done.

use crate::base::gil;
use crate::base::sync::{Mutex, lock};
use crate::python::bytes_like::with_bytes;
use crate::python::glue::{argument, guarded_object};
use pyo3::ffi;
use pyo3::prelude::*;
use std::ffi::c_int;
use std::io;
use std::sync::{Condvar, PoisonError};
use std::time::{Duration, Instant};

/// Whether a thread writes just now. All interpreters write to the same descriptors, in turn.
static BUSY: Mutex<bool> = Mutex::new(false);
static FREE: Condvar = Condvar::new();

/// `write_console(fd, data, patience_ms)`: writes all of it. A console that takes nothing for so long loses the rest. See
/// `erlang/_console.py`.
pub unsafe extern "C" fn write_console(_: *mut ffi::PyObject, args: *mut ffi::PyObject) -> *mut ffi::PyObject {
    guarded_object(|py| {
        // SAFETY: I10: CPython's argument.
        let (fd, data, patience_ms): (c_int, Bound<'_, PyAny>, u64) = unsafe { argument(py, args) }.extract()?;
        let patience = Duration::from_millis(patience_ms);
        with_bytes(&data, |bytes| Ok(gil::detached(py, || in_turn(patience, || write_all(fd, bytes, patience)))?))?;
        Ok(py.None().into_bound(py))
    })
}

/// Runs `write` when nobody else does, or not at all.
fn in_turn(patience: Duration, write: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    let wait = FREE.wait_timeout_while(lock(&BUSY), patience, |busy| *busy);
    let (mut busy, waited) = wait.unwrap_or_else(PoisonError::into_inner);
    if waited.timed_out() {
        return Ok(());
    }
    *busy = true;
    drop(busy);
    let written = write();
    *lock(&BUSY) = false;
    FREE.notify_one();
    written
}

/// The VM may have made the descriptor non-blocking: this waits for room as other programs do.
fn write_all(fd: c_int, mut bytes: &[u8], patience: Duration) -> io::Result<()> {
    while !bytes.is_empty() {
        // SAFETY: I10: the memory is valid for its length, by the slice; a descriptor that is not open is an error.
        let written = unsafe { libc::write(fd, bytes.as_ptr().cast(), bytes.len()) };
        if let Ok(written) = usize::try_from(written) {
            bytes = &bytes[written..];
            continue;
        }
        let error = io::Error::last_os_error();
        match error.kind() {
            io::ErrorKind::Interrupted => {}
            io::ErrorKind::WouldBlock if has_room(fd, patience) => {}
            io::ErrorKind::WouldBlock => return Ok(()),
            _ => return Err(error),
        }
    }
    Ok(())
}

/// Waits until a descriptor takes something, or has failed.
fn has_room(fd: c_int, patience: Duration) -> bool {
    let deadline = Instant::now() + patience;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let mut poll = libc::pollfd { fd, events: libc::POLLOUT, revents: 0 };
        // SAFETY: I10: one entry, a local.
        let ready = unsafe { libc::poll(&raw mut poll, 1, left.as_millis() as c_int) };
        if ready != -1 || io::Error::last_os_error().kind() != io::ErrorKind::Interrupted {
            return ready > 0;
        }
    }
}
