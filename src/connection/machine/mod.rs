//! The life of one connection as a pure state machine: no descriptor, no Python, no system call.
//!
//! Events go in through the methods, [`Machine::next`] says what is to be done, and the doer reports back. All the
//! promises of `docs/reactor.md` about order, modes, half close and closing are kept in its two parts: what happens to
//! bytes, and to the connection as such, by the [`Link`]; when which callback runs, and what `write` takes, by the contract
//! that stands above it: of protocols (`actions.rs`), or of asyncio's transports (`transport.rs`).

#![forbid(unsafe_code)]

mod actions;
mod link;
mod states;
mod tasks;
mod transport;
mod vocabulary;

use crate::base::limits::Limits;
use actions::ActionPolicy;
use transport::TransportPolicy;

pub use link::Link;
pub use transport::Marks;
pub use vocabulary::{Action, Directions, End, Mode, Next, Task};

/// The state of one connection: its link, and the contract between that and whoever is served.
#[derive(Clone, Debug)]
pub struct Machine {
    /// What is told of the link alone, and asked about it.
    pub link: Link,
    contract: Contract,
}

#[derive(Clone, Debug)]
enum Contract {
    Actions(ActionPolicy),
    Transport(TransportPolicy),
}

impl Machine {
    /// A connection whose `connection_made` is about to be called. Nothing is received before it returns.
    pub fn new(directions: Directions) -> Self {
        let contract = Contract::Actions(ActionPolicy::new(directions));
        Machine { link: Link::new(directions), contract }
    }

    /// A transport's connection. Nothing happens before [`Machine::made`].
    pub fn of_transport(directions: Directions, marks: Marks) -> Self {
        let contract = Contract::Transport(TransportPolicy::new(marks));
        Machine { link: Link::plain(directions), contract }
    }

    /// What to do next. Call again after doing it, until it says [`Next::Nothing`] or [`Next::Yield`].
    /// Without `may_call`, callbacks wait (but for `connection_lost` and `resume_writing`).
    #[inline(always)] // As `Link::next`.
    pub fn next(&mut self, limits: &Limits, may_call: bool) -> Next {
        if self.is_at_rest() {
            debug_assert_eq!(self.clone().follows(limits, may_call), Next::Nothing);
            return Next::Nothing;
        }
        self.follows(limits, may_call)
    }

    /// Whether nothing follows, as is so after most messages: seen at a glance.
    #[inline(always)]
    fn is_at_rest(&self) -> bool {
        self.link.is_at_rest()
            && match &self.contract {
                Contract::Actions(actions) => actions.only_reads(),
                Contract::Transport(transport) => transport.only_reads(),
            }
    }

    #[inline(always)]
    fn follows(&mut self, limits: &Limits, may_call: bool) -> Next {
        match &mut self.contract {
            Contract::Actions(actions) => {
                if actions.owe_cancel(&self.link) {
                    return Next::CancelTasks;
                }
                let wish = actions.wish(&self.link, limits);
                match self.link.next(limits, wish, may_call) {
                    // It has ended just now.
                    Next::Nothing if actions.owe_cancel(&self.link) => Next::CancelTasks,
                    next => next,
                }
            }
            Contract::Transport(transport) => match transport.comes_first(&self.link) {
                Some(next) => next,
                None => match self.link.next(limits, transport.wish(&self.link), may_call) {
                    // It may have ended just now.
                    Next::Nothing => match transport.comes_first(&self.link) {
                        None if transport.lets_go(&self.link) => Next::LetGo,
                        next => next.unwrap_or(Next::Nothing),
                    },
                    next => next,
                },
            },
        }
    }

    /// `connection_made` returned. `buffers`: as for [`Machine::signalled`].
    pub fn made(&mut self, buffers: impl FnOnce() -> bool) {
        match &mut self.contract {
            Contract::Actions(actions) => actions.made(&self.link, buffers),
            Contract::Transport(transport) => transport.made(),
        }
    }

    /// The send ended; the kernel took `bytes`.
    pub fn sent(&mut self, bytes: usize, limits: &Limits) {
        self.link.sent(bytes);
        if let Contract::Actions(actions) = &mut self.contract {
            actions.drained(&self.link, limits);
        }
    }

    /// What is waited for, for people: `None` once it is being closed.
    pub fn mode(&self) -> Option<Mode> {
        self.link.is_open().then(|| match &self.contract {
            Contract::Actions(actions) => actions.mode(),
            Contract::Transport(transport) => transport.mode(),
        })
    }
}

/// What is told of a protocol, and asked about it. A transport has none of it.
impl Machine {
    fn actions(&mut self) -> Option<(&mut ActionPolicy, &mut Link)> {
        match &mut self.contract {
            Contract::Actions(actions) => Some((actions, &mut self.link)),
            Contract::Transport(_) => None,
        }
    }

    /// A callback answered. `buffers`: as for [`Machine::signalled`].
    #[inline]
    pub fn acted(&mut self, action: Action, buffers: impl FnOnce() -> bool) {
        if let Some((actions, link)) = self.actions() {
            actions.acted(link, action, buffers);
        }
    }

    /// Whether a callback of that kind may answer this just now.
    pub fn permits(&mut self, of: Task, action: Action) -> bool {
        self.actions().is_some_and(|(actions, _)| actions.tasks.permit(of, action))
    }

    /// A task has begun. `buffers`: as for [`Machine::signalled`].
    pub fn task_began(&mut self, task: Task, buffers: impl FnOnce() -> bool) {
        if let Some((actions, link)) = self.actions() {
            actions.task_began(link, task, buffers);
        }
    }

    /// It has ended; what it answered, if it does, comes next, as [`Machine::acted`].
    pub fn task_ended(&mut self, task: Task) {
        if let Some((actions, _)) = self.actions() {
            actions.tasks.end(task);
        }
    }

    /// Tasks that have not ended although the connection has are to be cancelled once more.
    pub fn cancel_tasks_again(&mut self) {
        if let Some((actions, _)) = self.actions() {
            actions.tasks.cancel_again();
        }
    }

    /// The end of the connection waits no longer for its tasks.
    pub fn give_up_tasks(&mut self) {
        if let Some((actions, _)) = self.actions() {
            actions.tasks.give_up();
        }
    }

    /// `signal_write_ready` was called, not by a callback whose answer is awaited. `buffers` tells whether something stands in the
    /// protocol's `write_buffer`: it is asked only of a protocol, and only where that matters.
    pub fn signalled(&mut self, buffers: impl FnOnce() -> bool) {
        if let Some((actions, link)) = self.actions() {
            actions.signalled(link, buffers);
        }
    }

    /// `signal_write_ready` was called by the very callback whose answer is awaited.
    pub fn signalled_early(&mut self) {
        if let Some((actions, _)) = self.actions() {
            actions.signalled_early();
        }
    }

    /// `write` is offered `bytes` of a stream. Answers how many of them it takes, from the first.
    pub fn offered(&mut self, bytes: usize, immutable: bool, limits: &Limits) -> usize {
        self.actions().map_or(0, |(actions, link)| actions.offered(link, bytes, immutable, limits))
    }

    /// Bytes that `write` may take now, unless it is one object that may be longer.
    pub fn room(&self, limits: &Limits) -> usize {
        match &self.contract {
            Contract::Actions(actions) => actions.room(&self.link, limits),
            Contract::Transport(_) => 0,
        }
    }

    /// Whether `write` takes `bytes` more, and has refused nothing for which room is waited for.
    pub fn has_room_for(&self, bytes: usize, limits: &Limits) -> bool {
        match &self.contract {
            Contract::Actions(actions) => {
                actions.may_write(&self.link, limits) && actions.room(&self.link, limits) >= bytes
            }
            Contract::Transport(_) => false,
        }
    }

    /// `bytes` were taken just now. Answers whether a send of these begins at once: nothing else waits, or is under way.
    pub fn sends_first(&mut self, bytes: usize) -> bool {
        self.link.queued_bytes() == bytes && self.link.sends_now()
    }

    /// `write` was offered what counts for so much, and took `taken` of it.
    pub fn wrote(&mut self, offered: usize, taken: usize) {
        if let Some((actions, link)) = self.actions() {
            actions.wrote(link, offered, taken);
        }
    }

    /// Reads nothing new, and closes: at once, but for a protocol in write mode, which writes what it has, or one that has
    /// not had what has arrived.
    pub fn stop(&mut self) {
        if let Some((actions, link)) = self.actions() {
            link.stop(actions.mode());
        }
    }
}

/// What is told of a transport.
impl Machine {
    fn transport(&mut self) -> Option<(&mut TransportPolicy, &mut Link)> {
        match &mut self.contract {
            Contract::Transport(transport) => Some((transport, &mut self.link)),
            Contract::Actions(_) => None,
        }
    }

    /// `pause_reading` (`true`) or `resume_reading` was called.
    pub fn pause_reading(&mut self, pauses: bool) {
        if let Some((transport, _)) = self.transport() {
            transport.pause_reading(pauses);
        }
    }

    /// Whether what arrives now is for its protocol at once: nothing is to be delivered before it, and its reader does not pause. Then it
    /// may be received straight into what the protocol has, and the machine need not be told.
    pub fn delivers(&self) -> bool {
        matches!(&self.contract, Contract::Transport(transport) if transport.delivers(&self.link))
    }

    /// `bytes` were written, all of which are taken while the link is open. Answers whether to try at once to send them, for
    /// they are more than may wait: so a writer is paused only by what the kernel does not take.
    pub fn queued(&mut self, bytes: usize) -> bool {
        self.transport().is_some_and(|(transport, link)| {
            link.queue(bytes);
            transport.exceeds(link) && link.sends_now()
        })
    }

    /// Whether `pause_writing` is to be called, after something was written.
    pub fn pauses_writer(&mut self) -> bool {
        self.transport().is_some_and(|(transport, link)| transport.is_too_much(link))
    }

    /// Somebody waits for an empty queue, then to write to the socket themselves; or has done so. Until then it is not closed.
    pub fn lend(&mut self, lends: bool) {
        if let Some((transport, _)) = self.transport() {
            transport.lend(lends);
        }
    }

    /// Whether that is so.
    pub fn is_lent(&self) -> bool {
        matches!(&self.contract, Contract::Transport(transport) if transport.is_lent())
    }

    /// The transport is kept again, by more than its program.
    pub fn hold(&mut self) {
        if let Some((transport, _)) = self.transport() {
            transport.hold();
        }
    }

    /// The marks have changed. Answers whether `pause_writing` is to be called.
    pub fn set_marks(&mut self, marks: Marks) -> bool {
        self.transport().is_some_and(|(transport, link)| {
            transport.set_marks(marks);
            transport.is_too_much(link)
        })
    }
}

#[cfg(test)]
mod happening;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod transport_world;
#[cfg(test)]
mod world;
