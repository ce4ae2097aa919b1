//! The event loop that is run in the turns of this one.

#![forbid(unsafe_code)]

use super::expiry::Due;
use super::{Ending, Reactor};
use crate::base::config::TASKS_END_MS;
use crate::driver::{Driver, Event};
use crate::mail::notice::Notice;
use crate::module::context_loop;
use crate::module::loop_turn::EventLoop;
use pyo3::prelude::*;
use std::time::{Duration, Instant};

/// How far the tasks of a context are.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Tasks {
    Run,
    /// They were cancelled.
    End,
    /// None is waited for.
    Over,
}

impl Reactor {
    /// Once asyncio has been imported, a context has a loop.
    #[inline]
    pub(super) fn find_loop(&mut self, py: Python<'_>) {
        let imports = context_loop::imports();
        if self.imports != imports {
            self.imports = imports;
            self.look_for_loop(py);
        }
    }

    #[cold]
    fn look_for_loop(&mut self, py: Python<'_>) {
        if self.event_loop.is_none() {
            context_loop::make_if_imported(py, &self.context);
            self.event_loop = context_loop::of(py, &self.context).as_ref().map(EventLoop::new);
            self.drive_loop(py);
        }
    }

    /// Its servers and connects are this reactor's.
    pub(super) fn drive_loop(&mut self, py: Python<'_>) {
        if let Some(event_loop) = &self.event_loop {
            event_loop.drive_by(py, Some(&self.driver));
        }
    }

    /// Lets go of the loop.
    pub(super) fn leave_loop(&mut self, py: Python<'_>) {
        if let Some(event_loop) = self.event_loop.take() {
            event_loop.drive_by(py, None);
        }
    }

    /// Runs what is due and what is ready, for a context.
    pub(super) fn run_tasks(&mut self, py: Python<'_>) {
        self.find_loop(py);
        if self.context.mailbox.has_cancelled() {
            self.cancel_requests(py);
        }
        if let Err(error) = self.run_ready(py) {
            context_loop::tell(py, &self.context, "a callback or task of an event loop ended by", &error);
        }
        self.settle_ended(py);
    }

    /// Has the tasks of a context that ends cancelled, and answers whether they have ended.
    pub(super) fn tasks_have_ended(&mut self, py: Python<'_>) -> bool {
        let Some(event_loop) = &self.event_loop else { return true };
        if self.tasks == Tasks::Run {
            self.tasks = Tasks::End;
            context_loop::begin_end(py, &self.context);
            let least = Instant::now() + Duration::from_millis(TASKS_END_MS);
            let until = match self.ending {
                Ending::Draining(until) => until.max(least),
                Ending::No | Ending::Cutting => least,
            };
            self.deadlines.ask(Due::Tasks, until);
        }
        self.tasks == Tasks::Over || event_loop.is_stopping(py)
    }

    /// What is left of the tasks of a context ends with it.
    pub(super) fn give_up_tasks(&mut self) {
        if self.event_loop.is_some() && self.tasks == Tasks::End {
            let message = "tasks of the event loop have not ended in time, although they were cancelled (drain_ms)";
            let notice = Notice { level: "warning", message: message.to_owned(), meta: Vec::new(), fd: None };
            self.context.mailbox.notify(notice);
        }
        self.tasks = Tasks::Over;
    }

    /// How long the next wait may take, if without the event loop it might take `timeout`. Tells the driver of the loop's
    /// descriptors, too, if these are new.
    pub(super) fn loop_timeout(&mut self, py: Python<'_>, timeout: Option<Duration>) -> Option<Duration> {
        self.find_loop(py);
        self.flush_datagrams(py);
        let Some(event_loop) = &self.event_loop else { return timeout };
        if let Some(readers) = event_loop.new_readers(py) {
            self.driver.watch(readers);
        }
        event_loop.begin_openings(py);
        event_loop.note(py, &self.context.mailbox);
        [timeout, event_loop.timeout(py)].into_iter().flatten().min()
    }

    /// Runs what is due and what is ready. Answers whether a batch has come to its end.
    ///
    /// # Errors
    /// What is meant to end a loop.
    pub(super) fn run_ready(&mut self, py: Python<'_>) -> PyResult<bool> {
        if let Some(error) = self.raised.take() {
            return Err(error);
        }
        let Some(event_loop) = &self.event_loop else { return Ok(true) };
        let ran = event_loop.run(py, &self.context.mailbox);
        self.batch_has_ended = matches!(ran, Ok(true));
        ran
    }

    /// Some of the loop's descriptors are ready. As long as a batch is under way, in which what was ready before may wait to be
    /// run, that is left to be told again: each is run once for each time that it is looked at.
    pub(super) fn make_readers_ready(&mut self, py: Python<'_>) {
        let Some(event_loop) = &self.event_loop else { return };
        if self.batch_has_ended
            && let Err(error) = event_loop.make_readers_ready(py)
        {
            self.raised.get_or_insert(error);
        }
    }

    /// A server of the loop has accepted, or a connect of it has ended.
    pub(super) fn opened(&mut self, py: Python<'_>, event: Event) {
        let Some(event_loop) = &self.event_loop else { return };
        if let Err(error) = event_loop.opened(py, event) {
            self.raised.get_or_insert(error);
        }
    }

    fn flush_datagrams(&mut self, py: Python<'_>) {
        if let Some(Err(error)) = self.event_loop.as_ref().map(|event_loop| event_loop.flush(py)) {
            self.raised.get_or_insert(error);
        }
    }

    /// What was asked of the driver begins. What it tells is dealt with in the next turn.
    fn driver_takes(&mut self, py: Python<'_>) -> std::io::Result<()> {
        let mut pool = self.pool.borrow_mut();
        self.context.waiting(py, || self.driver.wait(Some(Duration::ZERO), &mut pool, &mut self.events))
    }

    /// One turn, for a loop of one's own. If the loop is to stop, it turns until the batch that runs has come to its end.
    ///
    /// # Errors
    /// What is meant to end a loop, or the driver failed.
    pub(super) fn run_own(&mut self, py: Python<'_>) -> PyResult<()> {
        loop {
            self.flush(py);
            self.wait(py)?;
            // A signal may have ended the wait.
            py.check_signals()?;
            self.step(py);
            self.expire();
            self.run_commands(py);
            let batch_has_ended = self.run_ready(py)?;
            self.settle_due(py);
            self.flush_datagrams(py);
            let stops = self.event_loop.as_ref().is_some_and(|event_loop| event_loop.is_stopping(py));
            if stops && batch_has_ended && !self.sends.is_empty() {
                // Nobody knows whether it will run again.
                self.flush(py);
                self.driver_takes(py)?;
            }
            if batch_has_ended || !stops {
                return Ok(());
            }
        }
    }
}
