//! What others want of connections: Erlang sends, closes, passes messages on and asks which there are; protocols pass
//! messages to their neighbours. All of it happens between callbacks.

#![forbid(unsafe_code)]

use super::Reactor;
use crate::atoms;
use crate::context::{Connection, Traffic};
use crate::machine::{End, Mode};
use crate::mailbox::{Name, Parcel, ReplyTo, Request};
use crate::python::dispatch::class_name;
use crate::python::protocol;
use crate::token::ConnId;
use pyo3::prelude::*;
use rustler::{Atom, Binary, Encoder, Env, Term};

/// Why a request is not met.
enum Unmet {
    /// There is no such connection, or it is being closed.
    NoConnection,
    /// Only so many bytes can be taken now.
    NoRoom(usize),
    /// A datagram socket without a peer, on which nothing has arrived.
    NoDestination,
    /// The message has no Python counterpart.
    Unsupported(String),
}

/// One connection, as it is told of.
struct Portrait {
    fd: i32,
    serial: u64,
    protocol: Py<PyAny>,
    state: Atom,
    waiting: (usize, usize),
    traffic: Traffic,
    monitors: usize,
}

impl Reactor {
    pub(super) fn ask(&mut self, py: Python<'_>, name: Name, request: Request, reply: ReplyTo) {
        let id = self.context.named(name);
        if let Request::Watch = request {
            let Some(id) = id else { return say_down(reply, name.fd, atoms::noconnection()) };
            reply.send_first(|env| atoms::watching().encode(env));
            self.with(id, |connection| connection.watchers.push(reply));
            return;
        }
        if let (Request::Unwatch, Some(id)) = (&request, id) {
            self.with(id, |connection| connection.watchers.retain(|watcher| !watcher.is_of(&reply)));
            return;
        }
        let id = id.filter(|id| self.with(*id, |connection| connection.machine.is_open()).unwrap_or_default());
        let done = id.ok_or(Unmet::NoConnection).and_then(|id| self.meet(py, id, request));
        reply.send(|env| match done {
            Ok(()) => (atoms::ok(), atoms::none()).encode(env),
            Err(unmet) => (atoms::error(), unmet.term(env, name)).encode(env),
        });
    }

    fn meet(&mut self, py: Python<'_>, id: ConnId, request: Request) -> Result<(), Unmet> {
        match request {
            Request::Send(data) => {
                let context = &self.context;
                let taken = data.open(|data| {
                    let bytes = Binary::from_term(data).map_err(|_| Unmet::NoRoom(0))?;
                    context.write_all(id, &bytes).map_err(|room| room.map_or(Unmet::NoDestination, Unmet::NoRoom))
                });
                taken?;
            }
            Request::Close => {
                self.with(id, |connection| connection.machine.close(End::Closed));
            }
            Request::Notify(message) => {
                let message = self.python_message(py, &message)?;
                self.message_received(py, id, &message);
            }
            Request::Watch | Request::Unwatch => {}
        }
        self.settle(py, id);
        Ok(())
    }

    fn python_message<'py>(&self, py: Python<'py>, message: &Parcel) -> Result<Bound<'py, PyAny>, Unmet> {
        let object = message.open(|term| self.python.carriers.to_python(py, term).map(Bound::unbind));
        object.map(|object| object.into_bound(py)).map_err(|error| Unmet::Unsupported(error.value(py).to_string()))
    }

    /// Passes a message to a protocol whose connection is open (B9); else it is dropped.
    pub(super) fn message_received(&mut self, py: Python<'_>, id: ConnId, message: &Bound<'_, PyAny>) {
        let open = self.with(id, |connection| connection.machine.is_open()).unwrap_or_default();
        let Some(protocol) = self.protocol(py, id).filter(|_| open) else { return };
        let run = || self.python.names.message_received(&protocol, message);
        let answer = self.context.callback(&protocol, Some(id), "message_received", run);
        self.answered(&protocol, id, "message_received", answer);
        self.settle(py, id);
    }

    pub(super) fn list(&mut self, py: Python<'_>, reply: ReplyTo) {
        // First all are copied: the conversion may run Python.
        let ids = self.context.table.borrow().ids();
        let portraits: Vec<_> = ids.into_iter().filter_map(|id| self.portrait(py, id)).collect();
        reply.send(|env| {
            let maps: Vec<_> = portraits.iter().map(|portrait| self.portrait_term(py, env, portrait)).collect();
            (atoms::ok(), maps).encode(env)
        });
    }

    fn portrait(&self, py: Python<'_>, id: ConnId) -> Option<Portrait> {
        self.with(id, |connection| Portrait {
            fd: connection.descriptor.number(),
            serial: connection.descriptor.serial(),
            protocol: connection.protocol.clone_ref(py),
            state: match connection.machine.mode() {
                Some(Mode::Read) => atoms::read(),
                Some(Mode::Write) => atoms::write(),
                Some(Mode::Async) => atoms::r#async(),
                None => atoms::closing(),
            },
            waiting: connection.machine.waiting_bytes(),
            traffic: connection.traffic,
            monitors: connection.watchers.len(),
        })
    }

    fn portrait_term<'a>(&self, py: Python<'_>, env: Env<'a>, portrait: &Portrait) -> Term<'a> {
        let protocol = portrait.protocol.bind(py);
        let info = protocol::client_info(protocol).and_then(|info| self.python.carriers.to_term(env, &info).ok());
        let pairs = [
            (atoms::fd(), portrait.fd.encode(env)),
            (atoms::connection(), (portrait.fd, self.context.mailbox.serial, portrait.serial).encode(env)),
            (atoms::client_info(), info.unwrap_or_else(|| atoms::undefined().encode(env))),
            (atoms::class(), class_name(&protocol.get_type()).encode(env)),
            (atoms::state(), portrait.state.encode(env)),
            (atoms::unread(), portrait.waiting.0.encode(env)),
            (atoms::unsent(), portrait.waiting.1.encode(env)),
            (atoms::received(), portrait.traffic.received.encode(env)),
            (atoms::sent(), portrait.traffic.sent.encode(env)),
            (atoms::monitors(), portrait.monitors.encode(env)),
        ];
        Term::map_from_pairs(env, &pairs).unwrap_or_else(|_| rustler::types::map::map_new(env))
    }
}

fn say_down(watcher: ReplyTo, fd: i32, reason: Atom) {
    watcher.send(|env| (atoms::down(), fd, reason).encode(env));
}

/// Tells those who watch a connection why it has ended.
pub(super) fn tell_watchers(connection: &mut Connection) {
    if connection.watchers.is_empty() {
        return;
    }
    let reason = match connection.machine.end() {
        End::Closed => atoms::closed(),
        End::PeerClosed => atoms::peer_closed(),
        End::Reset => atoms::reset(),
        End::Idle => atoms::idle(),
        End::Stalled => atoms::stalled(),
        End::Exception => atoms::exception(),
        End::Stopped => atoms::stopped(),
        End::Killed => atoms::killed(),
    };
    for watcher in connection.watchers.drain(..) {
        say_down(watcher, connection.descriptor.number(), reason);
    }
}

impl Unmet {
    fn term<'a>(&self, env: Env<'a>, name: Name) -> Term<'a> {
        match self {
            Unmet::NoConnection => (atoms::no_connection(), name.fd).encode(env),
            Unmet::NoRoom(bytes) => (atoms::no_room(), bytes).encode(env),
            Unmet::NoDestination => (atoms::no_destination(), name.fd).encode(env),
            Unmet::Unsupported(why) => (atoms::unsupported_term(), why).encode(env),
        }
    }
}
