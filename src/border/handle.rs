//! The handle of a context that Erlang holds. The thread's life is tied to its owner's: the VM tells us when that dies.

#![forbid(unsafe_code)]

use crate::base::atoms;
use crate::beam::resource::{Kind, Ref, Resource};
use crate::beam::select::Selectable;
use crate::mail::mailbox::Mailbox;
use rustler::sys::ErlNifEnv;
use std::ffi::CStr;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

/// A context, as Erlang refers to it.
pub struct ContextHandle {
    /// The thread's mailbox.
    pub mailbox: Arc<Mailbox>,
    /// Connections that may be open at a time.
    pub max_connections: usize,
    /// Readable while notices wait.
    pub notices: Ref<Selectable>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Resource for ContextHandle {
    const NAME: &'static CStr = c"py_reactor_context";

    fn kind() -> &'static Kind {
        static KIND: Kind = Kind::new();
        &KIND
    }

    /// B5: however the owner died, every connection is closed and the thread ends.
    fn down(&self, _: *mut ErlNifEnv) {
        self.mailbox.inbox.kill();
    }
}

impl ContextHandle {
    /// The handle of a thread that has just been started.
    pub fn new(
        mailbox: Arc<Mailbox>,
        max_connections: usize,
        notices: Ref<Selectable>,
        thread: JoinHandle<()>,
    ) -> Self {
        ContextHandle { mailbox, max_connections, notices, thread: Mutex::new(Some(thread)) }
    }

    /// Waits for the thread's end. It has said that it is about to end, so this is short.
    pub fn join(&self) -> rustler::Atom {
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        match thread.map(JoinHandle::join) {
            Some(Err(_)) => atoms::panic(),
            _ => atoms::ok(),
        }
    }
}

impl Drop for ContextHandle {
    /// Nobody refers to the context any more. Its owner stopped it or died, so this changes nothing; but a thread must
    /// never outlive the last chance to end it.
    fn drop(&mut self) {
        self.mailbox.inbox.kill();
    }
}
