//! Options of a context, as `py_options.erl` validated them, and the constants that bound what no option bounds.

#![forbid(unsafe_code)]

use crate::base::limits::Limits;
use rustler::NifUnitEnum;
use std::time::Duration;

/// Which driver to use.
#[derive(Clone, Copy, PartialEq, Eq, Debug, NifUnitEnum)]
pub enum Backend {
    /// io_uring where it works and gains something, otherwise epoll.
    Auto,
    /// io_uring or an error.
    Uring,
    /// epoll.
    Epoll,
}

/// Which interpreter a context runs in.
#[derive(Clone, Copy, PartialEq, Eq, Debug, NifUnitEnum)]
pub enum Mode {
    /// The main one, with one GIL for all contexts.
    Worker,
    /// One of its own; from Python 3.12 on with its own GIL.
    Subinterp,
    /// One of its own with its own GIL, or an error.
    Owngil,
}

/// Options of one context. Defaults and their reasons are documented in `py_options.erl`.
#[derive(Clone, Debug)]
pub struct Options {
    /// Number of the context, for logs.
    pub id: i64,
    /// Interpreter.
    pub mode: Mode,
    /// Driver.
    pub backend: Backend,
    /// The CPU that the thread stays on.
    pub cpu: Option<usize>,
    /// Python source that runs before the context answers.
    pub setup_code: String,
    /// Directories put in front of `sys.path`.
    pub python_path: Vec<String>,
    /// A virtual environment to use.
    pub venv: Option<String>,
    /// Environment variables: what they are to be, or that they are not to be.
    pub env: Vec<(String, Option<String>)>,
    /// Connections that may be open at a time.
    pub max_connections: usize,
    /// How long input is discarded after our FIN, in milliseconds.
    pub linger_ms: u64,
    /// A connection on which nothing moves for so long is closed.
    pub idle_timeout: Option<Duration>,
    /// A connection whose output makes no progress for so long is cut.
    pub write_stall_timeout: Option<Duration>,
    /// A callback that takes longer is logged.
    pub slow_callback: Option<Duration>,
    /// Receive buffers.
    pub buffers: u16,
    /// Bytes per receive buffer.
    pub buffer_bytes: usize,
    /// Limits of each connection.
    pub limits: Limits,
}

/// Callbacks that one connection may get per turn before others have theirs (I9).
pub const CALLBACKS_PER_TURN: u32 = 64;

/// And bytes, and time, after which what else has arrived for it waits.
pub const BYTES_PER_TURN: usize = 64 * 1024;

/// Whoever sends much is received from up to so many times in a turn, and what it answers to all that is sent together: where few
/// do, each costs fewer calls.
pub const RECEIVES_MAX: u32 = 4;

/// All who do may have so many receives between two looks at the others, but each has one.
pub const RECEIVES_PER_TURN: u32 = 16;

/// See [`BYTES_PER_TURN`].
pub const MICROSECONDS_PER_TURN: u64 = 200;

/// Those that have had their turn, and have more to do, get so much time before the kernel is asked for newcomers.
pub const DUE_TIME_PER_TURN: Duration = Duration::from_millis(1);

/// Output of at least so many bytes is sent as soon as the callbacks have returned that wrote it, not at the end of the turn:
/// its memory is free again for the next (docs/performance.md).
pub const SEND_AT_ONCE_BYTES: usize = 4096;

/// Behind others that wait to be sent, an object of fewer bytes is copied, and the copies are joined. To refer to it would
/// cost more (docs/performance.md).
pub const JOINED_BYTES_MAX: usize = 1024;

/// A copy that is so long is not added to: what a run of them has in reserve stays small.
pub const COPY_BYTES_MAX: usize = 16 * 1024;

/// Places in a queue of a connection that are kept when it is empty.
pub const QUEUE_KEPT: usize = 16;

/// What it takes to keep bytes that have arrived, besides themselves.
pub const ARRIVAL_BYTES: usize = 128;

/// What it takes to keep a datagram, besides itself: an empty one must count, too.
pub const DATAGRAM_BYTES: usize = 256;

/// Received bytes that may wait for a protocol that is not in read mode, before receiving is paused.
pub const INBOX_BYTES: usize = 64 * 1024;

/// Commands that may wait for a context's thread; a caller beyond that is answered `busy`.
pub const COMMANDS_MAX: usize = 16 * 1024;

/// Messages from Python to protocols that may wait for a context's thread: enough for one to each connection of a full
/// context.
pub const MESSAGES_MAX: usize = 128 * 1024;

/// Classes without `message_received` that are named in the log, per context.
pub const UNAWARE_CLASSES_MAX: usize = 64;

/// Commands handled per turn.
pub const COMMANDS_PER_TURN: usize = 256;

/// Log records that may wait for the context's process; later ones are counted and dropped.
pub const NOTICES_MAX: usize = 1024;

/// Calls from Python to Erlang functions that may run at a time. Each is a process.
pub const CALLS_MAX: usize = 1024;

/// A thread that waits in `erlang.call` looks so often whether it was interrupted or killed.
pub const CALL_POLL_MS: u64 = 20;

/// A term of so many parts is not copied on a scheduler: that would take more than a tenth of a millisecond or so.
pub const COPIED_PARTS_MAX: usize = 8192;

/// Nor is text of so many bytes.
pub const COPIED_TEXT_BYTES_MAX: usize = 1024 * 1024;

/// Messages to other nodes that may wait for the process that sends them.
pub const RELAYED_MAX: usize = 1024;

/// New atoms that `erlang.atom` may make, in all.
pub const ATOMS_MAX: usize = 10_000;

/// Names of processes and nodes that Python may make atoms.
pub const REMOTE_NAMES_MAX: usize = 4096;

/// Runs of bytes that one gathered send may have.
pub const GATHER_MAX: usize = 64;

/// Processes that may watch one connection.
pub const MONITORS_MAX: usize = 1024;

/// Memory for copies of output that a context keeps while nothing needs it.
pub const SPARE_BYTES_MAX: usize = 1024 * 1024;

/// And in how many pieces.
pub const SPARES_MAX: usize = 1024;

/// Such a piece of up to so many bytes is used for any copy, a larger one for copies of at least a quarter of it.
pub const SPARE_BYTES_FOR_ANY: usize = 4096;

/// A `write_buffer` of at least so many bytes is sent from where it is. Smaller ones are cheaper to copy: theirs is used
/// again, while each that is given away means new memory.
pub const GIVEN_BYTES_MIN: usize = 64 * 1024;

/// An emptied `write_buffer` keeps so many bytes of memory at most, a small object's: CPython has these in stock.
pub const KEPT_BUFFER_BYTES: isize = 512;

/// Stack of a reactor thread, in bytes: Python recursion needs it.
pub const STACK_BYTES: usize = 16 * 1024 * 1024;

/// Terms nested deeper than this are refused.
pub const TERM_DEPTH_MAX: usize = 512;

/// Those that are so deep that the thread has less stack left than this, as well. What an item may call needs some.
pub const TERM_STACK_BYTES: usize = 12 * 1024;

/// A connection that moved and then is quiet for so long is looked at: has it ended without anybody being told?
pub const QUIET_MS: u64 = 500;

/// Connections are looked at this often per timeout, at most every `LOOK_MIN_MS`.
pub const LOOKS_PER_TIMEOUT: u32 = 8;

/// The shortest time between two looks at a connection.
pub const LOOK_MIN_MS: u64 = 5;

/// How long a listener leaves it to the backlog when it could not accept.
pub const ACCEPT_RETRY_MS: u64 = 100;

/// A context that has been in one turn for so long does not hear of connections: others are asked to look.
pub const ACCEPT_RELAY_MS: u64 = 20;

/// Callbacks that run are looked at this often per `slow_callback_ms`, at most every `WATCHDOG_MIN_MS`.
pub const WATCHDOG_LOOKS: u32 = 8;

/// A callback that has not returned after so many times `slow_callback_ms` is told of while it runs.
pub const STUCK_THRESHOLDS: u32 = 10;

/// The shortest time between two looks.
pub const WATCHDOG_MIN_MS: u64 = 2;

/// While somebody waits for the GIL of another interpreter, that is asked for it so often.
#[cfg(not(Py_3_12))]
pub const GIL_LOOK_MS: u64 = 5;

/// And nobody is looked for any more when nobody has waited so many times in a row.
#[cfg(not(Py_3_12))]
pub const GIL_LOOKS_BEFORE_SLEEP: u32 = 20;

/// Terms and objects with more parts than this are refused: one that is shared many times over grows when it is copied.
pub const TERM_PARTS_MAX: usize = 10_000_000;

/// A connection that is being closed and whose peer takes no output for so long is cut, in milliseconds.
pub const FLUSH_STALL_MS: u64 = 60_000;

/// How long a thread that ends waits for the kernel to give its memory back, in milliseconds.
///
/// Its interpreter, if it has one of its own, then waits so long for other threads. The process of the context waits for both
/// (`STOP_MARGIN_MS` of `py_context_server`).
pub const SHUT_DOWN_MS: u64 = 1_500;

/// Callbacks and tasks of an event loop that are ready get so much time before the kernel is asked again (I9).
pub const LOOP_TIME_PER_TURN: Duration = Duration::from_micros(250);

/// After so many of one batch, and after each batch, that time is looked at.
pub const LOOP_LOOK: u32 = 16;

/// Tasks of a connection that has ended get so long, in milliseconds, before its `connection_lost` comes without them.
pub const LOST_WAITS_MS: u64 = 5_000;

/// Tasks of `async def message_received` that one connection may have at a time. Messages beyond are dropped.
pub const MESSAGE_TASKS_MAX: usize = 1024;

/// Tasks that are cancelled at the end of their context get at least so long, in milliseconds, to end; those that were not
/// waited for, at most so long to run without waiting.
pub const TASKS_END_MS: u64 = 500;
