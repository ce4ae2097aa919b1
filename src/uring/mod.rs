//! The io_uring driver: one ring, created, submitted to and reaped by its reactor thread (I1).
//!
//! Receives are multishot into a ring of provided buffers; sends are one `SEND` with `MSG_WAITALL` per connection.
//! Pipes and terminals, which know neither, are read and written once at a time.
//! What the kernel may refuse on the way is settled here and not shown to the reactor: a receive that finds no buffer
//! waits in `starved` until one comes back (B4), one that answers `EAGAIN` waits for readiness.

mod buffer_ring;
mod probe;

use crate::buffer::{Pool, datagram};
use crate::driver::{Driver, Event, Io, Outcome, Payload, Target};
use crate::token::{ConnId, Kind, Token};
use buffer_ring::{BUFFER_GROUP, BufferRing};
use io_uring::types::{CancelBuilder, Fd, SubmitArgs, Timespec};
use io_uring::{EnterFlags, IoUring, cqueue, opcode, squeue};
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

pub use probe::{Features, Refusal};

/// `ioprio` bits of RECV, from `linux/io_uring.h`: look for data only after polling; keep going after each completion.
const RECVSEND_POLL_FIRST: u16 = 1;
const RECV_MULTISHOT: u16 = 2;

/// Completions handled per turn, so that commands and timers are never starved (I9).
const BATCH: usize = 256;

/// What the driver remembers of a connection.
#[derive(Clone, Copy)]
struct Slot {
    target: Target,
    /// The send under way, for when it has to be submitted again.
    payload: Option<Payload>,
    /// Operations that answered `EAGAIN` (a terminal does, with O_NONBLOCK) and wait for readiness instead.
    polls_receive: bool,
    polls_send: bool,
}

/// The ring of one reactor thread.
pub struct Uring {
    ring: IoUring,
    buffers: BufferRing,
    features: Features,
    /// Submissions that found the queue full; they go first next time.
    backlog: VecDeque<squeue::Entry>,
    /// Receives without a buffer: armed again when one comes back.
    starved: Vec<ConnId>,
    /// What each connection's operations are on, by slot: needed to submit them again.
    slots: Vec<Slot>,
    /// Events made here, without a completion.
    made: Vec<Event>,
    /// What a received datagram consists of; boxed, because the kernel keeps its address until the submission.
    datagram_shape: Box<libc::msghdr>,
    wake_fd: OwnedFd,
    /// What the wake-up read writes into; boxed, because the kernel keeps its address (I2).
    wake_count: Box<u64>,
    /// Operations that the kernel still has to end (cancels not counted).
    operations: usize,
    wait_flags: u32,
    /// The wake-up read is not armed again.
    stopping: bool,
}

impl Uring {
    /// Sets a ring up and proves that it works (see [`probe`]).
    ///
    /// # Errors
    /// Why this process cannot use io_uring.
    pub fn new(wake_fd: OwnedFd, pool: &mut Pool) -> Result<Self, Refusal> {
        let (ring, features) = probe::create()?;
        let slots = pool.usage().0;
        let buffers = BufferRing::new(&ring, slots).map_err(|error| Refusal::new("register buffers", error))?;
        let mut wait_flags = EnterFlags::GETEVENTS | EnterFlags::EXT_ARG;
        if ring.params().is_feature_no_iowait() {
            wait_flags |= EnterFlags::NO_IOWAIT;
        }
        // SAFETY: all-zero is a valid message: no control data.
        let mut datagram_shape: Box<libc::msghdr> = Box::new(unsafe { std::mem::zeroed() });
        datagram_shape.msg_namelen = datagram::NAME_BYTES as libc::socklen_t;
        let mut this = Uring {
            ring,
            buffers,
            features,
            backlog: VecDeque::new(),
            starved: Vec::new(),
            slots: Vec::new(),
            made: Vec::new(),
            datagram_shape,
            wake_fd,
            wake_count: Box::new(0),
            operations: 0,
            wait_flags: wait_flags.bits(),
            stopping: false,
        };
        this.buffers.refill(pool);
        this.arm_wake();
        Ok(this)
    }

    /// Gives the slots that the kernel holds back to the pool, after [`Driver::shut_down`]: another driver is used.
    pub fn give_back(self, pool: &mut Pool) {
        let Uring { ring, buffers, .. } = self;
        // Closing the ring ends the kernel's right to the slots: no operation is left that could take one.
        drop(ring);
        buffers.give_back(pool);
    }

    /// What this kernel offered.
    pub fn features(&self) -> &Features {
        &self.features
    }

    fn push(&mut self, entry: squeue::Entry) {
        self.operations += 1;
        self.push_uncounted(entry);
    }

    fn push_uncounted(&mut self, entry: squeue::Entry) {
        // SAFETY: I2: every entry's memory is kept by whoever asked for the operation until its last event; the
        // buffer ring and `wake_count` live as long as the ring.
        if !self.backlog.is_empty() || unsafe { self.ring.submission().push(&entry) }.is_err() {
            self.backlog.push_back(entry);
        }
    }

    fn push_backlog(&mut self) {
        let mut queue = self.ring.submission();
        while let Some(entry) = self.backlog.pop_front() {
            // SAFETY: as in `push_uncounted`.
            if unsafe { queue.push(&entry) }.is_err() {
                self.backlog.push_front(entry);
                break;
            }
        }
    }

    fn arm_wake(&mut self) {
        let buffer = (&raw mut *self.wake_count).cast::<u8>();
        let read = opcode::Read::new(Fd(self.wake_fd.as_raw_fd()), buffer, 8).build().user_data(Token::WAKE.0);
        self.push(read);
    }

    fn arm_receive(&mut self, id: ConnId, poll_first: bool) {
        let Target { fd, io } = self.slot(id).target;
        let multishot = if self.features.multishot { RECV_MULTISHOT } else { 0 };
        let poll_first = if poll_first { RECVSEND_POLL_FIRST } else { 0 };
        let receive = match io {
            Io::Socket => opcode::Recv::new(Fd(fd), std::ptr::null_mut(), 0)
                .buf_group(BUFFER_GROUP)
                .ioprio(multishot | poll_first)
                .build(),
            Io::Datagram => opcode::RecvMsgMulti::new(Fd(fd), &raw const *self.datagram_shape, BUFFER_GROUP)
                .ioprio(poll_first)
                .build(),
            // One completion per read: a multishot read does not report the hangup of a terminal.
            Io::File => opcode::Read::new(Fd(fd), std::ptr::null_mut(), 0).buf_group(BUFFER_GROUP).build(),
        };
        self.push(receive.flags(squeue::Flags::BUFFER_SELECT).user_data(Token::new(Kind::Receive, id).0));
    }

    fn submit_send(&mut self, id: ConnId) {
        let Slot { target: Target { fd, io }, payload, .. } = *self.slot(id);
        let Some(payload) = payload else { return };
        let flags = libc::MSG_WAITALL | libc::MSG_NOSIGNAL;
        let length = |len: usize| len.min(u32::MAX as usize) as u32;
        let entry = match (io, payload) {
            (Io::Socket, Payload::Bytes(start, len)) => {
                opcode::Send::new(Fd(fd), start, length(len)).flags(flags).build()
            }
            (Io::Socket, Payload::Gather(message)) => opcode::SendMsg::new(Fd(fd), message).flags(flags as u32).build(),
            (Io::Datagram, Payload::Bytes(start, len)) => {
                opcode::Send::new(Fd(fd), start, length(len)).flags(libc::MSG_NOSIGNAL).build()
            }
            (Io::Datagram, Payload::Gather(message)) => {
                opcode::SendMsg::new(Fd(fd), message).flags(libc::MSG_NOSIGNAL as u32).build()
            }
            (Io::File, Payload::Bytes(start, len)) => {
                opcode::Write::new(Fd(fd), start, length(len)).offset(u64::MAX).build()
            }
            (Io::File, Payload::Gather(message)) => {
                // SAFETY: I2: the message is valid until the send's event.
                let (vectors, count) = unsafe { ((*message).msg_iov, (*message).msg_iovlen) };
                opcode::Writev::new(Fd(fd), vectors.cast(), count as u32).offset(u64::MAX).build()
            }
        };
        self.push(entry.user_data(Token::new(Kind::Send, id).0));
    }

    /// Waits for readiness, because the operation itself would not.
    fn poll(&mut self, id: ConnId, kind: Kind, events: i16) {
        let fd = self.slot(id).target.fd;
        let poll = opcode::PollAdd::new(Fd(fd), events as u32).build().user_data(Token::new(kind, id).0);
        self.push(poll);
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
            let unused = Target { fd: -1, io: Io::Socket };
            let slot = Slot { target: unused, payload: None, polls_receive: false, polls_send: false };
            self.slots.resize(index + 1, slot);
        }
        self.slots[index].target = target;
        &mut self.slots[index]
    }

    /// Hands buffers that came back to the kernel, and lets receives that lacked one go on.
    fn refill(&mut self, pool: &mut Pool) {
        pool.collect_returns();
        self.buffers.refill(pool);
        if self.starved.is_empty() {
            return;
        }
        if self.buffers.posted() == 0 {
            pool.watch_returns();
            self.buffers.refill(pool);
        }
        if self.buffers.posted() > 0 {
            for id in std::mem::take(&mut self.starved) {
                self.arm_receive(id, true);
            }
        }
    }

    fn enter(&mut self, want: u32, timeout: Option<Duration>) -> io::Result<()> {
        let queued = self.ring.submission().len();
        let timespec = Timespec::from(timeout.unwrap_or_default());
        let mut args = SubmitArgs::new();
        if timeout.is_some() {
            args = args.timespec(&timespec);
        }
        // SAFETY: `args` is what EXT_ARG promises, and lives through the call.
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
            self.buffers.taken();
        }
        let kind = token.kind()?;
        if !more && !matches!(kind, Kind::CancelReceive | Kind::CancelSend) {
            self.operations -= 1;
        }
        let outcome = match kind {
            Kind::Receive => return self.complete_receive(id, result, more, buffer, pool),
            Kind::PollReceive | Kind::PollSend => return self.complete_poll(kind, id, result),
            Kind::Send if -result == libc::EAGAIN => {
                self.slot(id).polls_send = true;
                self.poll(id, Kind::PollSend, libc::POLLOUT);
                return None;
            }
            Kind::Send if result > 0 || (result == 0 && self.slot(id).target.io == Io::Datagram) => {
                Outcome::Sent(result as u32)
            }
            Kind::Send => Outcome::SendFailed(if result == 0 { libc::EPIPE } else { -result }),
            Kind::CancelReceive => Outcome::CancelMissed,
            Kind::CancelSend => return None,
            Kind::Wake => {
                if !self.stopping {
                    self.arm_wake();
                }
                Outcome::Woken
            }
        };
        Some(Event { id, outcome })
    }

    fn complete_receive(
        &mut self,
        id: ConnId,
        result: i32,
        more: bool,
        buffer: Option<u16>,
        pool: &mut Pool,
    ) -> Option<Event> {
        let outcome = match (result, buffer) {
            (0.., Some(buffer)) if self.slot(id).target.io == Io::Datagram => Outcome::Datagram { buffer, more },
            (1.., Some(buffer)) => Outcome::Received { buffer, len: result as u32, more },
            (_, unused) => {
                if let Some(slot) = unused {
                    pool.release(slot);
                }
                match -result {
                    0 => Outcome::EndOfFile,
                    libc::ENOBUFS => {
                        self.starved.push(id);
                        return None;
                    }
                    libc::EAGAIN => {
                        self.slot(id).polls_receive = true;
                        self.poll(id, Kind::PollReceive, libc::POLLIN);
                        return None;
                    }
                    // The other side of a terminal is gone.
                    libc::EIO if self.slot(id).target.io == Io::File => Outcome::EndOfFile,
                    errno => Outcome::ReceiveFailed(errno),
                }
            }
        };
        Some(Event { id, outcome })
    }

    /// The wait for readiness is over: the operation is tried again, or ends with the wait's error.
    fn complete_poll(&mut self, kind: Kind, id: ConnId, result: i32) -> Option<Event> {
        let slot = self.slot(id);
        let outcome = if kind == Kind::PollReceive {
            slot.polls_receive = false;
            if result >= 0 {
                self.arm_receive(id, false);
                return None;
            }
            Outcome::ReceiveFailed(-result)
        } else {
            slot.polls_send = false;
            if result >= 0 {
                self.submit_send(id);
                return None;
            }
            Outcome::SendFailed(-result)
        };
        Some(Event { id, outcome })
    }
}

impl Driver for Uring {
    fn receive(&mut self, id: ConnId, target: Target) {
        self.claim(id, target);
        self.arm_receive(id, false);
    }

    unsafe fn send(&mut self, id: ConnId, target: Target, payload: Payload) {
        self.claim(id, target).payload = Some(payload);
        self.submit_send(id);
    }

    fn cancel_receive(&mut self, id: ConnId) {
        let starved = self.starved.len();
        self.starved.retain(|other| *other != id);
        if self.starved.len() < starved {
            // No operation runs: the last event of this receive is ours to make (I5).
            self.made.push(Event { id, outcome: Outcome::ReceiveFailed(libc::ECANCELED) });
        } else {
            let polls = self.slots.get(id.index as usize).is_some_and(|slot| slot.polls_receive);
            self.cancel(if polls { Kind::PollReceive } else { Kind::Receive }, Kind::CancelReceive, id);
        }
    }

    fn cancel_send(&mut self, id: ConnId) {
        let polls = self.slots.get(id.index as usize).is_some_and(|slot| slot.polls_send);
        self.cancel(if polls { Kind::PollSend } else { Kind::Send }, Kind::CancelSend, id);
    }

    fn wait(&mut self, timeout: Option<Duration>, pool: &mut Pool, events: &mut Vec<Event>) -> io::Result<()> {
        self.refill(pool);
        self.push_backlog();
        // Completions left from the last batch, or submissions that did not fit, must not wait for new ones.
        let ready = !self.made.is_empty() || !self.backlog.is_empty() || !self.ring.completion().is_empty();
        self.enter(u32::from(!ready), timeout)?;
        events.append(&mut self.made);
        for _ in 0..BATCH {
            let Some(entry) = self.ring.completion().next() else { break };
            events.extend(self.complete(&entry, pool));
        }
        Ok(())
    }

    fn shut_down(&mut self, pool: &mut Pool, deadline: Instant) -> bool {
        self.starved.clear();
        self.backlog.clear();
        self.stopping = true;
        while self.operations > 0 {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            // Again each time: a cancel may miss an operation that is just completing.
            let cancel = opcode::AsyncCancel2::new(CancelBuilder::any())
                .build()
                .user_data(Token::new(Kind::CancelSend, ConnId { index: 0, generation: 0 }).0);
            self.push_uncounted(cancel);
            self.push_backlog();
            if self.enter(1, Some(left.min(Duration::from_millis(100)))).is_err() {
                return false;
            }
            loop {
                let Some(entry) = self.ring.completion().next() else { break };
                let outcome = self.complete(&entry, pool).map(|event| event.outcome);
                if let Some(Outcome::Received { buffer, .. } | Outcome::Datagram { buffer, .. }) = outcome {
                    pool.release(buffer);
                }
            }
        }
        true
    }
}
