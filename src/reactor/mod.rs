//! The loop of a reactor thread. One turn: commands, what is due, flush, wait (detached from Python), step.
//!
//! There is one route for data: an [`Event`] changes its connection's [`Machine`](crate::connection::machine::Machine), which says
//! what follows; [`Reactor::settle`] does that, in Python and in the driver. A callback that writes only queues (I3).

mod commands;
mod datagrams;
mod deadlines;
mod expiry;
pub mod jobs;
mod requests;
pub mod thread;
pub mod watchdog;
pub mod workspace;

use crate::base::config::{CALLBACKS_PER_TURN, Options, QUEUE_KEPT, SEND_AT_ONCE_BYTES, SHUT_DOWN_MS};
use crate::base::gil::detached;
use crate::base::token::ConnId;
use crate::beam::reply::ReplyTo;
use crate::buffer::Pool;
use crate::connection::callbacks::{Fault, fault_notice, format_exception, nothing};
use crate::connection::context::{Connection, Context, Inbound, arrival_cost};
use crate::connection::machine::{Action, End, Next};
use crate::connection::outbox::Sent;
use crate::driver::address::Address;
use crate::driver::{Driver, Event, Outcome};
use crate::mail::command::Command;
use crate::mail::notice::Notice;
use crate::module::overrides::Method;
use crate::module::own_connection::close_extra;
use crate::python::instance;
use crate::python::reactor_buffer;
use crate::reactor::workspace::Workspace;
use deadlines::Deadlines;
use expiry::{Due, Timeouts};
use pyo3::prelude::*;
use requests::tell_monitors;
use std::any::Any;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::mem::ManuallyDrop;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::Rc;
use std::time::{Duration, Instant};

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
    /// Both are dropped by [`Reactor::finish`] alone, once no operation runs (I2).
    driver: ManuallyDrop<Box<dyn Driver>>,
    pool: ManuallyDrop<Rc<RefCell<Pool>>>,
    context: Rc<Context>,
    python: Workspace,
    timeouts: Timeouts,
    deadlines: Deadlines<Due>,
    events: Vec<Event>,
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
        Reactor {
            driver: ManuallyDrop::new(driver),
            pool: ManuallyDrop::new(pool),
            context,
            python,
            timeouts: Timeouts::new(options),
            deadlines: Deadlines::default(),
            events: Vec::new(),
            sent: Vec::new(),
            sends: Vec::new(),
            commands: VecDeque::new(),
            commands_wait: true,
            drains: Vec::new(),
            ending: Ending::No,
        }
    }

    /// Turns until it is told to end and every connection is closed.
    ///
    /// # Errors
    /// The driver failed.
    pub fn run(&mut self, py: Python<'_>) -> io::Result<()> {
        loop {
            self.run_commands(py);
            self.settle_due(py);
            self.answer_drains();
            if self.has_ended() {
                return Ok(());
            }
            self.flush();
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
        let shut_down = || detached(py, || self.driver.shut_down(&mut self.pool.borrow_mut(), deadline));
        // After a panic of the driver, nobody knows what the kernel still does.
        let drained = contain(&mut panic, shut_down).unwrap_or(false);
        for command in std::mem::take(&mut self.commands) {
            contain(&mut panic, || command.abandon());
        }
        let ids = self.context.table.borrow().ids();
        for id in ids {
            contain(&mut panic, || self.cut(py, id, drained));
        }
        if drained {
            drop(ManuallyDrop::into_inner(self.driver));
            drop(ManuallyDrop::into_inner(self.pool));
        }
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
    }

    fn cut(&mut self, py: Python<'_>, id: ConnId, drained: bool) {
        let Some(mut connection) = self.remove(py, id) else { return };
        if !drained {
            // I2: the kernel may still read from these bytes.
            std::mem::forget(std::mem::take(&mut connection.outbox));
        }
        if connection.machine.owes_lost() {
            self.connection_lost(connection.protocol.bind(py));
        }
        tell_monitors(&mut connection);
    }

    // What follows for a connection.

    fn with<R>(&self, id: ConnId, f: impl FnOnce(&mut Connection) -> R) -> Option<R> {
        self.context.table.borrow_mut().get(id).map(f)
    }

    fn settle_due(&mut self, py: Python<'_>) {
        let ids = std::mem::take(&mut *self.context.due.borrow_mut());
        for id in ids {
            self.with(id, |connection| connection.is_due = false);
            self.settle(py, id);
        }
    }

    /// Does what the connection's machine says, until it has nothing to say.
    fn settle(&mut self, py: Python<'_>, id: ConnId) {
        self.stir(id);
        // One that waits for its next turn has had its callbacks in this one.
        let had_its_turn = self.with(id, |connection| connection.is_due).unwrap_or_default();
        let mut calls = if had_its_turn { 0 } else { CALLBACKS_PER_TURN };
        let mut has_sent = false;
        loop {
            let Some(next) = self.with(id, |connection| connection.machine.next(&self.context.limits, calls > 0))
            else {
                return;
            };
            match next {
                Next::DataReceived => {
                    calls -= 1;
                    self.data_received(py, id);
                }
                Next::EofReceived => {
                    calls -= 1;
                    self.eof_received(py, id);
                }
                Next::WriteReady => {
                    calls -= 1;
                    self.write_ready(py, id);
                }
                Next::ConnectionLost => self.lose(py, id),
                Next::Receive => {
                    if let Some(target) = self.with(id, |connection| connection.descriptor.target()) {
                        self.driver.receive(id, target);
                    }
                }
                Next::CancelReceive => self.driver.cancel_receive(id),
                // Once: the others have a right to their turn.
                Next::Send if !has_sent && self.has_much_to_send(id) => {
                    has_sent = true;
                    if let Some(outcome) = self.send(id) {
                        self.advance(id, outcome);
                    }
                }
                Next::Send => self.sends.push(id),
                Next::ShutdownWrite => {
                    self.with(id, |connection| connection.descriptor.shut_down(libc::SHUT_WR));
                    self.linger(id);
                }
                Next::Abort => {
                    self.with(id, |connection| connection.descriptor.shut_down(libc::SHUT_RDWR));
                    self.driver.cancel_receive(id);
                    self.driver.cancel_send(id);
                }
                Next::Close => {
                    self.is_robbed(id);
                    let mut closed = self.remove(py, id);
                    // One that was never made has lost nothing.
                    closed.as_mut().map(tell_monitors);
                    drop(closed);
                    return;
                }
                Next::Yield => return self.context.touch(id),
                Next::Nothing => return,
            }
        }
    }

    /// The protocol of a connection. It cannot go away while its callback runs: only `settle` removes connections.
    fn protocol<'py>(&self, py: Python<'py>, id: ConnId) -> Option<Bound<'py, PyAny>> {
        self.with(id, |connection| connection.protocol.clone_ref(py).into_bound(py))
    }

    fn data_received(&mut self, py: Python<'_>, id: ConnId) {
        let taken = self.with(id, |connection| {
            let inbound = connection.inbox.pop_front()?;
            connection.machine.delivered(inbound.cost());
            if connection.inbox.is_empty() && connection.inbox.capacity() > 4 * QUEUE_KEPT {
                connection.inbox = VecDeque::new();
            }
            if let (Some(datagrams), Some(from)) = (&mut connection.datagrams, &inbound.from) {
                datagrams.last_from = Some(**from);
            }
            Some((connection.protocol.clone_ref(py).into_bound(py), inbound.data.into_bound(py), inbound.from))
        });
        let Some(Some((protocol, data, sender))) = taken else { return };
        let sender = sender.filter(|_| !self.python.names.inherits(&protocol, Method::DatagramReceived));
        self.context.mailbox.stats.messages.add(1);
        let method = if sender.is_none() { "data_received" } else { "datagram_received" };
        let answer = self.context.callback(&protocol, Some(id), method, || {
            let data = data;
            match &sender {
                None => self.python.names.data_received(&protocol, &data),
                Some(from) => self.python.names.datagram_received(&protocol, &data, from),
            }
        });
        self.answered(&protocol, id, method, answer);
    }

    fn write_ready(&mut self, py: Python<'_>, id: ConnId) {
        let Some(protocol) = self.protocol(py, id) else { return };
        let names = &self.python.names;
        if !names.inherits(&protocol, Method::WriteReady) || !names.inherits(&protocol, Method::Write) {
            let run = || self.python.names.write_ready(&protocol);
            let answer = self.context.callback(&protocol, Some(id), "write_ready", run);
            return self.answered(&protocol, id, "write_ready", answer);
        }
        let drain = || self.context.drain(id, &protocol);
        let drained = self.context.native_callback(&protocol, Some(id), "write_ready", drain);
        let answer = match drained {
            Ok(true) => Ok(Action::ReadPending),
            Ok(false) => Ok(Action::Continue),
            Err(error) => Err(Fault::Raised(error)),
        };
        self.answered(&protocol, id, "write_ready", answer);
    }

    fn eof_received(&mut self, py: Python<'_>, id: ConnId) {
        let Some(protocol) = self.protocol(py, id) else { return };
        let run = || self.python.names.eof_received(&protocol);
        let answer = self.context.callback(&protocol, Some(id), "eof_received", run);
        self.answered(&protocol, id, "eof_received", answer);
    }

    fn answered(
        &mut self,
        protocol: &Bound<'_, PyAny>,
        id: ConnId,
        method: &'static str,
        answer: Result<Action, Fault>,
    ) {
        let action = answer.unwrap_or_else(|fault| self.failed(protocol, id, method, fault));
        self.with(id, |connection| connection.machine.acted(action));
    }

    /// B8: what a callback does wrong costs its own connection and nothing else; of a datagram socket, one datagram.
    fn failed(&self, protocol: &Bound<'_, PyAny>, id: ConnId, method: &'static str, fault: Fault) -> Action {
        let goes_on = self.costs_a_datagram(protocol.py(), id, method, &fault);
        self.fault(protocol, method, fault);
        if goes_on {
            return Action::Continue;
        }
        self.with(id, |connection| connection.machine.close(End::Exception));
        Action::Close
    }

    /// Counts and logs it.
    fn fault(&self, protocol: &Bound<'_, PyAny>, method: &'static str, fault: Fault) {
        self.context.mailbox.stats.exceptions.add(1);
        self.context.mailbox.notify(fault_notice(protocol, method, fault));
    }

    /// Tells the protocol that its connection is gone; from here on it reaches nothing.
    fn lose(&mut self, py: Python<'_>, id: ConnId) {
        let lost = self.with(id, |connection| {
            connection.descriptor.unregister();
            (connection.protocol.clone_ref(py).into_bound(py), std::mem::take(&mut connection.inbox))
        });
        if let Some((protocol, unread)) = lost {
            drop(unread);
            self.connection_lost(&protocol);
            self.with(id, tell_monitors);
        }
    }

    fn connection_lost(&self, protocol: &Bound<'_, PyAny>) {
        instance::detach(protocol);
        let lost =
            self.context.callback(protocol, None, "connection_lost", || protocol.call_method0("connection_lost"));
        if let Err(fault) = nothing(lost) {
            self.fault(protocol, "connection_lost", fault);
        }
        close_extra(protocol);
    }

    fn remove(&mut self, py: Python<'_>, id: ConnId) -> Option<Connection> {
        let connection = self.context.table.borrow_mut().remove(id)?;
        self.deadlines.forget(Due::Connection(id));
        if !connection.machine.owes_lost() {
            instance::detach(connection.protocol.bind(py));
        }
        self.context.mailbox.stats.closed.add(1);
        Some(connection)
    }

    // Input and output.

    /// One send for each connection that has something to send, and has not sent it yet.
    fn flush(&mut self) {
        let mut sends = std::mem::take(&mut self.sends);
        for id in sends.drain(..) {
            let ended = self.send(id);
            self.events.extend(ended.map(|outcome| Event { id, outcome }));
        }
        self.sends = sends;
    }

    /// Whether it is worth a call of its own. Datagrams are sent many at a time.
    fn has_much_to_send(&self, id: ConnId) -> bool {
        let much = |connection: &mut Connection| {
            connection.machine.queued_bytes() >= SEND_AT_ONCE_BYTES && connection.datagrams.is_none()
        };
        self.with(id, much).unwrap_or_default()
    }

    /// Sends what a connection has to send. Answers the outcome, if there is one already.
    fn send(&mut self, id: ConnId) -> Option<Outcome> {
        let mut table = self.context.table.borrow_mut();
        let connection = table.get(id)?;
        if connection.machine.is_finished() {
            // It was cut after the send was planned: an operation that begins now would not see the abort.
            connection.machine.send_failed();
            drop(table);
            self.context.touch(id);
            return None;
        }
        let target = connection.descriptor.target();
        match connection.outbox.payload() {
            // SAFETY: I2: the outbox keeps what is in flight until it is told of the send's end, by its outcome alone.
            Some(payload) => unsafe { self.driver.send(id, target, payload) },
            None => {
                connection.machine.sent(0, &self.context.limits);
                None
            }
        }
    }

    /// Tells a connection's machine of what happened, where no buffer came with it.
    fn advance(&mut self, id: ConnId, outcome: Outcome) {
        let mut sent = std::mem::take(&mut self.sent);
        self.with(id, |connection| advance(connection, outcome, &self.context, &mut sent));
        // A destructor may run here: nothing is borrowed.
        sent.clear();
        self.sent = sent;
    }

    fn wait(&mut self, py: Python<'_>) -> io::Result<()> {
        let timeout = self.timeout();
        let mut pool = self.pool.borrow_mut();
        pool.collect_returns();
        let (slots, lent) = pool.usage();
        let stats = &self.context.mailbox.stats;
        stats.turns.add(1);
        stats.buffers_lent.set(lent as u64);
        stats.buffers_free.set((slots - lent) as u64);
        detached(py, || self.driver.wait(timeout, &mut pool, &mut self.events))
    }

    fn step(&mut self, py: Python<'_>) {
        let mut events = std::mem::take(&mut self.events);
        for Event { id, outcome } in events.drain(..) {
            match outcome {
                Outcome::Woken => {
                    self.commands_wait = true;
                    continue;
                }
                Outcome::Received { buffer, len, more } => {
                    let part = Part { slot: buffer, offset: 0, len: len as usize, from: None };
                    self.received(py, id, part, more);
                }
                Outcome::Datagram { buffer, more } => self.datagram(py, id, buffer, more),
                _ => match self.datagram_error(id, outcome) {
                    Some(errno) => self.datagram_failed(py, id, outcome, errno),
                    None => self.advance(id, outcome),
                },
            }
            self.settle(py, id);
        }
        self.events = events;
    }

    fn received(&mut self, py: Python<'_>, id: ConnId, part: Part, more: bool) {
        let Part { slot, offset, len, from } = part;
        let mut pool = self.pool.borrow_mut();
        let cost = arrival_cost(len, from.is_some());
        let kept = self.with(id, |connection| {
            connection.traffic.received(len);
            connection.machine.received(cost, more)
        });
        // I6: data for a connection that is gone, or that reads no more, frees its buffer and reaches nobody.
        if !kept.unwrap_or_default() {
            return pool.release(slot);
        }
        let stats = &self.context.mailbox.stats;
        stats.bytes_in.add(len as u64);
        match reactor_buffer::lend(py, self.context.buffer_type.bind(py), &mut pool, slot, offset, len) {
            Ok((data, copied)) => {
                stats.buffers_copied.add(u64::from(copied));
                let inbound = Inbound { data: data.unbind(), from };
                self.with(id, |connection| connection.inbox.push_back(inbound));
            }
            Err(error) => {
                // No memory for a copy: the bytes are lost, and so is the connection.
                drop(pool);
                let message = format!("a connection was cut: {}", format_exception(py, &error));
                self.context.mailbox.notify(Notice { level: "error", message, meta: Vec::new(), fd: None });
                self.with(id, |connection| connection.machine.fail(End::Exception));
            }
        }
    }
}

/// Runs `f`. Of panics, the first is kept.
fn contain<R>(panic: &mut Option<Box<dyn Any + Send>>, f: impl FnOnce() -> R) -> Option<R> {
    catch_unwind(AssertUnwindSafe(f)).map_err(|thrown| _ = panic.get_or_insert(thrown)).ok()
}

/// Received bytes, where they lie, and who sent them if they are a datagram.
struct Part {
    slot: u16,
    offset: usize,
    len: usize,
    from: Option<Box<Address>>,
}

/// What [`Reactor::advance`] does to the connection.
fn advance(connection: &mut Connection, outcome: Outcome, context: &Context, sent: &mut Vec<Sent>) {
    let machine = &mut connection.machine;
    match outcome {
        Outcome::EndOfFile => machine.received_eof(),
        Outcome::ReceiveFailed(libc::ECANCELED) => machine.receive_cancelled(),
        Outcome::ReceiveFailed(_) => machine.receive_failed(),
        Outcome::CancelMissed => machine.cancel_missed(),
        Outcome::Sent(bytes) => {
            context.mailbox.stats.bytes_out.add(u64::from(bytes));
            connection.traffic.sent(bytes as usize);
            connection.outbox.sent(bytes as usize, sent, &mut context.spares.borrow_mut());
            machine.sent(bytes as usize, &context.limits);
        }
        Outcome::SentDatagrams(count) => {
            let (bytes, cost) = connection.outbox.sent_datagrams(count as usize, &mut context.spares.borrow_mut());
            context.mailbox.stats.bytes_out.add(bytes as u64);
            connection.traffic.sent(bytes);
            machine.sent(cost, &context.limits);
        }
        Outcome::SendFailed(_) => {
            connection.outbox.sent(0, sent, &mut context.spares.borrow_mut());
            machine.send_failed();
        }
        Outcome::Received { .. } | Outcome::Datagram { .. } | Outcome::Woken => {}
    }
}
