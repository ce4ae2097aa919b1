//! What others want of connections: Erlang sends, closes, passes messages on and asks which there are; protocols pass
//! messages to their neighbours. All of it happens between callbacks.

#![forbid(unsafe_code)]

use super::Reactor;
use crate::base::atoms;
use crate::base::config::MONITORS_MAX;
use crate::base::token::ConnId;
use crate::beam::reply::{OwnedTerm, ReplyTo};
use crate::connection::context::{Connection, Inbound};
use crate::connection::directory::Entry;
use crate::connection::machine::{End, Mode, Task};
use crate::connection::traffic::Traffic;
use crate::mail::command::{Name, Request};
use crate::module::transport_layout;
use crate::python::glue::class_name;
use crate::python::instance;
use pyo3::prelude::*;
use pyo3::types::PyByteArrayMethods;
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
struct ConnectionInfo {
    fd: i32,
    serial: u64,
    /// Who serves it.
    protocol: Py<PyAny>,
    is_transport: bool,
    state: Atom,
    peer_closed: bool,
    unread: usize,
    unsent: usize,
    traffic: Traffic,
    monitors: usize,
    operations: Vec<&'static str>,
    machine: Option<String>,
}

impl Reactor {
    pub(super) fn ask(&mut self, py: Python<'_>, name: Name, request: Request, reply: ReplyTo) {
        let id = self.context.named(name);
        if let Request::Monitor = request {
            let Some(id) = id else { return say_down(reply, name.fd, atoms::noconnection()) };
            let watched = self.with(id, |connection| connection.monitors.len()).unwrap_or_default();
            if watched >= MONITORS_MAX {
                return say_down(reply, name.fd, atoms::too_many_monitors());
            }
            reply.send_first(|env| atoms::watching().encode(env));
            self.with(id, |connection| connection.monitors.push(reply));
            return;
        }
        if let (Request::Demonitor, Some(id)) = (&request, id) {
            self.with(id, |connection| connection.monitors.retain(|monitor| !monitor.is_of(&reply)));
            return;
        }
        let id = id.filter(|id| self.with(*id, |connection| connection.machine.link.is_open()).unwrap_or_default());
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
                self.with(id, |connection| connection.machine.link.close(End::Closed));
            }
            Request::Notify(message) => {
                let message = self.python_message(py, &message)?;
                self.message_received(py, id, &message);
            }
            Request::Monitor | Request::Demonitor => {}
        }
        self.settle(py, id);
        Ok(())
    }

    fn python_message<'py>(&self, py: Python<'py>, message: &OwnedTerm) -> Result<Bound<'py, PyAny>, Unmet> {
        let object = message.open(|term| self.python.converter.to_python(py, term).map(Bound::unbind));
        object.map(|object| object.into_bound(py)).map_err(|error| Unmet::Unsupported(error.value(py).to_string()))
    }

    /// Passes a message to a protocol whose connection is open (B9); else it is dropped.
    pub(super) fn message_received(&mut self, py: Python<'_>, id: ConnId, message: &Bound<'_, PyAny>) {
        let open = self.with(id, |connection| connection.machine.link.is_open()).unwrap_or_default();
        let Some(protocol) = self.protocol(py, id).filter(|_| open) else { return };
        let run = || self.python.names.message_received(&protocol, message);
        let answer = self.context.callback(&protocol, Some(id), "message_received", run);
        let answer = self.permitted(id, Task::Message, answer);
        self.answered(&protocol, id, "message_received", answer);
        self.settle(py, id);
    }

    pub(super) fn list(&mut self, py: Python<'_>, whole: bool, reply: ReplyTo) {
        // First all are copied: the conversion may run Python.
        let ids = self.context.table.borrow().ids();
        let connections: Vec<_> = ids.into_iter().filter_map(|id| self.info(py, whole, id)).collect();
        reply.send(|env| {
            let maps: Vec<_> = connections.iter().map(|info| self.info_term(py, env, info)).collect();
            (atoms::ok(), maps).encode(env)
        });
    }

    fn info(&self, py: Python<'_>, whole: bool, id: ConnId) -> Option<ConnectionInfo> {
        self.with(id, |connection| {
            connection.served(py).map(|protocol| ConnectionInfo {
                fd: connection.descriptor.number(),
                serial: connection.entry.as_ref().map(Entry::serial).unwrap_or_default(),
                protocol: protocol.unbind(),
                is_transport: connection.is_transport,
                state: match connection.machine.mode() {
                    Some(Mode::Read) => atoms::read(),
                    Some(Mode::Write) => atoms::write(),
                    Some(Mode::Async | Mode::Held) => atoms::r#async(),
                    None => atoms::closing(),
                },
                peer_closed: connection.machine.link.peer_closed(),
                unread: connection.inbox.iter().map(Inbound::len).sum(),
                unsent: match connection.datagrams {
                    Some(_) => connection.outbox.datagram_bytes(),
                    None => connection.machine.link.queued_bytes(),
                },
                traffic: connection.traffic,
                monitors: connection.monitors.len(),
                operations: connection.machine.link.operations().collect(),
                machine: whole.then(|| format!("{:?}", connection.machine)),
            })
        })
        .flatten()
    }

    fn info_term<'a>(&self, py: Python<'_>, env: Env<'a>, info: &ConnectionInfo) -> Term<'a> {
        let served = info.protocol.bind(py);
        let of_ours = (!info.is_transport).then_some(served);
        let theirs = if info.is_transport { transport_layout::field(served, |it| it.protocol) } else { None };
        let class = class_name(&theirs.as_ref().unwrap_or(served).get_type());
        let said =
            of_ours.and_then(instance::client_info).and_then(|said| self.python.converter.to_term(env, &said).ok());
        let mut pairs = vec![
            (atoms::fd(), info.fd.encode(env)),
            (atoms::connection(), (info.fd, self.context.mailbox.serial, info.serial).encode(env)),
            (atoms::client_info(), said.unwrap_or_else(|| atoms::undefined().encode(env))),
            (atoms::class(), class.encode(env)),
            (atoms::state(), info.state.encode(env)),
            (atoms::peer_closed(), info.peer_closed.encode(env)),
            (atoms::unread(), info.unread.encode(env)),
            (atoms::unsent(), info.unsent.encode(env)),
            (atoms::received(), info.traffic.received.encode(env)),
            (atoms::sent(), info.traffic.sent.encode(env)),
            (atoms::monitors(), info.monitors.encode(env)),
        ];
        if let Some(machine) = &info.machine {
            pairs.push((atoms::operations(), info.operations.encode(env)));
            pairs.push((atoms::machine(), machine.encode(env)));
        }
        // Whoever has set it to something else hears of that in write_ready.
        let buffer = of_ours.and_then(|protocol| instance::write_buffer(protocol).ok());
        pairs.extend(buffer.map(|buffer| (atoms::write_buffer(), buffer.len().encode(env))));
        Term::map_from_pairs(env, &pairs).unwrap_or_else(|_| rustler::types::map::map_new(env))
    }
}

fn say_down(monitor: ReplyTo, fd: i32, reason: Atom) {
    monitor.send(|env| (atoms::down(), fd, reason).encode(env));
}

/// Tells those who watch a connection why it has ended.
pub(super) fn tell_monitors(connection: &mut Connection) {
    if connection.monitors.is_empty() {
        return;
    }
    let reason = match connection.machine.link.end() {
        End::Closed | End::Abandoned => atoms::closed(),
        End::PeerClosed => atoms::peer_closed(),
        End::Reset(_) => atoms::reset(),
        End::Idle => atoms::idle(),
        End::Stalled => atoms::stalled(),
        End::Exception => atoms::exception(),
        End::Stopped => atoms::stopped(),
        End::Killed => atoms::killed(),
    };
    for monitor in connection.monitors.drain(..) {
        say_down(monitor, connection.descriptor.number(), reason);
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
