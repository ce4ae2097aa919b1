//! What the threads of a context's interpreter and the tasks of its event loop do, for people who look for a fault: asked by a thread of its own, so that a
//! context that never returns is told of as well.

#![forbid(unsafe_code)]

use crate::base::atoms;
use crate::beam::reply::ReplyTo;
use crate::mail::mailbox::Mailbox;
use crate::mail::running::{NoInterrupt, Target};
use crate::python::{frames, glue};
use pyo3::prelude::*;
use rustler::Encoder;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::Builder;

/// So many of them are told of.
const THREADS_MAX: usize = 64;

/// What each thread is, and its stack; each task of the context's event loop, and its.
type Stacks = (Vec<(String, String)>, Vec<(String, String)>);

/// Tells `reply` `{ok, {[{Thread, Stack}], [{Task, Stack}]}}`, the context's own thread first, or `{error, Why}`, as soon as Python lets us look.
///
/// # Errors
/// The system refused a thread, or somebody else is looking.
pub fn tell(mailbox: &Arc<Mailbox>, reply: ReplyTo) -> Result<(), NoInterrupt> {
    if mailbox.looked_at.swap(true, Ordering::AcqRel) {
        return Err(NoInterrupt::Busy);
    }
    let theirs = Arc::clone(mailbox);
    let spawned = Builder::new().name("py_dump".into()).spawn(move || {
        let stacks = theirs.running.enter(|target| glue::guarded(None, |py| Ok(Some(stacks(py, target)))));
        theirs.looked_at.store(false, Ordering::Release);
        reply.send(|env| match stacks.flatten() {
            Some(Ok(stacks)) => (atoms::ok(), stacks).encode(env),
            Some(Err(why)) => (atoms::error(), why).encode(env),
            None => (atoms::error(), atoms::stopped()).encode(env),
        });
    });
    spawned.map(drop).map_err(|error| {
        mailbox.looked_at.store(false, Ordering::Release);
        NoInterrupt::Resources(error)
    })
}

fn stacks(py: Python<'_>, target: &Target) -> Result<Stacks, String> {
    let ask = || {
        let dump = py.import("erlang._dump")?;
        let stacks = frames::stacks(py, target.state, THREADS_MAX).into_iter().map(|stack| (stack.thread, stack.calls));
        dump.call_method1("look", (target.thread, stacks.collect::<Vec<_>>()))?.extract()
    };
    ask().map_err(|error: PyErr| format!("Python could not tell: {error}"))
}
