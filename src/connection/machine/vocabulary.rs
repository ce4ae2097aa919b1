//! What the machine of a connection is told, and what it says.

#![forbid(unsafe_code)]

use crate::base::ear::Ear;

/// What a protocol's callback asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// Stay in the current mode.
    Continue,
    /// Switch to write mode.
    WritePending,
    /// Switch to read mode.
    ReadPending,
    /// Neither, until signalled.
    AsyncPending,
    /// Deliver what was written, then close.
    Close,
}

/// What is to be done next for a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Next {
    /// Pass the oldest waiting data to the protocol, then report [`Machine::delivered`](super::Link::delivered) and [`Machine::acted`](super::Machine::acted).
    DataReceived,
    /// Tell the protocol that the peer sends no more, then report [`Machine::acted`](super::Machine::acted).
    EofReceived,
    /// Ask the protocol for output, then report [`Machine::acted`](super::Machine::acted).
    WriteReady,
    /// Tell a transport that its queue has fallen as far as it waits for.
    Drained,
    /// Tell the protocol, for the first and only time, that its connection is gone.
    ConnectionLost,
    /// Start a receive.
    Receive,
    /// Cancel the receive.
    CancelReceive,
    /// Listen for the end of the peer, for nothing is received; or no more.
    Listen(Ear),
    /// Send from the front of the queue.
    Send,
    /// Send FIN: everything that was written is out. The link may still be open.
    ShutdownWrite,
    /// Cancel its tasks: it has ended, but nothing is told of that before they have.
    CancelTasks,
    /// Shut both directions down and cancel what runs: nothing is to be saved any more.
    Abort,
    /// Nothing is due to a transport but what its program begins: keep it no longer. Whoever deals with it next holds it first.
    LetGo,
    /// Close the descriptor and forget the connection; no operation names it any more (I4).
    Close,
    /// A callback is due, but its turn is over.
    Yield,
    /// Wait for an event.
    Nothing,
}

/// Which callback a connection waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// `data_received`.
    Read,
    /// `write_ready`.
    Write,
    /// None, until signalled.
    Async,
    /// None, until the task of an `async def` callback has ended.
    Held,
}

/// What a task of a connection is to it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Task {
    /// A callback that comes in its turn, and no other one before it has ended: `data_received`, `eof_received`, `write_ready`.
    InTurn,
    /// `message_received`, of which many may run.
    Message,
    /// A datagram that was received, beside others.
    Datagram,
    /// What the protocol has begun by itself.
    Own,
}

impl Task {
    /// Whether the connection is in async mode until it ends.
    pub fn holds(self) -> bool {
        matches!(self, Task::InTurn | Task::Message)
    }
}

/// Why a connection ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// Its protocol closed it, or somebody did with `close`.
    Closed,
    /// The peer sent its last byte first, and the protocol had no more to say.
    PeerClosed,
    /// The peer is gone, or the network to it: by this error, where the kernel told one.
    Reset(Option<i32>),
    /// Nothing moved for too long.
    Idle,
    /// The peer took no output for too long.
    Stalled,
    /// A callback raised, or answered no action.
    Exception,
    /// Nobody has its transport any more.
    Abandoned,
    /// Its context was drained or stopped.
    Stopped,
    /// Its context was killed, or failed.
    Killed,
}

impl End {
    /// As it is called in Erlang and Python.
    pub fn name(self) -> &'static str {
        match self {
            End::Closed => "closed",
            End::PeerClosed => "peer_closed",
            End::Reset(_) => "reset",
            End::Idle => "idle",
            End::Stalled => "stalled",
            End::Exception => "exception",
            End::Abandoned => "abandoned",
            End::Stopped => "stopped",
            End::Killed => "killed",
        }
    }

    /// What the system said, if that was the cause; 0: nothing.
    pub fn errno(self) -> i32 {
        match self {
            End::Reset(errno) => errno.unwrap_or(0),
            _ => 0,
        }
    }
}

/// What a descriptor can do, as far as the machine cares.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Directions {
    /// Data can arrive.
    pub readable: bool,
    /// Data can leave.
    pub writable: bool,
    /// The two can be shut down one by one, so that there is something to linger for.
    pub half_closes: bool,
}
