//! A driver that makes things go wrong, for tests: built with the feature `faults`, switched on by
//! `PY_REACTOR_FAULTS=SEED` in the environment of the VM.
//!
//! It stands between the reactor and a real driver and does what kernels and networks do, only more often: sends and receives
//! are short, events come late and in another order (never within one connection), receives end for no reason, connections
//! are reset while they receive. The queues of io_uring are as short as they can be (`uring::probe`), so they are full all
//! the time; that there are hardly any buffers is up to who starts the VM. Whatever it does is decided by the seed and the
//! number of the decision. What must hold all the same: bytes that were accepted arrive once and in order, or the
//! connection is reported lost.
//!
//! It also panics, loses the end, or refuses to listen for it, where a peer asks for that ([`PANIC`], [`LOSE_END`], [`REFUSE`]): with the seed 0, nothing else goes wrong.

use crate::base::ear::Ear;
use crate::base::token::ConnId;
use crate::buffer::Pool;
use crate::driver::{Arrival, Driver, Event, Opening, Outcome, Payload, Target};
use std::collections::{HashMap, HashSet, VecDeque};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::RawFd;
use std::time::{Duration, Instant};

/// One decision in so many goes wrong.
const SHORT_SEND: u64 = 3;
const SHORT_RECEIVE: u64 = 3;
const LATE_EVENT: u64 = 4;
const ENDED_RECEIVE: u64 = 20;
const RESET: u64 = 5_000;

/// Names the seed of a VM that shall see faults.
pub const VARIABLE: &str = "PY_REACTOR_FAULTS";

/// What begins so makes the thread panic: when it arrives while the thread is detached from Python, when it is sent
/// while connections are in use. The rest of the text says which.
const PANIC: &[u8] = b"faults: panic while ";

/// After what begins so, the kernel loses what ends the receive, until the connection is looked at.
const LOSE_END: &[u8] = b"faults: lose the end";

/// After what begins so, the kernel watches that connection no more.
const REFUSE: &[u8] = b"faults: watch no more";

/// A driver with faults.
pub struct Faulty {
    inner: Box<dyn Driver>,
    random: u64,
    /// Events that are late. As long as one of a connection is here, later ones of it queue behind.
    late: VecDeque<Event>,
    /// Connections that are being reset: what still arrives is thrown away.
    resetting: HashSet<ConnId>,
    /// Connections whose end will be lost, and those whose end was.
    losing: HashSet<ConnId>,
    lost: HashMap<ConnId, Outcome>,
    /// Connections whose ears are refused.
    refused: HashSet<ConnId>,
}

impl Faulty {
    /// `inner`, with the faults that `seed` decides; 0: none.
    pub fn new(inner: Box<dyn Driver>, seed: u64) -> Self {
        Faulty {
            inner,
            random: seed,
            late: VecDeque::new(),
            resetting: HashSet::new(),
            losing: HashSet::new(),
            lost: HashMap::new(),
            refused: HashSet::new(),
        }
    }

    /// xorshift64: small, and the same everywhere.
    fn one_in(&mut self, n: u64) -> bool {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random != 0 && self.random.is_multiple_of(n)
    }

    fn below(&mut self, n: usize) -> usize {
        self.one_in(1);
        (self.random >> 8) as usize % n
    }

    /// Passes an event on, or not; answers what the reactor shall see.
    fn pass(&mut self, event: Event, pool: &mut Pool) -> Option<Event> {
        let Event { id, outcome } = event;
        if let Outcome::Received { buffer, len, .. } = outcome {
            // SAFETY: I2: the event says that the slot holds so many bytes, and it is ours until the reactor has the
            // event.
            let bytes = unsafe { std::slice::from_raw_parts(pool.data(buffer), len as usize) };
            panic_if_asked(b"waiting", bytes);
            if bytes.starts_with(LOSE_END) {
                self.losing.insert(id);
            }
            if bytes.starts_with(REFUSE) {
                self.refused.insert(id);
            }
        }
        match outcome {
            Outcome::Received { buffer, more, .. } | Outcome::Datagram { buffer, more } => {
                if self.resetting.contains(&id) {
                    pool.release(buffer);
                    return (!more).then(|| self.reset_done(id));
                }
                if more && self.one_in(ENDED_RECEIVE) {
                    self.inner.cancel_receive(id);
                } else if more && matches!(outcome, Outcome::Received { .. }) && self.one_in(RESET) {
                    self.resetting.insert(id);
                    self.inner.cancel_receive(id);
                }
            }
            // It is being cancelled, and stays where it is.
            Outcome::Readable if self.resetting.contains(&id) => return None,
            Outcome::Readable if self.one_in(ENDED_RECEIVE) => self.inner.cancel_receive(id),
            Outcome::Readable if self.one_in(RESET) => {
                self.resetting.insert(id);
                self.inner.cancel_receive(id);
                return None;
            }
            Outcome::EndOfFile | Outcome::ReceiveFailed(_) if self.resetting.contains(&id) => {
                return Some(self.reset_done(id));
            }
            Outcome::EndOfFile | Outcome::ReceiveFailed(_) if self.losing.remove(&id) => {
                self.lost.insert(id, outcome);
                return None;
            }
            Outcome::CancelMissed if self.resetting.contains(&id) => {
                self.inner.cancel_receive(id);
                return None;
            }
            _ => {}
        }
        Some(event)
    }

    /// Perhaps a part of `payload`, from the first byte.
    ///
    /// # Safety
    /// A message that is gathered is valid, and has a vector.
    unsafe fn shortened(&mut self, payload: Payload) -> Payload {
        let short = self.one_in(SHORT_SEND);
        match payload {
            Payload::Bytes(start, len) if short && len > 1 => Payload::Bytes(start, 1 + self.below(len - 1)),
            Payload::Gather(message, _) if short => {
                // SAFETY: I2: the caller's promise.
                let first = unsafe { *(*message).msg_iov };
                Payload::Bytes(first.iov_base.cast(), first.iov_len)
            }
            Payload::Datagrams(first, count) if short => Payload::Datagrams(first, 1 + self.below(count)),
            whole => whole,
        }
    }

    fn reset_done(&mut self, id: ConnId) -> Event {
        self.resetting.remove(&id);
        Event { id, outcome: Outcome::ReceiveFailed(libc::ECONNRESET) }
    }
}

fn panic_if_asked(place: &[u8], bytes: &[u8]) {
    if bytes.strip_prefix(PANIC) == Some(place) {
        panic!("{}", String::from_utf8_lossy(bytes));
    }
}

impl Driver for Faulty {
    fn receive(&mut self, id: ConnId, target: Target) {
        self.inner.receive(id, target);
    }

    unsafe fn send(&mut self, id: ConnId, target: Target, payload: Payload) -> Option<Outcome> {
        if let Payload::Bytes(start, len) = payload {
            // SAFETY: I2, the caller's promise.
            panic_if_asked(b"sending", unsafe { std::slice::from_raw_parts(start, len) });
        }
        // SAFETY: I2: the caller's promise.
        let payload = unsafe { self.shortened(payload) };
        // SAFETY: I2: the caller's promise, for a part of the same memory.
        let outcome = unsafe { self.inner.send(id, target, payload) }?;
        if self.late.iter().any(|late| late.id == id) || self.one_in(LATE_EVENT) {
            self.late.push_back(Event { id, outcome });
            return None;
        }
        Some(outcome)
    }

    unsafe fn send_now(&mut self, target: Target, payload: Payload) -> Option<Outcome> {
        // SAFETY: I2: the caller's promise, for a part of the same memory.
        unsafe {
            let payload = self.shortened(payload);
            self.inner.send_now(target, payload)
        }
    }

    fn leave_input(&mut self, id: ConnId, left: bool) {
        self.inner.leave_input(id, left);
    }

    fn receive_into(&mut self, id: ConnId, room: &mut [MaybeUninit<u8>]) -> Result<usize, Outcome> {
        let len = 1 + if self.one_in(SHORT_RECEIVE) { self.below(room.len()) } else { room.len() - 1 };
        self.inner.receive_into(id, &mut room[..len])
    }

    fn receive_left(&mut self, id: ConnId, pool: &mut Pool, events: &mut Vec<Event>) {
        self.inner.receive_left(id, pool, events);
    }

    fn cancel_receive(&mut self, id: ConnId) {
        match self.lost.remove(&id) {
            Some(_) => self.late.push_back(Event { id, outcome: Outcome::ReceiveFailed(libc::ECANCELED) }),
            None => self.inner.cancel_receive(id),
        }
    }

    fn cancel_send(&mut self, id: ConnId) {
        self.inner.cancel_send(id);
    }

    fn listen(&mut self, id: ConnId, target: Target, ear: Ear) {
        match ear != Ear::Off && self.refused.remove(&id) {
            true => self.late.push_back(Event { id, outcome: Outcome::Deaf(libc::ENOSPC) }),
            false => self.inner.listen(id, target, ear),
        }
    }

    fn look(&mut self, quiet: &[ConnId]) {
        let found = quiet.iter().filter_map(|id| Some(Event { id: *id, outcome: self.lost.remove(id)? }));
        self.late.extend(found);
        self.inner.look(quiet);
    }

    fn watch(&mut self, fd: Option<RawFd>) {
        self.inner.watch(fd);
    }

    fn open(&mut self, id: ConnId, fd: RawFd, opening: Opening) {
        self.inner.open(id, fd, opening);
    }

    fn stop_opening(&mut self, id: ConnId) {
        self.inner.stop_opening(id);
    }

    fn arrival(&mut self, id: ConnId) -> Option<Arrival> {
        self.inner.arrival(id)
    }

    fn wait(&mut self, timeout: Option<Duration>, pool: &mut Pool, events: &mut Vec<Event>) -> io::Result<()> {
        let timeout = if self.late.is_empty() { timeout } else { Some(Duration::ZERO) };
        let mut arrived = Vec::new();
        self.inner.wait(timeout, pool, &mut arrived)?;
        let mut queue = std::mem::take(&mut self.late);
        queue.extend(arrived.into_iter().filter_map(|event| self.pass(event, pool)));
        while let Some(event) = queue.pop_front() {
            let behind = self.late.iter().any(|late| late.id == event.id && late.outcome != Outcome::Woken);
            if event.outcome != Outcome::Woken && (behind || self.one_in(LATE_EVENT)) {
                self.late.push_back(event);
            } else {
                events.push(event);
            }
        }
        Ok(())
    }

    fn shut_down(&mut self, deadline: Instant) -> bool {
        self.inner.shut_down(deadline)
    }
}
