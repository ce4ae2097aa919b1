//! What other threads leave for a context's thread: commands in order, connections to signal, or a kill; and its wake-up.
//!
//! What a command is, is nothing to it: `models/` checks it in every interleaving, without Erlang and Python.

#![forbid(unsafe_code)]

use crate::config::{COMMANDS_MAX, COMMANDS_PER_TURN};
use crate::eventfd::Waiter;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{Mutex, lock};
use crate::token::ConnId;
use crate::wake::Wake;
use std::collections::{HashSet, VecDeque};
use std::io;

/// What the inbox must know of a command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Class {
    /// Nothing.
    Ordinary,
    /// A drain refuses it.
    NewConnection,
    /// It always finds room, and nothing is taken after it.
    Last,
}

/// Something that can be queued.
pub trait Queued {
    /// What the inbox must know of it.
    fn class(&self) -> Class;
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
    /// Connections for which other threads called `signal_write_ready`: each at most once.
    signals: Mutex<HashSet<ConnId>>,
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
            commands: Mutex::new(Commands { queue: VecDeque::new(), closed: false }),
            signals: Mutex::new(HashSet::new()),
        })
    }

    // From any thread.

    /// Queues a command and wakes the thread.
    ///
    /// # Errors
    /// The command was not taken, and has been dropped.
    pub fn post(&self, command: C) -> Result<(), Refused> {
        let class = command.class();
        let mut commands = lock(&self.commands);
        if commands.closed {
            return Err(Refused::Stopped);
        }
        if class == Class::NewConnection && self.is_draining() {
            return Err(Refused::Draining);
        }
        if commands.queue.len() >= COMMANDS_MAX && class != Class::Last {
            return Err(Refused::Busy);
        }
        // An `ok' is a promise: what cannot be kept any more is not given.
        commands.closed = class == Class::Last;
        commands.queue.push_back(command);
        drop(commands);
        self.wake();
        Ok(())
    }

    /// `signal_write_ready` was called for this connection, which is registered.
    pub fn signal(&self, id: ConnId) {
        lock(&self.signals).insert(id);
        self.wake();
    }

    /// Ends the thread as soon as it looks.
    pub fn kill(&self) {
        self.killed.store(true, Ordering::Release);
        self.wake();
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
        batch.extend(commands.queue.drain(..count));
        !commands.queue.is_empty()
    }

    /// Takes the connections that were signalled.
    pub fn take_signals(&self) -> HashSet<ConnId> {
        std::mem::take(&mut lock(&self.signals))
    }

    /// From now on new connections are refused.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Release);
    }

    /// Whether new connections are refused.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    /// Takes no more commands; answers those that nobody will handle.
    pub fn close(&self) -> VecDeque<C> {
        let mut commands = lock(&self.commands);
        commands.closed = true;
        std::mem::take(&mut commands.queue)
    }

    /// As [`Inbox::close`], by a thread that will not wait again: the eventfd goes as well.
    pub fn retire(&self) -> VecDeque<C> {
        self.wake.close();
        self.close()
    }
}
