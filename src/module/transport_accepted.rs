//! Transports of the connections that a server of an event loop accepts, made without Python code but that of the protocol and of
//! the server.

use crate::base::token::ConnId;
use crate::connection::context::Context;
use crate::driver::Arrival;
use crate::driver::address::Address;
use crate::driver::descriptor::Descriptor;
use crate::module::event_loop::context_of;
use crate::module::handle;
use crate::module::loop_layout::{LoopObject, Ref, core};
use crate::module::transport_layout::{MARKS, Names, attach, field, knows, layout, put, word};
use crate::module::transport_socket::{self, peer_name};
use crate::module::words::Words;
use crate::python::methods::Method;
use crate::python::{sockets, variables};
use pyo3::exceptions::{PyKeyboardInterrupt, PySystemExit, PyTypeError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyInt, PyString, PyTuple, PyType};
use std::os::fd::{AsRawFd, IntoRawFd};

/// The places of what is needed in an `erlang._openings._Serving`.
const IS_PLAIN: usize = 0;
const FACTORY: usize = 1;
const CONTEXT: usize = 2;
const SERVER: usize = 3;
const NAME: usize = 4;
const CLASS: usize = 5;
const BUFFERED: usize = 6;
const COUNTS_BY_ITSELF: usize = 7;
const BEGIN: usize = 8;

/// What a server of a loop serves with.
struct Server<'a, 'py> {
    event_loop: &'a Bound<'py, PyAny>,
    words: &'a Words,
    number: u64,
    serving: &'a Bound<'py, PyTuple>,
}

/// `number` of a loop has accepted somebody.
///
/// # Errors
/// What is meant to end a loop.
pub fn serve(event_loop: &Bound<'_, PyAny>, number: u64, arrival: Arrival) -> PyResult<()> {
    let py = event_loop.py();
    // SAFETY: I7, by the token; the caller has a loop of ours, and keeps it.
    let (words, debug) = unsafe {
        let this: *mut LoopObject = event_loop.as_ptr().cast();
        (&core(this).words, (*this).debug != 0)
    };
    let served = event_loop.getattr(words.served.bind(py))?;
    let serving = served.cast::<PyDict>()?.get_item(number)?;
    if let Some(serving) = serving.as_ref().and_then(|serving| serving.cast::<PyTuple>().ok())
        && !debug
        && serving.get_borrowed_item(IS_PLAIN)?.is_truthy()?
    {
        return Server { event_loop, words, number, serving }.serve(arrival);
    }
    let Arrival { socket, peer } = arrival;
    let peer = peer_name(py, &peer)?;
    let conn = sockets::owning(py, socket)?;
    event_loop.call_method1("_accepted", (number, conn, peer)).map(drop)
}

impl<'py> Server<'_, 'py> {
    fn part(&self, place: usize) -> PyResult<Bound<'py, PyAny>> {
        self.serving.get_item(place)
    }

    fn serve(&self, arrival: Arrival) -> PyResult<()> {
        let context = context_of(self.event_loop)?;
        let variables = variables::copy_of(&self.part(CONTEXT)?)?;
        let factory = self.part(FACTORY)?;
        let py = factory.py();
        let made = variables::within(py, variables.as_ptr(), || context.call_factory(py, || factory.call0()));
        match made {
            Ok(protocol) => self
                .open(&context, arrival, &protocol, variables)
                .or_else(|error| self.not_made(error, Some(&protocol))),
            Err(error) => self.not_made(error, None),
        }
    }

    /// Makes the transport, which is given to its protocol in the next turn, and receives nothing before.
    fn open(
        &self,
        context: &Context,
        Arrival { socket, peer }: Arrival,
        protocol: &Bound<'py, PyAny>,
        variables: Bound<'py, PyAny>,
    ) -> PyResult<()> {
        let (py, fd) = (protocol.py(), socket.as_raw_fd());
        // What may be refused comes before there is a connection, which nobody would end.
        let connection_made = protocol.getattr(self.words.connection_made.bind(py))?;
        let transport = self.allocate()?;
        self.set_protocol(&transport, protocol)?;
        let begin = self.part(BEGIN)?;
        let name = self.part(NAME)?;
        let own = if name.is_none() { Address::of_socket(fd) } else { None };
        let descriptor = Descriptor::lent_by_acceptor(fd)?;
        put(&transport, |it| &mut it.event_loop, Some(self.event_loop.clone()));
        put(&transport, |it| &mut it.own_name, Some(name));
        let this = self.event_loop.as_ptr().cast();
        // SAFETY: I7, by the token; a loop and objects of ours.
        let (made, begun) = unsafe {
            let soon = |callback: &Bound<'_, PyAny>, args: &[_]| {
                let handle = handle::make(py, this, callback.as_ptr(), args, variables.as_ptr(), None)?;
                PyResult::Ok(Bound::from_owned_ptr(py, handle.cast()))
            };
            (soon(&connection_made, &[transport.as_ptr()])?, soon(&begin, &[transport.as_ptr()])?)
        };
        self.count(&transport)?;
        put(&transport, |it| &mut it.variables, Some(variables));
        let id = context.open_transport(descriptor, transport.clone().unbind(), MARKS);
        attach(&transport, id);
        // SAFETY: I7, by the token; the transport has just been made; the number is its own from here on. The schedule has the
        // references to the handles.
        unsafe {
            let it = &mut *layout(&transport);
            it.names = Some(Box::new(Names { peer, own }));
            it.sock_fd = socket.into_raw_fd();
            (it.owns_number, it.opened) = (1, 1);
            (it.high, it.low) = (MARKS.high as ffi::Py_ssize_t, MARKS.low as ffi::Py_ssize_t);
            let mut schedule = core(this).schedule.borrow_mut();
            schedule.soon(Ref(made.into_ptr()));
            schedule.soon(Ref(begun.into_ptr()));
        }
        Ok(())
    }

    fn allocate(&self) -> PyResult<Bound<'py, PyAny>> {
        let class = self.part(CLASS)?.cast_into::<PyType>()?;
        // SAFETY: I7, by the token; a type made of ours, as `erlang._openings` says; its own allocator gives zeroed memory of its
        // size, which the collector may look at at once.
        unsafe {
            let alloc = (*class.as_type_ptr()).tp_alloc;
            let alloc = alloc.ok_or_else(|| PyTypeError::new_err("a transport cannot be made"))?;
            Bound::from_owned_ptr_or_err(class.py(), alloc(class.as_type_ptr(), 0))
        }
    }

    /// As `set_protocol` does: what has the methods of a buffered one will do.
    fn set_protocol(&self, transport: &Bound<'py, PyAny>, protocol: &Bound<'py, PyAny>) -> PyResult<()> {
        let py = protocol.py();
        let receive = match protocol.is_instance(&self.part(BUFFERED)?)? {
            true => None,
            false => protocol.getattr_opt(self.words.data_received.bind(py))?,
        };
        let buffered = receive.is_none();
        let receive = match receive {
            None => protocol.getattr_opt(self.words.get_buffer.bind(py))?,
            receive => receive,
        };
        let feeds_stream = self.words.streams.serve(protocol);
        put(transport, |it| &mut it.protocol, Some(protocol.clone()));
        put(transport, |it| &mut it.receive, receive);
        // SAFETY: I7, by the token; only transports get here.
        unsafe {
            (*layout(transport)).feeds_stream = feeds_stream.into();
            (*layout(transport)).buffered = buffered.into();
            (*layout(transport)).protocol_connected = 1;
        }
        Ok(())
    }

    /// The server has one more connection.
    fn count(&self, transport: &Bound<'py, PyAny>) -> PyResult<()> {
        let server = self.part(SERVER)?;
        if server.is_none() {
            return Ok(());
        }
        let attach = Method::of(&server, self.words.attach.bind(server.py()))?;
        let by_itself = self.part(COUNTS_BY_ITSELF)?.is_truthy()?;
        let by_number = attach.is(&self.words.counts[0]) && self.is_open();
        if !(by_number && recount(&server, self.words.active_count.bind(server.py()), 1)?) {
            attach.call((!by_itself).then_some(transport))?;
        }
        // SAFETY: I7, by the token; only transports get here.
        unsafe { (*layout(transport)).is_counted = by_itself.into() };
        put(transport, |it| &mut it.server, Some(server));
        Ok(())
    }

    /// Whether the factory has not closed it.
    fn is_open(&self) -> bool {
        // SAFETY: I7, by the token; the caller has a loop of ours, and keeps it.
        unsafe { core(self.event_loop.as_ptr().cast()) }.openings.has(ConnId::from_bits(self.number))
    }

    /// There is no transport, and nobody who waits for one: the connection is closed.
    fn not_made(&self, error: PyErr, protocol: Option<&Bound<'py, PyAny>>) -> PyResult<()> {
        let py = self.event_loop.py();
        if error.is_instance_of::<PyKeyboardInterrupt>(py) || error.is_instance_of::<PySystemExit>(py) {
            return Err(error);
        }
        if let Some(traceback) = error.traceback(py) {
            // Before 3.12 the exception itself does not know it yet.
            error.value(py).setattr("__traceback__", traceback)?;
        }
        let context = PyDict::new(py);
        context.set_item("message", "Error on transport creation for incoming connection")?;
        context.set_item("exception", error.value(py))?;
        if let Some(protocol) = protocol {
            context.set_item("protocol", protocol)?;
        }
        self.event_loop.call_method1("call_exception_handler", (context,)).map(drop)
    }
}

/// What it counted for is given back, after its socket was closed.
///
/// # Errors
/// What the server raises.
pub fn closed(transport: &Bound<'_, PyAny>) -> PyResult<()> {
    transport_socket::close(transport)?;
    let Some(server) = field(transport, |it| it.server) else { return Ok(()) };
    let detach = word(transport, "_detach", |words| &words.detach);
    // SAFETY: I7, by the token; only transports get here.
    match unsafe { (*layout(transport)).is_counted } {
        0 => transport.call_method1(detach, (server,)).map(drop),
        _ => {
            let detach = Method::of(&server, &detach)?;
            let is_known = knows(transport, |words| detach.is(&words.counts[1]));
            let active_count = word(transport, "_active_count", |words| &words.active_count);
            match is_known && recount(&server, &active_count, -1)? {
                true => Ok(()),
                false => detach.call(None).map(drop),
            }
        }
    }
}

/// Counts one connection more, or one less, as asyncio's server does. Answers whether it has: with the last one that goes, the
/// server may end.
fn recount(server: &Bound<'_, PyAny>, active_count: &Bound<'_, PyString>, by: isize) -> PyResult<bool> {
    let count = server.getattr(active_count)?;
    let count = if count.is_exact_instance_of::<PyInt>() { count.extract().unwrap_or(-1isize) } else { -1 };
    let recounted = count.saturating_add(by);
    let is_plain = count >= 0 && recounted > 0;
    if is_plain {
        server.setattr(active_count, recounted)?;
    }
    Ok(is_plain)
}
