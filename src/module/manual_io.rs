//! `write` and `read` of a protocol that no reactor serves: system calls on its descriptor, by hand.

use crate::base::gil::detached;
use crate::python::bytes_like::with_bytes;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use std::ffi::c_int;
use std::io;

/// A `read` by hand answers no more than this at a time, whatever size is asked for.
const READ_MAX_BYTES: usize = 1024 * 1024;

/// Writes what the descriptor takes of a bytes-like object, and answers how much that was.
///
/// # Errors
/// `TypeError`: not a bytes-like object.
pub fn write(py: Python<'_>, fd: c_int, data: &Bound<'_, PyAny>) -> PyResult<usize> {
    with_bytes(data, |bytes| {
        loop {
            // A blocking descriptor may take its time: others run meanwhile.
            let sent = detached(py, || {
                // SAFETY: I10: `bytes` is valid for its length. Sockets must not raise SIGPIPE; other files do not know
                // `send`.
                unsafe {
                    match libc::send(fd, bytes.as_ptr().cast(), bytes.len(), libc::MSG_NOSIGNAL) {
                        -1 if io::Error::last_os_error().raw_os_error() == Some(libc::ENOTSOCK) => {
                            result_of(libc::write(fd, bytes.as_ptr().cast(), bytes.len()))
                        }
                        sent => result_of(sent),
                    }
                }
            });
            match sent {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Nothing was accepted: no room now, or the peer is gone.
                sent => return Ok(sent.unwrap_or(0)),
            }
        }
    })
}

/// Reads up to `size` bytes (and up to a limit of our own); `None` if there are none now, empty at the end or on an error.
pub fn read(py: Python<'_>, fd: c_int, size: usize) -> Option<Bound<'_, PyBytes>> {
    let mut buffer = vec![0u8; size.min(READ_MAX_BYTES)];
    loop {
        // SAFETY: I10: `buffer` has room for its length.
        let got = detached(py, || unsafe { result_of(libc::read(fd, buffer.as_mut_ptr().cast(), buffer.len())) });
        match got {
            Ok(got) => return Some(PyBytes::new(py, &buffer[..got])),
            Err(error) => match error.kind() {
                io::ErrorKind::Interrupted => {}
                io::ErrorKind::WouldBlock => return None,
                _ => return Some(PyBytes::new(py, b"")),
            },
        }
    }
}

fn result_of(result: isize) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}
