//! What a reactor thread and the Python code that it calls share: the connections and what protocols may do to them.
//!
//! Lives on the reactor thread only, found by [`current`]. Python code re-enters here from inside callbacks, so nothing
//! is borrowed while Python runs, and no Python object is dropped while anything is borrowed.

use crate::descriptors::{self, Descriptor};
use crate::machine::{Limits, Machine};
use crate::mailbox::{Mailbox, Place};
use crate::outbox::Outbox;
use crate::python::reactor_buffer;
use crate::token::{ConnId, GENERATION_MASK};
use pyo3::exceptions::{PyRuntimeError, PyTypeError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use slab::Slab;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::ffi::c_int;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

/// What tells whether a connection is alive, sampled by the sweeps.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Pulse {
    /// When one of the others last changed.
    pub at: Instant,
    /// Bytes received, modulo 2^32.
    pub received: u32,
    /// Bytes whose sends have ended, modulo 2^32.
    pub sent: u32,
    /// Bytes that the kernel holds for the peer: a long send makes progress here first.
    pub in_kernel: i32,
}

impl Pulse {
    /// Of a connection that has just begun.
    pub fn new() -> Self {
        Pulse { at: Instant::now(), received: 0, sent: 0, in_kernel: 0 }
    }
}

/// One connection.
pub struct Connection {
    /// Its state.
    pub machine: Machine,
    /// Its descriptor.
    pub descriptor: Descriptor,
    /// The protocol that serves it, a native `Protocol`.
    pub protocol: Py<PyAny>,
    /// Received buffers that the protocol has not seen, oldest first.
    pub inbox: VecDeque<Py<PyAny>>,
    /// Accepted bytes that are not sent yet.
    pub outbox: Outbox,
    /// Whether `write_ready` is the base class's, which runs without Python.
    pub native_write_ready: bool,
    /// When it was last looked at and something had moved, and what there was then.
    pub pulse: Pulse,
    /// Bytes received and bytes sent, modulo 2^32.
    pub moved: (u32, u32),
    /// Its place among `max_connections`.
    pub _place: Place,
}

/// The connections of a context. A slot's generation changes whenever it is freed (I6).
#[derive(Default)]
pub struct Table {
    slots: Slab<Connection>,
    generations: Vec<u32>,
}

impl Table {
    /// Adds a connection.
    pub fn insert(&mut self, connection: Connection) -> ConnId {
        let index = self.slots.insert(connection);
        if index == self.generations.len() {
            self.generations.push(0);
        }
        ConnId { index: index as u32, generation: self.generations[index] }
    }

    /// The connection that `id` names, unless it is gone.
    #[inline]
    pub fn get(&mut self, id: ConnId) -> Option<&mut Connection> {
        let index = id.index as usize;
        if self.generations.get(index) != Some(&id.generation) {
            return None;
        }
        self.slots.get_mut(index)
    }

    /// Takes a connection out; its name is never valid again.
    pub fn remove(&mut self, id: ConnId) -> Option<Connection> {
        self.get(id)?;
        let index = id.index as usize;
        self.generations[index] = (id.generation + 1) & GENERATION_MASK;
        self.slots.try_remove(index)
    }

    /// The names of all connections.
    pub fn ids(&self) -> Vec<ConnId> {
        let name = |(index, _)| ConnId { index: index as u32, generation: self.generations[index] };
        self.slots.iter().map(name).collect()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }
}

/// The part of a context that its thread's Python code may reach.
pub struct Context {
    /// Never the same for two contexts of a process.
    pub serial: u64,
    /// Queues and figures.
    pub mailbox: Arc<Mailbox>,
    /// Limits of each connection.
    pub limits: Limits,
    /// The connections.
    pub table: RefCell<Table>,
    /// The protocol factory.
    pub factory: RefCell<Option<Py<PyAny>>>,
    /// Connections that Python touched from elsewhere than their own callbacks: their machine is to be asked what follows.
    pub touched: RefCell<Vec<ConnId>>,
    /// The connection whose callback runs: its machine is asked afterwards anyway.
    pub calling: Cell<Option<ConnId>>,
    /// `_py_reactor.ReactorBuffer` of this interpreter.
    pub buffer_type: Py<PyAny>,
}

thread_local! {
    static CURRENT: RefCell<Option<Rc<Context>>> = const { RefCell::new(None) };
}

/// The context of the calling thread, if it is a reactor thread.
pub fn current() -> Option<Rc<Context>> {
    CURRENT.with(|current| current.borrow().clone())
}

/// Sets the context of the calling thread.
pub fn set_current(context: Option<Rc<Context>>) {
    let old = CURRENT.replace(context);
    drop(old);
}

fn reentered<E>(_: E) -> PyErr {
    PyRuntimeError::new_err("this connection cannot be used from within a destructor that runs just now")
}

impl Context {
    /// `Protocol.write`: queues what there is room for, and answers how much that was.
    ///
    /// # Errors
    /// `TypeError`: not a bytes-like object.
    pub fn write(&self, id: ConnId, data: &Bound<'_, PyAny>) -> PyResult<usize> {
        // SAFETY: attached; pointers are taken of objects that `data` keeps alive, and of immutable ones only kept
        // together with a reference.
        unsafe {
            let object = data.as_ptr();
            if ffi::PyBytes_Check(object) != 0 {
                let len = ffi::Py_SIZE(object) as usize;
                return self.accept(id, len, |outbox, taken| {
                    outbox.push_object(data.clone().unbind(), ffi::PyBytes_AS_STRING(object).cast(), taken);
                });
            }
            let mut view = std::mem::zeroed::<ffi::Py_buffer>();
            if ffi::PyObject_GetBuffer(object, &raw mut view, ffi::PyBUF_SIMPLE) < 0 {
                drop(PyErr::take(data.py()));
                let kind = data.get_type();
                return Err(PyTypeError::new_err(format!("write() takes a contiguous bytes-like object, not {kind}")));
            }
            let len = view.len as usize;
            let result = self.accept(id, len, |outbox, taken| {
                if taken > 0 {
                    outbox.push_copy(std::slice::from_raw_parts(view.buf.cast(), taken));
                }
            });
            ffi::PyBuffer_Release(&raw mut view);
            result
        }
    }

    fn accept(&self, id: ConnId, len: usize, push: impl FnOnce(&mut Outbox, usize)) -> PyResult<usize> {
        let mut table = self.table.try_borrow_mut().map_err(reentered)?;
        let Some(connection) = table.get(id).filter(|connection| connection.machine.is_open()) else { return Ok(0) };
        let taken = len.min(connection.machine.room(&self.limits));
        connection.machine.wrote(len, taken);
        if taken > 0 {
            push(&mut connection.outbox, taken);
        }
        drop(table);
        self.touch(id);
        Ok(taken)
    }

    /// The base class's `write_ready`: queues what there is room for of the protocol's `write_buffer` (a `bytearray`),
    /// and answers whether that emptied it.
    ///
    /// # Errors
    /// `BufferError`: somebody holds a view of the bytearray.
    pub fn drain(&self, id: ConnId, buffer: &Bound<'_, PyAny>) -> PyResult<bool> {
        // SAFETY: attached, and `buffer` is a bytearray (its setter sees to that), which nobody changes in between.
        unsafe {
            let object = buffer.as_ptr();
            let len = ffi::PyByteArray_Size(object) as usize;
            if len == 0 {
                return Ok(true);
            }
            let start = ffi::PyByteArray_AsString(object).cast::<u8>();
            let taken = self.accept(id, len, |outbox, taken| {
                outbox.push_copy(std::slice::from_raw_parts(start, taken));
            })?;
            if taken > 0 && ffi::PySequence_DelSlice(object, 0, taken as ffi::Py_ssize_t) < 0 {
                return Err(PyErr::fetch(buffer.py()));
            }
            Ok(taken == len)
        }
    }

    /// `Protocol.read`: up to `size` bytes that arrived and were not delivered; empty at the end, `None` if none are
    /// there now.
    ///
    /// # Errors
    /// No memory.
    pub fn read<'py>(&self, py: Python<'py>, id: ConnId, size: usize) -> PyResult<Option<Bound<'py, PyBytes>>> {
        let mut parts: Vec<Py<PyAny>> = Vec::new();
        let mut len = 0;
        let at_eof;
        {
            let mut table = self.table.try_borrow_mut().map_err(reentered)?;
            let Some(connection) = table.get(id).filter(|connection| connection.machine.is_open()) else {
                drop(table);
                return Ok(Some(PyBytes::new(py, b"")));
            };
            while len < size
                && let Some(part) = connection.inbox.pop_front()
            {
                // SAFETY: the inbox holds `ReactorBuffer`s.
                len += unsafe { ffi::Py_SIZE(part.as_ptr()) } as usize;
                parts.push(part);
            }
            connection.machine.delivered(len);
            at_eof = connection.machine.is_at_eof();
        }
        if parts.is_empty() {
            return Ok(at_eof.then(|| PyBytes::new(py, b"")));
        }
        let mut joined = Vec::with_capacity(len);
        for part in &parts {
            joined.extend_from_slice(part.bind(py).cast::<PyBytes>()?.as_bytes());
        }
        if len > size {
            let rest = reactor_buffer::copied(py, self.buffer_type.bind(py), &joined[size..])?.unbind();
            if let Some(connection) = self.table.borrow_mut().get(id) {
                connection.machine.undelivered(len - size);
                connection.inbox.push_front(rest);
            }
        }
        self.touch(id);
        Ok(Some(PyBytes::new(py, &joined[..len.min(size)])))
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
        connection.machine.close();
        drop(table);
        self.touch(id);
        true
    }

    fn id_of(&self, fd: c_int) -> Option<ConnId> {
        let (mailbox, id) = descriptors::find(fd)?;
        Arc::ptr_eq(&mailbox, &self.mailbox).then_some(id)
    }

    fn touch(&self, id: ConnId) {
        if self.calling.get() != Some(id) {
            self.touched.borrow_mut().push(id);
        }
    }
}
