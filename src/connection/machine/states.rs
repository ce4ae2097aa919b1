//! What a connection's machine remembers of its course.

#![forbid(unsafe_code)]

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Phase {
    /// Callbacks run.
    Open,
    /// The protocol asked to close: output is flushed.
    Flushing,
    /// FIN is sent; input is discarded so that no reset destroys what the peer has not read yet (B1).
    Lingering,
    /// Only the end of the running operations is awaited.
    Finished,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Receive {
    Idle,
    Running,
    Cancelling,
}

/// Whether `write_ready` has to wait, and until when: for the queue to fall so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Blocked {
    No,
    UntilLow,
    /// A large object was refused. It can be taken whole then; piece by piece, its rest would be copied each time.
    UntilEmpty,
}

/// Nothing new is read, and the connection closes by itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Retiring {
    No,
    /// As soon as the protocol has dealt with what is there.
    WhenIdle,
    /// As soon as the protocol has had what has arrived, and is not in write mode.
    WhenWritten,
}

/// How far our own half is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Output {
    Open,
    /// Nothing more is taken: FIN is sent once what was is out.
    Ending,
    Ended,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Eof {
    NotYet,
    /// Arrived, but the protocol has not been told.
    Waiting,
    Told,
}

/// An operation has failed, by which the link ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Failure {
    pub errno: Option<i32>,
    /// It was a send: nothing more is sent.
    pub of_send: bool,
}
