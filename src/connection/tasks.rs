//! Tasks of asyncio that a context waits for: whose they are, and how it is told of their end.

#![forbid(unsafe_code)]

use crate::base::token::ConnId;
use crate::beam::call_reply::Awaited;
use crate::connection::machine::Task;
use pyo3::{Py, PyAny, PyErr};

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
