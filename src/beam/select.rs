//! A descriptor that an Erlang process waits for with `enif_select`.
//!
//! The VM owns the descriptor from the first [`Selectable::arm`] on: it is closed in `stopped`, when no scheduler polls it
//! any more. If its owner dies, `down` sees to that.

use crate::beam::resource::{Kind, Ref, Resource};
use rustler::Env;
use rustler::sys::{ERL_NIF_SELECT_READ, ERL_NIF_SELECT_STOP, ErlNifEnv, ErlNifEvent, c_int, enif_select};
use std::ffi::CStr;
use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd};
use std::ptr;
use std::sync::atomic::{AtomicI32, Ordering};

/// The descriptor, or -1 once it is closed or about to be.
pub struct Selectable {
    fd: AtomicI32,
    stopped: AtomicI32,
}

impl Resource for Selectable {
    const NAME: &'static CStr = c"py_reactor_selectable";

    fn kind() -> &'static Kind {
        static KIND: Kind = Kind::new();
        &KIND
    }

    fn down(&self, env: *mut ErlNifEnv) {
        self.stop_selecting(env);
    }

    fn stopped(&self) {
        self.close();
    }
}

impl Selectable {
    /// Gives `fd` to the VM, on behalf of the calling process.
    pub fn new(env: Env<'_>, fd: OwnedFd) -> Ref<Self> {
        let made = Ref::new(Selectable { fd: AtomicI32::new(fd.into_raw_fd()), stopped: AtomicI32::new(0) });
        made.monitor_caller(env);
        made
    }

    /// Asks for one `{select, Resource, undefined, ready_input}` message to the calling process.
    pub fn arm(&self, env: Env<'_>) -> bool {
        let fd = self.fd.load(Ordering::Acquire);
        fd >= 0 && self.select(env.as_c_arg(), fd, ERL_NIF_SELECT_READ) >= 0
    }

    /// Stops selecting and closes the descriptor as soon as the VM allows.
    pub fn stop(&self, env: Env<'_>) {
        self.stop_selecting(env.as_c_arg());
    }

    fn stop_selecting(&self, env: *mut ErlNifEnv) {
        let fd = self.fd.load(Ordering::Acquire);
        if fd >= 0 && self.stopped.swap(1, Ordering::AcqRel) == 0 {
            self.select(env, fd, ERL_NIF_SELECT_STOP);
        }
    }

    fn select(&self, env: *mut ErlNifEnv, fd: ErlNifEvent, mode: c_int) -> c_int {
        let undefined = rustler::types::atom::undefined().as_c_arg();
        // SAFETY: I10: `self` is an object of the VM's, since `new` makes no other, and alive; the descriptor is open
        // until the VM calls `stopped`; a null pid means the caller.
        unsafe { enif_select(env, fd, mode, ptr::from_ref(self).cast_mut().cast(), ptr::null(), undefined) }
    }

    fn close(&self) {
        let fd = self.fd.swap(-1, Ordering::AcqRel);
        if fd >= 0 {
            // SAFETY: I4: the descriptor was the object's, and nobody finds it there any more.
            drop(unsafe { OwnedFd::from_raw_fd(fd) });
        }
    }
}

impl Drop for Selectable {
    /// What is selected is kept by the VM, so this one was stopped or never armed.
    fn drop(&mut self) {
        self.close();
    }
}
