//! What follows for connections of asyncio's transports, where that is not as for those of protocols.

#![forbid(unsafe_code)]

use super::Reactor;
use crate::base::token::ConnId;
use crate::connection::context::{Connection, Inbound};
use crate::connection::machine::End;
use crate::module::transport_abandoned;
use crate::module::transport_calls::{self, Serving};
use crate::module::transport_layout;
use crate::python::bytes_like;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

/// What one `data_received` gets at most, unless it came at once. The allocator of the VM asks the system for each object from
/// 128 KiB on, and gives it back: a page fault for every 4 KiB.
pub(super) const WHOLE_BYTES_MAX: usize = 112 * 1024;

/// Whether the socket of a transport was closed by its program: nothing may be sent or received by its number, which may be
/// a stranger's by now (I4). No system call: its socket says so, unless nobody has that any more.
#[inline]
pub(super) fn is_robbed(py: Python<'_>, connection: &Connection) -> bool {
    connection.is_transport && (connection.is_loose || transport_layout::is_robbed(connection.protocol.bind(py)))
}

/// Whether the protocol of a transport has buffers of its own. Not asked of one that its connection does not keep: that reads no more.
#[inline]
pub(super) fn is_buffered(py: Python<'_>, connection: &Connection) -> bool {
    connection.is_transport && !connection.is_loose && transport_calls::is_buffered(connection.protocol.bind(py))
}

impl Reactor {
    pub(super) fn is_transport(&self, id: ConnId) -> bool {
        self.with(id, |connection| connection.is_transport).unwrap_or_default()
    }

    /// The transport of a connection. It cannot go away while its callback runs: only `settle` removes connections.
    fn transport<'py>(&self, py: Python<'py>, id: ConnId) -> Option<Bound<'py, PyAny>> {
        self.with(id, |connection| connection.served(py)).flatten()
    }

    /// Runs `f` for the transport of a connection. What is meant to end the loop does so in the next turn.
    fn serving<R>(&mut self, py: Python<'_>, id: ConnId, f: impl FnOnce(&Serving<'_, '_>) -> PyResult<R>) -> Option<R> {
        let transport = self.transport(py, id)?;
        match f(&Serving { context: &self.context, id, transport: &transport }) {
            Ok(result) => Some(result),
            Err(error) => {
                self.raised.get_or_insert(error);
                None
            }
        }
    }

    /// Passes on what has arrived, all of it at once where that is one call of the protocol's. Answers how many bytes that were,
    /// and whether more have arrived.
    pub(super) fn transport_received(
        &mut self,
        transport: &Bound<'_, PyAny>,
        id: ConnId,
        data: Bound<'_, PyAny>,
    ) -> (usize, bool) {
        let serving = Serving { context: &self.context, id, transport };
        if transport_calls::is_buffered(transport) {
            let len = data.len().unwrap_or_default();
            let (rest, filled) = serving.fill_buffers(&data);
            if let Err(error) = filled {
                self.raised.get_or_insert(error);
            }
            return (len, self.put_back(id, rest));
        }
        let received = match self.whole(id, data) {
            Ok(data) => serving.received(&data).and_then(|()| data.len()),
            Err(error) => serving.failed(error, "Fatal read error on socket transport").map(|()| 0),
        };
        match received {
            Ok(len) => (len, self.with(id, |connection| !connection.inbox.is_empty()).unwrap_or_default()),
            Err(error) => {
                self.raised.get_or_insert(error);
                (0, false)
            }
        }
    }

    /// What is left of what a buffered protocol was given comes first the next time. Answers whether something waits.
    fn put_back(&self, id: ConnId, rest: Option<Bound<'_, PyBytes>>) -> bool {
        let waits = self.with(id, |connection| {
            if let Some(rest) = rest
                && connection.machine.link.is_open()
            {
                let rest = Inbound { data: rest.into_any().unbind(), from: None };
                connection.machine.link.undelivered(rest.cost());
                connection.inbox.push_front(rest);
            }
            !connection.inbox.is_empty()
        });
        waits.unwrap_or_default()
    }

    /// Plain `bytes` of `data` and of what has arrived after it, as much as one call gets.
    fn whole<'py>(&self, id: ConnId, data: Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let py = data.py();
        let mut room = WHOLE_BYTES_MAX.saturating_sub(data.len()?);
        let more = self.with(id, |connection| {
            let mut more = Vec::new();
            while let Some(next) = connection.inbox.pop_front_if(|next| next.len() <= room) {
                room -= next.len();
                connection.machine.link.delivered(next.cost());
                more.push(next);
            }
            more
        });
        let more = more.unwrap_or_default();
        if more.is_empty() && data.is_exact_instance_of::<PyBytes>() {
            return Ok(data);
        }
        let rest = more.iter().map(|inbound| inbound.data.bind(py));
        let pieces = std::iter::once(&data).chain(rest).map(|piece| piece.cast::<PyBytes>());
        let pieces = pieces.collect::<Result<Vec<_>, _>>()?;
        bytes_like::joined(py, &pieces.iter().map(|piece| piece.as_bytes()).collect::<Vec<_>>())
    }

    pub(super) fn transport_eof(&mut self, py: Python<'_>, id: ConnId) {
        match self.serving(py, id, |serving| serving.eof_received()) {
            Some(true) => {}
            Some(false) => {
                self.serving(py, id, |serving| serving.close());
            }
            // It was interrupted: asked again, it says what becomes of the connection.
            None => _ = self.with(id, |connection| connection.machine.link.received_eof()),
        }
    }

    pub(super) fn drained(&mut self, py: Python<'_>, id: ConnId) {
        self.serving(py, id, |serving| serving.drained());
    }

    pub(super) fn lose_transport(&mut self, py: Python<'_>, id: ConnId) {
        let lost = self.with(id, |connection| (std::mem::take(&mut connection.inbox), connection.machine.link.end()));
        let Some((unread, end)) = lost else { return };
        drop(unread);
        let errno = match end {
            End::Reset(errno) => Some(errno.unwrap_or(libc::ECONNRESET)),
            End::Exception => Some(libc::EBADF),
            _ => None,
        };
        self.serving(py, id, |serving| serving.lost(errno));
    }

    /// Nothing follows for a transport but what its program begins: that alone keeps it from now on.
    pub(super) fn let_go(&mut self, py: Python<'_>, id: ConnId) {
        let Some(transport) = self.transport(py, id) else { return };
        let weakly = transport_abandoned::loosened(&transport);
        let kept = weakly.and_then(|weakly| self.with(id, |connection| connection.loosen(weakly)));
        // It may go here: nothing is borrowed.
        drop((kept, transport));
    }

    /// The thread of its context ends, or its loop is driven no more.
    pub(super) fn cut_transport(&mut self, py: Python<'_>, connection: Connection) {
        let transport = connection.served(py);
        drop(connection);
        if let Some(Err(error)) = transport.as_ref().map(transport_calls::orphaned) {
            self.raised.get_or_insert(error);
        }
    }

    /// Has what is left of the transports of a context that ends closed, once its tasks have ended. Answers whether none is.
    pub(super) fn transports_have_ended(&mut self, py: Python<'_>) -> bool {
        if self.context.mailbox.stats.transports.get() == 0 {
            return true;
        }
        if !std::mem::replace(&mut self.ends_transports, true) {
            let ids = self.context.table.borrow().ids();
            for id in ids {
                if self.is_transport(id) {
                    self.context.end_transport(id, false);
                    self.settle(py, id);
                }
            }
        }
        self.context.mailbox.stats.transports.get() == 0
    }

    /// How many connections are those of protocols.
    pub(super) fn served(&self) -> usize {
        self.context.table.borrow().len().saturating_sub(self.context.mailbox.stats.transports.get() as usize)
    }

    /// Its connection has been removed: the descriptor is the socket's alone again.
    pub(super) fn transport_closed(&mut self, py: Python<'_>, connection: Connection) {
        let (transport, was_robbed) = (connection.served(py), connection.descriptor.was_robbed());
        drop(connection);
        let closed = transport.as_ref().map(|transport| transport_calls::closed(transport, was_robbed));
        if let Some(Err(error)) = closed {
            self.raised.get_or_insert(error);
        }
    }
}
