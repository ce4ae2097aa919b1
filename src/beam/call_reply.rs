//! The answer to a call from Python that an Erlang process is to give: once, at any time, or never.

#![forbid(unsafe_code)]

use crate::base::config::CALLS_MAX;
use crate::base::sync::lock;
use crate::beam::reply::OwnedTerm;
use crate::beam::resource::{Kind, Resource};
use rustler::Term;
use std::ffi::CStr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

/// How a call stands.
enum State {
    Waiting,
    /// `{Kind, Value}`.
    Answered(OwnedTerm),
    /// Nobody can answer any more, or the caller has taken the answer.
    Over,
}

/// What is to be done once the answer is there, or is known never to come; by any thread of the VM.
pub type Then = Box<dyn Fn() + Send + Sync>;

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    then: Option<Then>,
}

/// The caller's side.
pub struct Awaited(Arc<Shared>);

/// The side of whoever answers: a term of the VM. When the VM forgets it, the caller knows that nobody will.
pub struct Answer(Arc<Shared>);

impl Resource for Answer {
    const NAME: &'static CStr = c"py_reactor_answer";

    fn kind() -> &'static Kind {
        static KIND: Kind = Kind::new();
        &KIND
    }
}

/// Calls that nobody has answered, whether their callers still wait or not.
static OPEN: AtomicUsize = AtomicUsize::new(0);

/// Both sides of a new call, unless too many are open (I9). `then` is done once, when a wait would not have to wait.
pub fn new(then: Option<Then>) -> Option<(Awaited, Answer)> {
    let one_more = |open| (open < CALLS_MAX).then_some(open + 1);
    OPEN.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).ok()?;
    let shared = Arc::new(Shared { state: Mutex::new(State::Waiting), changed: Condvar::new(), then });
    Some((Awaited(Arc::clone(&shared)), Answer(shared)))
}

/// What a wait came to.
pub enum Waited {
    /// `{Kind, Value}`.
    Answer(OwnedTerm),
    /// Nobody will answer.
    Nobody,
    /// Not yet.
    Nothing,
}

impl Awaited {
    /// Waits for the answer, at most so long.
    pub fn wait(&self, at_most: Duration) -> Waited {
        let state = lock(&self.0.state);
        let waiting = |state: &mut State| matches!(state, State::Waiting);
        let (mut state, _) =
            self.0.changed.wait_timeout_while(state, at_most, waiting).unwrap_or_else(PoisonError::into_inner);
        match &*state {
            State::Waiting => Waited::Nothing,
            _ => match std::mem::replace(&mut *state, State::Over) {
                State::Answered(answer) => Waited::Answer(answer),
                _ => Waited::Nobody,
            },
        }
    }
}

impl Answer {
    /// Gives the answer `{Kind, Value}`. A second one is ignored, and so is one that the caller waits for no more.
    pub fn give(&self, answer: Term<'_>) {
        self.settle(State::Answered(OwnedTerm::new(answer)));
    }

    fn settle(&self, to: State) {
        let mut state = lock(&self.0.state);
        if matches!(*state, State::Waiting) {
            *state = to;
            OPEN.fetch_sub(1, Ordering::Relaxed);
            self.0.changed.notify_all();
            drop(state);
            if let Some(then) = &self.0.then {
                then();
            }
        }
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.settle(State::Over);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_forgets_to_answer_lets_the_caller_go() {
        let (awaited, answer) = new(None).unwrap();
        assert!(matches!(awaited.wait(Duration::ZERO), Waited::Nothing));
        let waiter = std::thread::spawn(move || matches!(awaited.wait(Duration::from_secs(60)), Waited::Nobody));
        drop(answer);
        assert!(waiter.join().unwrap());
    }

    #[test]
    fn who_does_not_wait_is_told_once() {
        let told = Arc::new(AtomicUsize::new(0));
        let theirs = Arc::clone(&told);
        let (awaited, answer) = new(Some(Box::new(move || _ = theirs.fetch_add(1, Ordering::Relaxed)))).unwrap();
        assert_eq!(told.load(Ordering::Relaxed), 0);
        answer.settle(State::Over);
        assert!(matches!(awaited.wait(Duration::ZERO), Waited::Nobody));
        drop(answer);
        assert_eq!(told.load(Ordering::Relaxed), 1);
    }
}
