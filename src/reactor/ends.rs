//! How a connection hears its peer: by a receive, or while none runs by an ear.

#![forbid(unsafe_code)]

use super::Reactor;
use super::transports::is_robbed;
use crate::base::ear::Ear;
use crate::base::token::ConnId;
use crate::driver::{Driver, Outcome, Target};
use crate::mail::notice::Notice;
use crate::python::instance;
use pyo3::prelude::*;

impl Reactor {
    pub(super) fn receive(&mut self, py: Python<'_>, id: ConnId) {
        match self.reached(py, id) {
            Some((target, false)) => self.driver.receive(id, target),
            Some((_, true)) => self.advance(id, Outcome::ReceiveFailed(libc::EBADF)),
            None => {}
        }
    }

    pub(super) fn listen(&mut self, py: Python<'_>, id: ConnId, ear: Ear) {
        match self.reached(py, id) {
            Some((target, is_robbed)) if ear == Ear::Off || !is_robbed => self.driver.listen(id, target, ear),
            Some(_) => self.advance(id, Outcome::ReceiveFailed(libc::EBADF)),
            None => {}
        }
    }

    /// By what a connection is reached, and whether that is a stranger's.
    fn reached(&self, py: Python<'_>, id: ConnId) -> Option<(Target, bool)> {
        self.with(id, |connection| (connection.descriptor.target(), is_robbed(py, connection)))
    }

    /// The kernel would not tell when something arrives, nor of the end.
    #[cold]
    pub(super) fn watched_no_more(&mut self, id: ConnId, outcome: Outcome, errno: i32) {
        self.advance(id, outcome);
        let cut =
            self.with(id, |connection| connection.machine.link.is_finished().then(|| connection.descriptor.number()));
        if let Some(Some(fd)) = cut {
            let error = std::io::Error::from_raw_os_error(errno);
            let message = format!(
                "a connection was cut: the kernel does not watch its descriptor: {error}. Look at the limit of all that are \
                 watched by epoll (fs.epoll.max_user_watches)"
            );
            self.context.mailbox.notify(Notice { level: "error", message, meta: Vec::new(), fd: Some(fd) });
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
