//! The product's own loop, over a kernel that does nothing.

use super::{LIMITS, connection, os_error};
use crate::base::config::{Backend, Options};
use crate::base::ear::Ear;
use crate::base::token::ConnId;
use crate::buffer::Pool;
use crate::connection::context::{self, Context};
use crate::driver::{Arrival, Driver, Event, Opening, Outcome, Payload, Target};
use crate::mail::mailbox::Mailbox;
use crate::python::instance;
use crate::python::reactor_buffer;
use crate::python::types::Types;
use crate::python::variables;
use crate::reactor::Reactor;
use crate::reactor::jobs;
use crate::reactor::workspace::Workspace;
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use std::cell::{Cell, RefCell};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::RawFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How a batch is: so many connections, each of which gets a message of so many bytes in each turn.
#[derive(Clone, Copy)]
pub struct Batch {
    /// Connections.
    pub connections: usize,
    /// Bytes.
    pub bytes: usize,
}

/// Serves `turns` batches with the protocol class `Bench`, an echo, that `code` defines, in the product's own loop, but with a
/// kernel that does nothing and takes no time. Answers how long that took.
///
/// In each turn every connection is told that its last send has ended, and that a message has arrived.
///
/// # Errors
/// The Python exception.
pub fn serve(py: Python<'_>, code: &str, batch: Batch, turns: u64) -> PyResult<Duration> {
    let took = Rc::new(Cell::new(Duration::ZERO));
    let mailbox = Arc::new(Mailbox::new(1, super::nobody()).map_err(os_error)?);
    let options = options(code);
    let python = Workspace::new(py, &options.python_path)?;
    let pool = Pool::new(options.buffers, options.buffer_bytes, || ()).map_err(os_error)?;
    let pool = Rc::new(RefCell::new(pool));
    let buffer_type = Types::of(py)?.reactor_buffer.unbind();
    let context = Rc::new(Context::new(Arc::clone(&mailbox), options.limits, buffer_type));
    reactor_buffer::set_local_pool(Some(Rc::clone(&pool)));
    context::set_current(py, Some(Rc::clone(&context)));
    jobs::exec(python.globals.bind(py), &options.setup_code, "<setup_code>")?;
    let class = python.globals.bind(py).as_any().get_item("Bench")?;
    for number in 0..batch.connections {
        let served = python.names.make_protocol(&class)?;
        let connection = connection(&mailbox, &served)?;
        let id = context.table.borrow_mut().insert(connection);
        instance::attach(&served, id, (number as i32, mailbox.serial, 0), &PyDict::new(py), variables::copy(py)?)?;
        context.touch(id);
    }
    let kernel = Kernel {
        batch,
        turns_left: turns,
        mailbox: Arc::clone(&mailbox),
        began: None,
        took: Rc::clone(&took),
        receiving: Vec::new(),
        ended: Vec::new(),
    };
    let mut reactor = Reactor::new(Box::new(kernel), context, pool, python, &options);
    let ran = reactor.run(py);
    reactor.finish(py);
    context::set_current(py, None);
    reactor_buffer::set_local_pool(None);
    ran.map_err(os_error)?;
    let messages = turns * batch.connections as u64;
    let counted = (mailbox.stats.messages.get(), mailbox.stats.bytes_out.get());
    if counted != (messages, messages * batch.bytes as u64) {
        let notices: Vec<_> = mailbox.take_notices().0.into_iter().map(|notice| notice.message).collect();
        return Err(PyRuntimeError::new_err(format!(
            "{messages} messages were not echoed; delivered and sent were {counted:?}. {}",
            notices.join("\n")
        )));
    }
    Ok(took.get())
}

fn options(code: &str) -> Options {
    Options {
        mode: crate::base::config::Mode::Worker,
        id: 1,
        backend: Backend::Auto,
        cpu: None,
        setup_code: code.to_owned(),
        python_path: vec![concat!(env!("CARGO_MANIFEST_DIR"), "/python").to_owned()],
        max_connections: 65536,
        linger_ms: 0,
        idle_timeout: None,
        write_stall_timeout: None,
        slow_callback: None,
        venv: None,
        env: Vec::new(),
        buffers: 1024,
        buffer_bytes: 16 * 1024,
        limits: LIMITS,
    }
}

/// A driver that has a message for everybody at once, takes whatever is sent, and stops the loop in the end.
struct Kernel {
    batch: Batch,
    turns_left: u64,
    mailbox: Arc<Mailbox>,
    began: Option<Instant>,
    took: Rc<Cell<Duration>>,
    receiving: Vec<ConnId>,
    /// Operations that have ended.
    ended: Vec<Event>,
}

impl Driver for Kernel {
    fn receive(&mut self, id: ConnId, _: Target) {
        self.receiving.push(id);
    }

    unsafe fn send(&mut self, id: ConnId, _: Target, payload: Payload) -> Option<Outcome> {
        let bytes = match payload {
            Payload::Bytes(_, len) | Payload::Gather(_, len) => len,
            Payload::Datagrams(..) => unreachable!("the benchmark has streams"),
        };
        self.ended.push(Event { id, outcome: Outcome::Sent(bytes as u32) });
        None
    }

    fn leave_input(&mut self, _: ConnId, _: bool) {}

    fn receive_into(&mut self, _: ConnId, _: &mut [MaybeUninit<u8>]) -> Result<usize, Outcome> {
        Ok(0)
    }

    fn receive_left(&mut self, _: ConnId, _: &mut Pool, _: &mut Vec<Event>) {}

    fn cancel_receive(&mut self, id: ConnId) {
        self.receiving.retain(|other| *other != id);
        self.ended.push(Event { id, outcome: Outcome::ReceiveFailed(libc::ECANCELED) });
    }

    fn cancel_send(&mut self, _: ConnId) {}

    fn listen(&mut self, _: ConnId, _: Target, _: Ear) {}

    fn look(&mut self, _: &[ConnId]) {}

    fn watch(&mut self, _: Option<RawFd>) {}

    fn open(&mut self, _: ConnId, _: RawFd, _: Opening) {}

    fn stop_opening(&mut self, _: ConnId) {}

    fn arrival(&mut self, _: ConnId) -> Option<Arrival> {
        None
    }

    fn wait(&mut self, _: Option<Duration>, pool: &mut Pool, events: &mut Vec<Event>) -> io::Result<()> {
        events.append(&mut self.ended);
        if self.receiving.len() < self.batch.connections {
            // At the beginning, or at the end.
            return Ok(());
        }
        if self.turns_left == 0 {
            self.took.set(self.began.map_or(Duration::ZERO, |began| began.elapsed()));
            self.mailbox.inbox.kill();
            events.push(Event { id: ConnId { index: 0, generation: 0 }, outcome: Outcome::Woken });
            return Ok(());
        }
        self.began.get_or_insert_with(Instant::now);
        self.turns_left -= 1;
        for id in &self.receiving {
            let Some((buffer, _)) = pool.post() else { break };
            pool.reap(buffer);
            let outcome = Outcome::Received { buffer, len: self.batch.bytes as u32, more: true };
            events.push(Event { id: *id, outcome });
        }
        Ok(())
    }

    fn shut_down(&mut self, _: Instant) -> bool {
        true
    }
}
