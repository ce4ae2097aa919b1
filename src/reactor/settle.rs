//! What follows for a connection to which something happened: what its machine says is done, in Python and in the driver,
//! until it has nothing more to say. The connection is looked up once for what happened and what follows from that, and once
//! more after each callback.

#![forbid(unsafe_code)]

use super::Reactor;
use super::expiry::Due;
use super::requests::tell_monitors;
use super::sends::has_much_to_send;
use super::share::Share;
use crate::base::config::QUEUE_KEPT;
use crate::base::token::ConnId;
use crate::connection::callbacks::{Fault, fault_notice};
use crate::connection::context::{Connection, Inbound};
use crate::connection::machine::{Action, End, Next};
use crate::connection::overrides::Method;
use crate::driver::Driver;
use pyo3::prelude::*;
use std::collections::VecDeque;
use std::time::Instant;

/// A connection that is followed up.
struct Course<'py> {
    /// What it may have of this turn, once it was looked up.
    share: Option<Share>,
    /// What its last callback has answered, and its machine has not been told.
    answer: Option<Action>,
    /// What `data_received` is to be called with, and whether more waits.
    inbound: Option<(Inbound, bool)>,
    /// Whoever serves it, once a callback is due, and whether that is a transport. It cannot go away while its callback runs:
    /// only `settle` removes connections.
    served: Option<(Bound<'py, PyAny>, bool)>,
    has_sent: bool,
    /// The machine has said that a send begins: first, what else has arrived is answered.
    owes_send: bool,
    has_written: bool,
}

#[inline]
fn is_callback(next: Next) -> bool {
    matches!(next, Next::DataReceived | Next::WriteReady | Next::EofReceived)
}

impl Course<'_> {
    /// A callback has returned: see [`Share::use_up`].
    fn use_up(&mut self, bytes: usize, more: bool) {
        if let Some(share) = &mut self.share {
            share.use_up(bytes, more);
        }
    }
}

impl Reactor {
    /// Does what the connection's machine says, until it has nothing to say.
    pub(super) fn settle(&mut self, py: Python<'_>, id: ConnId) {
        let mut course = Course {
            share: None,
            answer: None,
            inbound: None,
            served: None,
            has_sent: false,
            owes_send: false,
            has_written: false,
        };
        while let Some(next) = self.next(py, id, &mut course) {
            if course.owes_send && !is_callback(next) && self.send_owed(py, id, &mut course, next) {
                continue;
            }
            match next {
                Next::DataReceived => {
                    let (bytes, more) = self.data_received(id, &mut course);
                    course.use_up(bytes, more);
                }
                Next::WriteReady => {
                    self.write_ready(id, &mut course);
                    let again = std::mem::replace(&mut course.has_written, true);
                    course.use_up(0, again);
                }
                Next::EofReceived => {
                    self.eof_received(id, &mut course);
                    course.use_up(0, false);
                }
                Next::Send => {
                    course.has_sent = true;
                    course.owes_send = true;
                    self.send_owed(py, id, &mut course, Next::Nothing);
                }
                Next::Nothing => return,
                Next::LetGo => return self.let_go(py, id),
                Next::Yield => return self.context.touch(id),
                Next::Close => return self.close(py, id),
                next => self.follow(py, id, next),
            }
        }
    }

    /// Sends what is to be sent at once, unless there is more to answer before. Answers whether `next`, which was said then, is to be
    /// asked for again.
    #[inline(never)] // It is rare, and `settle` is not.
    fn send_owed(&mut self, py: Python<'_>, id: ConnId, course: &mut Course<'_>, next: Next) -> bool {
        let is_idle = next == Next::Nothing;
        let may = course.share.as_ref().is_some_and(Share::may_receive_again);
        if is_idle && may && self.receives_more(py, id) {
            course.share.as_mut().into_iter().for_each(Share::received_again);
            return true;
        }
        course.owes_send = false;
        if let Some(outcome) = self.send(py, id) {
            self.advance(id, outcome);
        }
        is_idle || next == Next::Yield
    }

    /// What the machine says, after it was told what the last callback has answered; `None`: the connection is gone. Whoever
    /// has little to send sends it at the end of the turn.
    fn next<'py>(&mut self, py: Python<'py>, id: ConnId, course: &mut Course<'py>) -> Option<Next> {
        let mut table = self.context.table.borrow_mut();
        let connection = table.get(id)?;
        if let Some(action) = course.answer.take() {
            connection.acted(py, action);
        }
        if connection.is_loose {
            connection.hold_or_abandon(py);
        }
        if course.share.is_none() && std::mem::take(&mut connection.rests) {
            // It will be looked at again.
            self.deadlines.ask(Due::Connection(id), self.timeouts.when_quiet(Instant::now()));
        }
        let share = course.share.get_or_insert_with(|| {
            // Nothing, if it has had its callbacks. But it is not to wait while buffers are scarce.
            let had = connection.is_due || connection.turn == self.turn;
            Share::new(had && self.pool.borrow().may_lend())
        });
        // What ends the loop ends it first.
        let may_call = share.is_left() && self.raised.is_none();
        let next = loop {
            match connection.machine.next(&self.context.limits, may_call) {
                // Once: the others have a right to their turn.
                Next::Send if !course.has_sent && has_much_to_send(connection) => break Next::Send,
                Next::Send => self.sends.push(id),
                next => break next,
            }
        };
        if is_callback(next) {
            let serves = || (connection.protocol.clone_ref(py).into_bound(py), connection.is_transport);
            course.served.get_or_insert_with(serves);
        }
        if next == Next::DataReceived {
            connection.turn = self.turn;
            course.inbound = take_inbound(connection);
        }
        Some(next)
    }

    /// Does of it what is rare.
    fn follow(&mut self, py: Python<'_>, id: ConnId, next: Next) {
        match next {
            Next::Drained => self.drained(py, id),
            Next::ConnectionLost => self.lose(py, id),
            Next::Receive => self.receive(py, id),
            Next::CancelReceive => self.stop_receive(id),
            Next::Listen(ear) => self.listen(py, id, ear),
            Next::ShutdownWrite => {
                let is_open = self.with(id, |connection| {
                    connection.descriptor.shut_down(libc::SHUT_WR);
                    connection.machine.link.is_open()
                });
                if is_open == Some(false) {
                    self.linger(id);
                }
            }
            Next::CancelTasks => self.cancel_tasks(py, id),
            Next::Abort => {
                self.with(id, |connection| {
                    // What is lent, others may have, too.
                    if !connection.descriptor.is_lent() {
                        connection.descriptor.shut_down(libc::SHUT_RDWR);
                    }
                });
                self.driver.cancel_receive(id);
                self.driver.cancel_send(id);
            }
            Next::DataReceived | Next::EofReceived | Next::WriteReady | Next::Send => {}
            Next::Close | Next::Yield | Next::LetGo | Next::Nothing => {}
        }
    }

    fn close(&mut self, py: Python<'_>, id: ConnId) {
        self.begin_close(id);
        let Some(mut closed) = self.remove(py, id) else { return };
        // One that was never made has lost nothing.
        tell_monitors(&mut closed);
        if closed.is_transport {
            self.transport_closed(py, closed);
        }
    }

    /// Answers how many bytes it delivered, and whether more have arrived.
    fn data_received(&mut self, id: ConnId, course: &mut Course<'_>) -> (usize, bool) {
        let (Some((inbound, more)), Some((served, is_transport))) = (course.inbound.take(), &course.served) else {
            return (0, false);
        };
        self.context.mailbox.stats.messages.add(1);
        let len = inbound.len();
        let data = inbound.data.into_bound(served.py());
        if *is_transport {
            return self.transport_received(served, id, data);
        }
        let names = &self.python.names;
        let sender = inbound.from.filter(|_| !names.inherits(served, &[Method::DatagramReceived]));
        let method = if sender.is_none() { "data_received" } else { "datagram_received" };
        let answer = self.context.callback(served, Some(id), method, || {
            let data = data;
            match &sender {
                None => names.data_received(served, &data),
                Some(from) => names.datagram_received(served, &data, from),
            }
        });
        course.answer = self.action(served, id, method, answer);
        (len, more)
    }

    fn write_ready(&mut self, id: ConnId, course: &mut Course<'_>) {
        let Some((protocol, false)) = &course.served else { return };
        let names = &self.python.names;
        let answer = if names.inherits(protocol, &[Method::WriteReady, Method::Write]) {
            let drain = || self.context.drain(id, protocol);
            match self.context.native_callback(protocol, Some(id), "write_ready", drain) {
                Ok(true) => Ok(Action::ReadPending),
                Ok(false) => Ok(Action::Continue),
                Err(error) => Err(Fault::Raised(error)),
            }
        } else {
            self.context.callback(protocol, Some(id), "write_ready", || names.write_ready(protocol))
        };
        course.answer = self.action(protocol, id, "write_ready", answer);
    }

    fn eof_received(&mut self, id: ConnId, course: &mut Course<'_>) {
        let Some((served, is_transport)) = &course.served else { return };
        if *is_transport {
            return self.transport_eof(served.py(), id);
        }
        let run = || self.python.names.eof_received(served);
        let answer = self.context.callback(served, Some(id), "eof_received", run);
        course.answer = self.action(served, id, "eof_received", answer);
    }

    /// What a callback has answered, if that is known yet.
    fn action(
        &mut self,
        protocol: &Bound<'_, PyAny>,
        id: ConnId,
        method: &'static str,
        answer: Result<Action, Fault>,
    ) -> Option<Action> {
        match answer {
            Ok(action) => Some(action),
            Err(fault) => self.no_action(protocol, id, method, fault),
        }
    }

    #[cold]
    fn no_action(
        &mut self,
        protocol: &Bound<'_, PyAny>,
        id: ConnId,
        method: &'static str,
        fault: Fault,
    ) -> Option<Action> {
        match fault {
            Fault::Awaits(coroutine) => {
                self.await_callback(protocol, id, method, coroutine.bind(protocol.py()));
                None
            }
            fault => Some(self.failed(protocol, id, method, fault)),
        }
    }

    /// Tells the machine what a callback has answered that did not come in its turn.
    pub(super) fn answered(
        &mut self,
        protocol: &Bound<'_, PyAny>,
        id: ConnId,
        method: &'static str,
        answer: Result<Action, Fault>,
    ) {
        if let Some(action) = self.action(protocol, id, method, answer) {
            self.with(id, |connection| connection.acted(protocol.py(), action));
        }
    }

    /// B8: what a callback does wrong costs its own connection and nothing else; of a datagram socket, one datagram.
    pub(super) fn failed(&self, protocol: &Bound<'_, PyAny>, id: ConnId, method: &'static str, fault: Fault) -> Action {
        let goes_on = self.costs_a_datagram(protocol.py(), id, method, &fault);
        self.fault(protocol, method, fault);
        if goes_on {
            return Action::Continue;
        }
        self.with(id, |connection| connection.machine.link.close(End::Exception));
        Action::Close
    }

    /// Counts and logs it.
    pub(super) fn fault(&self, protocol: &Bound<'_, PyAny>, method: &'static str, fault: Fault) {
        self.context.mailbox.stats.exceptions.add(1);
        self.context.mailbox.notify(fault_notice(protocol, method, fault));
    }
}

/// The oldest that waits, and whether more does.
#[inline]
fn take_inbound(connection: &mut Connection) -> Option<(Inbound, bool)> {
    let inbound = connection.inbox.pop_front()?;
    connection.machine.link.delivered(inbound.cost());
    if connection.inbox.is_empty() && connection.inbox.capacity() > 4 * QUEUE_KEPT {
        connection.inbox = VecDeque::new();
    }
    if let (Some(datagrams), Some(from)) = (&mut connection.datagrams, &inbound.from) {
        datagrams.last_from = Some(**from);
    }
    Some((inbound, !connection.inbox.is_empty()))
}
