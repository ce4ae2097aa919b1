//! What Erlang asks of a reactor thread: serve a descriptor, run Python, signal, stop.

#![forbid(unsafe_code)]

use super::expiry::Due;
use super::{Ending, Reactor};
use crate::base::token::ConnId;
use crate::beam::reply::ReplyTo;
use crate::beam::resource::Ref;
use crate::connection::machine::End;
use crate::mail::command::{Command, Job};
use crate::mail::inbox::Signal;
use crate::mail::notice::Notice;
use crate::mail::request_timeout::Ticket;
use crate::module::{context_loop, erlang_call};
use crate::reactor::jobs::{self, Waiter};
use pyo3::prelude::*;
use std::rc::Rc;
use std::time::Instant;

impl Reactor {
    /// Runs a bounded batch of what waits.
    pub(super) fn run_commands(&mut self, py: Python<'_>) {
        if !std::mem::take(&mut self.commands_wait) {
            return;
        }
        let context = Rc::clone(&self.context);
        let inbox = &context.mailbox.inbox;
        if inbox.open() {
            self.end(py, Ending::Cutting);
        }
        self.commands_wait = inbox.take_commands(&mut self.commands);
        // One by one: should one of them panic, the others are still there to be abandoned.
        while let Some(command) = self.commands.pop_front() {
            self.run_command(py, command);
        }
        for call in context.mailbox.take_answered() {
            erlang_call::tell_answer(py, &context, &self.python.converter, call);
        }
        self.take_signals(py);
    }

    fn take_signals(&mut self, py: Python<'_>) {
        let signals = self.context.mailbox.inbox.take_signals();
        // Whoever signals and then closes wants both.
        for wanted in [Signal::WriteReady, Signal::Close] {
            for (id, _) in signals.iter().filter(|(_, signal)| *signal == wanted) {
                self.with(*id, |connection| match wanted {
                    Signal::WriteReady => connection.signalled(py),
                    Signal::Close => connection.machine.link.close(End::Closed),
                });
                self.settle(py, *id);
            }
        }
    }

    fn run_command(&mut self, py: Python<'_>, command: Command) {
        match command {
            // Handed over before the drain was known: closed.
            command @ Command::Adopt { .. } if self.context.mailbox.inbox.is_draining() => {
                command.abandon();
            }
            Command::Accept { listening, .. } => self.accept_from(listening),
            Command::Adopt { descriptor, place, info } => self.adopt(py, descriptor, place, &info),
            Command::Run { job, reply, ticket } => self.run_job(py, job, reply, ticket),
            Command::Ask { name, request, mut reply } => {
                self.context.callers.replace(reply.take_callers());
                self.ask(py, name, request, reply);
                self.context.callers.replace(None);
            }
            Command::List { whole, reply } => self.list(py, whole, reply),
            Command::Message { id, message } => self.message_received(py, id, message.bind(py)),
            Command::Disown { id } => self.disown(py, id),
            Command::Drain { within, reply } => self.drain(py, Instant::now() + within, reply),
            Command::Stop { drain } => self.end(py, Ending::Draining(Instant::now() + drain)),
        }
    }

    fn run_job(&mut self, py: Python<'_>, job: Job, mut reply: Option<ReplyTo>, ticket: Option<Ref<Ticket>>) {
        let globals = self.python.globals.bind(py);
        self.context.callers.replace(reply.as_mut().and_then(ReplyTo::take_callers));
        let waiter = Waiter { reply, ticket };
        let awaits = context_loop::outside(py, &self.context, || {
            jobs::run(&self.python.converter, globals, job, waiter, &self.context.mailbox)
        });
        let callers = self.context.callers.replace(None);
        if let Some((coroutine, waiter)) = awaits {
            self.begin_request(&coroutine, waiter, callers);
        }
    }

    /// Nothing may be sent by its number, nor received: others have it. The protocol's own code has done that.
    fn disown(&mut self, py: Python<'_>, id: ConnId) {
        if self.is_robbed(id) {
            self.settle(py, id);
        }
    }

    /// Ends a connection whose descriptor was closed by somebody else, and says so. Answers true once.
    pub(super) fn is_robbed(&mut self, id: ConnId) -> bool {
        let robbed = self.with(id, |connection| {
            connection.descriptor.is_robbed().then(|| {
                connection.machine.link.fail(End::Exception);
                // That of a transport which nobody has, its socket has closed: it went, too.
                let is_told = connection.machine.link.end() != End::Abandoned;
                is_told.then(|| connection.descriptor.number())
            })
        });
        if let Some(Some(Some(fd))) = robbed {
            let mailbox = &self.context.mailbox;
            mailbox.stats.exceptions.add(1);
            let message = format!(
                "descriptor {fd} of a connection was closed by somebody else, and the connection is cut. An object that wraps \
                 the number, as socket.socket(fileno=self.fd) does, closes it when it goes: give it a duplicate, \
                 os.dup(self.fd)"
            );
            mailbox.notify(Notice { level: "error", message, meta: Vec::new(), fd: Some(fd) });
        }
        robbed.flatten().is_some()
    }

    /// The connection is about to be removed, and its descriptor closed.
    pub(super) fn begin_close(&mut self, id: ConnId) {
        self.is_robbed(id);
        self.with(id, |connection| connection.descriptor.is_about_to_go(connection.machine.link.peer_closed()));
    }

    fn drain(&mut self, py: Python<'_>, deadline: Instant, reply: ReplyTo) {
        // Who was signalled before has something to write, in whatever mode it is.
        self.take_signals(py);
        self.context.mailbox.inbox.drain();
        let ids = self.context.table.borrow().ids();
        for id in ids {
            // When a transport is done, only its own protocol knows.
            if !self.is_transport(id) {
                self.with(id, |connection| connection.machine.link.retire());
                self.settle(py, id);
            }
        }
        self.drains.push((deadline, reply));
        self.deadlines.ask(Due::Drains, deadline);
    }

    fn end(&mut self, py: Python<'_>, ending: Ending) {
        // Who was signalled before the stop has something to write.
        self.take_signals(py);
        for command in self.context.mailbox.inbox.close() {
            command.abandon();
        }
        for (_, reply) in self.drains.drain(..) {
            reply.stopped();
        }
        let cut = matches!(ending, Ending::Cutting);
        if cut {
            self.give_up_tasks();
        }
        if let Ending::Draining(deadline) = ending {
            self.deadlines.ask(Due::Ending, deadline);
        }
        self.ending = ending;
        let ids = self.context.table.borrow().ids();
        for id in ids {
            self.with(id, |connection| match cut {
                true => {
                    connection.machine.link.fail(End::Killed);
                    connection.machine.give_up_tasks();
                }
                false => connection.machine.stop(),
            });
            self.settle(py, id);
        }
    }

    pub(super) fn has_ended(&mut self, py: Python<'_>) -> bool {
        // Tasks need their transports until they have ended.
        !matches!(self.ending, Ending::No)
            && self.served() == 0
            && self.tasks_have_ended(py)
            && self.transports_have_ended(py)
    }
}
