//! Buffers that come back from other threads: a starving reactor is woken, and the pool is freed once, by the last.

use crate::Model;
use crate::base::wake::Wake;
use crate::pool::{Pool, Shared, return_from_any_thread};
use loom::sync::Arc;
use loom::thread;

pub const MODELS: &[Model] = &[
    ("pool: a starving reactor is fed", a_starving_reactor_is_fed),
    ("pool: the last return frees it", the_last_return_frees_it),
];

/// The address of a pool, on its way to a thread that returns a slot.
struct Key(*const Shared);

// SAFETY: it is what slots carry to any thread.
unsafe impl Send for Key {}

/// A pool all of whose `count` slots are lent, with the wake-up that it calls.
fn lent(count: u16) -> (Pool, Arc<Wake>, Vec<u16>) {
    let wake = Arc::new(Wake::new().unwrap());
    let waker = Arc::clone(&wake);
    let mut pool = Pool::new(count, 64, move || waker.signal()).unwrap();
    let slots = std::iter::from_fn(|| pool.post().map(|(slot, _)| slot)).collect::<Vec<_>>();
    for slot in &slots {
        pool.reap(*slot);
        pool.lend(*slot, 0);
    }
    (pool, wake, slots)
}

fn returning(pool: &Pool, slots: &[u16]) -> Vec<thread::JoinHandle<()>> {
    let give_back = |slot: &u16| {
        let (key, slot) = (Key(pool.key()), *slot);
        thread::spawn(move || {
            let Key(key) = { key };
            // SAFETY: lent, and returned once.
            unsafe { return_from_any_thread(key, slot) }
        })
    };
    slots.iter().map(give_back).collect()
}

/// As `refill` and `feed_starved` of the drivers: without a free slot, ask to be woken, look again, and only then wait.
fn a_starving_reactor_is_fed() {
    let (mut pool, wake, slots) = lent(2);
    let waiter = wake.waiter().unwrap();
    let threads = returning(&pool, &slots);
    pool.collect_returns();
    while !pool.has_free() {
        pool.watch_returns();
        if !pool.has_free() {
            waiter.read();
            wake.clear();
            pool.collect_returns();
        }
    }
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    pool.collect_returns();
    assert_eq!(pool.usage(), (2, 0));
}

/// The context ends while Python still holds buffers. The pool holds the wake-up: should nobody free it, loom reports
/// the leak; should it be freed too early, the wake-up is gone when a return uses it.
fn the_last_return_frees_it() {
    let (mut pool, wake, slots) = lent(2);
    let threads = returning(&pool, &slots);
    pool.watch_returns();
    drop(pool);
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    drop(wake);
}
