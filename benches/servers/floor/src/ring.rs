//! A ring of one thread, with the buffers that it receives into, and the 64 bits that name an operation.

use io_uring::types::{BufRingEntry, Fd};
use io_uring::{IoUring, cqueue, opcode, squeue};
use memmap2::MmapMut;
use std::io;
use std::sync::atomic::{AtomicU16, Ordering};

const SUBMISSIONS: u32 = 1024;
/// More than the buffers and the sends that are under way at a time, so that no completion finds the queue full.
const COMPLETIONS: u32 = 8192;

/// The one group of buffers.
pub const GROUP: u16 = 0;

/// What an operation is for.
#[derive(Clone, Copy)]
#[repr(u8)]
pub enum Kind {
    /// The multishot accept.
    Accept = 1,
    /// A multishot receive.
    Receive = 2,
    /// A send.
    Send = 3,
    /// The cancel of a receive; has a completion only when it misses.
    Cancel = 4,
    /// A wait for standard input.
    Stdin = 5,
}

/// `user_data` of an operation of `kind` on descriptor or buffer `index`.
pub fn token(kind: Kind, index: u32) -> u64 {
    (kind as u64) << 32 | u64::from(index)
}

/// What `user_data` says.
pub fn parse(token: u64) -> (Option<Kind>, u32) {
    let kind = match token >> 32 {
        1 => Some(Kind::Accept),
        2 => Some(Kind::Receive),
        3 => Some(Kind::Send),
        4 => Some(Kind::Cancel),
        5 => Some(Kind::Stdin),
        _ => None,
    };
    (kind, token as u32)
}

/// A ring and its buffers.
pub struct Ring {
    // Dropped in this order: the kernel's rights to the memory end with the ring.
    uring: IoUring,
    /// The buffers.
    pub buffers: Buffers,
}

impl Ring {
    /// A ring for the calling thread, with `count` buffers (a power of two) of `bytes` each.
    ///
    /// # Errors
    /// This kernel, or what guards it, refuses something.
    pub fn new(count: u16, bytes: usize) -> io::Result<Self> {
        let build = |sq_array: bool| {
            let mut builder = IoUring::builder();
            builder.setup_single_issuer().setup_defer_taskrun().setup_submit_all();
            builder.setup_cqsize(COMPLETIONS).setup_clamp().dontfork();
            if !sq_array {
                builder.setup_no_sqarray();
            }
            builder.build(SUBMISSIONS)
        };
        let uring = build(false).or_else(|_| build(true))?;
        let buffers = Buffers::new(&uring, count, bytes)?;
        Ok(Ring { uring, buffers })
    }

    /// Queues an operation.
    ///
    /// # Safety
    /// The memory that it names stays as it is until the operation has ended.
    pub unsafe fn push(&mut self, entry: squeue::Entry) -> io::Result<()> {
        // SAFETY: the caller's promise.
        while unsafe { self.uring.submission().push(&entry) }.is_err() {
            self.uring.submit()?;
        }
        Ok(())
    }

    /// Waits for standard input to have something, or to end.
    pub fn watch_stdin(&mut self) -> io::Result<()> {
        let poll = opcode::PollAdd::new(Fd(0), libc::POLLIN as u32).build();
        // SAFETY: names no memory.
        unsafe { self.push(poll.user_data(token(Kind::Stdin, 0))) }
    }

    /// Gives the buffers back that are free, submits what is queued, and waits for at least one completion.
    pub fn turn(&mut self, completions: &mut Vec<cqueue::Entry>) -> io::Result<()> {
        self.buffers.refill();
        match self.uring.submit_and_wait(1) {
            Ok(_) => {}
            Err(error) => match error.raw_os_error() {
                Some(libc::EINTR | libc::EAGAIN | libc::EBUSY) => {}
                _ => return Err(error),
            },
        }
        completions.extend(self.uring.completion());
        Ok(())
    }
}

/// Buffers of one size: those that the kernel may fill are in a ring that it shares, the free ones on a stack, so that
/// the warmest goes first.
pub struct Buffers {
    entries: MmapMut,
    memory: MmapMut,
    bytes: usize,
    free: Vec<u16>,
    posted: usize,
    posted_max: usize,
    tail: u16,
    mask: u16,
}

/// Buffers that the kernel may fill at a time: the fewer go round, the warmer they are.
const POSTED_MAX: u16 = 256;

impl Buffers {
    fn new(uring: &IoUring, count: u16, bytes: usize) -> io::Result<Self> {
        let posted_max = count.min(POSTED_MAX);
        let mut entries = MmapMut::map_anon(usize::from(posted_max) * size_of::<BufRingEntry>())?;
        // SAFETY: the mapping begins at a page, and `Ring` drops it after the ring.
        unsafe {
            uring.submitter().register_buf_ring_with_flags(entries.as_mut_ptr() as u64, posted_max, GROUP, 0)?;
        }
        Ok(Buffers {
            entries,
            memory: MmapMut::map_anon(usize::from(count) * bytes)?,
            bytes,
            free: (0..count).rev().collect(),
            posted: 0,
            posted_max: usize::from(posted_max),
            tail: 0,
            mask: posted_max - 1,
        })
    }

    /// The buffer that came with a completion, if one did. It is ours until [`Buffers::give_back`].
    pub fn taken(&mut self, completion: &cqueue::Entry) -> Option<u16> {
        let buffer = cqueue::buffer_select(completion.flags())?;
        self.posted -= 1;
        Some(buffer)
    }

    /// Where a buffer is.
    pub fn address(&self, buffer: u16) -> *const u8 {
        // The kernel answers numbers that it was given, and those are below `count`.
        self.memory.as_ptr().wrapping_add(usize::from(buffer) * self.bytes)
    }

    /// The first `len` bytes of a buffer that is ours.
    pub fn bytes(&self, buffer: u16, len: usize) -> &[u8] {
        let start = usize::from(buffer) * self.bytes;
        &self.memory[start..start + len]
    }

    /// A buffer is free again.
    pub fn give_back(&mut self, buffer: u16) {
        self.free.push(buffer);
    }

    /// Whether the kernel could be given a buffer, or has one.
    pub fn available(&self) -> bool {
        self.posted > 0 || !self.free.is_empty()
    }

    fn refill(&mut self) {
        let before = self.tail;
        while self.posted < self.posted_max
            && let Some(buffer) = self.free.pop()
        {
            let address = self.address(buffer) as u64;
            let index = usize::from(self.tail & self.mask);
            // SAFETY: `index` is below the number of entries; the kernel reads only what is below the tail. Written by
            // field: the tail lies in padding of entry 0.
            unsafe {
                let entry = &mut *self.entries.as_mut_ptr().cast::<BufRingEntry>().add(index);
                entry.set_addr(address);
                entry.set_len(self.bytes as u32);
                entry.set_bid(buffer);
            }
            self.tail = self.tail.wrapping_add(1);
            self.posted += 1;
        }
        if self.tail != before {
            // SAFETY: as above; only this thread writes the tail.
            let tail = unsafe {
                AtomicU16::from_ptr(BufRingEntry::tail(self.entries.as_ptr().cast::<BufRingEntry>()).cast_mut())
            };
            tail.store(self.tail, Ordering::Release);
        }
    }
}
