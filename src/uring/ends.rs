//! How the end of a connection is heard where no receive tells it: because none runs, or because the kernel has lost it.
//!
//! A poll of the ring cannot listen for the end: it always asks for `EPOLLRDHUP`, and so fires at once after a half close. An
//! epoll set can; the ring polls the set.

#![forbid(unsafe_code)]

use super::Uring;
use super::slot::Life;
use crate::base::ear::Ear;
use crate::base::token::{ConnId, Kind, Token};
use crate::driver::epoll::{Interest, Set};
use crate::driver::{Event, Io, Outcome, Target, syscalls};
use io_uring::opcode;
use io_uring::types::Fd;
use std::os::fd::AsRawFd;
use std::time::Duration;

fn interest(ear: Ear) -> Interest {
    Interest { ear, ..Interest::default() }
}

impl Uring {
    pub(super) fn listen_to(&mut self, id: ConnId, target: Target, ear: Ear) {
        if target.io == Io::Datagram {
            return;
        }
        let before = self.claim(id, target).ear;
        let changed = self.ears.change(target.fd, id, interest(before), interest(ear));
        self.slot(id).ear = if changed.is_ok() { ear } else { Ear::Off };
        // Where the descriptor is gone, that shows itself.
        if let Err(error) = changed
            && syscalls::is_short(&error)
        {
            self.made.push(Event { id, outcome: Outcome::Deaf(syscalls::errno_of(&error)) });
        }
        if ear != Ear::Off && !self.ears_polled {
            self.poll_ears();
        }
    }

    fn poll_ears(&mut self) {
        self.ears_polled = true;
        let poll = opcode::PollAdd::new(Fd(self.ears.as_raw_fd()), libc::POLLIN as u32).build();
        self.push(poll.user_data(Token::EARS.0));
    }

    /// An ear has heard something. It is taken out: what it heard would be reported for ever.
    pub(super) fn hear(&mut self) {
        self.ears_polled = false;
        // An error leaves nothing ready, and the wait begins anew.
        let ready = self.ears.wait(Some(Duration::ZERO)).unwrap_or_default();
        let mut strays = false;
        for nth in 0..ready {
            let Some((id, readiness)) = self.ears.ready(nth) else { continue };
            let Some(heard) = readiness.heard else { continue };
            let slot = &mut self.slots[id.index as usize];
            if slot.ear == Ear::Off || slot.id != Some(id) {
                strays = true;
                continue;
            }
            let ear = std::mem::take(&mut slot.ear);
            let _ = self.ears.change(slot.target.fd, id, interest(ear), Interest::default());
            self.made.push(Event { id, outcome: Outcome::Heard(heard) });
        }
        if strays {
            self.renew_ears();
        }
        self.poll_ears();
    }

    /// Ears without what cannot be taken out of the old set: whose number somebody else has closed, while what it named is open
    /// elsewhere. No poll of the old set runs: the one that told of it has ended.
    fn renew_ears(&mut self) {
        let Ok(mut ears) = Set::new() else { return };
        for slot in self.slots.iter().filter(|slot| slot.ear != Ear::Off) {
            if let Some(id) = slot.id
                && let Err(error) = ears.change(slot.target.fd, id, Interest::default(), interest(slot.ear))
                && syscalls::is_short(&error)
            {
                // There is no room for another set: the strays are told of until there is.
                return;
            }
        }
        self.ears = ears;
    }

    /// What ends a connection is lost by the kernel if it comes between a read and the poll that follows it, or, before 2026,
    /// if it comes together with data: the receive waits for ever on a socket that is over.
    pub(super) fn renew_ended(&mut self, quiet: &[ConnId]) {
        let waits =
            |id: &&ConnId| self.slots.get(id.index as usize).is_some_and(|slot| slot.receive == Life::Submitted);
        let waiting: Vec<ConnId> = quiet.iter().filter(waits).copied().collect();
        let polled = waiting.iter().map(|id| self.slots[id.index as usize].target.fd);
        for nth in syscalls::over(polled) {
            let id = waiting[nth];
            if self.slot(id).receive.renew() {
                self.cancel(Kind::Receive, Kind::CancelReceive, id);
            }
        }
    }
}
