//! The two queues between a context's thread and everybody else, both bounded (I9).
//!
//! Inwards: [`Command`]s, by [`Inbox::post`] from NIFs and from other threads. Outwards: [`Notice`]s for the context's
//! Erlang process, which learns of them through `enif_select`. The mailbox also holds what both sides read: the
//! statistics and which driver is in use.

#![forbid(unsafe_code)]

use crate::base::config::NOTICES_MAX;
use crate::base::sync::{Mutex, lock};
use crate::base::token::ConnId;
use crate::base::wake::Wake;
use crate::driver::descriptor::{self, Descriptor, Served};
use crate::mail::inbox::{Class, Inbox, Queued, Refused};
use crate::mail::running::Running;
use crate::mail::stats::Stats;
use pyo3::{Py, PyAny};
use rustler::env::{OwnedEnv, SavedTerm};
use rustler::{Encoder, Env, LocalPid, Term};
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// A term that travels between threads, in an environment of its own.
pub struct OwnedTerm {
    env: OwnedEnv,
    term: SavedTerm,
}

impl OwnedTerm {
    /// Copies `term`.
    pub fn new(term: Term<'_>) -> Self {
        let env = OwnedEnv::new();
        let term = env.save(term);
        OwnedTerm { env, term }
    }

    /// Opens it. Nothing of `'a` may leave `f` but what is not a term.
    pub fn open<R>(&self, f: impl for<'a> FnOnce(Term<'a>) -> R) -> R {
        self.env.run(|env| f(self.term.load(env)))
    }
}

/// Where the answer to a command goes: the calling process gets `{Ref, Answer}`.
pub struct ReplyTo {
    pid: LocalPid,
    reference: OwnedTerm,
    /// Contexts that wait for the caller, which must not wait for them: a list of pids.
    callers: Option<OwnedTerm>,
}

impl ReplyTo {
    /// The caller `pid`, who waits for `reference`: a reference, or `{Reference, Callers}`.
    pub fn new(pid: LocalPid, reference: Term<'_>) -> Self {
        match reference.decode::<(Term<'_>, Term<'_>)>() {
            Ok((reference, callers)) => {
                ReplyTo { pid, reference: OwnedTerm::new(reference), callers: Some(OwnedTerm::new(callers)) }
            }
            Err(_) => ReplyTo { pid, reference: OwnedTerm::new(reference), callers: None },
        }
    }

    /// The contexts that wait for the caller, to be remembered while it is served.
    pub fn take_callers(&mut self) -> Option<OwnedTerm> {
        self.callers.take()
    }

    /// Whether both go to the same process.
    pub fn is_of(&self, other: &ReplyTo) -> bool {
        self.pid == other.pid
    }

    /// Answers `{error, stopped}`, as if the command had been refused.
    pub fn stopped(self) {
        self.send(|env| (crate::base::atoms::error(), crate::base::atoms::stopped()).encode(env));
    }

    /// Sends `{Ref, Answer}`, with the answer that `make` builds. From a thread that the VM does not manage.
    pub fn send(self, make: impl for<'a> FnOnce(Env<'a>) -> Term<'a>) {
        self.send_first(make);
    }

    /// As [`ReplyTo::send`], where more is to follow.
    pub fn send_first(&self, make: impl for<'a> FnOnce(Env<'a>) -> Term<'a>) {
        self.tell(|env, reference| (reference, make(env)).encode(env));
    }

    /// Sends what `make` builds from `Ref`; as [`ReplyTo::send`].
    pub fn tell(&self, make: impl for<'a> FnOnce(Env<'a>, Term<'a>) -> Term<'a>) {
        self.reference.open(|reference| {
            let env = reference.get_env();
            // A caller that died in the meantime does not want the answer.
            let _ = env.send(&self.pid, make(env, reference));
        });
    }
}

/// What `client_info` is made of.
pub enum Info {
    /// A map.
    Map(OwnedTerm),
    /// The peer of an accepted TCP connection.
    Peer(SocketAddr),
}

/// What Python is asked to run.
pub enum Job {
    /// Statements, in the context's globals.
    Exec(String),
    /// An expression; a map of local variables.
    Eval(String, OwnedTerm),
    /// `module`, `function`, and `{Args, Kwargs}`.
    Call(String, String, OwnedTerm),
}

/// A connection, as somebody outside names it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Name {
    /// The number of its descriptor.
    pub fd: i32,
    /// [`Mailbox::serial`] and [`Served::serial`]. Without them, whoever has the number now is meant.
    pub exactly: Option<(u64, u64)>,
}

impl Name {
    /// The connection that it means, if that is there.
    pub fn find(self) -> Option<Served> {
        let means = |served: &Served| self.exactly.is_none_or(|exactly| exactly == served.handle());
        descriptor::find(self.fd).filter(means)
    }
}

/// What Erlang wants of one connection.
pub enum Request {
    /// Queue this binary, all of it or nothing.
    Send(OwnedTerm),
    /// End it gracefully.
    Close,
    /// Pass this term to `message_received`.
    Notify(OwnedTerm),
    /// Tell of its end: the answers are `watching` and `{down, Fd, Reason}`, or only the second if there is none.
    Monitor,
    /// Forget what the process that asks has watched.
    Demonitor,
}

/// Something for the reactor thread to do.
pub enum Command {
    /// Serve this descriptor.
    Adopt {
        /// The descriptor.
        descriptor: Descriptor,
        /// Its place among the connections.
        place: Place,
        /// What Erlang says of it.
        info: Info,
    },
    /// Run Python.
    Run {
        /// What.
        job: Job,
        /// Who waits for the result; without anybody, an exception is logged.
        reply: Option<ReplyTo>,
    },
    /// Do something with a connection.
    Ask {
        /// Which.
        name: Name,
        /// What.
        request: Request,
        /// Who is told `{ok, none}`, or why not.
        reply: ReplyTo,
    },
    /// Tell of all connections.
    List {
        /// Who is told `{ok, [Map]}`.
        reply: ReplyTo,
    },
    /// Pass a Python object to a protocol's `message_received`.
    Message {
        /// The connection.
        id: ConnId,
        /// An object of the context's interpreter: dropped attached to it only (I7).
        message: Py<PyAny>,
    },
    /// Take no new connections, let the open ones deal with what has arrived, and tell when they are closed.
    Drain {
        /// How long that may take.
        within: Duration,
        /// Who is told `{ok, 0}`, or `{error, {connections, N}}` when it took too long.
        reply: ReplyTo,
    },
    /// Close every connection and end the thread, which says so itself.
    Stop {
        /// How long connections may take to deliver what they wrote.
        drain: Duration,
    },
}

impl Queued for Command {
    fn class(&self) -> Class {
        match self {
            Command::Adopt { .. } => Class::NewConnection,
            Command::Stop { .. } => Class::Last,
            Command::Message { .. } => Class::Message,
            Command::Run { .. } | Command::Ask { .. } | Command::List { .. } | Command::Drain { .. } => Class::Ordinary,
        }
    }
}

impl Command {
    /// Nobody will handle it: a connection that was promised is closed, whoever waits for a result hears that there is
    /// none. From the reactor thread; attached, if it may be a message.
    pub fn abandon(self) {
        match self {
            Command::Adopt { mut descriptor, .. } => descriptor.promise(),
            Command::Run { reply: Some(reply), .. }
            | Command::Ask { reply, .. }
            | Command::List { reply }
            | Command::Drain { reply, .. } => reply.stopped(),
            Command::Run { reply: None, .. } | Command::Message { .. } | Command::Stop { .. } => {}
        }
    }
}

/// A place among the `max_connections` of a context; free again when dropped.
pub struct Place(Arc<Mailbox>);

impl Place {
    /// Takes a place, if there is one among `max`.
    pub fn take(mailbox: &Arc<Mailbox>, max: usize) -> Option<Self> {
        mailbox.stats.connections.reserve(max as u64).then(|| Place(Arc::clone(mailbox)))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.stats.connections.release();
    }
}

/// A log record on its way to Erlang's `logger`.
#[derive(Clone, Debug)]
pub struct Notice {
    /// One of `logger`'s.
    pub level: &'static str,
    /// The text.
    pub message: String,
    /// Metadata.
    pub meta: Vec<(&'static str, String)>,
    /// The connection's descriptor, if it is about one.
    pub fd: Option<i32>,
}

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
    pub stats: Stats,
    /// What Python code its thread runs.
    pub running: Arc<Running>,
    /// The driver in use and, if it is the fallback, why; set once the thread has started.
    pub backend: OnceLock<(&'static str, String)>,
    /// What its thread is asked to do.
    pub inbox: Inbox<Command>,
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
            stats: Stats::default(),
            running: Arc::new(Running::new()),
            backend: OnceLock::new(),
            inbox: Inbox::new()?,
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

    /// Counts and logs that a connection was turned away, which is closed.
    pub fn turned_away(&self, why: &str) {
        self.stats.refused.count();
        let message = format!("a connection was refused: {why}");
        self.notify(Notice { level: "warning", message, meta: Vec::new(), fd: None });
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

/// Says that `max` connections are open.
pub fn no_place(max: usize) -> String {
    format!("{max} are open (max_connections)")
}

impl Encoder for Refused {
    fn encode<'a>(&self, env: Env<'a>) -> Term<'a> {
        match self {
            Refused::Busy => crate::base::atoms::busy().encode(env),
            Refused::Draining => crate::base::atoms::draining().encode(env),
            Refused::Stopped => crate::base::atoms::stopped().encode(env),
        }
    }
}
