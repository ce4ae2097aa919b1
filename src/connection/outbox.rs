//! What a connection has accepted and not sent yet: in order, and unchanged until the kernel is done with it (I2).

use crate::base::config::{
    COPY_BYTES_MAX, DATAGRAM_BYTES, GATHER_MAX, JOINED_BYTES_MAX, QUEUE_KEPT, SPARE_BYTES_FOR_ANY, SPARE_BYTES_MAX,
    SPARES_MAX,
};
use crate::driver::Payload;
use crate::driver::address::Address;
use pyo3::prelude::*;
use std::collections::VecDeque;

/// Memory that a chunk sends.
enum Memory {
    /// Part of an immutable `bytes` object (a `ReactorBuffer` is one): not copied, the reference keeps it.
    Object { _object: Py<PyAny>, start: *const u8, len: usize },
    /// Our own copy of bytes that the protocol may change.
    Copy { bytes: Vec<u8>, sent: usize },
}

/// What a chunk is.
enum Form {
    /// Part of a stream: may be sent in pieces, or together with its neighbours.
    Stream,
    /// A datagram, to its destination or, without one, to the peer.
    Datagram(Option<Box<Address>>),
}

/// A run of bytes to send.
struct Chunk {
    memory: Memory,
    form: Form,
}

impl Chunk {
    fn bytes(&self) -> (*const u8, usize) {
        match &self.memory {
            Memory::Object { start, len, .. } => (*start, *len),
            Memory::Copy { bytes, sent } => (bytes[*sent..].as_ptr(), bytes.len() - sent),
        }
    }

    fn advance(&mut self, by: usize) {
        match &mut self.memory {
            // SAFETY: I2: `by` is less than `len`, so the pointer stays inside the object.
            Memory::Object { start, len, .. } => unsafe {
                *start = start.add(by);
                *len -= by;
            },
            Memory::Copy { sent, .. } => *sent += by,
        }
    }
}

/// What a datagram of `len` bytes counts for against the marks.
pub fn datagram_cost(len: usize) -> usize {
    len + DATAGRAM_BYTES
}

/// Memory that a gathered send needs until it is done; boxed, so that the kernel's pointers stay true.
struct Gather {
    message: libc::msghdr,
    vectors: [libc::iovec; GATHER_MAX],
}

/// The same for datagrams; neither grows while they are in flight.
#[derive(Default)]
struct Envelopes {
    messages: Vec<libc::mmsghdr>,
    vectors: Vec<libc::iovec>,
}

/// Memory of copies that were sent, for the next ones, the warmest first. What is given back to the allocator may be given
/// back to the system, and large copies would cost page faults each time.
#[derive(Default)]
pub struct Spares {
    memory: Vec<Vec<u8>>,
    bytes: usize,
}

impl Spares {
    /// Memory for `len` bytes: no more of it than that is worth, for a slow reader may hold it for long (B3).
    fn take(&mut self, len: usize) -> Vec<u8> {
        let worth = len.saturating_mul(4).max(SPARE_BYTES_FOR_ANY);
        match self.memory.pop_if(|memory| memory.capacity() <= worth) {
            Some(memory) => {
                self.bytes -= memory.capacity();
                memory
            }
            None => Vec::with_capacity(len),
        }
    }

    fn put(&mut self, mut memory: Vec<u8>) {
        if self.memory.len() < SPARES_MAX && self.bytes + memory.capacity() <= SPARE_BYTES_MAX {
            self.bytes += memory.capacity();
            memory.clear();
            self.memory.push(memory);
        }
    }
}

/// The send queue of one connection: a stream, or datagrams.
#[derive(Default)]
pub struct Outbox {
    chunks: VecDeque<Chunk>,
    /// How many chunks at the front the kernel is sending: those are not touched.
    in_flight: usize,
    gather: Option<Box<Gather>>,
    envelopes: Envelopes,
}

impl Outbox {
    /// Whether `len` bytes are better copied than referred to: many small pieces would take far more memory than their
    /// bytes. The first piece is referred to, for most have no second.
    pub fn joins(&self, len: usize) -> bool {
        len < JOINED_BYTES_MAX && self.chunks.len() > self.in_flight
    }

    /// Queues `len` bytes at `start`, which lie in the immutable `object`.
    pub fn push_object(&mut self, object: Py<PyAny>, start: *const u8, len: usize) {
        let memory = Memory::Object { _object: object, start, len };
        self.chunks.push_back(Chunk { memory, form: Form::Stream });
    }

    /// Queues a copy of `bytes`, joined to the copy before it where the kernel has not got that yet.
    pub fn push_copy(&mut self, bytes: &[u8], spares: &mut Spares) {
        if self.chunks.len() > self.in_flight
            && let Some(Chunk { memory: Memory::Copy { bytes: last, sent: 0 }, form: Form::Stream }) =
                self.chunks.back_mut()
            && last.len() < COPY_BYTES_MAX
        {
            last.extend_from_slice(bytes);
        } else {
            let mut copy = spares.take(bytes.len());
            copy.extend_from_slice(bytes);
            self.chunks.push_back(Chunk { memory: Memory::Copy { bytes: copy, sent: 0 }, form: Form::Stream });
        }
    }

    /// Queues a datagram, to `to` or to the socket's peer.
    pub fn push_datagram(&mut self, bytes: &[u8], to: Option<Address>, spares: &mut Spares) {
        let mut copy = spares.take(bytes.len());
        copy.extend_from_slice(bytes);
        let memory = Memory::Copy { bytes: copy, sent: 0 };
        self.chunks.push_back(Chunk { memory, form: Form::Datagram(to.map(Box::new)) });
    }

    /// The bytes to send next, as many as one send can take. They stay as they are until [`Outbox::sent`] or
    /// [`Outbox::sent_datagrams`].
    #[inline]
    pub fn payload(&mut self) -> Option<Payload> {
        debug_assert_eq!(self.in_flight, 0, "I3");
        let first = self.chunks.front()?;
        self.in_flight = self.chunks.len().min(GATHER_MAX);
        if let Form::Datagram(_) = first.form {
            return Some(self.datagrams());
        }
        if self.in_flight == 1 {
            let (start, len) = first.bytes();
            return Some(Payload::Bytes(start, len));
        }
        // SAFETY: I10: all-zero is a valid `msghdr` and a valid array of `iovec`.
        let gather = self.gather.get_or_insert_with(|| unsafe { Box::new(std::mem::zeroed()) });
        let mut total = 0;
        for (vector, chunk) in gather.vectors.iter_mut().zip(&self.chunks).take(self.in_flight) {
            let (start, len) = chunk.bytes();
            *vector = libc::iovec { iov_base: start.cast_mut().cast(), iov_len: len };
            total += len;
        }
        gather.message.msg_iov = gather.vectors.as_mut_ptr();
        gather.message.msg_iovlen = self.in_flight;
        Some(Payload::Gather(&raw const gather.message, total))
    }

    /// As many of them as may be in flight.
    fn datagrams(&mut self) -> Payload {
        let Envelopes { messages, vectors } = &mut self.envelopes;
        let datagrams = self.chunks.iter().take(self.in_flight);
        vectors.clear();
        vectors.extend(datagrams.clone().map(|chunk| {
            let (start, len) = chunk.bytes();
            libc::iovec { iov_base: start.cast_mut().cast(), iov_len: len }
        }));
        messages.clear();
        messages.extend(datagrams.zip(vectors).map(|(chunk, vector)| {
            // SAFETY: I10: all-zero is a valid `mmsghdr`.
            let mut message: libc::mmsghdr = unsafe { std::mem::zeroed() };
            message.msg_hdr.msg_iov = vector;
            message.msg_hdr.msg_iovlen = 1;
            if let Form::Datagram(Some(to)) = &chunk.form {
                let (name, len) = to.as_c();
                message.msg_hdr.msg_name = name.cast_mut().cast();
                message.msg_hdr.msg_namelen = len;
            }
            message
        }));
        Payload::Datagrams(messages.as_mut_ptr(), messages.len())
    }

    /// The kernel is done with the payload and took `bytes` of it. What is sent goes into `sent`, to be dropped where a
    /// destructor may run, or into `spares`.
    pub fn sent(&mut self, mut bytes: usize, sent: &mut Vec<Sent>, spares: &mut Spares) {
        self.in_flight = 0;
        while let Some(chunk) = self.chunks.front_mut() {
            let (_, len) = chunk.bytes();
            if bytes < len {
                chunk.advance(bytes);
                break;
            }
            bytes -= len;
            match self.chunks.pop_front() {
                Some(Chunk { memory: Memory::Copy { bytes: copy, .. }, .. }) => spares.put(copy),
                Some(done) => sent.push(Sent(done)),
                None => break,
            }
        }
        self.shrink();
    }

    /// An empty queue keeps little of the memory that it had when it was long.
    fn shrink(&mut self) {
        if !self.chunks.is_empty() {
            return;
        }
        self.gather = None;
        if self.chunks.capacity() > QUEUE_KEPT {
            self.chunks = VecDeque::new();
        }
    }

    /// Bytes of datagrams that wait.
    pub fn datagram_bytes(&self) -> usize {
        self.chunks.iter().map(|chunk| chunk.bytes().1).sum()
    }

    /// The kernel is done with the payload, which was datagrams, and so are we with the first `count`: sent, or failed.
    /// Answers how many bytes these were, and what they counted for against the marks.
    pub fn sent_datagrams(&mut self, count: usize, spares: &mut Spares) -> (usize, usize) {
        debug_assert!(count <= self.in_flight);
        self.in_flight = 0;
        let (mut bytes, mut cost) = (0, 0);
        for chunk in self.chunks.drain(..count) {
            let (_, len) = chunk.bytes();
            bytes += len;
            cost += datagram_cost(len);
            if let Memory::Copy { bytes: copy, .. } = chunk.memory {
                spares.put(copy);
            }
        }
        self.shrink();
        (bytes, cost)
    }
}

/// Bytes that the kernel has taken, on their way to be dropped.
pub struct Sent(#[allow(dead_code, reason = "held to be dropped")] Chunk);

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes_of(payload: Payload) -> Vec<u8> {
        // SAFETY: the payload points into the outbox under test.
        unsafe {
            match payload {
                Payload::Bytes(start, len) => std::slice::from_raw_parts(start, len).to_vec(),
                Payload::Datagrams(..) => panic!("not a stream"),
                Payload::Gather(message, _) => std::slice::from_raw_parts((*message).msg_iov, (*message).msg_iovlen)
                    .iter()
                    .flat_map(|v| std::slice::from_raw_parts(v.iov_base.cast::<u8>(), v.iov_len).to_vec())
                    .collect(),
            }
        }
    }

    #[test]
    fn short_sends_go_on_where_they_stopped() {
        let mut outbox = Outbox::default();
        outbox.push_copy(b"hello ", &mut Spares::default());
        outbox.push_copy(b"world", &mut Spares::default());
        assert_eq!(bytes_of(outbox.payload().unwrap()), b"hello world");
        outbox.sent(4, &mut Vec::new(), &mut Spares::default());
        assert_eq!(bytes_of(outbox.payload().unwrap()), b"o world");
        outbox.sent(7, &mut Vec::new(), &mut Spares::default());
        assert!(outbox.payload().is_none());
    }

    #[test]
    fn memory_of_copies_is_used_again_within_bounds() {
        let (mut outbox, mut spares) = (Outbox::default(), Spares::default());
        outbox.push_copy(b"first", &mut spares);
        outbox.sent(5, &mut Vec::new(), &mut spares);
        let kept = spares.memory[0].as_ptr();
        outbox.push_copy(b"again", &mut spares);
        let Some(Payload::Bytes(start, 5)) = outbox.payload() else { panic!("one chunk") };
        assert_eq!(start, kept);
        assert_eq!(spares.bytes, 0);
        spares.put(Vec::with_capacity(100_000));
        assert!(spares.take(10).capacity() < 100, "a small copy holds a large memory");
        assert_eq!(spares.take(30_000).capacity(), 100_000);
        outbox.sent(5, &mut Vec::new(), &mut spares);
        for _ in 0..3 {
            spares.put(Vec::with_capacity(SPARE_BYTES_MAX / 2));
        }
        let kept: usize = spares.memory.iter().map(Vec::capacity).sum();
        assert!(kept == spares.bytes && kept <= SPARE_BYTES_MAX, "{kept} bytes are kept, {} counted", spares.bytes);
    }

    #[test]
    fn what_is_in_flight_is_not_touched() {
        let mut outbox = Outbox::default();
        outbox.push_copy(b"first", &mut Spares::default());
        let Payload::Bytes(start, len) = outbox.payload().unwrap() else { panic!("one chunk") };
        for _ in 0..100 {
            outbox.push_copy(b"more", &mut Spares::default());
        }
        // SAFETY: in flight, so it must still be there.
        assert_eq!(unsafe { std::slice::from_raw_parts(start, len) }, b"first");
        outbox.sent(5, &mut Vec::new(), &mut Spares::default());
        assert_eq!(bytes_of(outbox.payload().unwrap()), b"more".repeat(100));
    }

    #[test]
    fn a_gathered_send_may_be_short_anywhere() {
        for cut in 0..=12 {
            let mut outbox = Outbox::default();
            let mut parts: Vec<&[u8]> = vec![b"abcd", b"efgh", b"ijkl"];
            let first = parts.remove(0);
            outbox.push_copy(first, &mut Spares::default());
            outbox.payload().unwrap();
            outbox.push_copy(parts[0], &mut Spares::default());
            outbox.sent(0, &mut Vec::new(), &mut Spares::default());
            // Two chunks now: the one that was in flight, and what came after it.
            outbox.push_copy(parts[1], &mut Spares::default());
            let all = bytes_of(outbox.payload().unwrap());
            assert_eq!(all, b"abcdefghijkl");
            outbox.sent(cut, &mut Vec::new(), &mut Spares::default());
            let rest = outbox.payload().map(bytes_of).unwrap_or_default();
            assert_eq!(rest, &all[cut..]);
        }
    }

    #[test]
    fn datagrams_keep_their_bounds_and_their_destination() {
        let to: std::net::SocketAddr = "127.0.0.1:53".parse().unwrap();
        let (mut outbox, mut spares) = (Outbox::default(), Spares::default());
        outbox.push_datagram(b"one", None, &mut spares);
        outbox.push_datagram(b"", None, &mut spares);
        outbox.push_datagram(b"three", Some(to.into()), &mut spares);
        let lengths_and_names = |outbox: &mut Outbox| {
            let Some(Payload::Datagrams(messages, count)) = outbox.payload() else { panic!("no datagrams") };
            // SAFETY: the payload points into the outbox.
            let messages = unsafe { std::slice::from_raw_parts(messages, count) };
            let each = messages.iter().map(|message| {
                assert_eq!(message.msg_hdr.msg_iovlen, 1);
                // SAFETY: I2: the payload points into the outbox.
                (unsafe { (*message.msg_hdr.msg_iov).iov_len }, !message.msg_hdr.msg_name.is_null())
            });
            each.collect::<Vec<_>>()
        };
        assert_eq!(lengths_and_names(&mut outbox), [(3, false), (0, false), (5, true)]);
        assert_eq!(outbox.sent_datagrams(2, &mut spares), (3, 3 + 2 * DATAGRAM_BYTES));
        assert_eq!(lengths_and_names(&mut outbox), [(5, true)]);
        assert_eq!(outbox.sent_datagrams(1, &mut spares), (5, 5 + DATAGRAM_BYTES));
        assert!(outbox.payload().is_none());
        for _ in 0..=GATHER_MAX {
            outbox.push_datagram(b"x", None, &mut spares);
        }
        assert_eq!(lengths_and_names(&mut outbox).len(), GATHER_MAX);
    }

    #[test]
    fn small_copies_take_little_more_memory_than_their_bytes() {
        let (mut outbox, mut spares) = (Outbox::default(), Spares::default());
        outbox.push_copy(b"first", &mut spares);
        outbox.payload();
        for _ in 0..256 * 1024 {
            assert!(outbox.joins(1) || outbox.chunks.len() == 1, "the piece behind the one in flight");
            outbox.push_copy(b"x", &mut spares);
        }
        let held = |outbox: &Outbox| {
            let copies = outbox.chunks.iter().map(|chunk| match &chunk.memory {
                Memory::Copy { bytes, .. } => bytes.capacity(),
                Memory::Object { .. } => 0,
            });
            copies.sum::<usize>() + outbox.chunks.capacity() * size_of::<Chunk>()
        };
        assert!(held(&outbox) < 320 * 1024, "{}", held(&outbox));
        outbox.sent(5, &mut Vec::new(), &mut spares);
        while let Some(payload) = outbox.payload() {
            let len = bytes_of(payload).len();
            outbox.sent(len, &mut Vec::new(), &mut spares);
        }
        assert!(held(&outbox) <= QUEUE_KEPT * size_of::<Chunk>());
    }

    #[test]
    fn what_is_sent_is_let_go_although_more_comes() {
        let mut outbox = Outbox::default();
        for _ in 0..100 {
            outbox.push_copy(&[1; 1000], &mut Spares::default());
            outbox.payload();
            outbox.sent(999, &mut Vec::new(), &mut Spares::default());
        }
        let held: usize = outbox
            .chunks
            .iter()
            .map(|chunk| match &chunk.memory {
                Memory::Copy { bytes, .. } => bytes.len(),
                Memory::Object { .. } => 0,
            })
            .sum();
        assert!(held <= 3000, "{held} bytes are held for 100 unsent ones");
    }
}
