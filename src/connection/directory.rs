//! Connections by the number of their descriptor: for whoever names one, on any thread.

#![forbid(unsafe_code)]

use crate::base::numbers::NumberMap;
use crate::base::sync::lock;
use crate::base::token::ConnId;
use crate::driver::descriptor::Descriptor;
use crate::mail::command::{Command, Name};
use crate::mail::mailbox::Mailbox;
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex};

/// A connection, as it is found by its number.
#[derive(Clone)]
pub struct Served {
    /// Of its context.
    pub mailbox: Arc<Mailbox>,
    /// What the context calls it.
    pub id: ConnId,
    /// No other connection of this VM ever has it.
    pub serial: u64,
    /// Where its protocol is. Whoever is attached to the interpreter of its context may take it for an object: the reactor
    /// is attached when it drops that, and has withdrawn the connection's entry before.
    pub protocol: usize,
}

impl Served {
    /// What tells it from all others, besides its number.
    pub fn handle(&self) -> (u64, u64) {
        (self.mailbox.serial, self.serial)
    }
}

static CONNECTIONS: LazyLock<Mutex<NumberMap<RawFd, Served>>> = LazyLock::new(Mutex::default);

/// A connection is found as long as it has this, unless it is withdrawn before.
#[derive(Debug)]
pub struct Entry {
    fd: RawFd,
    serial: u64,
}

impl Entry {
    /// Lists a connection under the number of its descriptor. Should somebody else close that, so that the number comes up
    /// again, its reactor is told before anybody is served under it.
    pub fn new(descriptor: &mut Descriptor, mailbox: &Arc<Mailbox>, id: ConnId, protocol: usize) -> Self {
        static EVER: AtomicU64 = AtomicU64::new(1);
        let entry = Entry { fd: descriptor.number(), serial: EVER.fetch_add(1, Ordering::Relaxed) };
        let Entry { fd, serial } = entry;
        let served = Served { mailbox: Arc::clone(mailbox), id, serial, protocol };
        // What it replaces goes when nothing is locked: that may be the last of a mailbox, with what waits in it.
        let before = lock(&CONNECTIONS).insert(fd, served);
        drop(before);
        let mailbox = Arc::clone(mailbox);
        descriptor.if_robbed(move || {
            forget(fd, serial);
            // Refused, its thread ends, and with it the connection.
            let _ = mailbox.inbox.post(Command::Disown { id });
        });
        entry
    }

    /// [`Served::serial`].
    pub fn serial(&self) -> u64 {
        self.serial
    }

    /// The protocol has lost this connection: nobody finds it any more.
    pub fn withdraw(&self) {
        forget(self.fd, self.serial);
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.withdraw();
    }
}

fn forget(fd: RawFd, serial: u64) {
    let mut connections = lock(&CONNECTIONS);
    let ours = connections.get(&fd).is_some_and(|served| served.serial == serial);
    let gone = if ours { connections.remove(&fd) } else { None };
    drop(connections);
    drop(gone);
}

/// The connection that `name` means, if that is there.
pub fn find(name: Name) -> Option<Served> {
    let served = lock(&CONNECTIONS).get(&name.fd).cloned();
    served.filter(|served| name.exactly.is_none_or(|exactly| exactly == served.handle()))
}
