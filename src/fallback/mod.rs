//! The epoll driver, for where there is no usable io_uring: the same events, made of readiness and system calls.
//!
//! Level-triggered, because then a read need not drain the socket: one `recv` per readiness is fair, and what is left is
//! reported again. A descriptor is in the epoll set only while an operation waits for it: with nothing to wait for,
//! `EPOLLHUP` would be reported for ever. An ear is taken out, too, once it has heard something. Sends are tried at once and wait for `EPOLLOUT` only if the socket is full.
//! A receive does not ask for `EPOLLRDHUP`: the end of file shows itself as a `recv` of nothing, after the data before it.

use crate::base::ear::{Ear, Heard};
use crate::base::token::ConnId;
use crate::buffer::Pool;
use crate::driver::epoll::{Interest, Set};
use crate::driver::gathered::{self, Gathered};
use crate::driver::openings::Openings;
use crate::driver::syscalls;
use crate::driver::{Arrival, Driver, Event, Io, Opening, Outcome, Payload, Queue, Target};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

/// Datagrams received per readiness: one socket may carry those of many peers, of whom each has a turn.
const DATAGRAMS_AT_ONCE: usize = 32;

/// How often what the kernel does not watch is looked at.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// What is watched is ready, or may be.
const WATCHED: Event = Event { id: ConnId { index: 0, generation: 0 }, outcome: Outcome::Watched };

/// What waits for one connection's descriptor.
struct Slot {
    id: Option<ConnId>,
    target: Target,
    receiving: bool,
    /// What arrives is told of, and left.
    left: bool,
    /// The receive found no buffer: it is not in the set until one comes back (B4).
    starved: bool,
    sending: Option<Payload>,
    ear: Ear,
    /// What the set holds for the descriptor.
    interest: Interest,
}

const UNUSED: Slot = Slot {
    id: None,
    target: Target { fd: -1, io: Io::Socket },
    receiving: false,
    left: false,
    starved: false,
    sending: None,
    ear: Ear::Off,
    interest: Interest { read: false, write: false, ear: Ear::Off },
};

/// The epoll set of one reactor thread.
pub struct Epoll {
    set: Set,
    wake_fd: OwnedFd,
    watched: Option<RawFd>,
    /// The kernel would not: it is looked at again and again, without being told.
    watch_refused: bool,
    slots: Vec<Slot>,
    /// Those that are starved, and perhaps some that were.
    starved: Vec<ConnId>,
    /// Events that are ready already.
    made: Vec<Event>,
    /// Accepts and connects.
    openings: Openings,
    /// Accepts that have ended in the last wait, and are still in the set: most are begun again before the next.
    resting: Vec<(ConnId, RawFd)>,
}

impl Epoll {
    /// An epoll set that also waits for `wake_fd`.
    ///
    /// # Errors
    /// No descriptor was left.
    pub fn new(wake_fd: OwnedFd) -> io::Result<Self> {
        let mut set = Set::new()?;
        set.add_wake(wake_fd.as_raw_fd())?;
        Ok(Epoll {
            set,
            wake_fd,
            watched: None,
            watch_refused: false,
            slots: Vec::new(),
            starved: Vec::new(),
            made: Vec::new(),
            openings: Openings::default(),
            resting: Vec::new(),
        })
    }

    /// The slot of `id`, unless a later connection has it.
    fn slot(&mut self, id: ConnId) -> Option<&mut Slot> {
        self.slots.get_mut(id.index as usize).filter(|slot| slot.id == Some(id))
    }

    /// The slot of `id`, made its own.
    fn claim(&mut self, id: ConnId, target: Target) -> &mut Slot {
        let index = id.index as usize;
        if self.slots.len() <= index {
            self.slots.resize_with(index + 1, || UNUSED);
        }
        let slot = &mut self.slots[index];
        if slot.id != Some(id) {
            // I4: the connection before had no operation left, so nothing of it is in the set.
            debug_assert!(!slot.receiving && slot.sending.is_none() && slot.interest == Interest::default());
            *slot = Slot { id: Some(id), target, ..UNUSED };
        }
        slot
    }

    /// Makes the set hold what the operations of `id` wait for. A descriptor that the set refuses ends them.
    fn watch(&mut self, id: ConnId) {
        let Some(slot) = self.slots.get_mut(id.index as usize).filter(|slot| slot.id == Some(id)) else { return };
        let wanted = Interest { read: slot.receiving && !slot.starved, write: slot.sending.is_some(), ear: slot.ear };
        if let Err(error) = self.set.change(slot.target.fd, id, slot.interest, wanted) {
            let errno = syscalls::errno_of(&error);
            // Where the descriptor is gone, that shows itself.
            if wanted.ear != Ear::Off && syscalls::is_short(&error) {
                self.made.push(Event { id, outcome: Outcome::Deaf(errno) });
            }
            (slot.interest, slot.ear) = (Interest::default(), Ear::Off);
            if std::mem::take(&mut slot.receiving) {
                self.made.push(Event { id, outcome: Outcome::ReceiveFailed(errno) });
            }
            if slot.sending.take().is_some() {
                self.made.push(Event { id, outcome: Outcome::SendFailed(errno) });
            }
            return;
        }
        slot.interest = wanted;
    }

    /// A set without what cannot be taken out of the old one: whose number somebody else has closed, while what it named is
    /// open elsewhere. It would be ready for ever.
    ///
    /// # Errors
    /// There is no room for another one.
    fn renew_set(&mut self) -> io::Result<()> {
        let mut set = Set::new()?;
        set.add_wake(self.wake_fd.as_raw_fd())?;
        if let Some(fd) = self.watched {
            unless_short(set.watch(fd))?;
        }
        for slot in &self.slots {
            if let Some(id) = slot.id
                && slot.interest != Interest::default()
            {
                unless_short(set.change(slot.target.fd, id, Interest::default(), slot.interest))?;
            }
        }
        for (id, fd, opening) in self.openings.iter() {
            unless_short(set.add_opening(fd, id, opening))?;
        }
        self.resting.clear();
        self.set = set;
        Ok(())
    }

    /// Answers whether somebody waits for it.
    fn opening_ready(&mut self, id: ConnId, events: &mut Vec<Event>) -> bool {
        let Some((fd, opening)) = self.openings.get(id) else { return false };
        if let Some(outcome) = self.openings.ready(id) {
            match (opening, outcome) {
                (Opening::Accept { queue: Queue::Last | Queue::Kept, .. }, Outcome::Accepted(_)) => {
                    self.resting.push((id, fd))
                }
                _ => self.set.remove_opening(fd, id),
            }
            events.push(Event { id, outcome });
        }
        true
    }

    /// The accept rests no more. Answers its descriptor, if it did, which is still in the set.
    fn end_rest(&mut self, id: ConnId) -> Option<RawFd> {
        let place = self.resting.iter().position(|(resting, _)| *resting == id)?;
        Some(self.resting.swap_remove(place).1)
    }

    fn readable(&mut self, id: ConnId, pool: &mut Pool, events: &mut Vec<Event>) {
        for _ in 0..DATAGRAMS_AT_ONCE {
            if !self.receive_once(id, pool, events) {
                break;
            }
        }
    }

    /// Answers whether to try at once again.
    fn receive_once(&mut self, id: ConnId, pool: &mut Pool, events: &mut Vec<Event>) -> bool {
        let Some(slot) = self.slot(id).filter(|slot| slot.receiving) else { return false };
        let target = slot.target;
        if slot.left {
            events.push(Event { id, outcome: Outcome::Readable });
            return false;
        }
        let Some((buffer, address)) = pool.post() else {
            slot.starved = true;
            self.starved.push(id);
            self.watch(id);
            return false;
        };
        pool.reap(buffer);
        // SAFETY: I2: the slot of the pool is ours and has room for its capacity.
        let received = unsafe { syscalls::receive(target, buffer, address, pool.capacity()) };
        if !received.is_some_and(Outcome::has_buffer) {
            pool.release(buffer);
        }
        let Some(outcome) = received else { return false };
        events.push(Event { id, outcome });
        if !outcome.has_buffer() {
            self.end_receive(id);
        }
        matches!(outcome, Outcome::Datagram { .. })
    }

    fn end_receive(&mut self, id: ConnId) {
        if let Some(slot) = self.slot(id) {
            (slot.receiving, slot.starved) = (false, false);
            self.watch(id);
        }
    }

    /// Sends what fits. Answers the end of the send, unless it is to wait.
    fn writable(&mut self, id: ConnId, waited: bool) -> Option<Outcome> {
        let slot = self.slot(id)?;
        let payload = slot.sending?;
        // SAFETY: I2: whoever asked for the send keeps its memory until it is told of its end, by what is answered here.
        let outcome = unsafe { syscalls::send(slot.target, payload, waited) }?;
        slot.sending = None;
        self.watch(id);
        Some(outcome)
    }

    /// Tells an ear, and takes it out: what it heard would be reported for ever.
    fn hear(&mut self, id: ConnId, heard: Heard, events: &mut Vec<Event>) {
        let Some(slot) = self.slot(id).filter(|slot| slot.ear != Ear::Off) else { return };
        slot.ear = Ear::Off;
        self.watch(id);
        events.push(Event { id, outcome: Outcome::Heard(heard) });
    }

    /// Tries again to watch what was refused. Answers how long the wait may take: until then it is said to be ready each time.
    #[cold]
    fn watch_again(&mut self, timeout: Option<Duration>, events: &mut Vec<Event>) -> Option<Duration> {
        self.watch_refused = self.watched.is_some_and(|fd| self.set.watch(fd).is_err());
        if !self.watch_refused {
            return timeout;
        }
        events.push(WATCHED);
        Some(timeout.map_or(LOOK_AGAIN, |timeout| timeout.min(LOOK_AGAIN)))
    }

    fn empty_wake(&self) {
        let mut count = 0u64;
        // SAFETY: I10: reads 8 bytes into a local.
        unsafe { libc::read(self.wake_fd.as_raw_fd(), (&raw mut count).cast(), 8) };
    }

    /// Lets receives go on that found no buffer, if there are some now.
    fn feed_starved(&mut self, pool: &mut Pool) {
        if self.starved.is_empty() {
            return;
        }
        if !pool.has_free() {
            pool.watch_returns();
        }
        if pool.has_free() {
            for id in std::mem::take(&mut self.starved) {
                if let Some(slot) = self.slot(id) {
                    slot.starved = false;
                    self.watch(id);
                }
            }
        }
    }
}

/// What is refused because its descriptor is gone shows itself otherwise.
fn unless_short(result: io::Result<()>) -> io::Result<()> {
    result.or_else(|error| if syscalls::is_short(&error) { Err(error) } else { Ok(()) })
}

impl Driver for Epoll {
    fn receive(&mut self, id: ConnId, target: Target) {
        self.claim(id, target).receiving = true;
        self.watch(id);
    }

    unsafe fn send(&mut self, id: ConnId, target: Target, payload: Payload) -> Option<Outcome> {
        self.claim(id, target).sending = Some(payload);
        let ended = self.writable(id, false);
        if ended.is_none() {
            self.watch(id);
        }
        ended
    }

    fn leave_input(&mut self, id: ConnId, left: bool) {
        if let Some(slot) = self.slot(id) {
            slot.left = left;
        }
    }

    fn receive_into(&mut self, id: ConnId, room: &mut [MaybeUninit<u8>]) -> Result<usize, Outcome> {
        // Otherwise it was cancelled meanwhile.
        let Some(slot) = self.slot(id).filter(|slot| slot.receiving) else { return Ok(0) };
        let received = syscalls::receive_into(slot.target.fd, room);
        if received.is_err() {
            self.end_receive(id);
        }
        received
    }

    fn receive_left(&mut self, id: ConnId, pool: &mut Pool, events: &mut Vec<Event>) {
        let Some(slot) = self.slot(id).filter(|slot| slot.receiving) else { return };
        if let Gathered::Ended(outcome) = gathered::receive(id, slot.target.fd, pool, events) {
            events.push(Event { id, outcome });
            self.end_receive(id);
        }
    }

    fn cancel_receive(&mut self, id: ConnId) {
        if self.slot(id).is_some_and(|slot| slot.receiving) {
            self.end_receive(id);
            self.made.push(Event { id, outcome: Outcome::ReceiveFailed(libc::ECANCELED) });
        }
    }

    fn cancel_send(&mut self, id: ConnId) {
        if self.slot(id).is_some_and(|slot| slot.sending.take().is_some()) {
            self.watch(id);
            self.made.push(Event { id, outcome: Outcome::SendFailed(libc::ECANCELED) });
        }
    }

    fn listen(&mut self, id: ConnId, target: Target, ear: Ear) {
        if target.io != Io::Datagram {
            self.claim(id, target).ear = ear;
            self.watch(id);
        }
    }

    /// Readiness is asked for anew each time: nothing is lost.
    fn look(&mut self, _: &[ConnId]) {}

    fn watch(&mut self, fd: Option<RawFd>) {
        if let Some(before) = self.watched {
            self.set.unwatch(before);
        }
        self.watched = fd;
        self.watch_refused = fd.is_some_and(|fd| self.set.watch(fd).is_err());
    }

    fn open(&mut self, id: ConnId, fd: RawFd, opening: Opening) {
        self.openings.begin(id, fd, opening);
        if let Some(fd) = self.end_rest(id) {
            if matches!(opening, Opening::Accept { queue: Queue::Kept, .. }) {
                return;
            }
            self.set.remove_opening(fd, id);
        }
        if let Err(error) = self.set.add_opening(fd, id, opening) {
            let failed = self.openings.failed(id, syscalls::errno_of(&error));
            self.made.extend(failed.map(|outcome| Event { id, outcome }));
        }
    }

    fn stop_opening(&mut self, id: ConnId) {
        if let Some(fd) = self.openings.end(id).or_else(|| self.end_rest(id)) {
            self.set.remove_opening(fd, id);
        }
    }

    fn arrival(&mut self, id: ConnId) -> Option<Arrival> {
        self.openings.arrival(id)
    }

    fn wait(&mut self, timeout: Option<Duration>, pool: &mut Pool, events: &mut Vec<Event>) -> io::Result<()> {
        self.feed_starved(pool);
        for (id, fd) in self.resting.drain(..) {
            self.set.remove_opening(fd, id);
        }
        let timeout = if self.made.is_empty() { timeout } else { Some(Duration::ZERO) };
        let timeout = if self.watch_refused { self.watch_again(timeout, events) } else { timeout };
        let ready = self.set.wait(timeout)?;
        events.append(&mut self.made);
        let mut strays = false;
        for index in 0..ready {
            if self.set.is_watched(index) {
                events.push(WATCHED);
                continue;
            }
            if let Some(id) = self.set.opening(index) {
                strays |= !self.opening_ready(id, events);
                continue;
            }
            match self.set.ready(index) {
                None => {
                    self.empty_wake();
                    events.push(Event { id: ConnId { index: 0, generation: 0 }, outcome: Outcome::Woken });
                }
                Some((id, _)) if self.slot(id).is_none_or(|slot| slot.interest == Interest::default()) => strays = true,
                Some((id, readiness)) => {
                    // Hang-ups and errors show themselves in the calls that they concern.
                    if readiness.write {
                        events.extend(self.writable(id, true).map(|outcome| Event { id, outcome }));
                    }
                    if readiness.read {
                        self.readable(id, pool, events);
                    }
                    if let Some(heard) = readiness.heard {
                        self.hear(id, heard, events);
                    }
                }
            }
        }
        if strays {
            // Where nothing is left for another set, the strays are told of until there is one.
            let _ = self.renew_set();
        }
        Ok(())
    }

    /// Nothing runs in the kernel: forgetting is enough.
    fn shut_down(&mut self, _: Instant) -> bool {
        true
    }
}
