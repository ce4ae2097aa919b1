//! A datagram endpoint: what arrives is received by calls that take many, and what a turn sends leaves by one at its end.

use crate::base::config::LOOP_TIME_PER_TURN;
use crate::driver::address::Address;
use crate::driver::many_datagrams::{Room, Sending, next_run};
use crate::module::loop_layout::{LoopObject, Ref, core, this_thread};
use crate::module::peer_names::{self, PeerName, PeerNames};
use crate::python::boxed::State;
use crate::python::{addresses, sockets};
use pyo3::exceptions::PyException;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyByteArray, PyBytes, PyList, PyString};
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::ffi::c_int;
use std::ops::ControlFlow;
use std::os::fd::RawFd;
use std::ptr;
use std::time::Instant;

/// So much is sent at once, and not at the end of the turn.
const QUEUED_MAX: usize = 64;
const QUEUED_BYTES_MAX: usize = 32 * 1024;

/// What an endpoint has to do with.
pub struct Parts {
    /// The transport, which says what is seldom asked.
    pub transport: Py<PyAny>,
    pub protocol: Py<PyAny>,
    /// Of asyncio's own: what waits for room.
    pub buffer: Py<PyAny>,
    pub event_loop: Py<PyAny>,
    /// Of the transport, if it says its number: its program may close it.
    pub sock: Option<Py<PyAny>>,
    pub datagram_received: Py<PyString>,
}

/// Something to send.
pub struct Outgoing {
    /// What.
    pub data: Py<PyBytes>,
    /// As it was given.
    pub to: Option<Py<PyAny>>,
    pub name: PeerName,
}

#[derive(Default)]
/// One endpoint.
pub struct Endpoint {
    /// From its beginning to its end.
    pub parts: RefCell<Option<Parts>>,
    pub fd: Cell<RawFd>,
    pub is_v6: Cell<bool>,
    pub is_connected: Cell<bool>,
    /// An empty datagram is sent, as it is from Python 3.13 on.
    pub sends_empty: Cell<bool>,
    pub is_reading: Cell<bool>,
    /// How many the last call has received, and bytes all together.
    last_run: Cell<(usize, usize)>,
    pub outgoing: RefCell<Vec<Outgoing>>,
    pub outgoing_bytes: Cell<usize>,
    /// The loop knows that something is to be sent.
    pub is_told: Cell<bool>,
    /// Received, and to be delivered in the next turn, with who has sent it.
    pub incoming: RefCell<VecDeque<(Py<PyAny>, Py<PyAny>)>>,
    pub names: RefCell<PeerNames>,
}

thread_local! {
    /// Used by one endpoint at a time, while no Python code runs.
    static ROOM: RefCell<Option<Room>> = const { RefCell::new(None) };
    static SENDING: RefCell<Sending> = RefCell::default();
}

impl State for Endpoint {
    fn each(&self, tell: &mut dyn FnMut(&Py<PyAny>) -> ControlFlow<c_int>) -> ControlFlow<c_int> {
        let Ok(parts) = self.parts.try_borrow() else { return ControlFlow::Continue(()) };
        let Some(Parts { transport, protocol, buffer, event_loop, sock, .. }) = &*parts else {
            return ControlFlow::Continue(());
        };
        [transport, protocol, buffer, event_loop].into_iter().chain(sock).try_for_each(tell)
    }

    /// Lets go of everything.
    fn clear(&self) {
        self.is_reading.set(false);
        self.fd.set(-1);
        let gone = (self.parts.take(), self.outgoing.take(), self.incoming.take(), self.names.take());
        drop(gone);
    }
}

impl Endpoint {
    /// The transport that it serves, from its beginning to its end.
    pub fn transport<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyAny>> {
        self.parts.borrow().as_ref().map(|parts| parts.transport.bind(py).clone())
    }

    /// The number of its socket, which may be a stranger's once that is closed (I4): then there is none.
    fn number(&self) -> RawFd {
        let parts = self.parts.borrow();
        let sock = parts.as_ref().and_then(|parts| parts.sock.as_ref());
        // SAFETY: I7: whoever calls is attached; `begin` has kept one that is known.
        sock.map_or(self.fd.get(), |sock| unsafe { sockets::number(sock.as_ptr()) })
    }

    /// Delivers what is there, as long as its time lasts.
    ///
    /// # Errors
    /// What is meant to end the loop.
    pub fn receive(&self, py: Python<'_>) -> PyResult<()> {
        let began = Instant::now();
        if !self.deliver(py, began)? || !self.is_reading.get() {
            return Ok(());
        }
        // A collection of garbage may run code of anybody's: nothing is borrowed, and this room is ours.
        let mut room = ROOM.take().unwrap_or_default();
        let received = room.receive(self.number(), next_run(self.last_run.get()));
        let mut all = 0;
        for nth in 0..received.unwrap_or(0) {
            let (bytes, from) = room.datagram(nth);
            all += bytes.len();
            let data = PyBytes::new(py, bytes).into_any().unbind();
            let from = self.from(py, from)?.unbind();
            self.incoming.borrow_mut().push_back((data, from));
        }
        ROOM.set(Some(room));
        if let Ok(received) = received {
            self.last_run.set((received, all));
        }
        match (received, self.transport(py)) {
            (Ok(_), Some(_)) => self.deliver(py, began).map(drop),
            (Err(libc::EAGAIN | libc::EINTR), _) | (_, None) => Ok(()),
            (Err(errno), Some(transport)) => transport.call_method1("_failed", (errno,)).map(drop),
        }
    }

    /// Who has sent a datagram, by what the kernel wrote.
    fn from<'py>(&self, py: Python<'py>, bytes: &[u8]) -> PyResult<Bound<'py, PyAny>> {
        let Some(name) = PeerName::of(bytes) else {
            return addresses::to_python(py, &Address::from_bytes(bytes));
        };
        if let Some(known) = self.names.borrow().known(py, &name) {
            return Ok(known);
        }
        let object = addresses::to_python(py, &Address::from_bytes(bytes))?;
        let gone = self.names.borrow_mut().keep(name, &object);
        drop(gone);
        Ok(object)
    }

    /// Answers whether nothing is left.
    fn deliver(&self, py: Python<'_>, began: Instant) -> PyResult<bool> {
        loop {
            let next = self.incoming.borrow_mut().pop_front();
            let Some((data, from)) = next else { return Ok(true) };
            let parts = self.parts.borrow();
            let Some(Parts { protocol, datagram_received, .. }) = parts.as_ref().filter(|_| self.is_reading.get())
            else {
                drop(parts);
                let left = self.incoming.take();
                drop(left);
                return Ok(true);
            };
            let (protocol, name) = (protocol.clone_ref(py), datagram_received.clone_ref(py));
            drop(parts);
            let args = [protocol.as_ptr(), data.as_ptr(), from.as_ptr()];
            // SAFETY: I7, by the token; the objects are ours while it runs.
            let answer = unsafe {
                let answer = ffi::PyObject_VectorcallMethod(name.as_ptr(), args.as_ptr(), 3, ptr::null_mut());
                Bound::from_owned_ptr_or_err(py, answer)
            };
            if let Err(error) = answer {
                self.raised(py, error)?;
            }
            if !self.incoming.borrow().is_empty() && began.elapsed() >= LOOP_TIME_PER_TURN {
                // The others have a right to their turn.
                if let Some(transport) = self.transport(py) {
                    transport.call_method0("_receive_more")?;
                }
                return Ok(false);
            }
        }
    }

    /// A callback raised: the loop's exception handler is told, and the next datagram is delivered.
    fn raised(&self, py: Python<'_>, error: PyErr) -> PyResult<()> {
        let is_left = !self.incoming.borrow().is_empty();
        match self.transport(py) {
            Some(transport) if error.is_instance_of::<PyException>(py) => {
                if let Some(traceback) = error.traceback(py) {
                    // Before 3.12 the exception itself does not know it yet.
                    error.value(py).setattr("__traceback__", traceback)?;
                }
                transport.call_method1("_raised", (error.value(py),)).map(drop)
            }
            transport => {
                // It ends the loop, perhaps for a while.
                if let Some(transport) = transport.filter(|_| is_left) {
                    transport.call_method0("_receive_more")?;
                }
                Err(error)
            }
        }
    }

    /// Puts it down to be sent, if that is simple.
    pub fn queue(&self, data: &Bound<'_, PyAny>, to: Option<&Bound<'_, PyAny>>, this: *mut ffi::PyObject) -> Queued {
        let name = match (to, self.is_connected.get()) {
            (None, true) => Some(PeerName::default()),
            (Some(to), false) => {
                let known = self.names.borrow().name(to);
                known.or_else(|| peer_names::parse(to, self.is_v6.get()))
            }
            _ => None,
        };
        let (Some(name), Some(data)) = (name, bytes_of(data)) else { return Queued::NotSimple };
        // From here on nothing is allocated that could have garbage collected, whose destructors find nothing borrowed.
        let parts = self.parts.borrow();
        let waits = |parts: &Parts| parts.buffer.bind(data.py()).len().is_ok_and(|len| len > 0);
        let Some(parts) = parts.as_ref().filter(|parts| !waits(parts)) else { return Queued::NotSimple };
        let len = data.as_bytes().len();
        if len == 0 && !self.sends_empty.get() {
            return Queued::Later;
        }
        let mut outgoing = self.outgoing.borrow_mut();
        outgoing.push(Outgoing { data: data.unbind(), to: to.map(|to| to.clone().unbind()), name });
        self.outgoing_bytes.set(self.outgoing_bytes.get() + len);
        // SAFETY: I7, by the token; the parts keep the loop.
        let core = unsafe { core(parts.event_loop.as_ptr().cast::<LoopObject>()) };
        // Who calls from elsewhere does not wait for a turn that nobody begins.
        let elsewhere = core.thread.get() != this_thread();
        if elsewhere || outgoing.len() >= QUEUED_MAX || self.outgoing_bytes.get() >= QUEUED_BYTES_MAX {
            return Queued::Now;
        }
        if !self.is_told.replace(true) {
            // SAFETY: I7, by the token.
            core.flushes.borrow_mut().push(Ref(unsafe { ffi::Py_NewRef(this) }));
        }
        Queued::Later
    }

    /// Sends what is put down; what is put down meanwhile, by a protocol that is told of an error, leaves in the next turn: it may
    /// have an error, too. What finds no room is left to asyncio's own transport.
    ///
    /// # Errors
    /// What is meant to end the loop.
    pub fn flush(&self, py: Python<'_>) -> PyResult<()> {
        let mut outgoing = self.outgoing.take();
        self.outgoing_bytes.set(0);
        let mut left = &outgoing[..];
        while !left.is_empty() {
            let datagrams = left.iter().map(|one| (one.data.bind(py).as_bytes(), one.name.as_bytes()));
            let sent = SENDING.with_borrow_mut(|sending| sending.send(self.number(), datagrams));
            match (sent, self.transport(py)) {
                (Ok(sent), _) => left = &left[sent..],
                (Err(libc::EINTR), _) => {}
                (_, None) => return Ok(()),
                (Err(libc::EAGAIN), Some(transport)) => return self.wait_for_room(&transport, left),
                (Err(errno), Some(transport)) => {
                    left = &left[1..];
                    if let Err(error) = transport.call_method1("_failed", (errno,)) {
                        let done = outgoing.len() - left.len();
                        outgoing.drain(..done);
                        return self.flush_later(&transport, outgoing).and(Err(error));
                    }
                }
            }
        }
        outgoing.clear();
        if self.outgoing.borrow().is_empty() {
            // Its memory is used again.
            self.outgoing.replace(outgoing);
        }
        Ok(())
    }

    /// What is left when the loop ends by what a protocol has raised leaves when that goes on, before what came later.
    fn flush_later(&self, transport: &Bound<'_, PyAny>, left: Vec<Outgoing>) -> PyResult<()> {
        self.outgoing.borrow_mut().splice(..0, left);
        transport.call_method0("_flush_later").map(drop)
    }

    fn wait_for_room(&self, transport: &Bound<'_, PyAny>, left: &[Outgoing]) -> PyResult<()> {
        let py = transport.py();
        // What callbacks have put down meanwhile comes after them.
        let more = self.outgoing.take();
        self.outgoing_bytes.set(0);
        let all = left.iter().chain(&more);
        let all: Vec<_> = all.map(|one| (one.data.bind(py), one.to.as_ref().map(|to| to.bind(py)))).collect();
        transport.call_method1("_wait_for_room", (PyList::new(py, all)?,)).map(drop)
    }
}

/// What becomes of a datagram.
pub enum Queued {
    /// It is none of ours.
    NotSimple,
    /// It leaves at the end of the turn.
    Later,
    /// It is to leave at once.
    Now,
}

fn bytes_of<'py>(data: &Bound<'py, PyAny>) -> Option<Bound<'py, PyBytes>> {
    if let Ok(bytes) = data.cast_exact::<PyBytes>() {
        return Some(bytes.clone());
    }
    let array = data.cast_exact::<PyByteArray>().ok()?;
    // SAFETY: I7, by the token: nothing runs between here and the copy.
    Some(PyBytes::new(data.py(), unsafe { array.as_bytes() }))
}
