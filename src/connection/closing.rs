//! A connection that is closed, or half closed, by Python code on its own context's thread.

#![forbid(unsafe_code)]

use crate::base::token::ConnId;
use crate::connection::context::Context;
use crate::connection::machine::End;
use crate::driver::Io;
use crate::mail::inbox::Signal;
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;

impl Context {
    /// `close_connection` on this context's own thread: as from any other, but nothing has to be queued, and a task of the
    /// connection that does it goes on.
    pub fn close(&self, py: Python<'_>, id: ConnId) {
        let task = self.current_task(py, id);
        let Ok(mut table) = self.table.try_borrow_mut() else {
            return self.mailbox.inbox.signal(id, Signal::Close);
        };
        let Some(connection) = table.get(id) else { return };
        if let Some(running) = task.and_then(|task| connection.tasks.get(&task)) {
            running.spared = true;
        }
        connection.machine.link.close(End::Closed);
        drop(table);
        self.touch(id);
    }

    /// `Protocol.write_eof`: what was accepted is delivered, then the peer is told that nothing more comes; reading goes on.
    ///
    /// # Errors
    /// `TypeError`: not a stream socket.
    pub fn end_output(&self, id: ConnId) -> PyResult<()> {
        let is_stream = self.with_own(id, |connection| {
            let is_stream = connection.descriptor.abilities().io == Io::Socket;
            if is_stream {
                connection.machine.link.end_output();
            }
            is_stream
        });
        if is_stream == Some(false) {
            return Err(PyTypeError::new_err("write_eof() is for stream sockets; close() ends the output of a pipe"));
        }
        self.touch(id);
        Ok(())
    }

    /// The task that runs, if the connection has any.
    fn current_task<'py>(&self, py: Python<'py>, id: ConnId) -> Option<Bound<'py, PyAny>> {
        let has_tasks =
            self.table.try_borrow_mut().ok()?.get(id).is_some_and(|connection| !connection.tasks.is_empty());
        let event_loop = self.event_loop.borrow().as_ref().filter(|_| has_tasks)?.clone_ref(py);
        event_loop.bind(py).call_method0("_current_task").ok()
    }
}
