//! A loop of one's own: the same reactor, driven by `run_forever`, with a mailbox that nobody posts to.

use super::Reactor;
use crate::base::config::{Backend, INBOX_BYTES, Mode, Options};
use crate::base::limits::Limits;
use crate::buffer::Pool;
use crate::connection::context::{self, Context};
use crate::mail::mailbox::Mailbox;
use crate::mail::running::Roused;
use crate::module::event_loop;
use crate::module::loop_layout::Turns;
use crate::module::loop_turn::EventLoop;
use crate::python::types::Types;
use crate::reactor::backend::{self, NoDriver};
use crate::reactor::workspace::Workspace;
use pyo3::exceptions::{PyOSError, PyValueError};
use pyo3::prelude::*;
use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::sync::Arc;

/// Receive buffers of a loop of one's own.
const BUFFERS: u16 = 256;

/// Has such loops driven by this.
pub fn provide() {
    event_loop::provide(make_mailbox, make_turns);
}

/// Of a context that has no process.
fn make_mailbox() -> io::Result<Mailbox> {
    // SAFETY: I7 is not touched: a number, to which nobody sends.
    Mailbox::new(0, rustler::LocalPid::from_c_arg(unsafe { std::mem::zeroed() }))
}

struct OwnLoop {
    reactor: Reactor,
    /// It has stopped, and its connections rest.
    rests: bool,
    /// On the thread of a context, what runs may be interrupted while this waits.
    _roused: Option<Roused>,
}

impl Turns for OwnLoop {
    fn run(&mut self, of: &Bound<'_, PyAny>) -> PyResult<()> {
        let reactor = &mut self.reactor;
        reactor.event_loop = Some(EventLoop::new(of));
        reactor.drive_loop(of.py());
        if std::mem::take(&mut self.rests) {
            reactor.settle_due(of.py());
        }
        let ran = reactor.run_own(of.py());
        let stops = reactor.event_loop.as_ref().is_some_and(|event_loop| event_loop.is_stopping(of.py()));
        if stops || ran.is_err() {
            self.rests = true;
            reactor.rest(of.py());
        }
        // It would keep the loop, which keeps this.
        reactor.event_loop = None;
        ran
    }

    fn context(&self) -> Rc<Context> {
        Rc::clone(&self.reactor.context)
    }

    fn hand_over(self: Box<Self>, py: Python<'_>) {
        let OwnLoop { reactor, .. } = *self;
        reactor.hand_over(py);
    }

    fn end(self: Box<Self>, py: Python<'_>, on_its_thread: bool) {
        let OwnLoop { reactor, .. } = *self;
        match on_its_thread {
            true => reactor.finish(py),
            false => reactor.leave(py),
        }
    }
}

fn make_turns(
    py: Python<'_>,
    name: &str,
    mailbox: &Arc<Mailbox>,
    context: Option<Rc<Context>>,
) -> PyResult<Box<dyn Turns>> {
    let wanted = match name {
        "auto" => Backend::Auto,
        "uring" => Backend::Uring,
        "epoll" => Backend::Epoll,
        other => return Err(PyValueError::new_err(format!("no such backend: {other}; it is auto, uring or epoll"))),
    };
    let options = options(wanted);
    let waker = Arc::clone(mailbox);
    let mut pool = Pool::new(options.buffers, options.buffer_bytes, move || waker.inbox.wake())?;
    let driver = backend::choose(wanted, mailbox, &mut pool).map_err(|none| match none {
        NoDriver::Backend(why) => PyOSError::new_err(why),
        NoDriver::Resources(error) => error.into(),
    })?;
    let buffer_type = Types::of(py)?.reactor_buffer.unbind();
    let make_context = || Rc::new(Context::new(Arc::clone(mailbox), options.limits, buffer_type));
    let context = context.unwrap_or_else(make_context);
    let python = Workspace::new(py, &[])?;
    let sleeper = Arc::clone(mailbox);
    let _roused =
        context::current(py).map(|runs_it| runs_it.mailbox.running.rouse_by(Box::new(move || sleeper.inbox.wake())));
    let reactor = Reactor::new(driver, context, Rc::new(RefCell::new(pool)), python, &options);
    Ok(Box::new(OwnLoop { reactor, rests: true, _roused }))
}

fn options(backend: Backend) -> Options {
    Options {
        mode: Mode::Worker,
        id: 0,
        backend,
        cpu: None,
        setup_code: String::new(),
        python_path: Vec::new(),
        venv: None,
        env: Vec::new(),
        max_connections: usize::MAX,
        linger_ms: 0,
        idle_timeout: None,
        write_stall_timeout: None,
        slow_callback: None,
        buffers: BUFFERS,
        buffer_bytes: 16 * 1024,
        limits: Limits {
            write_high_bytes: 64 * 1024,
            write_low_bytes: 16 * 1024,
            inbox_bytes: INBOX_BYTES,
            linger_bytes: 1024 * 1024,
        },
    }
}
