//! What a reactor thread and the Python code that it calls share: the connections and what protocols may do to them.
//!
//! Lives on the reactor thread only, found by [`current`]. Python code re-enters here from inside callbacks, so nothing
//! is borrowed while Python runs, and no Python object is dropped while anything is borrowed.

use crate::base::config::{ARRIVAL_BYTES, UNAWARE_CLASSES_MAX};
use crate::base::gil;
use crate::base::limits::Limits;
use crate::base::numbers::NumberMap;
use crate::base::token::ConnId;
use crate::beam::reply::{OwnedTerm, ReplyTo};
use crate::connection::callbacks::slow_notice;
use crate::connection::directory::{self, Entry, Served};
use crate::connection::intake::Intake;
use crate::connection::machine::Machine;
use crate::connection::outbox::{Outbox, Spares, datagram_cost};
use crate::connection::table::Table;
use crate::connection::tasks::{Asked, Ended, RunningTasks};
use crate::connection::traffic::{Pulse, Traffic};
use crate::driver::address::Address;
use crate::driver::descriptor::Descriptor;
use crate::driver::shared::Shared;
use crate::mail::command::Name;
use crate::mail::inbox::Signal;
use crate::mail::mailbox::Mailbox;
use crate::mail::notice::Notice;
use crate::mail::place::Place;
use crate::python::bytes_like;
use crate::python::instance;
use crate::python::reactor_buffer;
use pyo3::exceptions::PyRuntimeError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyType};
use rustler::{Encoder, Env, Term};
use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet, VecDeque};
use std::os::fd::RawFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

/// Something that arrived.
pub struct Inbound {
    /// A `ReactorBuffer`.
    pub data: Py<PyAny>,
    /// Who sent it, if it is a datagram.
    pub from: Option<Box<Address>>,
}

/// What `len` bytes that have arrived count for against the limit of the inbox: as much as they keep in memory, for they
/// may come one by one.
pub fn arrival_cost(len: usize, is_datagram: bool) -> usize {
    if is_datagram { datagram_cost(len) } else { len + ARRIVAL_BYTES }
}

impl Inbound {
    /// How long it is.
    pub fn len(&self) -> usize {
        // SAFETY: I7, by the token; `data` is a `bytes`; nothing but its header is looked at.
        unsafe { ffi::Py_SIZE(self.data.as_ptr()) as usize }
    }

    /// What it counts for against the limit of the inbox.
    pub fn cost(&self) -> usize {
        arrival_cost(self.len(), self.from.is_some())
    }
}

/// What a datagram socket has besides a connection.
pub struct Datagrams {
    /// It has one peer.
    pub connected: bool,
    /// Its addresses are IPv6.
    pub v6: bool,
    /// The sender of the last datagram that was delivered: `write` answers it.
    pub last_from: Option<Address>,
}

/// One connection.
pub struct Connection {
    /// Its state.
    pub machine: Machine,
    /// By which others find it. It goes before the number does.
    pub entry: Option<Entry>,
    /// Its descriptor.
    pub descriptor: Descriptor,
    /// The protocol that serves it, a native `Protocol`, or the transport that it is of.
    pub protocol: Py<PyAny>,
    /// It is a transport's.
    pub is_transport: bool,
    /// `protocol` is a weak reference to its transport: see [`Connection::loosen`].
    pub is_loose: bool,
    /// What arrived and the protocol has not seen, oldest first.
    pub inbox: VecDeque<Inbound>,
    /// What a datagram socket has besides.
    pub datagrams: Option<Box<Datagrams>>,
    /// Accepted bytes that are not sent yet.
    pub outbox: Outbox,
    /// How much arrives at a time.
    pub intake: Intake,
    /// The turn in which it last was given data.
    pub turn: u64,
    /// It waits in [`Context::due`].
    pub is_due: bool,
    /// When it was last looked at and something had moved, and what there was then.
    pub pulse: Pulse,
    /// It has been looked at since it moved: the next movement has it looked at again.
    pub rests: bool,
    /// After our FIN: how long input is discarded.
    pub lingers_until: Option<Instant>,
    /// What it has moved.
    pub traffic: Traffic,
    /// Who is told of its end.
    pub monitors: Vec<ReplyTo>,
    /// Its tasks that run.
    pub tasks: RunningTasks,
    /// What `call_later` has answered to its protocol: handles that are run no more once it has ended.
    pub timers: Vec<Py<PyAny>>,
    /// Its place among `max_connections`, if it has to have one.
    pub _place: Option<Place>,
}

impl Connection {
    /// A connection that has just begun.
    pub fn new(machine: Machine, descriptor: Descriptor, protocol: Py<PyAny>, place: Option<Place>) -> Self {
        Connection {
            machine,
            entry: None,
            descriptor,
            protocol,
            is_transport: false,
            is_loose: false,
            inbox: VecDeque::new(),
            datagrams: None,
            outbox: Outbox::default(),
            intake: Intake::default(),
            turn: 0,
            is_due: false,
            pulse: Pulse::new(),
            rests: true,
            lingers_until: None,
            traffic: Traffic::default(),
            monitors: Vec::new(),
            tasks: RunningTasks::default(),
            timers: Vec::new(),
            _place: place,
        }
    }
}

/// The part of a context that its thread's Python code may reach.
pub struct Context {
    /// Queues and figures.
    pub mailbox: Arc<Mailbox>,
    /// Limits of each connection.
    pub limits: Limits,
    /// The connections.
    pub table: RefCell<Table<Connection>>,
    /// The protocol factory.
    pub factory: RefCell<Option<Py<PyAny>>>,
    /// Its event loop, once asyncio has been imported.
    pub event_loop: RefCell<Option<Py<PyAny>>>,
    /// Python code runs that Erlang asked for: no loop is the running one.
    pub in_job: Cell<bool>,
    /// Memory for copies of output.
    pub spares: RefCell<Spares>,
    /// Connections whose machine is to be asked, in the next turn, what follows. Each is here once.
    pub due: RefCell<Vec<ConnId>>,
    /// What its reactor receives and sends by, while it is driven.
    pub driver: RefCell<Option<Shared>>,
    /// Its reactor ends: connections that begin now, nobody would serve or close.
    pub is_over: Cell<bool>,
    /// A transport was closed, or written to in vain: its `connection_lost` comes before the next batch of what its loop has ready.
    pub closes: Cell<bool>,
    /// The connection whose callback runs: its machine is asked afterwards anyway.
    pub calling: Cell<Option<ConnId>>,
    /// Contexts that wait for what this one does just now.
    pub callers: RefCell<Option<OwnedTerm>>,
    /// And for its tasks, by the requests that these are for.
    pub tasks_callers: RefCell<HashMap<u64, OwnedTerm>>,
    /// Calls of functions of Erlang that tasks wait for, by their numbers.
    pub asked: RefCell<HashMap<u64, Asked>>,
    /// The connections of transports by the numbers of their sockets.
    pub transports: RefCell<NumberMap<RawFd, ConnId>>,
    /// Tasks that have ended, and what to do of that.
    pub ended: RefCell<VecDeque<Ended>>,
    /// Classes that were said to define no `message_received`.
    pub unaware: RefCell<HashSet<String>>,
    /// `_py_reactor.ReactorBuffer` of this interpreter.
    pub buffer_type: Py<PyType>,
}

thread_local! {
    /// With the interpreter that it lives in.
    static CURRENT: RefCell<Option<(*mut ffi::PyInterpreterState, Rc<Context>)>> = const { RefCell::new(None) };
}

/// The context that Python code which runs now is in: the calling thread must be a reactor thread, and in the context's
/// own interpreter (I7), not in one that Python code has made.
pub fn current(py: Python<'_>) -> Option<Rc<Context>> {
    let here = gil::current(py);
    CURRENT.with_borrow(|current| {
        current.as_ref().filter(|(home, _)| *home == here).map(|(_, context)| Rc::clone(context))
    })
}

/// The context whose thread this is, whatever interpreter the thread is in just now.
pub fn of_thread() -> Option<Rc<Context>> {
    CURRENT.with_borrow(|current| current.as_ref().map(|(_, context)| Rc::clone(context)))
}

/// Sets the context of the calling thread, which is in the context's interpreter.
pub fn set_current(py: Python<'_>, context: Option<Rc<Context>>) {
    let old = CURRENT.replace(context.map(|context| (gil::current(py), context)));
    drop(old);
}

pub(super) fn reentered<E>(_: E) -> PyErr {
    PyRuntimeError::new_err("this connection cannot be used from within a destructor that runs just now")
}

impl Context {
    /// A context that serves nobody yet.
    pub fn new(mailbox: Arc<Mailbox>, limits: Limits, buffer_type: Py<PyType>) -> Self {
        Context {
            mailbox,
            limits,
            table: RefCell::default(),
            factory: RefCell::new(None),
            event_loop: RefCell::new(None),
            in_job: Cell::new(false),
            spares: RefCell::default(),
            due: RefCell::default(),
            driver: RefCell::default(),
            is_over: Cell::new(false),
            closes: Cell::new(false),
            calling: Cell::new(None),
            callers: RefCell::default(),
            tasks_callers: RefCell::default(),
            asked: RefCell::default(),
            transports: RefCell::default(),
            ended: RefCell::default(),
            unaware: RefCell::default(),
            buffer_type,
        }
    }

    /// `Protocol.write`: queues what there is room for, and answers how much that was. On a datagram socket, all or
    /// nothing, to the peer or the last sender.
    ///
    /// # Errors
    /// `TypeError`: not a bytes-like object. `ValueError`: no destination.
    pub fn write(&self, id: ConnId, data: &Bound<'_, PyAny>) -> PyResult<usize> {
        // SAFETY: I7, by the token; pointers are taken of objects that `data` keeps alive, and of immutable ones only
        // kept together with a reference.
        unsafe {
            let object = data.as_ptr();
            if ffi::PyBytes_Check(object) != 0 {
                let start = ffi::PyBytes_AS_STRING(object).cast::<u8>();
                let len = ffi::Py_SIZE(object) as usize;
                let bytes = std::slice::from_raw_parts(start, len);
                return self.accept(id, bytes, true, |Connection { outbox, .. }, taken| {
                    if outbox.joins(taken) {
                        outbox.push_copy(&bytes[..taken], &mut self.spares.borrow_mut());
                    } else {
                        outbox.push_object(data.clone().unbind(), start, taken);
                    }
                });
            }
        }
        bytes_like::with_bytes(data, |bytes| {
            let push = |connection: &mut Connection, taken: usize| {
                connection.outbox.push_copy(&bytes[..taken], &mut self.spares.borrow_mut());
            };
            self.accept(id, bytes, false, push)
        })
    }

    /// Queues what there is room for of `bytes`, by `push`, and answers how much that was.
    ///
    /// # Errors
    /// `ValueError`: a datagram without a destination.
    pub fn accept(
        &self,
        id: ConnId,
        bytes: &[u8],
        immutable: bool,
        push: impl FnOnce(&mut Connection, usize),
    ) -> PyResult<usize> {
        let mut table = self.table.try_borrow_mut().map_err(reentered)?;
        let Some(connection) = table.get(id).filter(|connection| connection.machine.link.is_open()) else {
            return Ok(0);
        };
        let taken = if connection.datagrams.is_some() {
            self.queue_datagram(connection, bytes, None)?
        } else {
            let taken = connection.machine.offered(bytes.len(), immutable, &self.limits);
            if taken > 0 {
                push(connection, taken);
            }
            taken
        };
        drop(table);
        self.touch(id);
        Ok(taken)
    }

    /// As [`Context::write`] of bytes from elsewhere, but all of them or nothing.
    ///
    /// # Errors
    /// How many bytes there is room for; `None` on a datagram socket that has no destination.
    pub fn write_all(&self, id: ConnId, bytes: &[u8]) -> Result<(), Option<usize>> {
        let mut table = self.table.borrow_mut();
        let Some(connection) = table.get(id) else { return Err(Some(0)) };
        let room = connection.machine.room(&self.limits);
        if connection.datagrams.is_some() {
            return match self.queue_datagram(connection, bytes, None) {
                Ok(taken) if taken == bytes.len() => Ok(()),
                Ok(_) => Err(Some(room)),
                Err(_) => Err(None),
            };
        }
        // What is refused is not `blocked`: the protocol has offered nothing, and nothing may be under way to unblock it.
        if bytes.len() > room {
            return Err(Some(room));
        }
        if !bytes.is_empty() {
            connection.machine.wrote(bytes.len(), bytes.len());
            connection.outbox.push_copy(bytes, &mut self.spares.borrow_mut());
        }
        Ok(())
    }

    /// `Protocol.read`: up to `size` bytes that arrived and were not delivered; empty at the end, `None` if none are
    /// there now.
    ///
    /// # Errors
    /// No memory.
    pub fn read<'py>(&self, py: Python<'py>, id: ConnId, size: usize) -> PyResult<Option<Bound<'py, PyBytes>>> {
        let mut parts: Vec<Inbound> = Vec::new();
        let (mut len, mut cost) = (0, 0);
        let at_eof;
        {
            let mut table = self.table.try_borrow_mut().map_err(reentered)?;
            let Some(connection) = table.get(id).filter(|connection| connection.machine.link.is_open()) else {
                drop(table);
                return Ok(Some(PyBytes::new(py, b"")));
            };
            while len < size
                && let Some(part) = connection.inbox.pop_front()
            {
                len += part.len();
                cost += part.cost();
                let is_datagram = part.from.is_some();
                parts.push(part);
                if is_datagram {
                    break;
                }
            }
            connection.machine.link.delivered(cost);
            at_eof = connection.machine.link.is_at_eof();
        }
        let Some(last) = parts.last() else {
            return Ok(at_eof.then(|| PyBytes::new(py, b"")));
        };
        let is_datagram = last.from.is_some();
        let mut joined = Vec::with_capacity(len);
        for part in &parts {
            joined.extend_from_slice(part.data.bind(py).cast::<PyBytes>()?.as_bytes());
        }
        if joined.len() > size && !is_datagram {
            let data = reactor_buffer::copied(py, self.buffer_type.bind(py), &joined[size..])?.unbind();
            if let Some(connection) = self.table.borrow_mut().get(id) {
                let rest = Inbound { data, from: None };
                connection.machine.link.undelivered(rest.cost());
                connection.inbox.push_front(rest);
            }
        }
        self.touch(id);
        Ok(Some(PyBytes::new(py, &joined[..joined.len().min(size)])))
    }

    /// Runs a callback of `protocol`, which serves the connection `id`, or serves none any more, in its connection's variables.
    #[inline]
    pub fn callback<R>(
        &self,
        protocol: &Bound<'_, PyAny>,
        id: Option<ConnId>,
        method: &'static str,
        f: impl FnOnce() -> R,
    ) -> R {
        self.native_callback(protocol, id, method, || instance::within(protocol, f))
    }

    /// The same, where `f` calls no Python code.
    #[inline]
    pub fn native_callback<R>(
        &self,
        protocol: &Bound<'_, PyAny>,
        id: Option<ConnId>,
        method: &'static str,
        f: impl FnOnce() -> R,
    ) -> R {
        self.calling.set(id);
        let (result, slow) = self.mailbox.running.call(protocol.py(), f);
        self.calling.set(None);
        if let Some(took) = slow {
            self.mailbox.notify(slow_notice(protocol, method, took));
        }
        result
    }

    /// Runs `f`, which waits, detached: meanwhile no Python code of this context runs.
    pub fn waiting<R>(&self, py: Python<'_>, f: impl FnOnce() -> R) -> R {
        self.mailbox.pause(py);
        let result = gil::detached(py, f);
        self.mailbox.running.resume();
        result
    }

    /// `signal_write_ready` on this context's own thread: as from any other, but nothing has to be queued.
    pub fn signal(&self, py: Python<'_>, id: ConnId) {
        let Ok(mut table) = self.table.try_borrow_mut() else {
            return self.mailbox.inbox.signal(id, Signal::WriteReady);
        };
        let Some(connection) = table.get(id) else { return };
        if self.calling.get() == Some(id) {
            // The callback has not answered yet that it will wait.
            return connection.machine.signalled_early();
        }
        connection.signalled(py);
        drop(table);
        self.touch(id);
    }

    /// The connection that `name` means, if it is one of this context.
    pub fn named(&self, name: Name) -> Option<ConnId> {
        self.own(directory::find(name)?)
    }

    /// Who waits for what this context asks for: itself, if it `waits` for that, and whoever waits for what it does.
    pub fn callers<'a>(&self, env: Env<'a>, waits: bool) -> Vec<Term<'a>> {
        let own = self.mailbox.owner.encode(env);
        let (now, tasks) = (self.callers.borrow(), self.tasks_callers.borrow());
        let pids = |callers: &OwnedTerm| callers.open(|term| term.in_env(env)).decode::<Vec<Term<'a>>>();
        let others = now.iter().chain(tasks.values()).filter_map(|callers| pids(callers).ok()).flatten();
        waits.then_some(own).into_iter().chain(others).collect()
    }

    /// Says, once for each class, that it does not define `message_received`.
    pub fn say_unaware(&self, class: String) {
        let mut unaware = self.unaware.borrow_mut();
        if unaware.len() >= UNAWARE_CLASSES_MAX || unaware.contains(&class) {
            return;
        }
        let message = format!("{class} does not define message_received(self, message): messages to it are dropped");
        let meta = vec![("class", class.clone()), ("method", "message_received".to_owned())];
        unaware.insert(class);
        self.mailbox.notify(Notice { level: "error", message, meta, fd: None });
    }

    fn own(&self, served: Served) -> Option<ConnId> {
        Arc::ptr_eq(&served.mailbox, &self.mailbox).then_some(served.id)
    }

    /// Has the connection's machine asked in the next turn (or, in a callback of its own, after that).
    #[inline]
    pub fn touch(&self, id: ConnId) {
        if self.calling.get() != Some(id) {
            self.plan(id);
        }
    }

    fn plan(&self, id: ConnId) {
        let Ok(mut table) = self.table.try_borrow_mut() else { return };
        if let Some(connection) = table.get(id)
            && !std::mem::replace(&mut connection.is_due, true)
        {
            self.due.borrow_mut().push(id);
        }
    }
}
