//! What the system said, as reasons of Erlang.

#![forbid(unsafe_code)]

use crate::base::atoms;
use rustler::{Atom, Encoder, Env, Term};
use std::io;

/// The `inet:posix()` atom of an error.
pub fn posix(env: Env<'_>, errno: i32) -> Atom {
    let name = match errno {
        libc::EACCES => "eacces",
        libc::EAGAIN => "eagain",
        libc::EADDRINUSE => "eaddrinuse",
        libc::EADDRNOTAVAIL => "eaddrnotavail",
        libc::EAFNOSUPPORT => "eafnosupport",
        libc::EBADF => "ebadf",
        libc::EINVAL => "einval",
        libc::EIO => "eio",
        libc::EMFILE => "emfile",
        libc::ENFILE => "enfile",
        libc::ENODEV => "enodev",
        libc::ENOBUFS => "enobufs",
        libc::ENOMEM => "enomem",
        libc::ENOSPC => "enospc",
        libc::EPERM => "eperm",
        libc::EPROTONOSUPPORT => "eprotonosupport",
        _ => "unknown",
    };
    Atom::from_str(env, name).unwrap_or_else(|_| atoms::error())
}

/// Of an error that there is no thread. The kernel says the same of a limit on threads and of one on memory.
pub fn no_thread(error: &io::Error) -> String {
    format!(
        "no thread was to be had: {error}. Look at the limits of processes and of address space (ulimit -u, -v), and at \
         pids.max of the control group"
    )
}

/// Of an error that there is no descriptor.
pub fn no_descriptor(error: &io::Error) -> String {
    format!(
        "no descriptor was to be had: {error}. Look at the limit of open files (ulimit -n), and at fs.file-max for the whole \
         system"
    )
}

/// Of an error that no further descriptor is watched.
pub fn no_watch(error: &io::Error) -> String {
    format!(
        "the kernel watches no more descriptors for this user: {error}. Look at the limit of all that are watched by epoll \
         (fs.epoll.max_user_watches)"
    )
}

/// Why a call of the system failed: `{resources, Text}` where something has run out, else the `inet:posix()` atom.
pub fn system(env: Env<'_>, errno: i32) -> Term<'_> {
    let error = io::Error::from_raw_os_error(errno);
    match errno {
        libc::EMFILE | libc::ENFILE => (atoms::resources(), no_descriptor(&error)).encode(env),
        libc::ENOSPC => (atoms::resources(), no_watch(&error)).encode(env),
        libc::ENOMEM | libc::ENOBUFS => {
            (atoms::resources(), format!("no memory of the kernel's was to be had: {error}")).encode(env)
        }
        _ => posix(env, errno).encode(env),
    }
}
