//! A context as those see it who accept from the same socket.

#![forbid(unsafe_code)]

use crate::driver::descriptor::Descriptor;
use crate::mail::command::{Command, Info};
use crate::mail::listening::Acceptor;
use crate::mail::mailbox::Mailbox;
use crate::mail::place::Place;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// A context that accepts.
pub struct Share {
    /// Its mailbox.
    pub mailbox: Arc<Mailbox>,
    /// Connections that it may have.
    pub max_connections: usize,
}

impl Acceptor for Share {
    fn serial(&self) -> u64 {
        self.mailbox.serial
    }

    fn takes_connections(&self) -> bool {
        self.mailbox.inbox.takes_connections() && !self.mailbox.inbox.is_killed()
    }

    fn is_waiting(&self) -> bool {
        self.mailbox.running.number().is_multiple_of(2)
    }

    fn look_again(&self) {
        self.mailbox.accept_again.store(true, Ordering::Release);
        self.mailbox.inbox.wake();
    }

    fn wake(&self) {
        self.mailbox.inbox.wake();
    }

    fn give(&self, descriptor: Descriptor, peer: SocketAddr) -> Result<(), Descriptor> {
        let Some(place) = Place::take(&self.mailbox.stats, self.max_connections) else { return Err(descriptor) };
        let posted = self.mailbox.inbox.post(Command::Adopt { descriptor, place, info: Info::Peer(peer) });
        match posted {
            Err((_, Command::Adopt { descriptor: refused, .. })) => Err(refused),
            _ => Ok(()),
        }
    }
}
