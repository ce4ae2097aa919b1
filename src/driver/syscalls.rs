//! The system calls that move data, without waiting, and what their errors mean: the epoll driver's way, and the io_uring
//! driver's for pipes, terminals and outgoing datagrams.

use crate::driver::datagram;
use crate::driver::{Io, Outcome, Payload, Target};
use std::ffi::c_void;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::RawFd;
use std::ptr;

/// The result of a call that answers -1 and sets `errno`.
///
/// # Errors
/// The call failed.
pub fn check(result: i32) -> io::Result<i32> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// The number of an error that a system call has answered.
pub fn errno_of(error: &io::Error) -> i32 {
    error.raw_os_error().unwrap_or(libc::EIO)
}

/// Whether the kernel has refused something for want of room, which may be there again: more descriptors are not watched for this
/// user (`fs.epoll.max_user_watches`), or there is no memory.
pub fn is_short(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOSPC | libc::ENOMEM))
}

fn errno() -> i32 {
    errno_of(&io::Error::last_os_error())
}

// The C library's `recv` and `send` are cancellation points: in a process with threads each switches the cancellation
// type there and back, by two atomic operations. Nobody cancels our threads, so these go to the kernel directly.

/// # Safety
/// As for `recv`.
unsafe fn raw_recv(fd: RawFd, address: *mut u8, len: usize, flags: i32) -> libc::ssize_t {
    let nobody = ptr::null_mut::<c_void>();
    // SAFETY: I2, the caller's promise; the arguments are those of recvfrom(2).
    unsafe { libc::syscall(libc::SYS_recvfrom, fd, address, len, flags, nobody, nobody) as libc::ssize_t }
}

/// # Safety
/// As for `send`.
unsafe fn raw_send(fd: RawFd, start: *const u8, len: usize, flags: i32) -> libc::ssize_t {
    let nobody = ptr::null::<c_void>();
    // SAFETY: I2, the caller's promise; the arguments are those of sendto(2).
    unsafe { libc::syscall(libc::SYS_sendto, fd, start, len, flags, nobody, 0usize) as libc::ssize_t }
}

/// Receives what is there, from a socket, into one buffer after the other. Answers as [`receive`], of which `buffer` is the
/// first and the length is that of all.
///
/// # Safety
/// Each of `vectors` has the room that it says.
pub unsafe fn receive_gathered(fd: RawFd, buffer: u16, vectors: &mut [libc::iovec]) -> Option<Outcome> {
    // SAFETY: I2, the caller's promise.
    received(Io::Socket, buffer, unsafe { raw_recvmsg(fd, vectors) })
}

/// # Safety
/// Each of `vectors` has the room that it says.
unsafe fn raw_recvmsg(fd: RawFd, vectors: &mut [libc::iovec]) -> Result<usize, i32> {
    // SAFETY: I2, kept here: of zeroes it is a valid one, without an address and without control data.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    (message.msg_iov, message.msg_iovlen) = (vectors.as_mut_ptr(), vectors.len());
    // SAFETY: I2, the caller's promise; the arguments are those of recvmsg(2), and outlive the call.
    let len = unsafe { libc::syscall(libc::SYS_recvmsg, fd, &raw mut message, libc::MSG_DONTWAIT) };
    usize::try_from(len).map_err(|_| errno())
}

const PAGE: usize = 4096;

/// Some processors copy to where lies so many bytes further in its page than what is copied, or fewer, by a sixth of their speed
/// (AMD's `rep movsb`, by which the kernel copies). What is sent much at a time begins with a page; so does what is allocated much at
/// a time, but for the 16 bytes of the allocator: most buffers of programs would be received into like that.
const SHIFT: usize = 32;

/// From so much on that costs more than to ask how much is there, and to move it.
const SHIFTED_MIN: usize = PAGE;

fn is_slow(room: &[MaybeUninit<u8>]) -> bool {
    room.len() >= SHIFTED_MIN && (1..SHIFT).contains(&(room.as_ptr().addr() % PAGE))
}

/// How much can be received now; nothing where the kernel does not say.
fn waiting(fd: RawFd) -> usize {
    let mut bytes = 0i32;
    // SAFETY: I10: it writes an int.
    let asked = unsafe { libc::ioctl(fd, libc::FIONREAD, &raw mut bytes) };
    if asked < 0 { 0 } else { usize::try_from(bytes).unwrap_or_default() }
}

/// Receives `most` bytes, if they are there, into `room` from the byte SHIFT on, and moves that, which costs little: it is in the
/// cache. What lies behind is the program's, and put back. Only if fewer come than the kernel has said (before descriptors that
/// are passed, or a byte that is urgent, or where another process receives, too) up to SHIFT bytes behind them are a copy of the last.
fn receive_shifted(fd: RawFd, room: &mut [MaybeUninit<u8>], most: usize) -> Result<usize, i32> {
    let inside = most.min(room.len() - SHIFT);
    let (mut behind, mut rest) = ([MaybeUninit::<u8>::uninit(); SHIFT], [MaybeUninit::<u8>::uninit(); SHIFT]);
    behind.copy_from_slice(&room[inside..][..SHIFT]);
    let vector = |room: &mut [MaybeUninit<u8>]| libc::iovec { iov_base: room.as_mut_ptr().cast(), iov_len: room.len() };
    let mut vectors = [vector(&mut room[SHIFT..][..inside]), vector(&mut rest[..most - inside])];
    // SAFETY: I2, kept here: both are ours while the call lasts, and as long as they say.
    let len = unsafe { raw_recvmsg(fd, &mut vectors) }?;
    let moved = len.min(inside);
    room.copy_within(SHIFT..SHIFT + moved, 0);
    room[inside..][..SHIFT].copy_from_slice(&behind);
    room[moved..len].copy_from_slice(&rest[..len - moved]);
    Ok(len)
}

/// Receives what is there, from a socket, into `room`. Answers how many bytes have been written there, from the first: 0
/// where nothing is there yet. What lies behind them stays as it was.
///
/// # Errors
/// That there will never be, as [`receive`] answers it.
pub fn receive_into(fd: RawFd, room: &mut [MaybeUninit<u8>]) -> Result<usize, Outcome> {
    let there = if is_slow(room) { waiting(fd) } else { 0 };
    let received = match there {
        SHIFTED_MIN.. => receive_shifted(fd, room, there.min(room.len())),
        _ => {
            // SAFETY: I2, kept here: the room is the caller's, and as long as it says.
            let len = unsafe { raw_recv(fd, room.as_mut_ptr().cast(), room.len(), libc::MSG_DONTWAIT) };
            usize::try_from(len).map_err(|_| errno())
        }
    };
    match self::received(Io::Socket, 0, received) {
        None => Ok(0),
        Some(Outcome::Received { len, .. }) => Ok(len as usize),
        Some(ended) => Err(ended),
    }
}

/// Receives what is there into `buffer` of the pool, which lies at `address`. Answers nothing where nothing is there yet, so
/// that readiness is to be waited for. The buffer is filled only if the answer has one ([`Outcome::has_buffer`]).
///
/// # Safety
/// `address` has room for `len` bytes.
pub unsafe fn receive(target: Target, buffer: u16, address: *mut u8, len: usize) -> Option<Outcome> {
    // SAFETY: I2, the caller's promise.
    received(target.io, buffer, unsafe { receive_raw(target, address, len) })
}

fn received(io: Io, buffer: u16, result: Result<usize, i32>) -> Option<Outcome> {
    Some(match result {
        Ok(_) if io == Io::Datagram => Outcome::Datagram { buffer, more: true },
        Ok(0) => Outcome::EndOfFile,
        Ok(len) => Outcome::Received { buffer, len: len as u32, more: true },
        Err(libc::EAGAIN | libc::EINTR) => return None,
        // The other side of a terminal is gone.
        Err(libc::EIO) if io == Io::File => Outcome::EndOfFile,
        Err(errno) => Outcome::ReceiveFailed(errno),
    })
}

/// # Safety
/// `address` has room for `len` bytes.
unsafe fn receive_raw(Target { fd, io }: Target, address: *mut u8, len: usize) -> Result<usize, i32> {
    // SAFETY: I2, the caller's promise. Files were made non-blocking when they were adopted.
    let received = unsafe {
        match io {
            Io::Socket => raw_recv(fd, address, len, libc::MSG_DONTWAIT),
            Io::Datagram => return receive_datagram(fd, address, len),
            Io::File => libc::read(fd, address.cast(), len),
        }
    };
    usize::try_from(received).map_err(|_| errno())
}

/// Sends what fits, without SIGPIPE (B7: for files, the VM ignores it). Answers nothing where nothing does, so that room is
/// to be waited for; `waited`: there was said to be some.
///
/// # Safety
/// The payload's memory is valid.
pub unsafe fn send(target: Target, payload: Payload, waited: bool) -> Option<Outcome> {
    // SAFETY: I2, the caller's promise.
    sent(target.io, waited, unsafe { send_raw(target, payload) })
}

fn sent(io: Io, waited: bool, result: Result<Outcome, i32>) -> Option<Outcome> {
    match result {
        Ok(outcome) => Some(outcome),
        // There was room, and is none: the queue of the receiving Unix socket is full, of which its sender is never told. To
        // wait would be to spin; it costs one datagram.
        Err(libc::EAGAIN) if waited && io == Io::Datagram => Some(Outcome::SendFailed(libc::ENOBUFS)),
        Err(libc::EAGAIN | libc::EINTR) => None,
        Err(errno) => Some(Outcome::SendFailed(errno)),
    }
}

/// # Safety
/// The payload's memory is valid.
unsafe fn send_raw(Target { fd, io }: Target, payload: Payload) -> Result<Outcome, i32> {
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: I2, the caller's promise.
    let sent = unsafe {
        match (io, payload) {
            (_, Payload::Datagrams(messages, count)) => {
                let sent = libc::sendmmsg(fd, messages, count as u32, flags);
                return u32::try_from(sent).map(Outcome::SentDatagrams).map_err(|_| errno());
            }
            (Io::File, Payload::Bytes(start, len)) => libc::write(fd, start.cast(), len),
            (Io::File, Payload::Gather(message, _)) => {
                libc::writev(fd, (*message).msg_iov, (*message).msg_iovlen as i32)
            }
            (_, Payload::Bytes(start, len)) => raw_send(fd, start, len, flags),
            (_, Payload::Gather(message, _)) => libc::sendmsg(fd, message, flags),
        }
    };
    u32::try_from(sent).map(Outcome::Sent).map_err(|_| errno())
}

/// Which of these sockets have come to their end, or will once what has arrived is read: their places in the list.
pub fn over(sockets: impl Iterator<Item = RawFd>) -> Vec<usize> {
    let mut polled: Vec<_> = sockets.map(|fd| libc::pollfd { fd, events: libc::POLLRDHUP, revents: 0 }).collect();
    // SAFETY: I10: a list of our own, of that length; nothing is waited for. An error leaves `revents` as they are.
    unsafe { libc::poll(polled.as_mut_ptr(), polled.len() as libc::nfds_t, 0) };
    let is_over = |entry: &libc::pollfd| entry.revents & (libc::POLLRDHUP | libc::POLLHUP | libc::POLLERR) != 0;
    polled.iter().enumerate().filter(|(_, entry)| is_over(entry)).map(|(nth, _)| nth).collect()
}

/// Receives a datagram into the layout of [`datagram`].
///
/// # Safety
/// `address` has room for `len` bytes.
unsafe fn receive_datagram(fd: RawFd, address: *mut u8, len: usize) -> Result<usize, i32> {
    // SAFETY: I10: all-zero is a valid message; the parts of the slot do not overlap and are inside it.
    unsafe {
        let payload = address.add(datagram::PAYLOAD_OFFSET).cast();
        let mut vector = libc::iovec { iov_base: payload, iov_len: len - datagram::PAYLOAD_OFFSET };
        let mut message: libc::msghdr = std::mem::zeroed();
        message.msg_name = address.add(datagram::HEADER_BYTES).cast();
        message.msg_namelen = datagram::NAME_BYTES as libc::socklen_t;
        message.msg_iov = &raw mut vector;
        message.msg_iovlen = 1;
        let received = libc::recvmsg(fd, &raw mut message, libc::MSG_DONTWAIT);
        let received = usize::try_from(received).map_err(|_| errno())?;
        datagram::write_header(address, message.msg_namelen, received as u32, message.msg_flags as u32);
        Ok(received)
    }
}

/// Small writes leave at once, as in every event loop. Sockets other than TCP refuse it, and need not care.
pub fn no_delay(fd: RawFd) {
    let on = 1i32;
    let len = size_of::<i32>() as libc::socklen_t;
    // SAFETY: I10: passes an int.
    unsafe { libc::setsockopt(fd, libc::IPPROTO_TCP, libc::TCP_NODELAY, (&raw const on).cast(), len) };
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixStream;

    #[test]
    fn nothing_there_is_no_end_and_a_terminal_whose_other_side_is_gone_is_one() {
        for io in [Io::Socket, Io::Datagram, Io::File] {
            assert_eq!(received(io, 7, Err(libc::EAGAIN)), None);
            assert_eq!(received(io, 7, Err(libc::EINTR)), None);
            assert_eq!(received(io, 7, Err(libc::EBADF)), Some(Outcome::ReceiveFailed(libc::EBADF)));
        }
        assert_eq!(received(Io::File, 7, Err(libc::EIO)), Some(Outcome::EndOfFile));
        assert_eq!(received(Io::Socket, 7, Err(libc::EIO)), Some(Outcome::ReceiveFailed(libc::EIO)));
        assert_eq!(received(Io::Socket, 7, Ok(0)), Some(Outcome::EndOfFile));
        assert!(received(Io::Datagram, 7, Ok(0)).unwrap().has_buffer(), "an empty datagram is one");
        assert_eq!(received(Io::File, 7, Ok(5)), Some(Outcome::Received { buffer: 7, len: 5, more: true }));
    }

    #[test]
    fn what_is_received_is_where_it_belongs_and_nowhere_else() {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let all: Vec<u8> = (0..6 * PAGE).map(|nth| (nth % 251) as u8).collect();
        let mut memory = vec![MaybeUninit::new(0xFF); 7 * PAGE];
        let start = memory.as_ptr().addr().next_multiple_of(PAGE) - memory.as_ptr().addr();
        for offset in 0..2 * SHIFT {
            for room in [1, SHIFT, SHIFTED_MIN - 1, SHIFTED_MIN, SHIFTED_MIN + 1, SHIFTED_MIN + 100, 5 * PAGE] {
                let around = [room.saturating_sub(SHIFT), room, SHIFTED_MIN, SHIFTED_MIN + SHIFT];
                let lengths = around.into_iter().flat_map(|len| [len.saturating_sub(1), len, len + 1]);
                for len in lengths.chain([1, SHIFT - 1, 3 * PAGE]).filter(|len| *len > 0 && *len <= room + 1) {
                    ours.write_all(&all[..len]).unwrap();
                    let mut received = Vec::new();
                    while received.len() < len {
                        let count = receive_into(theirs.as_raw_fd(), &mut memory[start + offset..][..room]).unwrap();
                        assert!(count > 0);
                        // SAFETY: I10: all of it was written at first.
                        let bytes = unsafe { memory.assume_init_mut() };
                        let arrived = &mut bytes[start + offset..][..count];
                        received.extend_from_slice(arrived);
                        arrived.fill(0xFF);
                        assert!(bytes.iter().all(|byte| *byte == 0xFF), "around {len} bytes in {room} at {offset}");
                    }
                    assert!(received == all[..len], "{len} bytes into {room} at {offset}");
                }
            }
        }
        assert_eq!(receive_into(theirs.as_raw_fd(), &mut memory[start + 16..]), Ok(0), "nothing is there");
        drop(ours);
        assert_eq!(receive_into(theirs.as_raw_fd(), &mut memory[start + 16..]), Err(Outcome::EndOfFile));
    }

    #[test]
    fn a_full_socket_is_waited_for_but_a_full_receiver_of_datagrams_once() {
        for io in [Io::Socket, Io::Datagram, Io::File] {
            assert_eq!(sent(io, false, Err(libc::EAGAIN)), None);
            assert_eq!(sent(io, true, Err(libc::EINTR)), None);
            assert_eq!(sent(io, true, Err(libc::EPIPE)), Some(Outcome::SendFailed(libc::EPIPE)));
        }
        assert_eq!(sent(Io::Socket, true, Err(libc::EAGAIN)), None);
        assert_eq!(sent(Io::Datagram, true, Err(libc::EAGAIN)), Some(Outcome::SendFailed(libc::ENOBUFS)));
    }
}
