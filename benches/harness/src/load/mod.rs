//! The load generator: one thread, epoll, no allocation while it measures.
//!
//! [`Generator::run`] opens the connections of a case, drives them through a warm-up and a window, waits for the last
//! answers and closes. Every byte that comes back is compared. The window and its latencies are the
//! [`recorder`](self::recorder)'s; what happens on a connection is that of [`stream`], [`churn`], [`datagram`] or
//! [`beside`].

mod beside;
mod churn;
mod connect;
mod datagram;
mod poll;
mod recorder;
mod script;
mod stream;

use crate::cases::{Case, Loop, Traffic};
use crate::latency::Latencies;
use connect::Sources;
use recorder::Recorder;
use script::Script;
use std::net::SocketAddr;
use std::time::Duration;

/// How long nothing may happen while answers are due.
pub const SILENCE: Duration = Duration::from_secs(10);

/// The time of a measurement.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    /// Load that does not count, before.
    pub warm_up: Duration,
    /// Load that counts.
    pub length: Duration,
}

/// Who wants to know when the window begins and ends, for example to read the server's CPU time.
///
/// No load is made while it looks, and no latency that it could have spoiled counts.
pub trait Observer {
    /// The window begins when this returns.
    fn begin(&mut self) -> anyhow::Result<()>;
    /// The window has ended; connections are still open.
    fn end(&mut self) -> anyhow::Result<()>;
}

/// What a window saw.
#[derive(Clone)]
pub struct Outcome {
    /// Messages, requests, connections, datagrams or pieces that were complete within the window.
    pub messages: u64,
    /// Bytes that the server sent back within the window; of a flood, that it took.
    pub bytes: u64,
    /// How long the window was.
    pub elapsed: Duration,
    /// From the moment a message was sent, or should have been, to its last byte.
    pub latencies: Latencies,
    /// CPU time of the generator within the window.
    pub own_cpu: Duration,
    /// What of that it spent looking at the clock, with nothing to do.
    pub own_waiting: Duration,
    /// Datagrams that were sent again.
    pub retransmissions: u64,
}

/// What is wrong with a server, or with its connections.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// It did not send what it should have.
    #[error("connection {connection}: WRONG BYTE: byte {position} of an answer is {got:#04x} and not {expected:#04x}")]
    WrongByte {
        /// Which connection.
        connection: usize,
        /// Counted from the start of the answer.
        position: usize,
        /// What came.
        got: u8,
        /// What should have.
        expected: u8,
    },
    /// It sent more.
    #[error("connection {connection}: WRONG BYTES: {count} more than the answer has")]
    Surplus {
        /// Which connection.
        connection: usize,
        /// How many.
        count: usize,
    },
    /// A datagram of another length came back.
    #[error("socket {connection}: WRONG LENGTH: a datagram of {got} bytes came back as an answer to one of {expected}")]
    Length {
        /// Which socket.
        connection: usize,
        /// What came.
        got: usize,
        /// What should have.
        expected: usize,
    },
    /// It closed a connection that was in use.
    #[error("connection {connection}: closed by the server in the middle of an exchange")]
    Ended {
        /// Which connection.
        connection: usize,
    },
    /// A system call failed.
    #[error("connection {connection}: {doing}: {source}")]
    Failed {
        /// Which connection.
        connection: usize,
        /// What was tried.
        doing: &'static str,
        /// Why not.
        source: std::io::Error,
    },
    /// Nothing came for [`SILENCE`].
    #[error("no byte for {} s while {waiting} of {connections} connections wait for one ({doing})", SILENCE.as_secs())]
    Silent {
        /// What was going on.
        doing: &'static str,
        /// Connections that wait.
        waiting: usize,
        /// Connections that there are.
        connections: usize,
    },
    /// The observer could not look.
    #[error("{0:#}")]
    Observer(anyhow::Error),
}

impl Fault {
    fn failed(connection: usize, doing: &'static str, source: rustix::io::Errno) -> Fault {
        Fault::Failed { connection, doing, source: source.into() }
    }
}

/// Makes load. One for a whole run: it owns the buffers and remembers which local addresses it has used.
pub struct Generator {
    sources: Sources,
    scratch: Vec<u8>,
}

/// What is read at once: as much as fits into a second-level cache beside everything else.
const SCRATCH_BYTES: usize = 256 * 1024;

impl Default for Generator {
    fn default() -> Self {
        Generator { sources: Sources::default(), scratch: vec![0; SCRATCH_BYTES] }
    }
}

impl Generator {
    /// Puts the load of `case` on `target`. `rate` is in messages per second, for an open loop.
    pub fn run(
        &mut self,
        case: &Case,
        target: SocketAddr,
        rate: Option<f64>,
        window: Window,
        observer: &mut dyn Observer,
    ) -> Result<Outcome, Fault> {
        let recorder = Recorder::new(window, observer);
        let script = Script::new(case.traffic);
        let rate = rate.filter(|_| case.pace == Loop::Open);
        match case.traffic {
            Traffic::Echo { .. } | Traffic::Http | Traffic::Json => {
                let sockets = connect::all(target, case.open_connections(), &mut self.sources)?;
                stream::run(sockets, case.connections, &script, rate, &mut self.scratch, recorder)
            }
            Traffic::Connect { .. } => {
                churn::run(target, case.connections, &script, &mut self.sources, &mut self.scratch, recorder)
            }
            Traffic::Datagrams { .. } => datagram::run(target, case.connections, &script, &mut self.scratch, recorder),
            Traffic::Beside(bulk) => {
                let sockets = connect::all(target, case.connections, &mut self.sources)?;
                beside::run(sockets, bulk, &script, &mut self.scratch, recorder)
            }
        }
    }
}
