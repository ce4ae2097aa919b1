//! What may happen to a connection of a protocol, for its model (`world.rs`) and for whoever makes it happen.

#![forbid(unsafe_code)]

use crate::base::ear::Heard;
use crate::connection::machine::{Action, Task};

/// What may happen to a connection from outside. What nothing runs for that could bring it about, does not happen.
#[derive(Clone, Debug)]
pub enum Happening {
    /// Data, with which the receive ends unless `more`; it may lie in a buffer.
    Received { bytes: usize, more: bool, buffer: Option<u16> },
    /// The peer sends no more.
    Eof,
    /// The receive fails.
    ReceiveError,
    /// An ear hears this, or has heard it when it was told to stop.
    Heard(Heard),
    /// An ear was refused, sooner or later.
    Deaf,
    /// The cancel of the receive finds it, or misses.
    CancelAnswers { missed: bool },
    /// The send ends, having sent that part of 255 of what is queued, but at least one byte.
    Sent { part: u8 },
    /// The send fails.
    SendError,
    /// `write_eof`.
    EndsOutput,
    /// `signal_write_ready`, from outside of a callback.
    Signalled,
    /// Somebody sent the protocol a message.
    Message,
    /// It has lingered long enough.
    LingerExpired,
    /// What the protocol answers from now on.
    Answer(Action),
    /// How much it writes in each callback.
    Writes(usize),
    /// Whether that is an immutable object.
    WritesObjects(bool),
    /// What becomes of a send that begins at once, of what was just written, if one does: it fails, nothing fits, or that part of 255.
    SendsFirst(Option<u8>),
    /// Whether each callback reads half of what arrived first and was not delivered.
    Reads(bool),
    /// Whether each callback signals its own connection.
    SignalsItself(bool),
    /// Whether something stands in the protocol's `write_buffer`.
    Buffers(bool),
    /// Whether callbacks answer by tasks from now on, and of what kind.
    Awaits(Option<Task>),
    /// The protocol begins a task of its own.
    TaskBegins,
    /// A task ends, and answers as callbacks do.
    TaskEnds(u8),
    /// Its tasks had their time.
    TasksGivenUp,
    /// The connection is cut.
    Killed,
    /// It is closed properly: by a timeout, say.
    Closed,
    /// Its context stops.
    Stopped,
    /// Its context drains.
    Retired,
}
