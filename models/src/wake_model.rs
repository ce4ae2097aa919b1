//! The wake-up: whoever publishes and signals is seen, however the signals of others and the waiter interleave.

use crate::Model;
use crate::base::wake::Wake;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::thread;

pub const MODELS: &[Model] = &[
    ("wake: a ring sees what was published", a_ring_sees_what_was_published),
    ("wake: epoll sees what was published", epoll_sees_what_was_published),
    ("wake: a burst rings once", a_burst_rings_once),
];

/// What one thread publishes twice and another once, relaxed: only the wake-up orders it.
type Published = Arc<[AtomicUsize; 2]>;

const ALL: usize = 3;

fn publishers(wake: &Arc<Wake>, published: &Published) -> Vec<thread::JoinHandle<()>> {
    let publisher = |(which, times): (usize, usize)| {
        let (wake, published) = (Arc::clone(wake), Arc::clone(published));
        thread::spawn(move || {
            for time in 1..=times {
                published[which].store(time, Ordering::Relaxed);
                wake.signal();
            }
        })
    };
    [(0, 2), (1, 1)].into_iter().map(publisher).collect()
}

fn nothing() -> Published {
    Arc::new([AtomicUsize::new(0), AtomicUsize::new(0)])
}

fn seen(published: &Published) -> usize {
    published.iter().map(|one| one.load(Ordering::Relaxed)).sum()
}

/// As the io_uring driver: the read empties the eventfd, the flag is cleared later.
fn a_ring_sees_what_was_published() {
    let wake = Arc::new(Wake::new().unwrap());
    let published = nothing();
    let waiter = wake.waiter().unwrap();
    let threads = publishers(&wake, &published);
    while seen(&published) < ALL {
        waiter.read();
        wake.clear();
    }
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

/// As the process of a context: told that the eventfd is readable, it empties it and clears the flag.
fn epoll_sees_what_was_published() {
    let wake = Arc::new(Wake::new().unwrap());
    let published = nothing();
    let waiter = wake.waiter().unwrap();
    let threads = publishers(&wake, &published);
    while seen(&published) < ALL {
        waiter.poll();
        wake.consume();
    }
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

/// The flag's reason to be: signals that nobody has cleared in between write the eventfd once.
fn a_burst_rings_once() {
    let wake = Arc::new(Wake::new().unwrap());
    let published = nothing();
    let waiter = wake.waiter().unwrap();
    publishers(&wake, &published).into_iter().for_each(|thread| thread.join().unwrap());
    assert_eq!(waiter.count(), 1);
}
