//! How a connection hears its peer: by a receive, or while none runs by an ear.

#![forbid(unsafe_code)]

use super::Reactor;
use super::transports::is_robbed;
use crate::base::ear::Ear;
use crate::base::token::ConnId;
use crate::connection::context::Connection;
use crate::driver::Driver;
use crate::driver::Outcome;
use crate::python::instance;
use pyo3::prelude::*;

impl Reactor {
    pub(super) fn receive(&mut self, py: Python<'_>, id: ConnId) {
        let of = |connection: &mut Connection| (!is_robbed(py, connection)).then(|| connection.descriptor.target());
        match self.with(id, of) {
            Some(Some(target)) => self.driver.receive(id, target),
            Some(None) => self.advance(id, Outcome::ReceiveFailed(libc::EBADF)),
            None => {}
        }
    }

    pub(super) fn listen(&mut self, id: ConnId, ear: Ear) {
        if let Some(target) = self.with(id, |connection| connection.descriptor.target()) {
            self.driver.listen(id, target, ear);
        }
    }

    /// The peer sends no more, or is gone. The protocol can see it at once, whatever mode it is in.
    pub(super) fn peer_closed(&mut self, py: Python<'_>, id: ConnId, outcome: Outcome) {
        self.advance(id, outcome);
        if let Some(protocol) = self.protocol(py, id) {
            instance::set_peer_closed(&protocol);
        }
    }
}
