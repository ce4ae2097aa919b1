//! The loop of a reactor thread. One turn: commands, what is due, flush, wait (detached from Python), step.
//!
//! There is one route for data: an [`Event`] changes its connection's [`Machine`](crate::connection::machine::Machine), which says
//! what follows; [`Reactor::settle`] does that, in Python and in the driver (`settle.rs`). A callback that writes only queues (I3).

mod accepts;
mod arrivals;
pub mod backend;
mod commands;
mod datagrams;
mod deadlines;
mod direct;
mod ends;
mod expiry;
mod failure;
pub mod jobs;
mod looping;
mod moving;
mod new_connection;
pub mod own_loop;
mod preparation;
mod requests;
mod sends;
mod settle;
mod share;
pub mod stacks;
mod tasks;
pub mod thread;
mod transports;
pub mod watchdog;
pub mod workspace;

use self::share::Repeats;
use crate::base::config::{DUE_TIME_PER_TURN, Options, SHUT_DOWN_MS};
use crate::base::token::ConnId;
use crate::beam::reply::ReplyTo;
use crate::buffer::Pool;
use crate::connection::callbacks::nothing;
use crate::connection::context::{Connection, Context};
use crate::connection::directory::Entry;
use crate::connection::machine::End;
use crate::connection::outbox::Sent;
use crate::driver::shared::Shared;
use crate::driver::{Driver, Event};
use crate::mail::command::Command;
use crate::module::loop_turn::EventLoop;
use crate::module::own_connection::close_extra;
use crate::python::instance;
use crate::reactor::workspace::Workspace;
use accepts::Accepts;
use deadlines::Deadlines;
use expiry::{Due, Timeouts};
use looping::Tasks;
use pyo3::prelude::*;
use requests::tell_monitors;
use std::any::Any;
use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::Rc;
use std::time::{Duration, Instant};
use tasks::Request;

/// So many connections are looked after in each turn, however long that takes.
const DUE_AT_LEAST: usize = 8;

/// Whether and how the loop is about to end.
enum Ending {
    No,
    /// Connections deliver what was written, until the deadline.
    Draining(Instant),
    /// Connections are cut.
    Cutting,
}

/// One reactor thread's loop.
pub struct Reactor {
    driver: Shared,
    pool: Rc<RefCell<Pool>>,
    context: Rc<Context>,
    python: Workspace,
    timeouts: Timeouts,
    deadlines: Deadlines<Due>,
    /// The number of the turn.
    turn: u64,
    events: Vec<Event>,
    /// What was received of one connection; empty between events.
    taken: Vec<Event>,
    /// How often each of those may be received from in this turn that much has arrived for, once one of them was looked at.
    receives: Option<u32>,
    /// What may follow for the last of them.
    repeats: Option<Repeats>,
    /// What the kernel has taken, on its way to be dropped; empty between events.
    sent: Vec<Sent>,
    /// Connections whose queue is to be sent at the end of the turn.
    sends: Vec<ConnId>,
    /// Taken from the inbox and not run yet.
    commands: VecDeque<Command>,
    commands_wait: bool,
    /// Drains under way: until when, and who waits.
    drains: Vec<(Instant, ReplyTo)>,
    ending: Ending,
    /// Connections that may be open at a time.
    max_connections: usize,
    /// Listeners that it accepts from.
    accepts: Vec<Accepts>,
    /// The event loop that is run by this one, if there is one just now.
    event_loop: Option<EventLoop>,
    /// Nothing of its last batch is left.
    batch_has_ended: bool,
    /// What looking at its descriptors has raised.
    raised: Option<PyErr>,
    /// How many imports of asyncio have been looked at.
    imports: u64,
    tasks: Tasks,
    /// What is left of asyncio's transports has been told to close.
    ends_transports: bool,
    /// What Erlang waits for, by the numbers of its requests.
    requests: HashMap<u64, Request>,
}

impl Reactor {
    /// A loop that serves nobody yet.
    pub fn new(
        driver: Box<dyn Driver>,
        context: Rc<Context>,
        pool: Rc<RefCell<Pool>>,
        python: Workspace,
        options: &Options,
    ) -> Self {
        let driver = Shared::new(driver);
        context.driver.replace(Some(driver.clone()));
        Reactor {
            driver,
            pool,
            context,
            python,
            timeouts: Timeouts::new(options),
            deadlines: Deadlines::default(),
            turn: 1,
            events: Vec::new(),
            taken: Vec::new(),
            receives: None,
            repeats: None,
            sent: Vec::new(),
            sends: Vec::new(),
            commands: VecDeque::new(),
            commands_wait: true,
            drains: Vec::new(),
            ending: Ending::No,
            max_connections: options.max_connections,
            accepts: Vec::new(),
            event_loop: None,
            batch_has_ended: true,
            raised: None,
            imports: 0,
            tasks: Tasks::Run,
            ends_transports: false,
            requests: HashMap::new(),
        }
    }

    /// Turns until it is told to end and every connection is closed.
    ///
    /// # Errors
    /// The driver failed.
    pub fn run(&mut self, py: Python<'_>) -> io::Result<()> {
        loop {
            self.run_commands(py);
            self.run_tasks(py);
            self.settle_due(py);
            self.begin_accepts(py);
            self.answer_drains();
            if self.has_ended(py) {
                return Ok(());
            }
            self.flush(py);
            self.wait(py)?;
            self.step(py);
            self.expire();
        }
    }

    /// Cuts every connection and ends every operation; for the end of the thread, whatever it came from. A panic on the
    /// way goes on once all that is done (B5).
    pub fn finish(mut self, py: Python<'_>) {
        let deadline = Instant::now() + Duration::from_millis(SHUT_DOWN_MS);
        let mut panic = None;
        let context = Rc::clone(&self.context);
        let shut_down = || context.waiting(py, || self.driver.shut_down(deadline));
        // After a panic of the driver, nobody knows what the kernel still does.
        let drained = contain(&mut panic, shut_down).unwrap_or(false);
        self.context.is_over.set(true);
        self.context.driver.take();
        contain(&mut panic, || self.leave_listeners());
        for command in std::mem::take(&mut self.commands) {
            contain(&mut panic, || command.abandon());
        }
        contain(&mut panic, || self.leave_loop(py));
        contain(&mut panic, || self.abandon_requests());
        let ids = self.context.table.borrow().ids();
        for id in ids {
            contain(&mut panic, || self.cut(py, id, drained));
        }
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
    }

    /// The same on a thread that is not the loop's (I1): what the kernel may still use stays where it is.
    pub fn leave(mut self, py: Python<'_>) {
        self.context.is_over.set(true);
        self.context.driver.take();
        let ids = self.context.table.borrow().ids();
        for id in ids {
            self.cut(py, id, false);
        }
    }

    fn cut(&mut self, py: Python<'_>, id: ConnId, drained: bool) {
        let Some(mut connection) = self.remove(py, id) else { return };
        if !drained {
            // I2: the kernel may still read from these bytes.
            std::mem::forget(std::mem::take(&mut connection.outbox));
        }
        if connection.is_transport {
            return self.cut_transport(py, connection);
        }
        if connection.machine.link.owes_lost() {
            self.connection_lost(connection.protocol.bind(py), connection.machine.link.end());
        }
        tell_monitors(&mut connection);
    }

    // What follows for a connection.

    fn with<R>(&self, id: ConnId, f: impl FnOnce(&mut Connection) -> R) -> Option<R> {
        self.context.table.borrow_mut().get(id).map(f)
    }

    fn settle_due(&mut self, py: Python<'_>) {
        let closes = self.context.closes.replace(false);
        let mut ids = std::mem::take(&mut *self.context.due.borrow_mut());
        let began = (ids.len() > DUE_AT_LEAST).then(Instant::now);
        let mut done = ids.len();
        for (nth, id) in ids.iter().enumerate() {
            // Newcomers are not kept waiting by a long queue of those that have had their turn.
            if nth % DUE_AT_LEAST == DUE_AT_LEAST - 1 && began.is_some_and(|began| began.elapsed() >= DUE_TIME_PER_TURN)
            {
                done = nth;
                break;
            }
            self.with(*id, |connection| connection.is_due = false);
            self.settle(py, *id);
        }
        ids.drain(..done);
        // Whoever closes may be among those that are left.
        if closes && !ids.is_empty() {
            self.context.closes.set(true);
        }
        self.context.due.borrow_mut().splice(..0, ids);
    }

    /// The protocol of a connection, if one of ours serves it. It cannot go away while its callback runs: only `settle`
    /// removes connections.
    fn protocol<'py>(&self, py: Python<'py>, id: ConnId) -> Option<Bound<'py, PyAny>> {
        self.with(id, |connection| (!connection.is_transport).then(|| connection.protocol.clone_ref(py).into_bound(py)))
            .flatten()
    }

    /// Tells the protocol that its connection is gone; from here on it reaches nothing.
    fn lose(&mut self, py: Python<'_>, id: ConnId) {
        if self.is_transport(id) {
            return self.lose_transport(py, id);
        }
        let lost = self.with(id, |connection| {
            connection.entry.as_ref().map(Entry::withdraw);
            let (unread, timers) = (std::mem::take(&mut connection.inbox), std::mem::take(&mut connection.timers));
            (connection.protocol.clone_ref(py).into_bound(py), unread, timers, connection.machine.link.end())
        });
        if let Some((protocol, unread, timers, end)) = lost {
            drop(unread);
            self.end_timers(py, timers);
            self.connection_lost(&protocol, end);
            self.with(id, tell_monitors);
        }
    }

    fn connection_lost(&self, protocol: &Bound<'_, PyAny>, end: End) {
        instance::detach(protocol, end.name(), end.errno());
        let lost =
            self.context.callback(protocol, None, "connection_lost", || protocol.call_method0("connection_lost"));
        if let Err(fault) = nothing(lost) {
            self.fault(protocol, "connection_lost", fault);
        }
        close_extra(protocol);
    }

    fn remove(&mut self, py: Python<'_>, id: ConnId) -> Option<Connection> {
        let mut connection = self.context.table.borrow_mut().remove(id)?;
        self.deadlines.forget(Due::Connection(id));
        if connection.is_transport {
            self.context.forget_transport(&connection, id);
            return Some(connection);
        }
        self.end_timers(py, std::mem::take(&mut connection.timers));
        if !connection.machine.link.owes_lost() {
            let protocol = connection.protocol.bind(py);
            // Unless it has heard of its end already.
            if !instance::is_lost(protocol) {
                let end = connection.machine.link.end();
                instance::detach(protocol, end.name(), end.errno());
            }
        }
        self.context.mailbox.stats.closed.add(1);
        Some(connection)
    }
}

/// Runs `f`. Of panics, the first is kept.
fn contain<R>(panic: &mut Option<Box<dyn Any + Send>>, f: impl FnOnce() -> R) -> Option<R> {
    catch_unwind(AssertUnwindSafe(f)).map_err(|thrown| _ = panic.get_or_insert(thrown)).ok()
}
