//! Messages from Python to processes of other nodes. Native code cannot send those, so they wait here, in order and
//! bounded (I9), for the Erlang process `py_relay`.
//!
//! Any thread of Python posts; `py_relay` takes. Who finds the queue empty wakes it up.

#![forbid(unsafe_code)]

use crate::base::atoms;
use crate::base::config::RELAYED_MAX;
use crate::base::sync::{Mutex, lock};
use crate::beam::dirty;
use crate::beam::reply::OwnedTerm;
use rustler::{Encoder, Env, Term};
use std::collections::VecDeque;

/// `{To, Message}`, and how many parts it has, as far as [`dirty`] wants to know.
struct Relayed {
    term: OwnedTerm,
    parts: usize,
}

static QUEUE: Mutex<VecDeque<Relayed>> = Mutex::new(VecDeque::new());

/// How many the process takes at a time: copying them keeps a scheduler (I8).
const BATCH_MAX: usize = 32;

/// Too many wait.
pub struct Full;

/// Queues `message` for `to`: a pid or `{Name, Node}`, in the environment of a thread that the VM does not manage.
///
/// # Errors
/// Too many wait, because a node takes its messages slowly.
pub fn post<'a>(env: Env<'a>, to: Term<'a>, message: Term<'a>) -> Result<(), Full> {
    let parts = dirty::parts_of(message);
    let message = Relayed { term: OwnedTerm::new((to, message).encode(env)), parts };
    let mut queue = lock(&QUEUE);
    if queue.len() >= RELAYED_MAX {
        return Err(Full);
    }
    queue.push_back(message);
    let was_empty = queue.len() == 1;
    drop(queue);
    if was_empty && let Some(relay) = env.whereis_pid(atoms::py_relay()) {
        // One that starts just now looks by itself.
        let _ = env.send(&relay, atoms::py_relay());
    }
    Ok(())
}

/// The parts of all that [`take`] takes.
pub fn parts_of_next() -> usize {
    lock(&QUEUE).iter().take(BATCH_MAX).map(|message| message.parts).sum()
}

/// Takes the oldest messages; none if there are none.
pub fn take(env: Env<'_>) -> Vec<Term<'_>> {
    let messages: Vec<Relayed> = {
        let mut queue = lock(&QUEUE);
        let count = queue.len().min(BATCH_MAX);
        queue.drain(..count).collect()
    };
    messages.iter().map(|message| message.term.open(|term| term.in_env(env))).collect()
}
