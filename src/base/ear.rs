//! How the end of a peer is heard where nothing is received.

#![forbid(unsafe_code)]

/// What is listened for.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub enum Ear {
    /// Nothing: a receive runs, which will be told, or there is nothing left to hear.
    #[default]
    Off,
    /// That the peer is gone.
    Gone,
    /// That, and that it sends no more.
    Input,
}

/// What was heard.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Heard {
    /// The peer sends no more. What it sent before may still be unread.
    InputEnds,
    /// Nor does it receive any more.
    HungUp,
    /// It has reset the connection, or nobody is left who could read: what is unread is lost.
    Failed,
}
