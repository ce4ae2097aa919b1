//! Tasks that the reactor begins on the context's event loop, and what follows when they end: of a coroutine function that
//! Erlang has called, the answer; of an asynchronous callback, the action.

#![forbid(unsafe_code)]

use super::expiry::Due;
use super::jobs::Waiter;
use super::looping::Tasks;
use super::{Ending, Reactor};
use crate::base::config::{LOST_WAITS_MS, MESSAGE_TASKS_MAX, TASKS_END_MS};
use crate::base::token::ConnId;
use crate::beam::reply::OwnedTerm;
use crate::connection::callbacks::Fault;
use crate::connection::context::Connection;
use crate::connection::machine::{Action, Task};
use crate::connection::tasks::{Ended, Owner, Running};
use crate::mail::notice::Notice;
use crate::module::context_loop;
use crate::module::protocol::CANCEL_ON_DISCONNECT;
use crate::module::tasks::done_callback;
use crate::python::describe::close_coroutine;
use crate::python::instance;
use pyo3::prelude::*;
use std::time::{Duration, Instant};

/// A request of Erlang's that has become a task.
pub(super) struct Request {
    task: Py<PyAny>,
    waiter: Waiter,
}

impl Request {
    /// The task has ended, or is not waited for any more: what its number named is no step of it.
    fn over(self) -> Waiter {
        if let Some(ticket) = &self.waiter.ticket {
            ticket.ended();
        }
        self.waiter
    }
}

impl Reactor {
    /// Begins a task, for a request whose caller is awaited by `callers`. Its first step runs in this turn.
    pub(super) fn begin_request(&mut self, coroutine: &Bound<'_, PyAny>, waiter: Waiter, callers: Option<OwnedTerm>) {
        let py = coroutine.py();
        if self.tasks == Tasks::Over {
            close_coroutine(coroutine);
            return waiter.stopped();
        }
        let serial = waiter.serial();
        match self.begin_task(coroutine, Owner::Request(serial), None) {
            Ok(task) => {
                if !waiter.became(&task) {
                    self.cancel_task(&task);
                }
                self.requests.insert(serial, Request { task: task.unbind(), waiter });
                if let Some(callers) = callers {
                    self.context.tasks_callers.borrow_mut().insert(serial, callers);
                }
            }
            Err(error) => {
                close_coroutine(coroutine);
                waiter.tell(py, &self.python.converter, Err(error), &self.context.mailbox);
            }
        }
    }

    /// A task of `owner`, in these variables of context, or in a copy of what the thread sees.
    fn begin_task<'py>(
        &mut self,
        coroutine: &Bound<'py, PyAny>,
        owner: Owner,
        variables: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = coroutine.py();
        let event_loop = context_loop::ensure(py, &self.context)?;
        let task = event_loop.call_method1("_begin_task", (coroutine, variables, done_callback(py, owner)?))?;
        self.context.mailbox.stats.tasks.count();
        Ok(task)
    }

    /// Cancels the tasks that nobody waits for any more. What has not become a task yet is found by its ticket.
    #[cold]
    pub(super) fn cancel_requests(&mut self, py: Python<'_>) {
        for ticket in self.context.mailbox.take_cancelled() {
            if let Some(request) = self.requests.get(&ticket.serial()) {
                ticket.told();
                self.cancel_task(request.task.bind(py));
            }
        }
    }

    fn cancel_task(&self, task: &Bound<'_, PyAny>) {
        if let Err(error) = task.call_method0("cancel") {
            context_loop::tell(task.py(), &self.context, "a task could not be cancelled", &error);
        }
    }

    /// Does what follows for tasks that have ended.
    pub(super) fn settle_ended(&mut self, py: Python<'_>) {
        loop {
            let ended = self.context.ended.borrow_mut().pop_front();
            if matches!(ended, Some(Ended::Task { .. })) {
                self.context.mailbox.stats.tasks.release();
            }
            match ended {
                None => return,
                Some(Ended::Task { owner: Owner::Request(serial), task }) => self.request_ended(serial, task.bind(py)),
                Some(Ended::Task { owner: Owner::Connection(id), task }) => self.task_ended(id, task.bind(py)),
                Some(Ended::TimerFailed { id, error }) => {
                    if let Some(protocol) = self.protocol(py, id) {
                        self.failed(&protocol, id, "call_later", Fault::Raised(error));
                        self.settle(py, id);
                    }
                }
            }
        }
    }

    /// A callback is `async def`: it becomes a task in the connection's own variables, which answers when it ends.
    pub(super) fn await_callback(
        &mut self,
        protocol: &Bound<'_, PyAny>,
        id: ConnId,
        method: &'static str,
        coroutine: &Bound<'_, PyAny>,
    ) {
        let kind = match method {
            "message_received" => Task::Message,
            "data_received" | "datagram_received" if self.is_datagrams(id) => Task::Datagram,
            _ => Task::InTurn,
        };
        let is_open = |connection: &mut Connection| connection.machine.link.is_open();
        let running = |connection: &mut Connection| connection.tasks.len();
        if !self.with(id, is_open).unwrap_or_default() {
            close_coroutine(coroutine);
            return;
        }
        if kind == Task::Message && self.with(id, running).unwrap_or_default() >= MESSAGE_TASKS_MAX {
            close_coroutine(coroutine);
            let why = format!(
                "a coroutine, but {MESSAGE_TASKS_MAX} tasks of this connection run already: the message is dropped"
            );
            return self.fault(protocol, method, Fault::Answered(why));
        }
        match self.begin_task(coroutine, Owner::Connection(id), instance::variables(protocol)) {
            Ok(task) => {
                let task = task.unbind();
                self.with(id, |connection| {
                    connection.task_began(protocol.py(), kind);
                    connection.tasks.add(Running { task, kind, method, spared: false });
                });
            }
            Err(error) => {
                close_coroutine(coroutine);
                let action = self.failed(protocol, id, method, Fault::Raised(error));
                self.with(id, |connection| connection.acted(protocol.py(), action));
            }
        }
    }

    /// A task of a connection has ended: what it returned is the action, what it raised costs the connection (B8).
    fn task_ended(&mut self, id: ConnId, task: &Bound<'_, PyAny>) {
        let py = task.py();
        let found = self.with(id, |connection| {
            let Running { kind, method, task, .. } = connection.tasks.remove(task)?;
            connection.machine.task_ended(kind);
            let is_open = connection.machine.link.is_open();
            Some((kind, method, is_open, connection.protocol.clone_ref(py).into_bound(py), task))
        });
        let is_cancelled =
            task.call_method0("cancelled").and_then(|cancelled| cancelled.is_truthy()).unwrap_or_default();
        let result = task.call_method0("result");
        let Some(Some((kind, method, is_open, protocol, _task))) = found else {
            if let Err(error) = result
                && !is_cancelled
            {
                context_loop::tell(py, &self.context, "a task of a connection that had ended raised", &error);
            }
            return;
        };
        let answer = match result {
            Err(_) if is_cancelled && (!is_open || matches!(kind, Task::Own | Task::Datagram)) => None,
            Err(error) => Some(Err(Fault::Raised(error))),
            Ok(_) if !is_open || kind == Task::Own => None,
            Ok(value) => Some(self.permitted(id, kind, self.python.names.result(&value))),
        };
        match answer {
            None => {}
            Some(Err(fault)) if !is_open => self.fault(&protocol, method, fault),
            Some(answer) => {
                let action = answer.unwrap_or_else(|fault| self.failed(&protocol, id, method, fault));
                self.with(id, |connection| connection.acted(py, action));
            }
        }
        self.settle(py, id);
    }

    /// What a callback of that kind has answered, if it may answer that now.
    pub(super) fn permitted(&self, id: ConnId, kind: Task, answer: Result<Action, Fault>) -> Result<Action, Fault> {
        let action = answer?;
        match self.with(id, |connection| connection.machine.permits(kind, action)) {
            Some(false) => Err(Fault::Answered(match kind {
                Task::Datagram => "another mode, although others may be at work (datagrams change none: \"continue\" or \"close\")",
                _ => "another mode, while a task of an `async def` callback holds the connection (\"continue\" or \"close\")",
            }.to_owned())),
            _ => Ok(action),
        }
    }

    /// The connection has ended, and its tasks are to.
    pub(super) fn cancel_tasks(&mut self, py: Python<'_>, id: ConnId) {
        let is_cut = matches!(self.ending, Ending::Cutting);
        let Some(protocol) = self.protocol(py, id) else { return };
        // What they do to it now reaches nobody, and they can see that.
        if let Some(end) = self.with(id, |connection| connection.machine.link.end()) {
            instance::detach(&protocol, end.name(), end.errno());
        }
        let wanted = protocol.getattr(CANCEL_ON_DISCONNECT).and_then(|cancel| cancel.is_truthy()).unwrap_or(true);
        if !wanted && !is_cut {
            return;
        }
        let tasks = self.with(id, |connection| {
            let tasks = connection.tasks.iter().filter(|running| is_cut || !running.spared);
            tasks.map(|running| running.task.clone_ref(py)).collect::<Vec<_>>()
        });
        for task in tasks.into_iter().flatten() {
            self.cancel_task(task.bind(py));
        }
        let within = if is_cut { TASKS_END_MS } else { LOST_WAITS_MS };
        self.deadlines.ask(Due::Lost(id), Instant::now() + Duration::from_millis(within));
    }

    /// Tasks of a connection have not ended, although it has.
    pub(super) fn give_up_tasks_of(&mut self, id: ConnId) {
        let left = self.with(id, |connection| {
            connection.machine.give_up_tasks();
            (connection.tasks.iter().next().map(|running| running.method), connection.descriptor.number())
        });
        if let Some((Some(method), fd)) = left {
            let message = format!(
                "a task of {method} has not ended {LOST_WAITS_MS} ms after its connection did, although it was cancelled: \
                 connection_lost comes before its end"
            );
            self.context.mailbox.notify(Notice { level: "warning", message, meta: Vec::new(), fd: Some(fd) });
        }
        self.context.touch(id);
    }

    /// Nothing of a connection's timers is run any more.
    pub(super) fn end_timers(&self, py: Python<'_>, timers: Vec<Py<PyAny>>) {
        for timer in timers {
            if let Err(error) = timer.bind(py).call_method0("cancel") {
                context_loop::tell(py, &self.context, "a timer could not be cancelled", &error);
            }
        }
    }

    fn request_ended(&mut self, serial: u64, task: &Bound<'_, PyAny>) {
        let Some(waiter) = self.requests.remove(&serial).map(Request::over) else { return };
        let callers = self.context.tasks_callers.borrow_mut().remove(&serial);
        drop(callers);
        let py = task.py();
        let is_cancelled = task.call_method0("cancelled").and_then(|cancelled| cancelled.is_truthy());
        if self.tasks != Tasks::Run && is_cancelled.unwrap_or_default() {
            return waiter.stopped();
        }
        waiter.tell(py, &self.python.converter, task.call_method0("result"), &self.context.mailbox);
    }

    /// Whoever waits for a task waits in vain: the context ends.
    pub(super) fn abandon_requests(&mut self) {
        for (_, request) in self.requests.drain() {
            request.over().stopped();
        }
    }
}
