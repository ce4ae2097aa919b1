//! One mapping, cut into slots that are free, the kernel's, or lent to Python (I2).
//!
//! A slot is laid out so that a Python `bytes` object can be made *in place* around what the kernel wrote:
//!
//! ```text
//! | SlotHeader | object header of bytes | data ... | NUL |
//! 0            16                       48          48 + capacity
//! ```
//!
//! [`Pool`] belongs to the reactor thread and keeps the free list without locks. Objects may die on any Python thread:
//! those slots come back through the mutex in [`Shared`]. The mapping goes away when the pool is closed *and* the last
//! lent slot is back, whichever comes later, so a buffer may outlive its context. It stays, too, while there is a [`Lien`]:
//! the kernel's, which may write into what was posted to it.

use crate::base::sync::atomic::{AtomicBool, Ordering};
use crate::base::sync::{Mutex, lock};
use memmap2::MmapMut;
use std::io;
use std::ptr::NonNull;

/// Bytes that precede the Python object in a slot.
pub const HEADER_BYTES: usize = size_of::<SlotHeader>();

/// Offset of the received bytes in a slot: after our header and the 32 bytes of CPython's `bytes` header
/// (`python/reactor_buffer.rs` checks that at compile time).
pub const DATA_OFFSET: usize = HEADER_BYTES + 32;

/// Says which pool a Python object's memory belongs to.
#[repr(C, align(16))]
pub struct SlotHeader {
    /// The pool's shared part; null for memory from the heap.
    pub pool: *const Shared,
    /// The slot's index in the pool.
    pub index: u32,
}

/// The part of a pool that other threads may reach.
pub struct Shared {
    base: *mut u8,
    stride: usize,
    returns: Mutex<Returns>,
    /// Whether the reactor wants to be woken when a slot comes back.
    starving: AtomicBool,
    wake: Box<dyn Fn() + Send + Sync>,
    _map: MmapMut,
}

// SAFETY: `base` points into `_map`, which `Shared` owns; every access to a slot goes through its one owner (I2).
unsafe impl Send for Shared {}
// SAFETY: I2: owners and slots are changed by the pool's thread alone; the returns are behind a mutex.
unsafe impl Sync for Shared {}

#[derive(Default)]
struct Returns {
    slots: Vec<u16>,
    /// `Some(n)`: the pool is closed and `n` slots are still lent; the last one back frees everything.
    orphans: Option<usize>,
    liens: usize,
}

impl Returns {
    fn is_last(&self) -> bool {
        self.orphans == Some(0) && self.liens == 0
    }
}

/// While it is there, the mapping stays, whatever becomes of the [`Pool`]. Leaked, it keeps it for ever.
pub struct Lien(NonNull<Shared>);

impl Drop for Lien {
    fn drop(&mut self) {
        // SAFETY: I2: the pool's shared part is alive: it is freed only when no lien is left.
        let mut returns = lock(&unsafe { self.0.as_ref() }.returns);
        returns.liens -= 1;
        let last = returns.is_last();
        drop(returns);
        if last {
            // SAFETY: I2: the pool is closed, nothing is lent, and this was the last lien: nobody else has the pointer.
            drop(unsafe { Box::from_raw(self.0.as_ptr()) });
        }
    }
}

/// Who may touch a slot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Owner {
    Free,
    Kernel,
    Reactor,
    Python,
}

/// The reactor thread's side of the buffers.
pub struct Pool {
    shared: NonNull<Shared>,
    capacity: usize,
    /// Last in, first out: a warm slot is used again first.
    free: Vec<u16>,
    owners: Vec<Owner>,
    lent: usize,
    /// Fewer free slots than this: data is copied to the heap, so that hoarded buffers cannot starve the ring.
    low_water: usize,
}

impl Pool {
    /// Maps `count` slots that hold `capacity` bytes each. Memory is used only once it is touched.
    /// `wake` is called by another thread that returns a slot while the reactor lacks one.
    ///
    /// # Errors
    /// The mapping was refused.
    pub fn new(count: u16, capacity: usize, wake: impl Fn() + Send + Sync + 'static) -> io::Result<Self> {
        let stride = (DATA_OFFSET + capacity + 1).next_multiple_of(64);
        let mut map = MmapMut::map_anon(stride * usize::from(count))?;
        let base = map.as_mut_ptr();
        let shared = Box::new(Shared {
            base,
            stride,
            returns: Mutex::default(),
            starving: AtomicBool::new(false),
            wake: Box::new(wake),
            _map: map,
        });
        Ok(Pool {
            shared: NonNull::from(Box::leak(shared)),
            capacity,
            free: (0..count).rev().collect(),
            owners: vec![Owner::Free; usize::from(count)],
            lent: 0,
            low_water: usize::from(count) / 4,
        })
    }

    fn shared(&self) -> &Shared {
        // SAFETY: I2: freed only by `close` or by the last return after it, and `close` takes `self`.
        unsafe { self.shared.as_ref() }
    }

    /// Identifies the pool in slot headers.
    pub fn key(&self) -> *const Shared {
        self.shared.as_ptr()
    }

    /// For whoever posts slots to the kernel, until it is known that the kernel has ended.
    pub fn lien(&self) -> Lien {
        lock(&self.shared().returns).liens += 1;
        Lien(self.shared)
    }

    /// Bytes that fit a slot.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Number of slots, and how many of them are lent to Python.
    pub fn usage(&self) -> (usize, usize) {
        (self.owners.len(), self.lent)
    }

    fn change(&mut self, slot: u16, from: Owner, to: Owner) {
        let owner = &mut self.owners[usize::from(slot)];
        assert_eq!(*owner, from, "I2: slot {slot} is not {from:?}");
        *owner = to;
    }

    /// Takes a free slot for the kernel: its index and the address that the kernel may write `capacity` bytes to.
    pub fn post(&mut self) -> Option<(u16, *mut u8)> {
        let slot = self.free.pop()?;
        self.change(slot, Owner::Free, Owner::Kernel);
        Some((slot, self.data(slot)))
    }

    /// The kernel has given `slot` back.
    pub fn reap(&mut self, slot: u16) {
        self.change(slot, Owner::Kernel, Owner::Reactor);
    }

    /// Whether a slot is free.
    pub fn has_free(&self) -> bool {
        !self.free.is_empty()
    }

    /// How many slots are free.
    pub fn free(&self) -> usize {
        self.free.len()
    }

    /// Whether a received slot may be lent; if not, its bytes should be copied.
    pub fn may_lend(&self) -> bool {
        self.owners.len() - self.lent > self.low_water
    }

    /// Gives a received slot to Python and returns where its header, now filled in, lies: such that `offset` bytes of
    /// the data (a multiple of 16) come before what Python shall see.
    /// It comes back by [`Pool::give_back`] or [`return_from_any_thread`].
    pub fn lend(&mut self, slot: u16, offset: usize) -> *mut u8 {
        assert!(offset.is_multiple_of(16) && offset < self.capacity);
        self.change(slot, Owner::Reactor, Owner::Python);
        self.lent += 1;
        let header = SlotHeader { pool: self.key(), index: u32::from(slot) };
        // SAFETY: I2: the slot is ours until it is returned; the place is aligned, and inside it.
        unsafe {
            let start = self.start(slot).add(offset);
            start.cast::<SlotHeader>().write(header);
            start
        }
    }

    /// Puts a received slot back without lending it.
    pub fn release(&mut self, slot: u16) {
        self.change(slot, Owner::Reactor, Owner::Free);
        self.free.push(slot);
    }

    /// Puts a lent slot back, on the reactor thread.
    pub fn give_back(&mut self, slot: u16) {
        self.change(slot, Owner::Python, Owner::Free);
        self.lent -= 1;
        self.free.push(slot);
    }

    /// Takes back what other threads returned.
    pub fn collect_returns(&mut self) {
        let slots = std::mem::take(&mut lock(&self.shared().returns).slots);
        for slot in slots {
            self.give_back(slot);
        }
    }

    /// Asks that the next return from another thread reports itself, and takes what came before.
    pub fn watch_returns(&mut self) {
        self.shared().starving.store(true, Ordering::SeqCst);
        self.collect_returns();
    }

    /// Where the data of a slot begins.
    pub fn data(&self, slot: u16) -> *mut u8 {
        // SAFETY: I2: DATA_OFFSET is less than the stride.
        unsafe { self.start(slot).add(DATA_OFFSET) }
    }

    fn start(&self, slot: u16) -> *mut u8 {
        assert!(usize::from(slot) < self.owners.len());
        // SAFETY: I2: the mapping has `owners.len()` strides.
        unsafe { self.shared().base.add(usize::from(slot) * self.shared().stride) }
    }
}

impl Drop for Pool {
    /// Lent slots and liens keep the mapping alive (I2).
    fn drop(&mut self) {
        self.collect_returns();
        let mut returns = lock(&self.shared().returns);
        // A return may have come in between; from here on the returning threads count.
        returns.orphans = Some(self.lent - returns.slots.len());
        let last = returns.is_last();
        drop(returns);
        if last {
            // SAFETY: I2: made by `Box::leak` in `new`; nothing is lent, and no lien is left: nobody else has the
            // pointer.
            drop(unsafe { Box::from_raw(self.shared.as_ptr()) });
        }
    }
}

/// Returns a lent slot from a thread that is not its reactor's, or after the pool was closed.
/// Wakes the reactor if it was starving.
///
/// # Safety
/// `pool` and `slot` come from the [`SlotHeader`] of a lent slot, which nobody touches any more.
pub unsafe fn return_from_any_thread(pool: *const Shared, slot: u16) {
    // SAFETY: I2: a pool with a lent slot is alive: it is freed only when the last one is back.
    let shared = unsafe { &*pool };
    let mut returns = lock(&shared.returns);
    let last = match &mut returns.orphans {
        None => {
            returns.slots.push(slot);
            // Under the lock: once it is released, the pool may be closed and freed.
            if shared.starving.swap(false, Ordering::SeqCst) {
                (shared.wake)();
            }
            false
        }
        Some(orphans) => {
            *orphans -= 1;
            returns.is_last()
        }
    };
    drop(returns);
    if last {
        // SAFETY: I2: the pool is closed and this was the last slot, so nobody else has the pointer.
        drop(unsafe { Box::from_raw(pool.cast_mut()) });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::AtomicUsize;

    fn pool(count: u16) -> Pool {
        Pool::new(count, 100, || ()).unwrap()
    }

    fn lend_one(pool: &mut Pool) -> (u16, *mut u8) {
        let (slot, _) = pool.post().unwrap();
        pool.reap(slot);
        (slot, pool.lend(slot, 0))
    }

    #[test]
    fn the_last_freed_slot_is_used_first() {
        let mut pool = pool(4);
        let (a, _) = pool.post().unwrap();
        let (b, _) = pool.post().unwrap();
        for slot in [a, b] {
            pool.reap(slot);
            pool.release(slot);
        }
        assert_eq!(pool.post().unwrap().0, b);
    }

    #[test]
    fn an_empty_pool_posts_nothing_and_recovers() {
        let mut pool = pool(2);
        let (slot, _) = pool.post().unwrap();
        pool.post().unwrap();
        assert!(pool.post().is_none());
        pool.reap(slot);
        pool.release(slot);
        assert!(pool.post().is_some());
    }

    #[test]
    #[should_panic(expected = "I2")]
    fn a_slot_of_the_kernel_cannot_be_lent() {
        let mut pool = pool(2);
        let (slot, _) = pool.post().unwrap();
        pool.lend(slot, 0);
    }

    #[test]
    fn below_the_low_water_mark_nothing_is_lent() {
        let mut pool = pool(4);
        for _ in 0..3 {
            assert!(pool.may_lend());
            lend_one(&mut pool);
        }
        assert!(!pool.may_lend());
    }

    #[test]
    fn slots_do_not_overlap_and_name_their_pool() {
        let mut pool = pool(4);
        let starts: Vec<_> = (0..4).map(|_| lend_one(&mut pool)).collect();
        for (slot, start) in &starts {
            // SAFETY: the slot is lent to this test.
            let header = unsafe { &*start.cast::<SlotHeader>() };
            assert_eq!(header.pool, pool.key());
            assert_eq!(header.index, u32::from(*slot));
        }
        let mut addresses: Vec<_> = starts.iter().map(|(_, start)| *start as usize).collect();
        addresses.sort_unstable();
        assert!(addresses.windows(2).all(|pair| pair[1] - pair[0] > DATA_OFFSET + 100));
    }

    #[test]
    fn slots_return_from_other_threads() {
        let wakes = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&wakes);
        let mut pool = Pool::new(8, 100, move || _ = count.fetch_add(1, Ordering::SeqCst)).unwrap();
        let slots: Vec<u16> = (0..6).map(|_| lend_one(&mut pool).0).collect();
        pool.watch_returns();
        let key = pool.key() as usize;
        std::thread::scope(|scope| {
            for slot in slots {
                // SAFETY: each slot is lent and returned once.
                scope.spawn(move || unsafe { return_from_any_thread(key as *const Shared, slot) });
            }
        });
        assert_eq!(wakes.load(Ordering::SeqCst), 1, "exactly one return wakes the starving reactor");
        pool.collect_returns();
        assert_eq!(pool.usage(), (8, 0));
    }

    #[test]
    fn a_lent_slot_outlives_its_pool() {
        let mut pool = pool(2);
        let (slot, start) = lend_one(&mut pool);
        let key = pool.key();
        drop(pool);
        // SAFETY: the slot is still lent, so the mapping is still there.
        unsafe {
            start.add(DATA_OFFSET).write(7);
            assert_eq!(start.add(DATA_OFFSET).read(), 7);
            return_from_any_thread(key, slot);
        }
    }

    /// Its pools can be counted: each that is not freed holds one.
    fn counted(count: &Arc<()>) -> Pool {
        let count = Arc::clone(count);
        Pool::new(2, 100, move || _ = &count).unwrap()
    }

    #[test]
    fn a_lien_outlives_its_pool() {
        let count = Arc::new(());
        let mut pool = counted(&count);
        let (slot, _) = lend_one(&mut pool);
        let key = pool.key();
        let (first, second) = (pool.lien(), pool.lien());
        drop(first);
        drop(pool);
        // SAFETY: the slot is still lent.
        unsafe { return_from_any_thread(key, slot) };
        assert_eq!(Arc::strong_count(&count), 2, "nothing is lent, and the kernel may write");
        drop(second);
        assert_eq!(Arc::strong_count(&count), 1);
        let pool = counted(&count);
        drop(pool.lien());
        drop(pool);
        assert_eq!(Arc::strong_count(&count), 1, "the pool was the last");
    }
}
