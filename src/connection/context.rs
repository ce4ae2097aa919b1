//! What a reactor thread and the Python code that it calls share: the connections and what protocols may do to them.
//!
//! Lives on the reactor thread only, found by [`current`]. Python code re-enters here from inside callbacks, so nothing
//! is borrowed while Python runs, and no Python object is dropped while anything is borrowed.

use crate::base::config::{GIVEN_BYTES_MIN, UNAWARE_CLASSES_MAX};
use crate::base::gil;
use crate::base::limits::Limits;
use crate::base::token::ConnId;
use crate::beam::reply::{OwnedTerm, ReplyTo};
use crate::connection::callbacks::slow_notice;
use crate::connection::machine::{End, Machine};
use crate::connection::outbox::{Outbox, Spares, datagram_cost};
use crate::connection::table::Table;
use crate::connection::traffic::{Pulse, Traffic};
use crate::driver::address::Address;
use crate::driver::descriptor::{self, Descriptor, Served};
use crate::mail::command::Name;
use crate::mail::mailbox::Mailbox;
use crate::mail::notice::Notice;
use crate::mail::place::Place;
use crate::python::addresses;
use crate::python::bytes_like;
use crate::python::instance;
use crate::python::reactor_buffer;
use pyo3::exceptions::{PyRuntimeError, PyTypeError, PyValueError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyByteArrayMethods, PyBytes, PyType};
use rustler::{Encoder, Env, Term};
use std::cell::{Cell, RefCell};
use std::collections::{HashSet, VecDeque};
use std::ffi::c_int;
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

impl Inbound {
    /// What it counts for against the limit of the inbox.
    pub fn cost(&self) -> usize {
        // SAFETY: `data` is a `bytes`; nothing but its header is looked at.
        let len = unsafe { ffi::Py_SIZE(self.data.as_ptr()) } as usize;
        if self.from.is_some() { datagram_cost(len) } else { len }
    }
}

/// What a datagram socket has besides a connection.
pub struct Datagrams {
    /// It has one peer.
    pub connected: bool,
    /// Its addresses are IPv6.
    pub v6: bool,
    /// The protocol defines `datagram_received`.
    pub takes_addresses: bool,
    /// The sender of the last datagram that was delivered: `write` answers it.
    pub last_from: Option<Address>,
}

/// One connection.
pub struct Connection {
    /// Its state.
    pub machine: Machine,
    /// Its descriptor.
    pub descriptor: Descriptor,
    /// The protocol that serves it, a native `Protocol`.
    pub protocol: Py<PyAny>,
    /// What arrived and the protocol has not seen, oldest first.
    pub inbox: VecDeque<Inbound>,
    /// What a datagram socket has besides.
    pub datagrams: Option<Box<Datagrams>>,
    /// Accepted bytes that are not sent yet.
    pub outbox: Outbox,
    /// It waits in [`Context::due`].
    pub is_due: bool,
    /// Whether `write_ready` is the base class's, which runs without Python.
    pub native_write_ready: bool,
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
    /// Its place among `max_connections`.
    pub _place: Place,
}

impl Connection {
    /// A connection that has just begun.
    pub fn new(machine: Machine, descriptor: Descriptor, protocol: Py<PyAny>, place: Place) -> Self {
        Connection {
            machine,
            descriptor,
            protocol,
            inbox: VecDeque::new(),
            datagrams: None,
            outbox: Outbox::default(),
            is_due: false,
            native_write_ready: false,
            pulse: Pulse::new(),
            rests: true,
            lingers_until: None,
            traffic: Traffic::default(),
            monitors: Vec::new(),
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
    /// Memory for copies of output.
    pub spares: RefCell<Spares>,
    /// Connections whose machine is to be asked, in the next turn, what follows. Each is here once.
    pub due: RefCell<Vec<ConnId>>,
    /// The connection whose callback runs: its machine is asked afterwards anyway.
    pub calling: Cell<Option<ConnId>>,
    /// Contexts that wait for what this one does just now.
    pub callers: RefCell<Option<OwnedTerm>>,
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

fn reentered<E>(_: E) -> PyErr {
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
            spares: RefCell::default(),
            due: RefCell::default(),
            calling: Cell::new(None),
            callers: RefCell::default(),
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
        // SAFETY: attached; pointers are taken of objects that `data` keeps alive, and of immutable ones only kept
        // together with a reference.
        unsafe {
            let object = data.as_ptr();
            if ffi::PyBytes_Check(object) != 0 {
                let start = ffi::PyBytes_AS_STRING(object).cast::<u8>();
                let len = ffi::Py_SIZE(object) as usize;
                return self.accept(id, std::slice::from_raw_parts(start, len), |outbox, taken| {
                    outbox.push_object(data.clone().unbind(), start, taken);
                });
            }
        }
        bytes_like::with_bytes(data, |bytes| {
            self.accept(id, bytes, |outbox, taken| outbox.push_copy(&bytes[..taken], &mut self.spares.borrow_mut()))
        })
    }

    /// `Protocol.sendto`: queues a datagram, all of it or nothing, and answers how many bytes were taken.
    ///
    /// # Errors
    /// `TypeError`: not a bytes-like object, not an address, or not a datagram socket.
    pub fn send_to(&self, id: ConnId, data: &Bound<'_, PyAny>, to: &Bound<'_, PyAny>) -> PyResult<usize> {
        let family = {
            let mut table = self.table.try_borrow_mut().map_err(reentered)?;
            let Some(connection) = table.get(id) else { return Ok(0) };
            connection.datagrams.as_ref().map(|datagrams| datagrams.v6)
        };
        let v6 = family.ok_or_else(|| PyTypeError::new_err("sendto() is for datagram sockets; use write()"))?;
        let to = if to.is_none() { None } else { Some(addresses::from_python(to, v6)?) };
        bytes_like::with_bytes(data, |bytes| {
            let mut table = self.table.try_borrow_mut().map_err(reentered)?;
            let Some(connection) = table.get(id) else { return Ok(0) };
            let taken = self.queue_datagram(connection, bytes, to)?;
            drop(table);
            self.touch(id);
            Ok(taken)
        })
    }

    fn queue_datagram(&self, connection: &mut Connection, bytes: &[u8], to: Option<Address>) -> PyResult<usize> {
        let Some(datagrams) = &connection.datagrams else { return Ok(0) };
        let to = if datagrams.connected { to } else { to.or(datagrams.last_from) };
        if to.is_none() && !datagrams.connected {
            return Err(PyValueError::new_err(
                "this socket is not connected and nothing has arrived: name a destination with sendto(data, addr)",
            ));
        }
        let cost = datagram_cost(bytes.len());
        // One that is larger than the mark goes when nothing else waits: it must be able to leave at all.
        let fits = cost <= connection.machine.room(&self.limits) || !connection.machine.has_output();
        let taken = if fits && connection.machine.is_open() { cost } else { 0 };
        connection.machine.wrote(cost, taken);
        if taken == 0 {
            return Ok(0);
        }
        connection.outbox.push_datagram(bytes, to, &mut self.spares.borrow_mut());
        Ok(bytes.len())
    }

    fn accept(&self, id: ConnId, bytes: &[u8], push: impl FnOnce(&mut Outbox, usize)) -> PyResult<usize> {
        let len = bytes.len();
        let mut table = self.table.try_borrow_mut().map_err(reentered)?;
        let Some(connection) = table.get(id).filter(|connection| connection.machine.is_open()) else { return Ok(0) };
        let taken = if connection.datagrams.is_some() {
            self.queue_datagram(connection, bytes, None)?
        } else {
            let taken = len.min(connection.machine.room(&self.limits));
            connection.machine.wrote(len, taken);
            if taken > 0 {
                push(&mut connection.outbox, taken);
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

    /// The base class's `write_ready`: queues what there is room for of the protocol's `write_buffer`, and answers whether
    /// that emptied it. A large one that nobody else can see is sent from where it is, and the protocol gets a new one.
    ///
    /// # Errors
    /// `TypeError`: it is no bytearray. `BufferError`: somebody holds a view of it.
    pub fn drain(&self, id: ConnId, protocol: &Bound<'_, PyAny>) -> PyResult<bool> {
        let buffer = instance::write_buffer(protocol)?;
        let object = buffer.as_ptr();
        let len = buffer.len();
        if len == 0 {
            return Ok(true);
        }
        // Two references, the protocol's and ours: no other code can see it, nor a view of it, which would have a third.
        // SAFETY: attached.
        let alone = unsafe { ffi::PyByteArray_CheckExact(object) == 1 && ffi::Py_REFCNT(object) == 2 };
        let mut fresh = match alone && len >= GIVEN_BYTES_MIN {
            true => Some(instance::new_write_buffer(buffer.py())?),
            false => None,
        };
        let mut given = false;
        // SAFETY: attached, and nobody changes the bytearray in between.
        let bytes = unsafe { std::slice::from_raw_parts(ffi::PyByteArray_AsString(object).cast::<u8>(), len) };
        let taken = self.accept(id, bytes, |outbox, taken| match fresh.take_if(|_| taken == len) {
            Some(fresh) => {
                // I2: from here on the outbox alone has it, so nobody changes it.
                instance::set_write_buffer(protocol, fresh);
                outbox.push_object(buffer.clone().into_any().unbind(), bytes.as_ptr(), len);
                given = true;
            }
            None => outbox.push_copy(&bytes[..taken], &mut self.spares.borrow_mut()),
        })?;
        // SAFETY: attached; a bytearray.
        let cut = unsafe {
            match taken {
                0 => 0,
                _ if given => 0,
                _ if taken == len => ffi::PyByteArray_Resize(object, 0),
                _ => ffi::PySequence_DelSlice(object, 0, taken as ffi::Py_ssize_t),
            }
        };
        if cut < 0 { Err(PyErr::fetch(buffer.py())) } else { Ok(taken == len) }
    }

    /// `Protocol.read`: up to `size` bytes that arrived and were not delivered; empty at the end, `None` if none are
    /// there now.
    ///
    /// # Errors
    /// No memory.
    pub fn read<'py>(&self, py: Python<'py>, id: ConnId, size: usize) -> PyResult<Option<Bound<'py, PyBytes>>> {
        let mut parts: Vec<Inbound> = Vec::new();
        let mut cost = 0;
        let at_eof;
        {
            let mut table = self.table.try_borrow_mut().map_err(reentered)?;
            let Some(connection) = table.get(id).filter(|connection| connection.machine.is_open()) else {
                drop(table);
                return Ok(Some(PyBytes::new(py, b"")));
            };
            while cost < size
                && let Some(part) = connection.inbox.pop_front()
            {
                cost += part.cost();
                let is_datagram = part.from.is_some();
                parts.push(part);
                if is_datagram {
                    break;
                }
            }
            connection.machine.delivered(cost);
            at_eof = connection.machine.is_at_eof();
        }
        let Some(last) = parts.last() else {
            return Ok(at_eof.then(|| PyBytes::new(py, b"")));
        };
        let is_datagram = last.from.is_some();
        let mut joined = Vec::with_capacity(cost);
        for part in &parts {
            joined.extend_from_slice(part.data.bind(py).cast::<PyBytes>()?.as_bytes());
        }
        if joined.len() > size && !is_datagram {
            let data = reactor_buffer::copied(py, self.buffer_type.bind(py), &joined[size..])?.unbind();
            if let Some(connection) = self.table.borrow_mut().get(id) {
                connection.machine.undelivered(joined.len() - size);
                connection.inbox.push_front(Inbound { data, from: None });
            }
        }
        self.touch(id);
        Ok(Some(PyBytes::new(py, &joined[..joined.len().min(size)])))
    }

    /// Runs a callback of `protocol`, which serves the connection `id`, or serves none any more.
    #[inline]
    pub fn callback<R>(
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

    /// The protocol that this context serves on `fd`.
    pub fn protocol<'py>(&self, py: Python<'py>, fd: c_int) -> Option<Bound<'py, PyAny>> {
        let id = self.id_of(fd)?;
        let mut table = self.table.try_borrow_mut().ok()?;
        table.get(id).map(|connection| connection.protocol.clone_ref(py).into_bound(py))
    }

    /// Starts the graceful end of the connection on `fd`. Answers whether there is one in this context.
    pub fn close(&self, fd: c_int) -> bool {
        let Some(id) = self.id_of(fd) else { return false };
        let Ok(mut table) = self.table.try_borrow_mut() else { return false };
        let Some(connection) = table.get(id) else { return false };
        connection.machine.close(End::Closed);
        drop(table);
        self.touch(id);
        true
    }

    /// `signal_write_ready` on this context's own thread: as from any other, but nothing has to be queued.
    pub fn signal(&self, id: ConnId) {
        let Ok(mut table) = self.table.try_borrow_mut() else { return };
        let Some(connection) = table.get(id) else { return };
        if self.calling.get() == Some(id) {
            // The callback has not answered yet that it will wait.
            return connection.machine.signalled_early();
        }
        connection.machine.signalled();
        drop(table);
        self.touch(id);
    }

    /// The connection that `name` means, if it is one of this context.
    pub fn named(&self, name: Name) -> Option<ConnId> {
        self.own(name.find()?)
    }

    /// Who waits while this context waits: itself, and whoever waits for what it does just now.
    pub fn callers<'a>(&self, env: Env<'a>) -> Vec<Term<'a>> {
        let own = self.mailbox.owner.encode(env);
        let waiting = self.callers.borrow();
        let others = waiting.as_ref().map(|callers| callers.open(|term| term.in_env(env)));
        let others = others.and_then(|list| list.decode::<Vec<Term<'a>>>().ok()).unwrap_or_default();
        std::iter::once(own).chain(others).collect()
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

    fn id_of(&self, fd: c_int) -> Option<ConnId> {
        self.own(descriptor::find(fd)?)
    }

    fn own(&self, served: Served) -> Option<ConnId> {
        Arc::ptr_eq(&served.mailbox, &self.mailbox).then_some(served.id)
    }

    /// Has the connection's machine asked in the next turn (or, in a callback of its own, after that).
    pub fn touch(&self, id: ConnId) {
        if self.calling.get() == Some(id) {
            return;
        }
        let Ok(mut table) = self.table.try_borrow_mut() else { return };
        if let Some(connection) = table.get(id)
            && !std::mem::replace(&mut connection.is_due, true)
        {
            self.due.borrow_mut().push(id);
        }
    }
}
