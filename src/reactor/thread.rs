//! A reactor thread from its start to its end: interpreter, ring, set-up code, loop, and what is said of them to Erlang.

#![forbid(unsafe_code)]

use crate::base::atoms;
use crate::base::config::{Mode, Options, STACK_BYTES};
use crate::base::gil;
use crate::beam::reply::ReplyTo;
use crate::connection::context;
use crate::mail::mailbox::Mailbox;
use crate::mail::notice::Notice;
use crate::module::context_loop;
use crate::module::thread_context;
use crate::python::interpreter;
use crate::python::reactor_buffer;
use crate::python::subinterpreter::{self, Subinterpreter};
use crate::reactor::failure::{Failure, panic_text};
use crate::reactor::preparation::prepare;
use crate::reactor::watchdog;
use crate::reactor::{Reactor, contain};
use pyo3::prelude::*;
use rustler::Encoder;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};

/// Starts a reactor thread. Its `owner` is told `{Ref, ok}` once the context serves, or `{Ref, {error, Reason}}`;
/// `{py_thread_exit, Ref, Reason}` if it ends although nobody stopped it; and last, when the thread has only to be
/// joined, `{py_thread_end, Ref}`. Before that, it waits for threads that Python code has started in its interpreter.
///
/// # Errors
/// No thread could be made.
pub fn spawn(options: Options, mailbox: Arc<Mailbox>, owner: ReplyTo) -> io::Result<JoinHandle<()>> {
    Builder::new().name(format!("py_reactor_{}", options.id)).stack_size(STACK_BYTES).spawn(move || {
        match interpreter_for(options.mode) {
            Ok(own) => {
                let wait = gil::Wait::begin();
                Python::attach(|py| {
                    drop(wait);
                    live(py, &options, &mailbox, &owner);
                });
                if let Some(Err(why)) = own.map(Subinterpreter::end) {
                    let message = format!("the context's interpreter is left behind, its memory with it: {why}");
                    mailbox.notify(Notice { level: "warning", message, meta: Vec::new(), fd: None });
                }
            }
            Err(why) => {
                owner.send_first(|env| (atoms::error(), Failure::Python(why).term(None, env)).encode(env));
            }
        }
        // Whoever waits for a handoff or a result must not wait for ever.
        for command in mailbox.retire() {
            command.abandon();
        }
        owner.tell(|env, reference| (atoms::py_thread_end(), reference).encode(env));
    })
}

/// The interpreter that `Python::attach` attaches this thread to: the main one, or the one that is returned.
fn interpreter_for(mode: Mode) -> Result<Option<Subinterpreter>, String> {
    match mode {
        Mode::Worker => interpreter::ensure_started().map(|()| None),
        Mode::Subinterp | Mode::Owngil => Subinterpreter::new().map(Some),
    }
}

/// The life of a thread that is attached to Python.
fn live(py: Python<'_>, options: &Options, mailbox: &Arc<Mailbox>, owner: &ReplyTo) {
    gil::add_thread(py, options.mode != Mode::Worker);
    mailbox.running.resume();
    let failed = |failure: &Failure| {
        owner.tell(|env, reference| (atoms::py_thread_exit(), reference, failure.term(Some(py), env)).encode(env));
    };
    let guarded = catch_unwind(AssertUnwindSafe(|| prepare(py, options, mailbox)));
    match guarded.unwrap_or_else(|panic| Err(Failure::Panic(panic_text(&*panic)))) {
        Ok(reactor) => {
            owner.send_first(|env| atoms::ok().encode(env));
            if let Err(failure) = serve(py, reactor) {
                failed(&failure);
            }
        }
        Err(failure) => owner.send_first(|env| (atoms::error(), failure.term(Some(py), env)).encode(env)),
    }
    if let Err(failure) = forget(py, options.mode, mailbox) {
        failed(&failure);
    }
}

fn serve(py: Python<'_>, mut reactor: Reactor) -> Result<(), Failure> {
    let ran = catch_unwind(AssertUnwindSafe(|| reactor.run(py)));
    let finished = catch_unwind(AssertUnwindSafe(|| reactor.finish(py)));
    match (ran, finished) {
        (Ok(Ok(())), Ok(())) => Ok(()),
        (Ok(Err(error)), _) => Err(Failure::Driver(error)),
        (Err(panic), _) | (_, Err(panic)) => Err(Failure::Panic(panic_text(&*panic))),
    }
}

/// Leaves nothing of the context in this thread, while it is still attached (I7): each part, whatever becomes of the others.
/// The user's code that runs now can still be interrupted.
fn forget(py: Python<'_>, mode: Mode, mailbox: &Mailbox) -> Result<(), Failure> {
    let mut panic = None;
    // From now on nothing is taken.
    let commands = contain(&mut panic, || mailbox.inbox.close());
    for command in commands.into_iter().flatten() {
        contain(&mut panic, || command.abandon());
    }
    if let Some(context) = context::current(py) {
        contain(&mut panic, || context_loop::end(py, &context));
    }
    contain(&mut panic, || context::set_current(py, None));
    contain(&mut panic, || reactor_buffer::set_local_pool(None));
    if mode != Mode::Worker {
        contain(&mut panic, || subinterpreter::end_program(py));
    }
    contain(&mut panic, || end_lines(py));
    if mode != Mode::Worker {
        contain(&mut panic, || context_loop::forget(gil::current_id(py)));
    }
    contain(&mut panic, || thread_context::remove(mailbox));
    contain(&mut panic, || watchdog::remove(mailbox));
    contain(&mut panic, || mailbox.pause(py));
    contain(&mut panic, || mailbox.running.retire(py));
    contain(&mut panic, || gil::remove_thread(py));
    panic.map_or(Ok(()), |panic| Err(Failure::Panic(panic_text(&*panic))))
}

/// Whoever printed a part of a line prints no more of it.
fn end_lines(py: Python<'_>) {
    let ended = py.import("erlang._console").and_then(|console| console.call_method0("end_lines"));
    if let Err(error) = ended {
        error.write_unraisable(py, None);
    }
}
