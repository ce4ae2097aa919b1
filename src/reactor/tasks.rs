//! Tasks that the reactor begins on the context's event loop, and what follows when they end: of a coroutine function that
//! Erlang has called, the answer.

#![forbid(unsafe_code)]

use super::Reactor;
use super::jobs::Waiter;
use super::looping::Tasks;
use crate::beam::reply::OwnedTerm;
use crate::connection::tasks::{Ended, Owner};
use crate::module::context_loop;
use crate::module::tasks::done_callback;
use crate::python::describe::close_coroutine;
use pyo3::prelude::*;

/// A request of Erlang's that has become a task.
pub(super) struct Request {
    task: Py<PyAny>,
    waiter: Waiter,
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
        event_loop.call_method1("_begin_task", (coroutine, variables, done_callback(py, owner)?))
    }

    /// Nobody waits for that request any more.
    pub(super) fn cancel_request(&mut self, py: Python<'_>, serial: u64) {
        if let Some(request) = self.requests.get(&serial) {
            self.cancel_task(request.task.bind(py));
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
            let Some(Ended { owner, task }) = ended else { return };
            match owner {
                Owner::Request(serial) => self.request_ended(serial, task.bind(py)),
                Owner::Connection(_) => {}
            }
        }
    }

    fn request_ended(&mut self, serial: u64, task: &Bound<'_, PyAny>) {
        let Some(Request { waiter, .. }) = self.requests.remove(&serial) else { return };
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
            request.waiter.stopped();
        }
    }
}
