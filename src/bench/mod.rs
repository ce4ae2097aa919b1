//! What the micro-benchmarks (`benches/micro.rs`) may touch of this crate; not in the library that the VM loads.
//!
//! Each type here does one thing in the way the product does it.

mod turns;

use crate::base::config::INBOX_BYTES;
use crate::base::limits::Limits;
use crate::base::token::ConnId;
use crate::buffer::{self, Pool, Shared};
use crate::connection::context::Connection;
use crate::connection::machine::{Action, Directions, Machine, Next};
use crate::connection::table::Table;
use crate::driver::descriptor::{Descriptor, How};
use crate::mail::command::{Command, Job};
use crate::mail::inbox::{Inbox, Signal};
use crate::mail::mailbox::Mailbox;
use crate::mail::place::Place;
use crate::python::interpreter;
use pyo3::exceptions::{PyOSError, PyRuntimeError};
use pyo3::prelude::*;
use std::collections::VecDeque;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

pub use turns::{Batch, serve};

/// The default limits of a connection.
const LIMITS: Limits = Limits {
    write_high_bytes: 256 * 1024,
    write_low_bytes: 64 * 1024,
    inbox_bytes: INBOX_BYTES,
    linger_bytes: 1024 * 1024,
};

const STREAM: Directions = Directions { readable: true, writable: true, half_closes: true };

/// The buffer pool.
pub struct Slots(Pool);

/// A slot that Python has.
pub struct Lent {
    pool: *const Shared,
    slot: u16,
}

// SAFETY: I10: what another thread may do with it is give it back, and for that it goes there.
unsafe impl Send for Lent {}

impl Slots {
    /// A pool of the default size.
    ///
    /// # Errors
    /// No memory.
    pub fn new() -> io::Result<Self> {
        Pool::new(1024, 16 * 1024, || ()).map(Slots)
    }

    /// The kernel gets a slot, fills it, and hands it to the reactor.
    pub fn receive(&mut self) -> Option<u16> {
        let (slot, _) = self.0.post()?;
        self.0.reap(slot);
        Some(slot)
    }

    /// A received slot is not needed.
    pub fn release(&mut self, slot: u16) {
        self.0.release(slot);
    }

    /// As [`Slots::receive`], and Python gets the slot.
    pub fn receive_and_lend(&mut self) -> Option<Lent> {
        let slot = self.receive()?;
        self.0.lend(slot, 0);
        Some(Lent { pool: self.0.key(), slot })
    }

    /// Python gives it back, on the reactor's thread.
    pub fn give_back(&mut self, lent: Lent) {
        self.0.give_back(lent.slot);
    }

    /// The reactor takes what other threads gave back.
    pub fn collect(&mut self) {
        self.0.collect_returns();
    }
}

impl Lent {
    /// Python gives it back, on another thread.
    pub fn give_back_from_elsewhere(self) {
        // SAFETY: I2: made by `lend`, and given back once: this takes it.
        unsafe { buffer::return_from_any_thread(self.pool, self.slot) };
    }
}

/// The machine of one open connection.
pub struct Steps(Machine);

impl Steps {
    /// A connection that has begun to receive.
    pub fn new() -> Self {
        let mut machine = Machine::new(STREAM);
        machine.made(|| false);
        machine.next(&LIMITS, true);
        Steps(machine)
    }

    /// One message that is echoed in write mode. Answers how many times the machine was asked what follows.
    pub fn echo(&mut self, bytes: usize) -> u32 {
        let machine = &mut self.0;
        let mut asked = 0;
        let mut settle = |machine: &mut Machine| {
            loop {
                asked += 1;
                match machine.next(&LIMITS, true) {
                    Next::DataReceived => {
                        machine.link.delivered(bytes);
                        machine.acted(Action::WritePending, || false);
                    }
                    Next::WriteReady => {
                        machine.offered(bytes, true, &LIMITS);
                        machine.acted(Action::ReadPending, || false);
                    }
                    Next::Nothing => break,
                    _ => {}
                }
            }
        };
        machine.link.received(bytes, true);
        settle(machine);
        machine.sent(bytes, &LIMITS);
        settle(machine);
        asked
    }
}

impl Default for Steps {
    fn default() -> Self {
        Steps::new()
    }
}

/// The queue of commands of a context.
pub struct Commands(Inbox<Command>);

/// What a reactor has taken of one.
#[derive(Default)]
pub struct Taken(VecDeque<Command>);

impl Commands {
    /// An empty queue.
    ///
    /// # Errors
    /// No descriptor was left.
    pub fn new() -> io::Result<Self> {
        Inbox::new().map(Commands)
    }

    /// Queues a command. Answers whether there was room.
    pub fn post(&self) -> bool {
        self.0.post(Command::Run { job: Job::Exec(String::new()), reply: None, ticket: None }).is_ok()
    }

    /// Takes a batch, as a reactor that was woken does. Answers how many there were.
    pub fn take(&self, taken: &mut Taken) -> usize {
        self.0.open();
        self.0.take_commands(&mut taken.0);
        taken.0.drain(..).count()
    }

    /// Another thread signals that the connection in slot `index` may write.
    pub fn signal(&self, index: u32) {
        self.0.signal(ConnId { index, generation: 0 }, Signal::WriteReady);
    }

    /// Takes the signalled connections. Answers how many there were.
    pub fn take_signals(&self) -> usize {
        self.0.open();
        self.0.take_signals().len()
    }
}

/// The process of a context that has none.
fn nobody() -> rustler::LocalPid {
    // SAFETY: I10: a number; nobody sends to it.
    rustler::LocalPid::from_c_arg(unsafe { std::mem::zeroed() })
}

fn os_error(error: io::Error) -> PyErr {
    PyOSError::new_err(error.to_string())
}

/// A connection without a peer, served by `protocol`.
fn connection(mailbox: &Arc<Mailbox>, protocol: &Bound<'_, PyAny>) -> PyResult<Connection> {
    let (ours, _peer) = UnixStream::pair().map_err(os_error)?;
    let descriptor = Descriptor::claim(ours.as_raw_fd(), How::Auto)
        .map_err(|unfit| PyRuntimeError::new_err(format!("{unfit:?}")))?;
    let place = Place::take(&mailbox.stats, usize::MAX).ok_or_else(|| PyRuntimeError::new_err("no place"))?;
    let mut machine = Machine::new(STREAM);
    machine.made(|| false);
    Ok(Connection::new(machine, descriptor, protocol.clone().unbind(), Some(place)))
}

/// Starts Python in this process.
///
/// # Errors
/// Python's own words on why it does not start.
pub fn start_python() -> Result<(), String> {
    interpreter::provide(crate::module::BUILTIN);
    crate::reactor::own_loop::provide();
    interpreter::ensure_started()
}

/// The table of connections. Used, and dropped, attached to Python.
pub struct Connections {
    table: Table<Connection>,
    ids: Vec<ConnId>,
}

impl Connections {
    /// A table with `count` connections.
    ///
    /// # Errors
    /// The Python exception.
    pub fn new(py: Python<'_>, count: usize) -> PyResult<Self> {
        let mailbox = Arc::new(Mailbox::new(1, nobody()).map_err(os_error)?);
        let mut table = Table::default();
        let nobody = py.None().into_bound(py);
        let ids: PyResult<Vec<_>> =
            (0..count).map(|_| connection(&mailbox, &nobody).map(|connection| table.insert(connection))).collect();
        Ok(Connections { table, ids: ids? })
    }

    /// Finds a connection by name.
    pub fn get(&mut self, nth: usize) -> bool {
        self.table.get(self.ids[nth % self.ids.len()]).is_some()
    }

    /// Takes a connection out and puts it in again, under a new name.
    pub fn replace(&mut self, nth: usize) {
        let place = nth % self.ids.len();
        if let Some(connection) = self.table.remove(self.ids[place]) {
            self.ids[place] = self.table.insert(connection);
        }
    }
}
