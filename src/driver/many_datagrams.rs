//! Datagrams by calls that move many: for sockets that are the user's own, whose datagrams may be as long as they like.

use crate::base::config::BYTES_PER_TURN;
use std::io;
use std::os::fd::RawFd;

/// Datagrams received by one call: at the most, and at the least, however long they are.
const RECEIVED_MAX: usize = 64;
const RECEIVED_MIN: usize = 16;

/// Datagrams sent by one call.
const SENT_AT_ONCE: usize = 64;

/// Of a longer one the rest is lost, as asyncio has it.
const LEN_MAX: usize = 256 * 1024;

/// From one to the next. A power of two would have all of them begin in one set of each cache, that of translations included.
const STRIDE: usize = LEN_MAX + 4096 + 64;

/// As much as an address needs, of whatever family.
const NAME_BYTES: usize = size_of::<libc::sockaddr_storage>();

/// Room to receive into. Of its memory only what is received into is ever touched.
pub struct Room {
    bytes: Vec<u8>,
    names: Vec<[u8; NAME_BYTES]>,
    /// Each names its part of the others.
    vectors: Vec<libc::iovec>,
    messages: Vec<libc::mmsghdr>,
    /// So many of the messages the last call has written the lengths of the names into.
    received: usize,
}

impl Room {
    /// Room for as many as one call receives.
    pub fn new() -> Self {
        let mut bytes = Vec::with_capacity(RECEIVED_MAX * STRIDE);
        let start: *mut u8 = bytes.as_mut_ptr();
        let mut names = vec![[0; NAME_BYTES]; RECEIVED_MAX];
        let part = |nth: usize| libc::iovec { iov_base: start.wrapping_add(nth * STRIDE).cast(), iov_len: LEN_MAX };
        let mut vectors: Vec<_> = (0..RECEIVED_MAX).map(part).collect();
        let header = |(name, vector): (&mut [u8; NAME_BYTES], &mut libc::iovec)| {
            // SAFETY: I10: all-zero is a valid message.
            let mut message: libc::mmsghdr = unsafe { std::mem::zeroed() };
            message.msg_hdr.msg_name = name.as_mut_ptr().cast();
            message.msg_hdr.msg_namelen = NAME_BYTES as libc::socklen_t;
            (message.msg_hdr.msg_iov, message.msg_hdr.msg_iovlen) = (vector, 1);
            message
        };
        let messages = names.iter_mut().zip(&mut vectors).map(header).collect();
        Room { bytes, names, vectors, messages, received: 0 }
    }

    /// Receives what is there, `most` datagrams at the most. Answers how many.
    ///
    /// # Errors
    /// The `errno`; nothing was received.
    pub fn receive(&mut self, fd: RawFd, most: usize) -> Result<usize, i32> {
        for message in &mut self.messages[..std::mem::take(&mut self.received)] {
            message.msg_hdr.msg_namelen = NAME_BYTES as libc::socklen_t;
        }
        debug_assert_eq!(self.vectors.len(), self.messages.len());
        let (first, count) = (self.messages.as_mut_ptr(), most.min(self.messages.len()) as u32);
        // SAFETY: I2: every message names memory of ours, of that size, which stays where it is; the call has ended when it answers.
        let received = unsafe { libc::recvmmsg(fd, first, count, libc::MSG_DONTWAIT, std::ptr::null_mut()) };
        let received = usize::try_from(received);
        self.received = received.unwrap_or(0);
        received.map_err(|_| io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO))
    }

    /// What was received, and from where: empty, if that has no name.
    pub fn datagram(&self, nth: usize) -> (&[u8], &[u8]) {
        let message = &self.messages[nth];
        let (len, name) = (message.msg_len as usize, message.msg_hdr.msg_namelen as usize);
        // SAFETY: I2: the kernel has written so much into that part, and no more than it holds.
        let bytes = unsafe { std::slice::from_raw_parts(self.bytes.as_ptr().add(nth * STRIDE), len.min(LEN_MAX)) };
        (bytes, &self.names[nth][..name.min(NAME_BYTES)])
    }
}

impl Default for Room {
    fn default() -> Self {
        Self::new()
    }
}

/// How many datagrams to receive by the next call, after so many of so many bytes all together: what is short comes in long runs,
/// of what is long, the first ones after short ones excepted, no more is taken than others can wait for.
pub fn next_run((received, bytes): (usize, usize)) -> usize {
    match received {
        0 => RECEIVED_MIN,
        _ => (BYTES_PER_TURN / bytes.div_ceil(received).max(1)).clamp(RECEIVED_MIN, RECEIVED_MAX),
    }
}

/// What the kernel is told of datagrams to send; kept for its memory.
#[derive(Default)]
pub struct Sending {
    vectors: Vec<libc::iovec>,
    messages: Vec<libc::mmsghdr>,
}

impl Sending {
    /// Sends datagrams, each to an address or, if that is empty, to the peer. Answers how many were sent, of the first.
    ///
    /// # Errors
    /// The `errno`, of the first; none was sent.
    pub fn send<'a>(
        &mut self,
        fd: RawFd,
        datagrams: impl Iterator<Item = (&'a [u8], &'a [u8])> + Clone,
    ) -> Result<usize, i32> {
        let datagrams = datagrams.take(SENT_AT_ONCE);
        self.vectors.clear();
        let part = |bytes: &[u8]| libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
        self.vectors.extend(datagrams.clone().map(|(bytes, _)| part(bytes)));
        self.messages.clear();
        for ((_, name), vector) in datagrams.zip(&mut self.vectors) {
            // SAFETY: I10: all-zero is a valid message.
            let mut message: libc::mmsghdr = unsafe { std::mem::zeroed() };
            if !name.is_empty() {
                message.msg_hdr.msg_name = name.as_ptr().cast_mut().cast();
                message.msg_hdr.msg_namelen = name.len() as libc::socklen_t;
            }
            (message.msg_hdr.msg_iov, message.msg_hdr.msg_iovlen) = (vector, 1);
            self.messages.push(message);
        }
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        let (first, count) = (self.messages.as_mut_ptr(), self.messages.len() as u32);
        // SAFETY: I2: every message names memory that is borrowed until this answers; the kernel only reads it.
        let sent = unsafe { libc::sendmmsg(fd, first, count, flags) };
        usize::try_from(sent).map_err(|_| io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO))
    }
}

// SAFETY: I10: the pointers are into its own memory, or are forgotten before the next use.
unsafe impl Send for Sending {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::address::Address;
    use std::net::UdpSocket;
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixDatagram;

    fn name(of: &UdpSocket) -> Vec<u8> {
        let address = Address::from(of.local_addr().unwrap());
        let (start, len) = address.as_c();
        // SAFETY: I10: that many bytes of an address.
        unsafe { std::slice::from_raw_parts(start.cast(), len as usize) }.to_vec()
    }

    #[test]
    fn datagrams_come_as_they_were_sent() {
        let (ours, theirs) = (UdpSocket::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("127.0.0.1:0").unwrap());
        let (to, from) = (name(&theirs), name(&ours));
        let long = vec![b'l'; 65_000];
        let all = [&b"one"[..], &b""[..], &long, &b"four"[..]];
        let sent = Sending::default().send(ours.as_raw_fd(), all.iter().map(|bytes| (*bytes, &*to)));
        assert_eq!(sent, Ok(4));
        let mut room = Room::new();
        assert_eq!(room.receive(theirs.as_raw_fd(), RECEIVED_MAX), Ok(4));
        for (nth, bytes) in all.iter().enumerate() {
            assert_eq!(room.datagram(nth), (*bytes, &*from));
        }
        assert_eq!(room.receive(theirs.as_raw_fd(), RECEIVED_MAX), Err(libc::EAGAIN));
    }

    #[test]
    fn short_datagrams_come_in_longer_runs() {
        assert_eq!(next_run((0, 0)), RECEIVED_MIN);
        assert_eq!(next_run((16, 16 * 64)), RECEIVED_MAX);
        assert_eq!(next_run((16, 0)), RECEIVED_MAX);
        assert_eq!(next_run((64, 64 * 2048)), 32);
        assert_eq!(next_run((3, 3 * 65_000)), RECEIVED_MIN);
        assert_eq!(next_run((1, LEN_MAX)), RECEIVED_MIN);
    }

    #[test]
    fn no_more_are_received_than_asked_for() {
        let (ours, theirs) = UnixDatagram::pair().unwrap();
        (0..5).for_each(|nth| assert_eq!(ours.send(&[nth]).unwrap(), 1));
        let mut room = Room::new();
        assert_eq!(room.receive(theirs.as_raw_fd(), 3), Ok(3));
        assert_eq!(room.datagram(2).0, [2]);
        assert_eq!(room.receive(theirs.as_raw_fd(), 1000), Ok(2));
        assert_eq!(room.datagram(1).0, [4]);
    }

    #[test]
    fn more_than_one_call_sends_are_counted() {
        let (ours, theirs) = UnixDatagram::pair().unwrap();
        let mut sending = Sending::default();
        let nobody: &[u8] = &[];
        // The queue of a Unix socket is short.
        let (mut sent, mut refused) = (0, Ok(0));
        while refused.is_ok() {
            refused = sending.send(ours.as_raw_fd(), std::iter::repeat_n((&b"x"[..], nobody), 100));
            sent += refused.unwrap_or(0);
        }
        assert_eq!(refused, Err(libc::EAGAIN));
        let (mut room, mut received) = (Room::new(), 0);
        while let Ok(count) = room.receive(theirs.as_raw_fd(), RECEIVED_MAX) {
            received += count;
            assert_eq!(room.datagram(0), (&b"x"[..], nobody));
        }
        assert_eq!(received, sent);
    }

    #[test]
    fn an_error_is_of_the_first() {
        let ours = UdpSocket::bind("127.0.0.1:0").unwrap();
        let (too_long, to) = (vec![0; 70_000], name(&ours));
        let all = [&b"x"[..], &too_long, &b"y"[..]];
        let send =
            |from: usize| Sending::default().send(ours.as_raw_fd(), all[from..].iter().map(|bytes| (*bytes, &*to)));
        assert_eq!(send(0), Ok(1));
        assert_eq!(send(1), Err(libc::EMSGSIZE));
    }
}
