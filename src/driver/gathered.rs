//! Receives by one call into several buffers, for those that send more than one holds.

use crate::base::config::BYTES_PER_TURN;
use crate::base::token::ConnId;
use crate::buffer::Pool;
use crate::driver::{Event, Outcome, syscalls};
use std::os::fd::RawFd;
use std::ptr;

/// However small the buffers are.
const BUFFERS_MAX: usize = 32;

/// What has become of it.
pub enum Gathered {
    /// Data has arrived, and is among the events; whether it has filled all buffers.
    Data {
        /// There is more, perhaps.
        full: bool,
    },
    /// The receive has ended.
    Ended(Outcome),
    /// Nothing was there, or no buffer.
    Nothing,
}

/// Receives what one connection may have of a turn; the receive goes on.
pub fn receive(id: ConnId, fd: RawFd, pool: &mut Pool, events: &mut Vec<Event>) -> Gathered {
    let mut buffers = [0; BUFFERS_MAX];
    let mut vectors = [libc::iovec { iov_base: ptr::null_mut(), iov_len: pool.capacity() }; BUFFERS_MAX];
    let mut count = 0;
    while count < (BYTES_PER_TURN / pool.capacity()).clamp(1, BUFFERS_MAX)
        && let Some((buffer, address)) = pool.post()
    {
        pool.reap(buffer);
        (buffers[count], vectors[count].iov_base) = (buffer, address.cast());
        count += 1;
    }
    let outcome = match count {
        0 => None,
        // SAFETY: I2, kept here: the slots of the pool are ours, and each has room for its capacity.
        _ => unsafe { syscalls::receive_gathered(fd, buffers[0], &mut vectors[..count]) },
    };
    let len = if let Some(Outcome::Received { len, .. }) = outcome { len as usize } else { 0 };
    let used = len.div_ceil(pool.capacity());
    buffers[used..count].iter().rev().for_each(|buffer| pool.release(*buffer));
    match outcome {
        Some(Outcome::Received { .. }) => {
            events.extend(buffers[..used].iter().enumerate().map(|(nth, buffer)| {
                let len = (len - nth * pool.capacity()).min(pool.capacity()) as u32;
                Event { id, outcome: Outcome::Received { buffer: *buffer, len, more: true } }
            }));
            Gathered::Data { full: len == count * pool.capacity() }
        }
        Some(ended) => Gathered::Ended(ended),
        None => Gathered::Nothing,
    }
}
