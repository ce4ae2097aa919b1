//! What other threads leave for a context's thread: commands in order, connections to signal, or a kill; and its wake-up.
//!
//! What a command is, is nothing to it: `models/` checks it in every interleaving, without Erlang and Python.

#![forbid(unsafe_code)]

use crate::base::config::{COMMANDS_MAX, COMMANDS_PER_TURN, MESSAGES_MAX};
use crate::base::eventfd::Waiter;
use crate::base::sync::atomic::{AtomicBool, Ordering};
use crate::base::sync::{Mutex, lock};
use crate::base::token::ConnId;
use crate::base::wake::Wake;
use std::collections::{HashSet, VecDeque};
use std::io;

/// What the inbox must know of a command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Class {
    /// Nothing.
    Ordinary,
    /// It has a limit of its own, so that a broadcast does not keep others out.
    Message,
    /// A drain refuses it.
    NewConnection,
    /// It always finds room, and nothing is taken after it.
    Last,
    /// It always finds room: there is at most one for each connection, or for each listener (I9).
    Sure,
}

/// Something that can be queued.
pub trait Queued {
    /// What the inbox must know of it.
    fn class(&self) -> Class;
}

/// What another thread wants of a connection, however often it says so.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Signal {
    /// The end of a wait: `signal_write_ready`.
    WriteReady,
    /// A graceful end: `close_connection`.
    Close,
}

/// Why a command was not taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refused {
    /// Too many wait.
    Busy,
    /// The context takes no new connections.
    Draining,
    /// The thread has ended, or is about to.
    Stopped,
}

struct Commands<C> {
    queue: VecDeque<C>,
    /// How many in the queue are messages.
    messages: usize,
    closed: bool,
}

/// A thread's inbox. Any thread posts, signals and kills; the one it belongs to takes, and may close it.
pub struct Inbox<C> {
    wake: Wake,
    /// Handovers are refused.
    draining: AtomicBool,
    /// Everything is dropped at once.
    killed: AtomicBool,
    commands: Mutex<Commands<C>>,
    /// Connections that other threads want something of: each at most once for each signal.
    signals: Mutex<HashSet<(ConnId, Signal)>>,
}

impl<C: Queued> Inbox<C> {
    /// An empty one.
    ///
    /// # Errors
    /// No descriptor was left.
    pub fn new() -> io::Result<Self> {
        Ok(Inbox {
            wake: Wake::new()?,
            draining: AtomicBool::new(false),
            killed: AtomicBool::new(false),
            commands: Mutex::new(Commands { queue: VecDeque::new(), messages: 0, closed: false }),
            signals: Mutex::new(HashSet::new()),
        })
    }

    // From any thread.

    /// Queues a command and wakes the thread.
    ///
    /// # Errors
    /// The command was not taken; here it is.
    pub fn post(&self, command: C) -> Result<(), (Refused, C)> {
        let class = command.class();
        let mut commands = lock(&self.commands);
        if commands.closed {
            return Err((Refused::Stopped, command));
        }
        if class == Class::NewConnection && self.is_draining() {
            return Err((Refused::Draining, command));
        }
        let full = match class {
            Class::Last | Class::Sure => false,
            Class::Message => commands.messages >= MESSAGES_MAX,
            Class::Ordinary | Class::NewConnection => commands.queue.len() - commands.messages >= COMMANDS_MAX,
        };
        if full {
            return Err((Refused::Busy, command));
        }
        // An `ok' is a promise: what cannot be kept any more is not given.
        commands.closed = class == Class::Last;
        commands.messages += usize::from(class == Class::Message);
        commands.queue.push_back(command);
        drop(commands);
        self.wake();
        Ok(())
    }

    /// Something is wanted of this connection, which is registered.
    pub fn signal(&self, id: ConnId, signal: Signal) {
        lock(&self.signals).insert((id, signal));
        self.wake();
    }

    /// How many commands wait.
    pub fn waiting(&self) -> usize {
        lock(&self.commands).queue.len()
    }

    /// Ends the thread as soon as it looks.
    pub fn kill(&self) {
        self.killed.store(true, Ordering::Release);
        self.wake();
    }

    /// Whether the thread is to end as soon as it looks.
    pub fn is_killed(&self) -> bool {
        self.killed.load(Ordering::Acquire)
    }

    /// Makes the thread look.
    pub fn wake(&self) {
        self.wake.signal();
    }

    // From the thread that it belongs to.

    /// What the thread waits for.
    ///
    /// # Errors
    /// No descriptor was left.
    pub fn waiter(&self) -> io::Result<Waiter> {
        self.wake.waiter()
    }

    /// The thread is awake: whatever it takes after this includes all that it was woken for. Answers whether it was
    /// killed.
    pub fn open(&self) -> bool {
        self.wake.clear();
        self.killed.load(Ordering::Acquire)
    }

    /// Takes the next commands, in order, into `batch`. Answers whether more wait.
    pub fn take_commands(&self, batch: &mut VecDeque<C>) -> bool {
        let mut commands = lock(&self.commands);
        let count = commands.queue.len().min(COMMANDS_PER_TURN);
        let taken = batch.len();
        batch.extend(commands.queue.drain(..count));
        commands.messages -= batch.range(taken..).filter(|command| command.class() == Class::Message).count();
        !commands.queue.is_empty()
    }

    /// Takes the connections that were signalled.
    pub fn take_signals(&self) -> HashSet<(ConnId, Signal)> {
        std::mem::take(&mut lock(&self.signals))
    }

    /// From now on new connections are refused.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Release);
    }

    /// Whether a new connection would be taken now, if there is room.
    pub fn takes_connections(&self) -> bool {
        !self.is_draining() && !lock(&self.commands).closed
    }

    /// Whether new connections are refused.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    /// Takes no more commands; answers those that nobody will handle.
    pub fn close(&self) -> VecDeque<C> {
        let mut commands = lock(&self.commands);
        commands.closed = true;
        commands.messages = 0;
        std::mem::take(&mut commands.queue)
    }

    /// As [`Inbox::close`], by a thread that will not wait again: the eventfd goes as well.
    pub fn retire(&self) -> VecDeque<C> {
        self.wake.close();
        self.close()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Queued for Class {
        fn class(&self) -> Class {
            *self
        }
    }

    #[test]
    fn messages_and_commands_do_not_take_each_others_room() {
        let inbox = Inbox::new().unwrap();
        while inbox.post(Class::Message).is_ok() {}
        assert_eq!(lock(&inbox.commands).queue.len(), MESSAGES_MAX);
        while inbox.post(Class::Ordinary).is_ok() {}
        assert_eq!(lock(&inbox.commands).queue.len(), MESSAGES_MAX + COMMANDS_MAX);
        let mut batch = VecDeque::new();
        assert!(inbox.take_commands(&mut batch));
        let refused = Err((Refused::Busy, Class::Ordinary));
        assert_eq!(inbox.post(Class::Ordinary), refused, "none of them was a command");
        assert_eq!(inbox.post(Class::Message), Ok(()));
        assert_eq!(inbox.post(Class::Last), Ok(()));
        assert_eq!(inbox.post(Class::Last), Err((Refused::Stopped, Class::Last)));
    }
}
