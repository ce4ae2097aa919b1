//! Tasks of asyncio that a context waits for: whose they are, and how it is told of their end.

#![forbid(unsafe_code)]

use crate::base::token::ConnId;
use crate::beam::call_reply::Awaited;
use crate::connection::machine::Task;
use pyo3::{Bound, Py, PyAny, PyErr};
use std::collections::BTreeMap;

/// Whose task it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Owner {
    /// A request of Erlang's, of that number.
    Request(u64),
    /// A connection's.
    Connection(ConnId),
}

impl Owner {
    /// As a number.
    pub fn bits(self) -> u64 {
        match self {
            Owner::Request(serial) => serial << 1,
            Owner::Connection(id) => id.bits() << 1 | 1,
        }
    }

    /// Back from [`Owner::bits`].
    pub fn from_bits(bits: u64) -> Self {
        if bits & 1 == 0 { Owner::Request(bits >> 1) } else { Owner::Connection(ConnId::from_bits(bits >> 1)) }
    }
}

/// Something of asyncio has ended that a context waits for.
pub enum Ended {
    /// An `asyncio.Task`.
    Task {
        /// Whose it was.
        owner: Owner,
        /// The task.
        task: Py<PyAny>,
    },
    /// What `call_later` of a connection's protocol ran has raised.
    TimerFailed {
        /// The connection.
        id: ConnId,
        /// What.
        error: PyErr,
    },
}

/// A call of a function of Erlang that a task waits for.
pub struct Asked {
    /// Its answer.
    pub awaited: Awaited,
    /// What is called with that.
    pub answered: Py<PyAny>,
}

/// The tasks of a connection that run. A task is found by where it is, for as long as it is kept.
#[derive(Default)]
pub struct RunningTasks(BTreeMap<usize, Running>);

impl RunningTasks {
    /// It has begun.
    pub fn add(&mut self, running: Running) {
        self.0.insert(running.task.as_ptr() as usize, running);
    }

    /// It has ended.
    pub fn remove(&mut self, task: &Bound<'_, PyAny>) -> Option<Running> {
        self.0.remove(&(task.as_ptr() as usize))
    }

    /// All of them, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &Running> {
        self.0.values()
    }

    /// What is known of it.
    pub fn get(&mut self, task: &Bound<'_, PyAny>) -> Option<&mut Running> {
        self.0.get_mut(&(task.as_ptr() as usize))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// A task of a connection.
pub struct Running {
    /// The `asyncio.Task`.
    pub task: Py<PyAny>,
    /// What it is to the connection.
    pub kind: Task,
    /// The callback that it is, or what has begun it.
    pub method: &'static str,
    /// It has closed the connection itself, and is not cancelled for that.
    pub spared: bool,
}
