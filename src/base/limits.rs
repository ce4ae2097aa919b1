//! How much of a connection's data may wait.

#![forbid(unsafe_code)]

/// Tasks of `async def datagram_received` that one socket may have at a time. Further datagrams wait.
pub const DATAGRAM_TASKS_MAX: u32 = 64;

/// The limits that all connections of a context share, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// `write` accepts no more once this much is queued, but for one immutable object if nothing is.
    pub write_high_bytes: usize,
    /// After `write` had to refuse something, or went beyond the high-water mark, `write_ready` is called again at this level.
    pub write_low_bytes: usize,
    /// Received bytes that may wait for a protocol that is not in read mode.
    pub inbox_bytes: usize,
    /// Input that is discarded after the close was asked for.
    pub linger_bytes: usize,
}
