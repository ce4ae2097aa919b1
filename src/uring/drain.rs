//! The end of a ring: its operations are ended, or what the kernel may still use stays for ever (I2), wherever it is dropped.

use super::Uring;
use super::buffer_ring::BufferRing;
use super::slot::Life;
use crate::base::token::{ConnId, Kind, Token};
use crate::buffer::Lien;
use crate::driver::datagram;
use io_uring::types::CancelBuilder;
use io_uring::{cqueue, opcode};
use std::mem::ManuallyDrop;
use std::time::{Duration, Instant};

/// For a ring that nobody has shut down. The kernel ends what is cancelled at once.
const DROP_PATIENCE: Duration = Duration::from_millis(200);

/// What operations use, as the kernel knows it by its address.
pub(super) struct Held {
    pub(super) buffers: BufferRing,
    /// What a received datagram consists of.
    pub(super) datagram_shape: Box<libc::msghdr>,
    /// What the wake-up read writes into.
    pub(super) wake_count: Box<u64>,
    /// For the slots that were posted.
    _slots: Lien,
}

impl Held {
    pub(super) fn new(buffers: BufferRing, slots: Lien) -> Self {
        // SAFETY: I2: all-zero is a valid message: no control data.
        let mut datagram_shape: Box<libc::msghdr> = Box::new(unsafe { std::mem::zeroed() });
        datagram_shape.msg_namelen = datagram::NAME_BYTES as libc::socklen_t;
        Held { buffers, datagram_shape, wake_count: Box::new(0), _slots: slots }
    }
}

/// Whether this is the last that is heard of an operation. A cancel is none: one that succeeds says nothing.
pub(super) fn ends_operation(entry: &cqueue::Entry) -> bool {
    let kind = Token(entry.user_data()).kind();
    !cqueue::more(entry.flags())
        && !matches!(kind, None | Some(Kind::CancelReceive | Kind::CancelSend | Kind::CancelOpening))
}

impl Uring {
    /// Answers whether there was an operation to end.
    pub(super) fn count_end(&mut self) -> bool {
        match self.operations.checked_sub(1) {
            Some(left) => self.operations = left,
            None => self.lost = true,
        }
        !self.lost
    }

    /// Ends every operation. What completes, nobody is told of. Once this has failed, it does again.
    pub(super) fn drain(&mut self, deadline: Instant) -> bool {
        for entry in std::mem::take(&mut self.early) {
            if ends_operation(&entry) {
                self.count_end();
            }
        }
        let mut tried = false;
        while self.operations > 0 && !self.lost {
            let left = deadline.saturating_duration_since(Instant::now());
            let over = left.is_zero();
            // Again each time: a cancel may miss an operation that is just completing.
            let cancel = opcode::AsyncCancel2::new(CancelBuilder::any())
                .build()
                .user_data(Token::new(Kind::CancelSend, ConnId { index: 0, generation: 0 }).0);
            self.push_uncounted(cancel);
            self.push_backlog();
            // Once more when the time is over: this thread may have been kept waiting, too.
            if over && !tried || self.enter(u32::from(!over), Some(left.min(Duration::from_millis(100)))).is_err() {
                self.lost = true;
            }
            tried = true;
            loop {
                let Some(entry) = self.ring.completion().next() else { break };
                if ends_operation(&entry) {
                    self.count_end();
                }
            }
            self.lost |= over && self.operations > 0;
        }
        !self.lost
    }
}

impl Uring {
    /// Whether nothing runs but what waits to be woken, or for the ears.
    fn only_waits(&self) -> bool {
        self.backlog.is_empty() && self.slots.iter().all(|slot| slot.receive == Life::Idle && slot.send == Life::Idle)
    }
}

impl Drop for Uring {
    fn drop(&mut self) {
        let knew = !self.lost;
        let drained = self.drain(Instant::now() + DROP_PATIENCE);
        // SAFETY: I2: dropped here and nowhere else. Closed, a ring ends what still runs, some time later; its own
        // memory and the files that are in use the kernel counts itself.
        unsafe { ManuallyDrop::drop(&mut self.ring) };
        if drained {
            // SAFETY: I2: no operation runs; dropped here and nowhere else.
            unsafe { ManuallyDrop::drop(&mut self.held) };
        } else if knew && self.only_waits() && std::thread::current().id() != self.home {
            // A loop of one's own may be closed on another thread than it ran on, to which the kernel does not listen.
            // SAFETY: I2: no receive and no send runs: of what is held the kernel may write to the count of the wake-up only, which
            // stays where it is; taken here and nowhere else.
            let mut held = unsafe { ManuallyDrop::take(&mut self.held) };
            std::mem::forget(std::mem::take(&mut held.wake_count));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::buffer::Pool;
    use crate::driver::{Driver, Io, Payload, Target};
    use crate::uring::tests::{driver_with, id, turn};
    use std::io::Read;
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixStream;
    use std::sync::Arc;

    fn socket(of: &UnixStream) -> Target {
        Target { fd: of.as_raw_fd(), io: Io::Socket }
    }

    /// A ring with receives that wait and a send that does not fit. Its pool holds a `count` until it is freed; the peer of
    /// the send comes with it.
    fn busy(count: &Arc<()>) -> (Uring, Pool, Vec<(UnixStream, UnixStream)>) {
        static MUCH: [u8; 1 << 22] = [b'x'; 1 << 22];
        let held = Arc::clone(count);
        let (mut driver, mut pool) = driver_with(Pool::new(8, 64, move || _ = &held).unwrap());
        let pairs: Vec<_> = (0..3).map(|_| UnixStream::pair().unwrap()).collect();
        for (nth, (ours, _)) in pairs.iter().enumerate() {
            driver.receive(id(nth), socket(ours));
        }
        // SAFETY: static. Calls take what fits, and then an operation waits.
        while unsafe { driver.send(id(0), socket(&pairs[0].0), Payload::Bytes(MUCH.as_ptr(), MUCH.len())) }.is_some() {}
        assert_eq!(turn(&mut driver, &mut pool), []);
        assert!(driver.operations >= 5, "three receives, a send, the wake-up");
        (driver, pool, pairs)
    }

    /// Whether the peer sees the end once our side is closed, too: no operation of the kernel has the socket.
    fn ends((ours, mut theirs): (UnixStream, UnixStream)) {
        drop(ours);
        theirs.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut rest = Vec::new();
        theirs.read_to_end(&mut rest).unwrap();
    }

    #[test]
    fn a_ring_that_is_dropped_ends_what_runs() {
        let count = Arc::new(());
        let (driver, pool, pairs) = busy(&count);
        drop(driver);
        drop(pool);
        assert_eq!(Arc::strong_count(&count), 1, "the pool is freed");
        pairs.into_iter().for_each(ends);
    }

    /// As a loop of one's own may be, whose Python code sees to it that nothing is used by two threads.
    struct Sent<T>(T);
    // SAFETY: I1 is what this is about: used on one thread, dropped on another, one after the other.
    unsafe impl<T> Send for Sent<T> {}

    #[test]
    fn a_ring_that_is_dropped_elsewhere_leaves_no_more_than_it_must() {
        for (receives, left) in [(0, 1), (1, 2)] {
            let count = Arc::new(());
            let held = Arc::clone(&count);
            let made = std::thread::spawn(move || {
                let (mut driver, mut pool) = driver_with(Pool::new(8, 64, move || _ = &held).unwrap());
                let pair = UnixStream::pair().unwrap();
                for nth in 0..receives {
                    driver.receive(id(nth), socket(&pair.0));
                }
                assert_eq!(turn(&mut driver, &mut pool), []);
                Sent((driver, pool, pair))
            });
            let made = made.join().unwrap();
            drop(made);
            assert!(Arc::strong_count(&count) <= left, "{receives} receives");
        }
    }

    #[test]
    fn the_pool_may_go_before_the_ring() {
        let count = Arc::new(());
        let (driver, pool, _pairs) = busy(&count);
        drop(pool);
        assert_eq!(Arc::strong_count(&count), 2, "the kernel may write into its slots");
        drop(driver);
        assert_eq!(Arc::strong_count(&count), 1);
    }

    #[test]
    fn what_is_not_ended_in_time_leaves_its_memory() {
        let count = Arc::new(());
        let (mut driver, pool, pairs) = busy(&count);
        assert!(!driver.shut_down(Instant::now()));
        assert!(!driver.shut_down(Instant::now() + Duration::from_secs(20)), "it may not change its mind");
        drop(driver);
        drop(pool);
        assert_eq!(Arc::strong_count(&count), 2, "the mapping stays");
        pairs.into_iter().for_each(ends);
    }

    #[test]
    fn a_ring_that_has_counted_wrong_leaves_its_memory() {
        let count = Arc::new(());
        let (mut driver, pool, _pairs) = busy(&count);
        driver.operations = 0;
        assert!(!driver.count_end());
        drop(driver);
        drop(pool);
        assert_eq!(Arc::strong_count(&count), 2);
    }
}
