//! The two queues between a context's thread and everybody else, both bounded (I9).
//!
//! Inwards: [`Command`]s, by [`Inbox::post`] from NIFs and from other threads. Outwards: [`Notice`]s for the context's
//! Erlang process, which learns of them through `enif_select`. The mailbox also holds what both sides read: the
//! statistics and which driver is in use.

#![forbid(unsafe_code)]

use crate::base::config::NOTICES_MAX;
use crate::base::sync::{Mutex, lock};
use crate::base::wake::Wake;
use crate::beam::resource::Ref;
use crate::mail::command::Command;
use crate::mail::inbox::Inbox;
use crate::mail::notice::Notice;
use crate::mail::request_timeout::{Ticket, Unwanted};
use crate::mail::running::Running;
use crate::mail::stats::Stats;
use pyo3::Python;
use rustler::LocalPid;
use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// Log records that wait, and how many came when there was no room for them.
#[derive(Default)]
struct Notices {
    waiting: VecDeque<Notice>,
    dropped: u64,
}

/// What a context's thread shares with the rest of the VM.
pub struct Mailbox {
    /// The context's number.
    pub id: i64,
    /// Never the same for two contexts of this VM, one that was started again included.
    pub serial: u64,
    /// The number of the interpreter that its protocols live in; set before there are any.
    pub interpreter: OnceLock<i64>,
    /// Its Erlang process.
    pub owner: LocalPid,
    /// Its figures.
    pub stats: Arc<Stats>,
    /// What Python code its thread runs.
    pub running: Arc<Running>,
    /// The driver in use and, if it is the fallback, why; set once the thread has started.
    pub backend: OnceLock<(&'static str, String)>,
    /// What its thread is asked to do.
    pub inbox: Inbox<Command>,
    /// Calls of functions of Erlang that were answered, each once: also while the context ends, and takes no more commands.
    answered: Mutex<Vec<u64>>,
    /// Requests whose tasks nobody waits for any more, each once.
    cancelled: Mutex<Vec<Ref<Ticket>>>,
    /// There are some: no step of a task begins before they are cancelled.
    has_cancelled: AtomicBool,
    /// Somebody looks at its stacks.
    pub looked_at: AtomicBool,
    /// Its accepts are to be begun again: somebody waits whom they may not have been woken for.
    pub accept_again: AtomicBool,
    notices: Mutex<Notices>,
    notices_wake: Wake,
}

impl Mailbox {
    /// An empty mailbox of context `id`, whose process is `owner`.
    ///
    /// # Errors
    /// No descriptor was left.
    pub fn new(id: i64, owner: LocalPid) -> io::Result<Self> {
        static SERIAL: AtomicU64 = AtomicU64::new(1);
        Ok(Mailbox {
            id,
            serial: SERIAL.fetch_add(1, Ordering::Relaxed),
            interpreter: OnceLock::new(),
            owner,
            stats: Arc::default(),
            running: Arc::new(Running::new()),
            backend: OnceLock::new(),
            inbox: Inbox::new()?,
            answered: Mutex::default(),
            cancelled: Mutex::default(),
            has_cancelled: AtomicBool::new(false),
            looked_at: AtomicBool::new(false),
            accept_again: AtomicBool::new(false),
            notices: Mutex::default(),
            notices_wake: Wake::new()?,
        })
    }

    /// The thread ends. Answers the commands that nobody will handle. Erlang may keep its handle of the context for long,
    /// so the descriptors go now.
    pub fn retire(&self) -> VecDeque<Command> {
        self.notices_wake.close();
        self.inbox.retire()
    }

    /// Counts and logs that a connection is turned away, which is closed next.
    pub fn turned_away(&self, why: &str) {
        self.stats.refused.count();
        let message = format!("a connection was refused: {why}");
        self.notify(Notice { level: "warning", message, meta: Vec::new(), fd: None });
    }

    /// Its thread, attached, runs no Python code for a while. What has run since it last did not, outside of calls, is
    /// logged if it was slow.
    pub fn pause(&self, py: Python<'_>) {
        if let Some(took) = self.running.pause(py) {
            self.was_slow_between(took);
        }
    }

    /// Logs that Python code outside of callbacks was slow.
    pub fn was_slow_between(&self, took: Duration) {
        let message = format!(
            "Python code outside of callbacks took at least {} ms (a destructor, the text of an exception, the \
                 conversion of a result, or what ran at the context's end); meanwhile its context served \
                 nobody (slow_callback_ms)",
            took.as_millis()
        );
        self.notify(Notice { level: "warning", message, meta: Vec::new(), fd: None });
    }

    /// Nobody waits for that request any more, or for the task that it has become, if it has. What runs for it is interrupted.
    pub fn give_up(&self, ticket: &Ref<Ticket>, unwanted: Unwanted) {
        if unwanted == Unwanted::Request {
            ticket.give_up();
        }
        if ticket.cancel() {
            lock(&self.cancelled).push(ticket.clone());
            // Before anybody looks which step runs: so either it is that task's, or that task's does not begin.
            self.has_cancelled.store(true, Ordering::Release);
            self.inbox.wake();
        }
        if let Err(error) = self.running.interrupt_request(ticket.clone(), unwanted) {
            let message =
                format!("a request whose time is over could not be interrupted, for want of a thread: {error}");
            self.notify(Notice { level: "warning", message, meta: Vec::new(), fd: None });
        }
    }

    /// Whether there are tasks to cancel before any step of one begins.
    #[inline]
    pub fn has_cancelled(&self) -> bool {
        self.has_cancelled.load(Ordering::Acquire)
    }

    /// Takes the requests whose tasks are to be cancelled.
    pub fn take_cancelled(&self) -> Vec<Ref<Ticket>> {
        let mut cancelled = lock(&self.cancelled);
        self.has_cancelled.store(false, Ordering::Relaxed);
        std::mem::take(&mut *cancelled)
    }

    /// The answer to a call of a function is there, or will never come.
    pub fn answered(&self, call: u64) {
        lock(&self.answered).push(call);
        self.inbox.wake();
    }

    /// Takes the calls that were answered.
    pub fn take_answered(&self) -> Vec<u64> {
        std::mem::take(&mut *lock(&self.answered))
    }

    /// Queues a log record, or counts it when nobody takes them fast enough.
    pub fn notify(&self, notice: Notice) {
        let mut notices = lock(&self.notices);
        if notices.waiting.len() >= NOTICES_MAX {
            notices.dropped += 1;
            return;
        }
        notices.waiting.push_back(notice);
        drop(notices);
        self.notices_wake.signal();
    }

    /// A descriptor that is readable while notices wait.
    ///
    /// # Errors
    /// No descriptor was left.
    pub fn notices_fd(&self) -> io::Result<OwnedFd> {
        self.notices_wake.waiter()
    }

    /// Takes all notices; and how many were dropped since the last time.
    pub fn take_notices(&self) -> (VecDeque<Notice>, u64) {
        self.notices_wake.consume();
        let Notices { waiting, dropped } = std::mem::take(&mut *lock(&self.notices));
        (waiting, dropped)
    }
}
