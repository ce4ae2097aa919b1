//! Terms that travel between threads, and where an answer goes.

#![forbid(unsafe_code)]

use crate::base::atoms;
use rustler::env::{OwnedEnv, SavedTerm};
use rustler::{Encoder, Env, LocalPid, Term};

/// A term that travels between threads, in an environment of its own.
pub struct OwnedTerm {
    env: OwnedEnv,
    term: SavedTerm,
}

impl OwnedTerm {
    /// Copies `term`.
    pub fn new(term: Term<'_>) -> Self {
        let env = OwnedEnv::new();
        let term = env.save(term);
        OwnedTerm { env, term }
    }

    /// Opens it. Nothing of `'a` may leave `f` but what is not a term.
    pub fn open<R>(&self, f: impl for<'a> FnOnce(Term<'a>) -> R) -> R {
        self.env.run(|env| f(self.term.load(env)))
    }
}

/// Where the answer to a command goes: the calling process gets `{Ref, Answer}`.
pub struct ReplyTo {
    pid: LocalPid,
    reference: OwnedTerm,
    /// Contexts that wait for the caller, which must not wait for them: a list of pids.
    callers: Option<OwnedTerm>,
}

impl ReplyTo {
    /// The caller `pid`, who waits for `reference`: a reference, or `{Waiter, Reference, Callers}` where another does.
    pub fn new(pid: LocalPid, reference: Term<'_>) -> Self {
        match reference.decode::<(LocalPid, Term<'_>, Term<'_>)>() {
            Ok((waiter, reference, callers)) => {
                let callers = (!callers.is_empty_list()).then(|| OwnedTerm::new(callers));
                ReplyTo { pid: waiter, reference: OwnedTerm::new(reference), callers }
            }
            Err(_) => ReplyTo { pid, reference: OwnedTerm::new(reference), callers: None },
        }
    }

    /// The contexts that wait for the caller, to be remembered while it is served.
    pub fn take_callers(&mut self) -> Option<OwnedTerm> {
        self.callers.take()
    }

    /// Whether both go to the same process.
    pub fn is_of(&self, other: &ReplyTo) -> bool {
        self.pid == other.pid
    }

    /// Answers `{error, stopped}`, as if the command had been refused.
    pub fn stopped(self) {
        self.send(|env| (atoms::error(), atoms::stopped()).encode(env));
    }

    /// Sends `{Ref, Answer}`, with the answer that `make` builds. From a thread that the VM does not manage.
    pub fn send(self, make: impl for<'a> FnOnce(Env<'a>) -> Term<'a>) {
        self.send_first(make);
    }

    /// As [`ReplyTo::send`], where more is to follow.
    pub fn send_first(&self, make: impl for<'a> FnOnce(Env<'a>) -> Term<'a>) {
        self.tell(|env, reference| (reference, make(env)).encode(env));
    }

    /// Sends what `make` builds from `Ref`; as [`ReplyTo::send`].
    pub fn tell(&self, make: impl for<'a> FnOnce(Env<'a>, Term<'a>) -> Term<'a>) {
        self.reference.open(|reference| {
            let env = reference.get_env();
            // A caller that died in the meantime does not want the answer.
            let _ = env.send(&self.pid, make(env, reference));
        });
    }
}
