//! What a context's thread is asked to do.

#![forbid(unsafe_code)]

use crate::base::atoms;
use crate::base::token::ConnId;
use crate::beam::reply::{OwnedTerm, ReplyTo};
use crate::beam::resource::Ref;
use crate::driver::descriptor::Descriptor;
use crate::mail::inbox::{Class, Queued, Refused};
use crate::mail::listening::Listening;
use crate::mail::place::Place;
use crate::mail::request_timeout::Ticket;
use pyo3::{Py, PyAny};
use rustler::{Encoder, Env, Term};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// What `client_info` is made of.
pub enum Info {
    /// A map.
    Map(OwnedTerm),
    /// The peer of an accepted TCP connection.
    Peer(SocketAddr),
}

/// What Python is asked to run.
pub enum Job {
    /// Statements, in the context's globals.
    Exec(String),
    /// An expression; a map of local variables.
    Eval(String, OwnedTerm),
    /// `module`, `function`, and `{Args, Kwargs}`.
    Call(String, String, OwnedTerm),
}

/// A connection, as somebody outside names it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Name {
    /// The number of its descriptor.
    pub fd: i32,
    /// The serial numbers of its context and of itself. Without them, whoever has the number now is meant.
    pub exactly: Option<(u64, u64)>,
}

/// What Erlang wants of one connection.
pub enum Request {
    /// Queue this binary, all of it or nothing.
    Send(OwnedTerm),
    /// End it gracefully.
    Close,
    /// Pass this term to `message_received`.
    Notify(OwnedTerm),
    /// Tell of its end: the answers are `watching` and `{down, Fd, Reason}`, or only the second if there is none.
    Monitor,
    /// Forget what the process that asks has watched.
    Demonitor,
}

/// Something for the reactor thread to do.
pub enum Command {
    /// Serve this descriptor.
    Adopt {
        /// The descriptor.
        descriptor: Descriptor,
        /// Its place among the connections.
        place: Place,
        /// What Erlang says of it.
        info: Info,
    },
    /// Accept connections from this socket, as long as it is open.
    Accept {
        /// The socket.
        listening: Arc<Listening>,
        /// Which of those that accept this context is.
        serial: u64,
    },
    /// Run Python.
    Run {
        /// What.
        job: Job,
        /// Who waits for the result; without anybody, an exception is logged.
        reply: Option<ReplyTo>,
        /// By which that may be given up.
        ticket: Option<Ref<Ticket>>,
    },
    /// Do something with a connection.
    Ask {
        /// Which.
        name: Name,
        /// What.
        request: Request,
        /// Who is told `{ok, none}`, or why not.
        reply: ReplyTo,
    },
    /// Tell of all connections.
    List {
        /// With what only people who look for a fault want to know.
        whole: bool,
        /// Who is told `{ok, [Map]}`.
        reply: ReplyTo,
    },
    /// Pass a Python object to a protocol's `message_received`.
    Message {
        /// The connection.
        id: ConnId,
        /// An object of the context's interpreter: dropped attached to it only (I7).
        message: Py<PyAny>,
    },
    /// The descriptor of this connection was closed by somebody else: its number names a stranger.
    Disown {
        /// The connection.
        id: ConnId,
    },
    /// Take no new connections, let the open ones deal with what has arrived, and tell when they are closed.
    Drain {
        /// How long that may take.
        within: Duration,
        /// Who is told `{ok, 0}`, or `{error, {connections, N}}` when it took too long.
        reply: ReplyTo,
    },
    /// Close every connection and end the thread, which says so itself.
    Stop {
        /// How long connections may take to deliver what they wrote.
        drain: Duration,
    },
}

impl Queued for Command {
    fn class(&self) -> Class {
        match self {
            Command::Adopt { .. } => Class::NewConnection,
            Command::Stop { .. } => Class::Last,
            Command::Accept { .. } | Command::Disown { .. } => Class::Sure,
            Command::Message { .. } => Class::Message,
            Command::Run { .. } | Command::Ask { .. } | Command::List { .. } | Command::Drain { .. } => Class::Ordinary,
        }
    }
}

impl Command {
    /// Nobody will handle it: a connection that was promised is closed, whoever waits for a result hears that there is
    /// none. From the reactor thread; attached, if it may be a message.
    pub fn abandon(self) {
        match self {
            Command::Adopt { mut descriptor, .. } => descriptor.promise(),
            Command::Accept { listening, serial } => listening.leave(serial),
            Command::Run { reply: Some(reply), .. }
            | Command::Ask { reply, .. }
            | Command::List { reply, .. }
            | Command::Drain { reply, .. } => reply.stopped(),
            Command::Run { reply: None, .. }
            | Command::Disown { .. }
            | Command::Message { .. }
            | Command::Stop { .. } => {}
        }
    }
}

impl Encoder for Refused {
    fn encode<'a>(&self, env: Env<'a>) -> Term<'a> {
        match self {
            Refused::Busy => atoms::busy().encode(env),
            Refused::Draining => atoms::draining().encode(env),
            Refused::Stopped => atoms::stopped().encode(env),
        }
    }
}
