//! Tasks of asyncio that a connection has, as far as its machine cares: whether they hold it, and whether its end waits.

#![forbid(unsafe_code)]

use super::vocabulary::{Action, Task};
use crate::base::limits::DATAGRAM_TASKS_MAX;

/// How many there are of which kind.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tasks {
    all: u32,
    holding: u32,
    datagrams: u32,
    /// They were told that the connection has ended.
    cancelled: bool,
    /// Nobody waits for them any more.
    given_up: bool,
}

impl Tasks {
    pub(super) fn begin(&mut self, task: Task) {
        self.all += 1;
        self.holding += u32::from(task.holds());
        self.datagrams += u32::from(task == Task::Datagram);
    }

    pub(super) fn end(&mut self, task: Task) {
        debug_assert!(self.all > 0);
        self.all -= 1;
        self.holding -= u32::from(task.holds());
        self.datagrams -= u32::from(task == Task::Datagram);
    }

    /// Whether there is any: if not, nothing else here has to be asked, which is so for most connections at all times.
    pub(super) fn are_there(&self) -> bool {
        self.all > 0
    }

    /// Whether the connection is in async mode because of them.
    pub(super) fn hold(&self) -> bool {
        self.holding > 0
    }

    /// Whether a further datagram has to wait.
    pub(super) fn are_full(&self) -> bool {
        self.datagrams >= DATAGRAM_TASKS_MAX
    }

    /// Whether `connection_lost` may come (B9).
    pub(super) fn have_ended(&self) -> bool {
        !self.are_there() || self.given_up
    }

    /// Of a connection that has ended: whether they are to be cancelled now. True once.
    pub(super) fn owe_cancel(&mut self) -> bool {
        self.are_there() && !std::mem::replace(&mut self.cancelled, true)
    }

    /// They are cancelled once more, if they have not ended by now.
    pub(super) fn cancel_again(&mut self) {
        self.cancelled = false;
    }

    pub(super) fn give_up(&mut self) {
        self.given_up = true;
    }

    /// Whether a callback of that kind, which ends now, may answer this: while others hold the connection the mode is
    /// theirs.
    pub(super) fn permit(&self, of: Task, action: Action) -> bool {
        let leaves_the_mode = matches!(action, Action::Continue | Action::Close);
        match of {
            Task::InTurn => true,
            Task::Message => leaves_the_mode || !self.hold(),
            Task::Datagram | Task::Own => leaves_the_mode,
        }
    }
}
