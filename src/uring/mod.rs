//! The io_uring driver: one ring, created, submitted to and reaped by its reactor thread (I1).
//!
//! Receives are multishot into a ring of provided buffers; sends are one `SEND` with `MSG_WAITALL` per connection, of what
//! a call did not take at once if it is much.
//! Pipes and terminals, which know neither, are polled and then read or written (`readiness`). Datagrams are sent by
//! calls, many at once, and received so where the kernel has no multishot.
//! What the kernel may refuse on the way is settled here and not shown to the reactor: a receive that finds no buffer
//! waits in `starved` until one comes back (B4), an operation that answers `EAGAIN` waits for readiness.

mod buffer_ring;
mod drain;
mod ends;
mod left;
mod openings;
mod probe;
mod readiness;
mod receives;
mod slot;
#[cfg(test)]
mod tests;
mod watched;

use crate::base::config::SEND_AT_ONCE_BYTES;
use crate::base::ear::Ear;
use crate::base::token::{ConnId, Kind, Token};
use crate::buffer::Pool;
use crate::driver::epoll::Set;
use crate::driver::openings::Openings;
use crate::driver::starved::Starved;
use crate::driver::{Arrival, Driver, Event, Io, Opening, Outcome, Payload, Target};
use buffer_ring::{BUFFER_GROUP, BufferRing};
use drain::Held;
use io_uring::types::{CancelBuilder, Fd, SubmitArgs, Timespec};
use io_uring::{EnterFlags, IoUring, cqueue, opcode, squeue};
use slot::{Cancel, Life, Slot, UNUSED};
use std::collections::VecDeque;
use std::io;
use std::mem::{ManuallyDrop, MaybeUninit};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};
use watched::Watched;

pub use probe::{Features, Proven, Refusal, probe};

/// As much as one system call moves (MAX_RW_COUNT); the kernel takes a longer SEND for a negative one, and refuses it.
const SEND_BYTES_MAX: usize = 0x7fff_f000;

/// Completions handled per turn, so that commands and timers are never starved (I9).
const BATCH: usize = 256;

/// The ring of one reactor thread.
pub struct Uring {
    /// Dropped by hand, as is what it uses (`drain`).
    ring: ManuallyDrop<IoUring>,
    held: ManuallyDrop<Held>,
    features: Features,
    /// Submissions that found the queue full; they go first next time.
    backlog: VecDeque<squeue::Entry>,
    /// Receives without a buffer of the ring, and without one for a call: tried again when one comes back.
    starved: Starved,
    starved_calls: Starved,
    /// Who is to be told of, and perhaps some that were.
    told: VecDeque<ConnId>,
    /// What each connection's operations are on, by slot: needed to submit them again.
    slots: Vec<Slot>,
    /// Events made here, without a completion.
    made: Vec<Event>,
    /// Accepts and connects.
    openings: Openings,
    /// Completions that came before they were waited for.
    early: VecDeque<cqueue::Entry>,
    /// Descriptors that nothing is received from.
    ears: Set,
    ears_polled: bool,
    /// What is no connection's.
    watched: Watched,
    wake_fd: OwnedFd,
    /// Operations that the kernel still has to end (cancels not counted).
    operations: usize,
    wait_flags: u32,
    /// Nobody knows any more what the kernel does.
    lost: bool,
    /// The thread that it belongs to (I1).
    home: ThreadId,
}

impl Uring {
    /// Receives into the slots of `pool`, by a ring that was found to work.
    ///
    /// # Errors
    /// The kernel refuses to take so many buffers.
    pub fn new(Proven { ring, features }: Proven, wake_fd: OwnedFd, pool: &mut Pool) -> Result<Self, Refusal> {
        let slots = pool.usage().0;
        let buffers =
            BufferRing::new(&ring, BUFFER_GROUP, slots).map_err(|error| Refusal::new("register buffers", error))?;
        let ears = Set::new().map_err(|error| Refusal::new("make an epoll set", error))?;
        let mut wait_flags = EnterFlags::GETEVENTS | EnterFlags::EXT_ARG;
        if ring.params().is_feature_no_iowait() {
            wait_flags |= EnterFlags::NO_IOWAIT;
        }
        let mut this = Uring {
            ring: ManuallyDrop::new(ring),
            held: ManuallyDrop::new(Held::new(buffers, pool.lien())),
            features,
            backlog: VecDeque::new(),
            starved: Starved::default(),
            starved_calls: Starved::default(),
            told: VecDeque::new(),
            slots: Vec::new(),
            made: Vec::new(),
            openings: Openings::default(),
            early: VecDeque::new(),
            ears,
            ears_polled: false,
            watched: Watched::default(),
            wake_fd,
            operations: 0,
            wait_flags: wait_flags.bits(),
            lost: false,
            home: thread::current().id(),
        };
        this.held.buffers.refill(pool);
        this.arm_wake();
        Ok(this)
    }

    fn push(&mut self, entry: squeue::Entry) {
        self.operations += 1;
        self.push_uncounted(entry);
    }

    fn push_uncounted(&mut self, entry: squeue::Entry) {
        // SAFETY: I2: every entry's memory is kept by whoever asked for the operation until its last event, and what is
        // `held` until nothing runs.
        if !self.backlog.is_empty() || unsafe { self.ring.submission().push(&entry) }.is_err() {
            self.backlog.push_back(entry);
        }
    }

    fn push_backlog(&mut self) {
        let mut queue = self.ring.submission();
        while let Some(entry) = self.backlog.pop_front() {
            // SAFETY: I2: every entry's memory is kept by whoever asked for the operation until its last event.
            if unsafe { queue.push(&entry) }.is_err() {
                self.backlog.push_front(entry);
                break;
            }
        }
    }

    fn arm_wake(&mut self) {
        let buffer = (&raw mut *self.held.wake_count).cast::<u8>();
        let read = opcode::Read::new(Fd(self.wake_fd.as_raw_fd()), buffer, 8).build().user_data(Token::WAKE.0);
        self.push(read);
    }

    /// Sends by a call what is much, for now it can be sent, and what must be; submits the rest. `waited` tells whether there
    /// was room a moment ago.
    fn try_send(&mut self, id: ConnId, waited: bool) -> Option<Outcome> {
        let Slot { target: Target { fd, io }, payload, .. } = *self.slot(id);
        let payload = payload?;
        let by_call = match (io, payload) {
            (Io::Socket, Payload::Bytes(_, len) | Payload::Gather(_, len)) => len >= SEND_AT_ONCE_BYTES,
            _ => true,
        };
        if by_call && let Some(outcome) = self.send_by_call(id, payload, waited) {
            return Some(outcome);
        }
        self.submit_send(id, Target { fd, io }, payload)
    }

    /// Sends by an operation; what must be sent by calls, when there is room.
    fn submit_send(&mut self, id: ConnId, Target { fd, io }: Target, payload: Payload) -> Option<Outcome> {
        let flags = libc::MSG_NOSIGNAL | libc::MSG_WAITALL;
        let entry = match (io, payload) {
            (Io::Socket, Payload::Bytes(start, len)) => {
                opcode::Send::new(Fd(fd), start, len.min(SEND_BYTES_MAX) as u32).flags(flags).build()
            }
            (Io::Socket, Payload::Gather(message, _)) => {
                opcode::SendMsg::new(Fd(fd), message).flags(flags as u32).build()
            }
            _ => {
                self.poll_send(id);
                return None;
            }
        };
        self.slot(id).send = Life::Submitted;
        self.push(entry.user_data(Token::new(Kind::Send, id).0));
        None
    }

    fn cancel(&mut self, of: Kind, answer: Kind, id: ConnId) {
        let target = CancelBuilder::user_data(Token::new(of, id).0);
        let cancel = opcode::AsyncCancel2::new(target)
            .build()
            .flags(squeue::Flags::SKIP_SUCCESS)
            .user_data(Token::new(answer, id).0);
        // Not counted: a cancel that succeeds has no completion.
        self.push_uncounted(cancel);
    }

    /// The slot of a connection that has had an operation.
    fn slot(&mut self, id: ConnId) -> &mut Slot {
        &mut self.slots[id.index as usize]
    }

    fn claim(&mut self, id: ConnId, target: Target) -> &mut Slot {
        let index = id.index as usize;
        if self.slots.len() <= index {
            self.slots.resize(index + 1, UNUSED);
        }
        let slot = &mut self.slots[index];
        if slot.id != Some(id) {
            // I4: the connection before has no operation left.
            debug_assert!(slot.receive == Life::Idle && slot.send == Life::Idle && slot.ear == Ear::Off);
            *slot = Slot { id: Some(id), ..UNUSED };
        }
        slot.target = target;
        slot
    }

    /// Ends the send of `id` for whoever keeps its memory.
    fn send_ended(&mut self, id: ConnId) {
        let slot = self.slot(id);
        (slot.send, slot.payload) = (Life::Idle, None);
    }

    /// A receive waits for a buffer. One that was to be cancelled has ended.
    fn starve(&mut self, id: ConnId) -> Option<Event> {
        let Slot { target, receive, place, .. } = *self.slot(id);
        if receive.is_cancelling() {
            return Some(self.receive_ended(id, Outcome::ReceiveFailed(libc::ECANCELED)));
        }
        let queue = if self.receives_by_call(target.io) { &mut self.starved_calls } else { &mut self.starved };
        let place = queue.join(id, place);
        self.slot(id).receive = Life::Starved(place);
        None
    }

    fn receive_ended(&mut self, id: ConnId, outcome: Outcome) -> Event {
        let slot = self.slot(id);
        (slot.receive, slot.place) = (Life::Idle, None);
        Event { id, outcome }
    }

    /// No operation runs: the last event of the receive is ours to make (I5).
    fn tell_cancelled(&mut self, id: ConnId) {
        let ended = self.receive_ended(id, Outcome::ReceiveFailed(libc::ECANCELED));
        self.made.push(ended);
    }

    /// Hands buffers that came back to the kernel, and lets receives that lacked one go on: the oldest, and only as many as
    /// there are buffers, since each of the others would be refused again.
    fn refill(&mut self, pool: &mut Pool) {
        self.held.buffers.refill(pool);
        if self.starved.is_empty() && self.starved_calls.is_empty() {
            return;
        }
        if self.held.buffers.posted() == 0 || !pool.has_free() {
            pool.watch_returns();
            self.held.buffers.refill(pool);
        }
        // Those that were fed the last time, and are not submitted yet, are to have their buffers first.
        if !self.backlog.is_empty() {
            return;
        }
        for _ in 0..self.held.buffers.posted() {
            let Some((place, id)) = self.starved.next() else { break };
            self.slot(id).place = Some(place);
            self.arm_receive(id);
        }
        for _ in 0..pool.free() {
            let Some((place, id)) = self.starved_calls.next() else { break };
            self.slot(id).place = Some(place);
            self.arm_receive(id);
        }
    }

    /// Whether somebody waits for a buffer that is there: who has had one offered before may have nothing to receive, and then
    /// nothing comes that would bring the next turn.
    fn may_feed(&self, pool: &Pool) -> bool {
        (!self.starved.is_empty() && self.held.buffers.posted() > 0)
            || (!self.starved_calls.is_empty() && pool.has_free())
    }

    fn enter(&mut self, want: u32, timeout: Option<Duration>) -> io::Result<()> {
        let queued = self.ring.submission().len();
        let timespec = Timespec::from(timeout.unwrap_or_default());
        let mut args = SubmitArgs::new();
        if timeout.is_some() {
            args = args.timespec(&timespec);
        }
        // SAFETY: I10: `args` is what EXT_ARG promises, and lives through the call.
        match unsafe { self.ring.submitter().enter(queued as u32, want, self.wait_flags, Some(&args)) } {
            Ok(_) => Ok(()),
            Err(error) => match error.raw_os_error() {
                // Timeout; a signal; too many completions waiting: reap, then try again.
                Some(libc::ETIME | libc::EINTR | libc::EAGAIN | libc::EBUSY) => Ok(()),
                _ => Err(error),
            },
        }
    }

    /// Turns one completion into an event, or handles it here.
    fn complete(&mut self, entry: &cqueue::Entry, pool: &mut Pool) -> Option<Event> {
        let token = Token(entry.user_data());
        let id = token.id();
        let result = entry.result();
        let more = cqueue::more(entry.flags());
        let buffer = cqueue::buffer_select(entry.flags());
        if let Some(slot) = buffer {
            // Before anything else: whatever happened, this buffer is ours again (I6).
            pool.reap(slot);
            self.held.buffers.taken();
        }
        let kind = token.kind()?;
        if drain::ends_operation(entry) {
            // Counted wrong, memory that the kernel still uses would be freed.
            assert!(self.count_end(), "I5: an operation ended twice");
        }
        let outcome = match kind {
            Kind::Receive => return self.complete_receive(id, result, more, buffer, pool),
            Kind::PollReceive => return self.polled_receive(id, result, pool),
            Kind::PollSend => return self.polled_send(id, result),
            Kind::Send if -result == libc::EAGAIN => return self.send_again(id),
            Kind::Send if result > 0 => Outcome::Sent(result as u32),
            Kind::Send => Outcome::SendFailed(if result == 0 { libc::EPIPE } else { -result }),
            Kind::CancelReceive => {
                let told = self.slots.get_mut(id.index as usize).is_some_and(|slot| slot.receive.cancel_missed());
                return told.then_some(Event { id, outcome: Outcome::CancelMissed });
            }
            Kind::CancelSend => {
                // Missed: the send is just ending, or was between two tries. While it is there, cancel again.
                if self.slots.get(id.index as usize).is_some_and(|slot| slot.send.is_cancelling()) {
                    self.cancel_send(id);
                }
                return None;
            }
            Kind::Opening => return self.opening_polled(id, result),
            Kind::CancelOpening => return None,
            Kind::Watch => return self.watched_polled(id, result),
            Kind::Ears => {
                self.hear();
                return None;
            }
            Kind::Wake => {
                self.arm_wake();
                Outcome::Woken
            }
        };
        if matches!(outcome, Outcome::Sent(_) | Outcome::SendFailed(_)) {
            self.send_ended(id);
        }
        Some(Event { id, outcome })
    }
}

impl Driver for Uring {
    fn receive(&mut self, id: ConnId, target: Target) {
        self.claim(id, target);
        self.arm_receive(id);
    }

    unsafe fn send(&mut self, id: ConnId, target: Target, payload: Payload) -> Option<Outcome> {
        self.claim(id, target).payload = Some(payload);
        self.try_send(id, false)
    }

    unsafe fn send_at_once(&mut self, id: ConnId, target: Target, payload: Payload) -> Option<Outcome> {
        self.claim(id, target).payload = Some(payload);
        self.send_by_call(id, payload, false).or_else(|| self.submit_send(id, target, payload))
    }

    fn leave_input(&mut self, id: ConnId, left: bool) {
        self.change_receive(id, left);
    }

    fn receive_into(&mut self, id: ConnId, room: &mut [MaybeUninit<u8>]) -> Result<usize, Outcome> {
        self.take_into(id, room)
    }

    fn receive_left(&mut self, id: ConnId, pool: &mut Pool, events: &mut Vec<Event>) {
        self.take(id, pool, events);
    }

    fn cancel_receive(&mut self, id: ConnId) {
        let Some(slot) = self.slots.get_mut(id.index as usize) else { return };
        let io = slot.target.io;
        match slot.receive.cancel() {
            Cancel::Nothing => {}
            Cancel::Submit { polling } => {
                let running = if polling { Kind::PollReceive } else { Kind::Receive };
                self.cancel(running, Kind::CancelReceive, id);
            }
            Cancel::Leave(place) => {
                let queue = if self.receives_by_call(io) { &mut self.starved_calls } else { &mut self.starved };
                queue.leave(place);
                self.tell_cancelled(id);
            }
            Cancel::Tell => self.tell_cancelled(id),
        }
    }

    fn cancel_send(&mut self, id: ConnId) {
        let Some(slot) = self.slots.get_mut(id.index as usize) else { return };
        if let Cancel::Submit { polling } = slot.send.cancel() {
            let running = if polling { Kind::PollSend } else { Kind::Send };
            self.cancel(running, Kind::CancelSend, id);
        }
    }

    fn listen(&mut self, id: ConnId, target: Target, ear: Ear) {
        self.listen_to(id, target, ear);
    }

    fn look(&mut self, quiet: &[ConnId]) {
        self.renew_ended(quiet);
    }

    fn watch(&mut self, fd: Option<RawFd>) {
        self.watch_instead(fd);
    }

    fn open(&mut self, id: ConnId, fd: RawFd, opening: Opening) {
        self.openings.begin(id, fd, opening);
        self.poll_opening(id, fd, opening);
    }

    fn stop_opening(&mut self, id: ConnId) {
        self.end_opening(id);
    }

    fn arrival(&mut self, id: ConnId) -> Option<Arrival> {
        self.openings.arrival(id)
    }

    fn wait(&mut self, timeout: Option<Duration>, pool: &mut Pool, events: &mut Vec<Event>) -> io::Result<()> {
        self.refill(pool);
        self.poll_watched();
        self.push_backlog();
        // Completions left from the last batch, submissions that did not fit, and who is to be told or fed must not wait for new
        // ones.
        let ready = !self.made.is_empty()
            || self.may_feed(pool)
            || !self.backlog.is_empty()
            || !self.told.is_empty()
            || !self.early.is_empty()
            || !self.ring.completion().is_empty();
        self.enter(u32::from(!ready), timeout)?;
        events.append(&mut self.made);
        for _ in 0..BATCH {
            let Some(entry) = self.early.pop_front().or_else(|| self.ring.completion().next()) else { break };
            events.extend(self.complete(&entry, pool));
        }
        self.tell(events);
        Ok(())
    }

    fn shut_down(&mut self, deadline: Instant) -> bool {
        self.drain(deadline)
    }
}
