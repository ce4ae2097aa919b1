//! The ring of provided buffers: which of the pool's slots the kernel may fill next.
//!
//! Only the reactor thread writes entries and the tail; the kernel reads them. The tail is therefore stored with
//! `Release`, after the entry that it publishes.

use crate::buffer::Pool;
use io_uring::IoUring;
use io_uring::types::BufRingEntry;
use memmap2::MmapMut;
use std::io;
use std::sync::atomic::{AtomicU16, Ordering};

/// The buffer group that is served from.
pub const BUFFER_GROUP: u16 = 0;

/// Slots that the kernel holds at a time. A turn takes few of them, and the fewer go round, the warmer they are.
const POSTED_MAX: usize = 256;

/// The provided-buffer ring of one io_uring.
pub struct BufferRing {
    entries: MmapMut,
    mask: u16,
    tail: u16,
    posted: usize,
    posted_max: usize,
}

impl BufferRing {
    /// Registers a ring with `ring`, as `group`, that can hold up to `slots` slots.
    ///
    /// # Errors
    /// The kernel has no provided-buffer rings (before 5.19), or refuses to lock the memory.
    pub fn new(ring: &IoUring, group: u16, slots: usize) -> io::Result<Self> {
        // A part stays free, for reads that do not take theirs from the ring.
        let posted_max = (slots - slots / 4).min(POSTED_MAX);
        let count = posted_max.next_power_of_two() as u16;
        // Anonymous mappings begin at a page, as the kernel demands.
        let mut entries = MmapMut::map_anon(usize::from(count) * size_of::<BufRingEntry>())?;
        // A forked child must not share the tail with us.
        entries.advise(memmap2::Advice::DontFork)?;
        // SAFETY: I2: the mapping lives in `Self`, which `Uring` drops after the ring, and not while an operation runs.
        unsafe {
            ring.submitter().register_buf_ring_with_flags(entries.as_mut_ptr() as u64, count, group, 0)?;
        }
        Ok(BufferRing { entries, mask: count - 1, tail: 0, posted: 0, posted_max })
    }

    /// Slots that the kernel holds.
    pub fn posted(&self) -> usize {
        self.posted
    }

    /// The kernel has filled a slot (and [`Pool::reap`] was called for it).
    pub fn taken(&mut self) {
        self.posted -= 1;
    }

    /// Posts free slots, as many as the kernel should hold.
    pub fn refill(&mut self, pool: &mut Pool) {
        let before = self.tail;
        while self.posted < self.posted_max {
            let Some((slot, address)) = pool.post() else { break };
            let index = usize::from(self.tail & self.mask);
            // SAFETY: I2: `index` is below the number of entries; the kernel reads an entry only below the tail, and
            // this one is at it. Written field by field: the tail lives in padding of entry 0, which stays as it is.
            unsafe {
                let entry = &mut *self.entries.as_mut_ptr().cast::<BufRingEntry>().add(index);
                entry.set_addr(address as u64);
                entry.set_len(pool.capacity() as u32);
                entry.set_bid(slot);
            }
            self.tail = self.tail.wrapping_add(1);
            self.posted += 1;
        }
        if self.tail != before {
            // SAFETY: I2: the mapping begins with entry 0, whose padding is the tail; it is aligned and only we write
            // it.
            let tail = unsafe {
                let first = self.entries.as_ptr().cast::<BufRingEntry>();
                AtomicU16::from_ptr(BufRingEntry::tail(first).cast_mut())
            };
            tail.store(self.tail, Ordering::Release);
        }
    }
}
