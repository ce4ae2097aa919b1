//! The life of one connection as a pure state machine: no descriptor, no Python, no system call.
//!
//! Events go in through the methods, [`Machine::next`] says what is to be done, and the doer reports back. All the
//! promises of `docs/reactor.md` about order, modes, half close and closing are kept in its two parts: what happens to
//! bytes, and to the connection as such, by the [`Link`]; when which callback runs, and what `write` takes, by the contract
//! that stands above it (`actions.rs`).

#![forbid(unsafe_code)]

mod actions;
mod link;
mod states;
mod tasks;
mod vocabulary;

use crate::base::limits::Limits;
use actions::ActionPolicy;

pub use link::Link;
pub use vocabulary::{Action, Directions, End, Mode, Next, Task};

/// The state of one connection: its link, and the contract between that and the protocol.
#[derive(Clone, Debug)]
pub struct Machine {
    /// What is told of the link alone, and asked about it.
    pub link: Link,
    actions: ActionPolicy,
}

impl Machine {
    /// A connection whose `connection_made` is about to be called. Nothing is received before it returns.
    pub fn new(directions: Directions) -> Self {
        Machine { link: Link::new(directions), actions: ActionPolicy::new(directions) }
    }

    /// What to do next. Call again after doing it, until it says [`Next::Nothing`] or [`Next::Yield`].
    /// Without `may_call`, callbacks wait (but for `connection_lost`).
    pub fn next(&mut self, limits: &Limits, may_call: bool) -> Next {
        if self.owes_cancel() {
            return Next::CancelTasks;
        }
        let wish = self.actions.wish(&self.link, limits);
        match self.link.next(limits, wish, may_call) {
            // It has ended just now.
            Next::Nothing if self.owes_cancel() => Next::CancelTasks,
            next => next,
        }
    }

    fn owes_cancel(&mut self) -> bool {
        self.actions.tasks.are_there() && !self.link.is_open() && self.actions.tasks.owe_cancel()
    }

    /// `connection_made` returned.
    pub fn made(&mut self) {
        self.actions.made(&self.link);
    }

    /// A callback answered.
    pub fn acted(&mut self, action: Action) {
        self.actions.acted(&mut self.link, action);
    }

    /// Whether a callback of that kind may answer this just now.
    pub fn permits(&self, of: Task, action: Action) -> bool {
        self.actions.tasks.permit(of, action)
    }

    /// A task has begun.
    pub fn task_began(&mut self, task: Task) {
        self.actions.tasks.begin(task);
    }

    /// It has ended; what it answered, if it does, comes next, as [`Machine::acted`].
    pub fn task_ended(&mut self, task: Task) {
        self.actions.tasks.end(task);
    }

    /// Tasks that have not ended although the connection has are to be cancelled once more.
    pub fn cancel_tasks_again(&mut self) {
        self.actions.tasks.cancel_again();
    }

    /// The end of the connection waits no longer for its tasks.
    pub fn give_up_tasks(&mut self) {
        self.actions.tasks.give_up();
    }

    /// `signal_write_ready` was called, not by a callback whose answer is awaited.
    pub fn signalled(&mut self) {
        self.actions.signalled(&self.link);
    }

    /// `signal_write_ready` was called by the very callback whose answer is awaited.
    pub fn signalled_early(&mut self) {
        self.actions.signalled_early();
    }

    /// `write` is offered `bytes` of a stream. Answers how many of them it takes, from the first.
    pub fn offered(&mut self, bytes: usize, immutable: bool, limits: &Limits) -> usize {
        self.actions.offered(&mut self.link, bytes, immutable, limits)
    }

    /// Bytes that `write` may take now, unless it is one object that may be longer.
    pub fn room(&self, limits: &Limits) -> usize {
        self.actions.room(&self.link, limits)
    }

    /// `write` was offered what counts for so much, and took `taken` of it.
    pub fn wrote(&mut self, offered: usize, taken: usize) {
        self.actions.wrote(&mut self.link, offered, taken);
    }

    /// The send ended; the kernel took `bytes`.
    pub fn sent(&mut self, bytes: usize, limits: &Limits) {
        self.link.sent(bytes);
        self.actions.drained(&self.link, limits);
    }

    /// Reads nothing new, and closes: at once, but for a protocol in write mode, which writes what it has, or one that has
    /// not had what has arrived.
    pub fn stop(&mut self) {
        self.link.stop(self.actions.mode());
    }

    /// What the protocol waits for, for people: `None` once it is being closed.
    pub fn mode(&self) -> Option<Mode> {
        self.link.is_open().then(|| self.actions.mode())
    }
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod world;
