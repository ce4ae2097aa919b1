//! Tasks of asyncio that a context waits for: whose they are, and how it is told of their end.

#![forbid(unsafe_code)]

use crate::base::token::ConnId;
use pyo3::{Py, PyAny};

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
pub struct Ended {
    /// Whose it was.
    pub owner: Owner,
    /// An `asyncio.Task`.
    pub task: Py<PyAny>,
}
