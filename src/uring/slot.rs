//! What the driver remembers of a connection: where the life of each of its two operations has come to. Pure.

#![forbid(unsafe_code)]

use crate::base::ear::Ear;
use crate::base::token::ConnId;
use crate::driver::starved::Place;
use crate::driver::{Io, Payload, Target};

/// The life of an operation. It begins and ends *idle*; each way back there is one event for the reactor (I5).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Life {
    Idle,
    /// The kernel does it, in an operation of its own.
    Submitted,
    /// The kernel waits for readiness, then it is tried: always so for files, otherwise after `EAGAIN`.
    Polling,
    /// A receive that lacks a buffer: nothing of it is in the kernel.
    Starved(Place),
    /// A receive of what is left where it is, and has something, which nobody has taken yet. Nothing of it is in the kernel.
    Told,
    /// The kernel has been asked to end it, or to end its wait; it is not tried again.
    Cancelling {
        polling: bool,
    },
    /// A receive that may have missed the end is cancelled, to be submitted again.
    Renewing,
}

/// What it takes to end an operation early.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Cancel {
    /// Nothing: it has ended.
    Nothing,
    /// To take it out of the queue of the starved.
    Leave(Place),
    /// To say that it has ended.
    Tell,
    /// A cancel of the operation, or of its wait for readiness.
    Submit { polling: bool },
}

impl Life {
    /// It shall end early.
    pub(super) fn cancel(&mut self) -> Cancel {
        let polling = match *self {
            Life::Idle => return Cancel::Nothing,
            Life::Starved(place) => {
                *self = Life::Idle;
                return Cancel::Leave(place);
            }
            Life::Told => {
                *self = Life::Idle;
                return Cancel::Tell;
            }
            Life::Submitted | Life::Renewing => false,
            Life::Polling => true,
            Life::Cancelling { polling } => polling,
        };
        *self = Life::Cancelling { polling };
        Cancel::Submit { polling }
    }

    /// A receive shall begin anew. Answers whether a cancel has to be submitted: not where it begins anew by itself.
    pub(super) fn renew(&mut self) -> bool {
        let due = *self == Life::Submitted;
        if due {
            *self = Life::Renewing;
        }
        due
    }

    /// The cancel did not find it. Answers whether somebody waits to hear that.
    pub(super) fn cancel_missed(&mut self) -> bool {
        match *self {
            Life::Renewing => {
                *self = Life::Submitted;
                false
            }
            Life::Cancelling { polling } => {
                *self = if polling { Life::Polling } else { Life::Submitted };
                true
            }
            _ => false,
        }
    }

    pub(super) fn is_cancelling(self) -> bool {
        matches!(self, Life::Cancelling { .. })
    }
}

/// What the driver remembers of a connection.
#[derive(Clone, Copy)]
pub(super) struct Slot {
    /// The connection.
    pub(super) id: Option<ConnId>,
    pub(super) target: Target,
    pub(super) receive: Life,
    /// What arrives is told of, and left.
    pub(super) left: bool,
    /// It stands among those that the next waits tell of, once, although it may have been cancelled meanwhile.
    pub(super) among_told: bool,
    /// Where the receive waited before it was fed, until it gets something.
    pub(super) place: Option<Place>,
    pub(super) send: Life,
    /// The send under way, for when it has to be tried again.
    pub(super) payload: Option<Payload>,
    /// What the ears hold for the descriptor.
    pub(super) ear: Ear,
}

pub(super) const UNUSED: Slot = Slot {
    id: None,
    target: Target { fd: -1, io: Io::Socket },
    receive: Life::Idle,
    left: false,
    among_told: false,
    place: None,
    send: Life::Idle,
    payload: None,
    ear: Ear::Off,
};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::starved::Starved;

    #[test]
    fn a_cancel_goes_where_the_operation_is() {
        let place = Starved::default().join(ConnId { index: 0, generation: 0 }, None);
        for (life, cancel, then) in [
            (Life::Idle, Cancel::Nothing, Life::Idle),
            (Life::Submitted, Cancel::Submit { polling: false }, Life::Cancelling { polling: false }),
            (Life::Polling, Cancel::Submit { polling: true }, Life::Cancelling { polling: true }),
            (Life::Starved(place), Cancel::Leave(place), Life::Idle),
            (Life::Told, Cancel::Tell, Life::Idle),
            (Life::Renewing, Cancel::Submit { polling: false }, Life::Cancelling { polling: false }),
            (Life::Cancelling { polling: true }, Cancel::Submit { polling: true }, Life::Cancelling { polling: true }),
        ] {
            let mut now = life;
            assert_eq!((now.cancel(), now), (cancel, then), "{life:?}");
        }
    }

    #[test]
    fn only_what_the_kernel_does_alone_is_renewed() {
        let place = Starved::default().join(ConnId { index: 0, generation: 0 }, None);
        let cancelling = Life::Cancelling { polling: false };
        let others = [Life::Idle, Life::Polling, Life::Starved(place), Life::Told, cancelling, Life::Renewing];
        for life in others {
            let mut now = life;
            assert!(!now.renew(), "{life:?}");
            assert_eq!(now, life);
        }
        let mut life = Life::Submitted;
        assert!(life.renew());
        assert_eq!(life, Life::Renewing);
    }

    #[test]
    fn a_cancel_that_misses_leaves_it_as_it_was() {
        for (life, told, then) in [
            (Life::Renewing, false, Life::Submitted),
            (Life::Cancelling { polling: false }, true, Life::Submitted),
            (Life::Cancelling { polling: true }, true, Life::Polling),
            (Life::Idle, false, Life::Idle),
            (Life::Submitted, false, Life::Submitted),
        ] {
            let mut now = life;
            assert_eq!((now.cancel_missed(), now), (told, then), "{life:?}");
        }
    }
}
