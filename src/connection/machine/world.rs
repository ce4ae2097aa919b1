//! A model of what is around the machine: driver, peer and protocol, which answer in any order that the law of drivers
//! allows. It asserts what a connection must never see. The tests of the machine and the fuzzer (`fuzz/`) live in it.

#![forbid(unsafe_code)]
#![allow(dead_code, reason = "the fuzzer asks more of it than the tests do")]

use super::happening::Happening;
use crate::base::ear::{Ear, Heard};
use crate::base::limits::{DATAGRAM_TASKS_MAX, Limits};
use crate::connection::machine::{Action, Directions, End, Machine, Mode, Next, Task};
use std::collections::VecDeque;

/// Small, so that they are reached.
pub const LIMITS: Limits = Limits { write_high_bytes: 100, write_low_bytes: 20, inbox_bytes: 50, linger_bytes: 200 };

/// With which receives and sends fail.
const ERRNO: i32 = 104;

/// What arrived together.
struct Piece {
    bytes: usize,
    buffer: Option<u16>,
}

/// Everything around the machine of one connection.
pub struct World {
    machine: Machine,
    directions: Directions,
    answer: Action,
    writes: usize,
    writes_objects: bool,
    sends_first: Option<u8>,
    reads: bool,
    signals_itself: bool,
    /// Something stands in `write_buffer`, until `write_ready` is called; and somebody has signalled meanwhile.
    buffers: bool,
    signalled: bool,
    /// `write_eof` was called.
    ends_output: bool,
    awaits: Option<Task>,
    tasks: Vec<Task>,
    /// They were told that the connection has ended.
    tasks_cancelled: bool,
    given_up: bool,
    receiving: bool,
    cancelling: bool,
    sending: bool,
    ear: Ear,
    /// Nothing is left to be heard.
    hung_up: bool,
    queued: usize,
    /// Bytes written, and bytes sent, by our own count.
    accepted: usize,
    sent: usize,
    /// What arrived and was not delivered, oldest first.
    inbox: VecDeque<Piece>,
    /// Buffers of what was delivered, or thrown away.
    done_with: Vec<u16>,
    failed: bool,
    told_eof: bool,
    made: bool,
    lost: bool,
    closed: bool,
}

impl World {
    /// A connection whose `connection_made` returns, or raises.
    pub fn new(directions: Directions, made: bool) -> Self {
        let mut world = World {
            machine: Machine::new(directions),
            directions,
            answer: Action::Continue,
            writes: 10,
            writes_objects: false,
            sends_first: None,
            reads: false,
            signals_itself: false,
            buffers: false,
            signalled: false,
            ends_output: false,
            awaits: None,
            tasks: Vec::new(),
            tasks_cancelled: false,
            given_up: false,
            receiving: false,
            cancelling: false,
            sending: false,
            ear: Ear::Off,
            hung_up: false,
            queued: 0,
            accepted: 0,
            sent: 0,
            inbox: VecDeque::new(),
            done_with: Vec::new(),
            failed: false,
            told_eof: false,
            made,
            lost: false,
            closed: false,
        };
        world.write();
        if made {
            world.machine.made(|| false);
        } else {
            world.machine.link.never_made();
        }
        world.settle();
        world
    }

    /// Whether its descriptor is closed: nothing happens to it any more.
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// Whether a receive runs, to which data can arrive.
    pub fn is_receiving(&self) -> bool {
        self.receiving
    }

    /// How many buffers hold what has arrived and was not delivered.
    pub fn buffers(&self) -> usize {
        self.inbox.iter().filter(|piece| piece.buffer.is_some()).count()
    }

    /// Takes the buffers that it is done with: Python may keep them, or give them back.
    pub fn done_with(&mut self) -> Vec<u16> {
        std::mem::take(&mut self.done_with)
    }

    /// Something happens, and what follows is done.
    pub fn happen(&mut self, happening: Happening) {
        if !self.closed {
            self.take(happening);
            self.settle();
        }
    }

    /// Whatever came before: a kill, and the kernel's last answers, end it, although the first cancel misses.
    pub fn end(&mut self) {
        self.happen(Happening::Killed);
        self.happen(Happening::CancelAnswers { missed: true });
        self.happen(Happening::CancelAnswers { missed: false });
        self.happen(Happening::Sent { part: 0 });
        while !self.tasks.is_empty() && !self.closed {
            assert!(self.tasks_cancelled || self.given_up, "nobody has told its tasks that it has ended");
            self.happen(Happening::TaskEnds(0));
        }
        assert!(self.closed, "an operation or the connection was forgotten: {:?}", self.machine);
        assert!(self.inbox.is_empty() && self.queued == 0, "something is left of a connection that is gone");
    }

    fn write(&mut self) {
        let room = self.machine.room(&LIMITS);
        let taken = self.machine.offered(self.writes, self.writes_objects, &LIMITS);
        let whole = self.writes_objects && self.queued == 0 && room > 0;
        assert!(taken == self.writes.min(room) || (whole && taken == self.writes), "neither what fits nor all of it");
        assert!(taken == self.writes || !whole, "an object was taken in part, although nothing was queued");
        self.queued += taken;
        self.accepted += taken;
        let bound = if whole { taken.max(LIMITS.write_high_bytes) } else { LIMITS.write_high_bytes };
        assert!(taken == 0 || self.queued <= bound, "B3: more queued than the high-water mark, or one object");
        if let Some(part) = self.sends_first
            && taken > 0
            && self.machine.sends_first(taken)
        {
            self.send_first(taken, part);
        }
    }

    fn send_first(&mut self, taken: usize, part: u8) {
        assert!(!std::mem::replace(&mut self.sending, true), "I3: two sends");
        assert!(self.failed || self.queued == taken, "sent before what was accepted before");
        match part {
            0 => self.take(Happening::SendError),
            1 => {
                self.sending = false;
                self.machine.sent(0, &LIMITS);
            }
            _ => self.take(Happening::Sent { part }),
        }
    }

    fn read(&mut self) {
        let Some(Piece { bytes, buffer }) = self.inbox.pop_front() else { return };
        self.machine.link.delivered(bytes);
        self.done_with.extend(buffer);
        let left = bytes / 2;
        if left > 0 {
            self.machine.link.undelivered(left);
            self.inbox.push_front(Piece { bytes: left, buffer: None });
        }
    }

    /// `awaiting`: what its coroutine is where that cannot be a datagram's.
    fn call(&mut self, awaiting: Option<Task>) {
        assert!(self.made, "B9: a callback without connection_made");
        assert!(!self.lost, "B9: a callback after connection_lost");
        self.write();
        if self.reads {
            self.read();
        }
        if self.signals_itself {
            self.signalled |= self.buffers && !self.ends_output;
            self.machine.signalled_early();
        }
        let task = if self.awaits == Some(Task::Datagram) { awaiting.or(self.awaits) } else { self.awaits };
        match task {
            Some(task) if self.machine.link.is_open() => self.begin(task),
            _ => self.act(Task::InTurn),
        }
    }

    /// A callback answers: what it may not, closes.
    fn act(&mut self, of: Task) {
        if self.machine.permits(of, self.answer) {
            self.machine.acted(self.answer, || self.buffers);
        } else {
            self.machine.link.close(End::Exception);
        }
    }

    fn begin(&mut self, task: Task) {
        let buffers = self.buffers;
        self.machine.task_began(task, || buffers);
        self.tasks.push(task);
    }

    /// Another callback may run, beside so many tasks of datagrams at the most.
    fn check_tasks(&self, most: u32) {
        assert!(self.datagram_tasks() <= most, "too many tasks at a time");
        assert!(!self.is_held(), "a callback while a task holds the connection");
    }

    fn lose(&mut self) {
        assert!(self.tasks.is_empty() || self.given_up, "B9: connection_lost while a task runs");
        assert!(self.made, "B9: connection_lost without connection_made");
        assert!(!std::mem::replace(&mut self.lost, true), "B9: connection_lost twice");
    }

    fn cancel_tasks(&mut self) {
        assert!(!self.machine.link.is_open() && !self.tasks.is_empty(), "a cancel of nothing");
        assert!(!std::mem::replace(&mut self.tasks_cancelled, true), "cancelled twice");
    }

    fn is_held(&self) -> bool {
        self.tasks.iter().any(|task| task.holds())
    }

    fn datagram_tasks(&self) -> u32 {
        self.tasks.iter().filter(|task| **task == Task::Datagram).count() as u32
    }

    fn end_task(&mut self, nth: usize) {
        let task = self.tasks.swap_remove(nth);
        self.machine.task_ended(task);
        if task == Task::Own || !self.machine.link.is_open() {
            return;
        }
        let before = self.machine.mode();
        self.act(task);
        let kept = task != Task::Datagram || !self.machine.link.is_open() || self.machine.mode() == before;
        assert!(kept || self.signals_itself, "the task of a datagram changed the mode");
        let held = self.is_held() && self.machine.link.is_open();
        assert!(!held || self.machine.mode() == Some(Mode::Held), "a task ended, and took the others' hold along");
    }

    fn settle(&mut self) {
        for calls in (0..8usize).rev().chain(std::iter::repeat(0)) {
            match self.machine.next(&LIMITS, calls > 0) {
                Next::DataReceived => {
                    self.check_tasks(DATAGRAM_TASKS_MAX - 1);
                    assert!(!self.told_eof, "data after the end of file");
                    let Some(Piece { bytes, buffer }) = self.inbox.pop_front() else {
                        panic!("a callback for nothing")
                    };
                    self.machine.link.delivered(bytes);
                    self.done_with.extend(buffer);
                    self.call(None);
                }
                Next::EofReceived => {
                    self.check_tasks(DATAGRAM_TASKS_MAX);
                    assert!(self.inbox.is_empty() && !self.told_eof, "data first, end of file once");
                    self.told_eof = true;
                    self.call(Some(Task::InTurn));
                }
                Next::WriteReady => {
                    self.check_tasks(DATAGRAM_TASKS_MAX);
                    (self.buffers, self.signalled) = (false, false);
                    self.call(Some(Task::InTurn));
                }
                Next::Drained => panic!("a protocol has no marks of its own"),
                Next::LetGo => panic!("a protocol is kept as long as its connection"),
                Next::CancelTasks => self.cancel_tasks(),
                Next::ConnectionLost => self.lose(),
                Next::Receive => assert!(!std::mem::replace(&mut self.receiving, true), "two receives"),
                Next::CancelReceive => {
                    assert!(self.receiving && !self.cancelling, "a cancel of nothing");
                    self.cancelling = true;
                }
                Next::Listen(ear) => {
                    assert_ne!(ear, self.ear, "told to listen as before");
                    self.ear = ear;
                }
                Next::Send => {
                    assert!(!std::mem::replace(&mut self.sending, true), "I3: two sends");
                    assert!(self.queued > 0, "a send of nothing");
                }
                Next::ShutdownWrite => {
                    assert!(!self.sending && self.queued == 0, "B1: FIN before everything was sent");
                    assert!(self.failed || self.accepted == self.sent, "an accepted byte was not sent");
                }
                Next::Abort => {
                    assert!(self.receiving || self.sending, "an abort of nothing");
                    self.cancelling |= self.receiving;
                }
                Next::Close => {
                    assert!(!self.receiving && !self.sending, "I4: closed under an operation");
                    assert_eq!(self.ear, Ear::Off, "I4: closed while it is listened to");
                    assert_eq!(self.lost, self.made, "B9: closed without connection_lost");
                    self.closed = true;
                }
                Next::Yield => {
                    assert_eq!(calls, 0, "yields only when its turn is over");
                    return self.check();
                }
                Next::Nothing => return self.check_delivered(),
            }
            if self.hung_up && self.machine.link.is_finished() {
                self.fail();
            }
            self.forget_input();
            if self.closed {
                return;
            }
        }
    }

    /// Nothing follows at all, for now. It may have ended just now.
    fn check_delivered(&mut self) {
        self.forget_input();
        let may_write = self.machine.mode() == Some(Mode::Write) && !(self.ends_output && self.queued == 0);
        let waits = may_write || self.is_held() || self.datagram_tasks() >= DATAGRAM_TASKS_MAX;
        let reads = !waits && self.machine.mode() != Some(Mode::Async);
        assert!(!reads || self.inbox.is_empty(), "what has arrived is not delivered: {:?}", self.machine);
        self.check();
    }

    /// Nothing follows, for now. B11: whatever state it is in, the end of its peer is heard.
    fn check(&self) {
        let is_asked = matches!(self.machine.mode(), None | Some(Mode::Write | Mode::Held));
        assert!(is_asked || !self.signalled || !self.directions.writable, "what stands in write_buffer is left lying");
        if self.machine.link.is_open() && !self.hung_up {
            assert!(self.receiving || self.ear != Ear::Off, "nobody would hear its end: {:?}", self.machine);
        }
        let over = self.hung_up && (self.told_eof || !self.directions.readable);
        assert!(!over || !self.machine.link.is_open(), "open, and nobody is there any more: {:?}", self.machine);
    }

    fn take(&mut self, happening: Happening) {
        match happening {
            Happening::Received { bytes, more, buffer } if self.receiving => self.receive(bytes, more, buffer),
            Happening::Eof if self.receiving => {
                (self.receiving, self.cancelling) = (false, false);
                self.machine.link.received_eof();
            }
            Happening::ReceiveError if self.receiving => {
                (self.receiving, self.cancelling) = (false, false);
                self.fail();
                self.machine.link.receive_failed(ERRNO);
            }
            Happening::Heard(heard) if self.ear != Ear::Off && !self.hung_up => self.hear(heard),
            Happening::Deaf => {
                if !self.receiving {
                    self.fail();
                }
                self.machine.link.deaf(ERRNO);
            }
            Happening::EndsOutput => {
                (self.ends_output, self.signalled) = (true, false);
                self.machine.link.end_output();
            }
            Happening::CancelAnswers { missed } if self.cancelling => self.answer_cancel(missed),
            Happening::Sent { part } if self.sending => self.send(part),
            Happening::SendError if self.sending => {
                self.sending = false;
                self.fail();
                self.machine.link.send_failed(ERRNO);
            }
            Happening::Message if self.machine.link.is_open() => self.pass_message(),
            Happening::Signalled => {
                self.signalled |= self.buffers && !self.ends_output;
                self.machine.signalled(|| self.buffers);
            }
            Happening::LingerExpired => self.machine.link.linger_expired(),
            Happening::Answer(action) => self.answer = action,
            Happening::Writes(bytes) => self.writes = bytes,
            Happening::WritesObjects(objects) => self.writes_objects = objects,
            Happening::SendsFirst(sends) => self.sends_first = sends,
            Happening::Reads(reads) => self.reads = reads,
            Happening::SignalsItself(signals) => self.signals_itself = signals,
            Happening::Buffers(buffers) => (self.buffers, self.signalled) = (buffers, self.signalled && buffers),
            Happening::Awaits(awaits) => self.awaits = awaits,
            Happening::TaskBegins if self.made && self.machine.link.is_open() => self.begin(Task::Own),
            Happening::TaskEnds(nth) if !self.tasks.is_empty() => self.end_task(usize::from(nth) % self.tasks.len()),
            Happening::TasksGivenUp if self.tasks_cancelled => {
                self.given_up = true;
                self.machine.give_up_tasks();
            }
            Happening::Killed => {
                self.fail();
                self.machine.link.fail(End::Killed);
            }
            Happening::Closed => self.machine.link.close(End::Closed),
            Happening::Stopped => self.stop(),
            Happening::Retired => self.machine.link.retire(),
            // Nothing runs that could bring this about.
            _ => {}
        }
        self.forget_input();
    }

    fn receive(&mut self, bytes: usize, more: bool, buffer: Option<u16>) {
        self.receiving = more;
        self.cancelling &= more;
        if self.machine.link.received(bytes, more) {
            self.inbox.push_back(Piece { bytes, buffer });
        } else {
            self.done_with.extend(buffer);
        }
    }

    fn hear(&mut self, heard: Heard) {
        // After a hang-up, input that was there before is read to its end.
        self.hung_up = heard != Heard::InputEnds;
        if heard == Heard::Failed {
            self.fail();
        }
        self.machine.link.heard(heard);
        assert!(self.machine.link.peer_closed());
    }

    fn answer_cancel(&mut self, missed: bool) {
        self.cancelling = false;
        if missed {
            self.machine.link.cancel_missed();
        } else {
            self.receiving = false;
            self.machine.link.receive_cancelled();
        }
    }

    fn send(&mut self, part: u8) {
        let bytes = if self.failed { 0 } else { 1 + (self.queued - 1) * usize::from(part) / 255 };
        self.sending = false;
        self.queued -= bytes;
        self.sent += bytes;
        self.machine.sent(bytes, &LIMITS);
    }

    fn pass_message(&mut self) {
        let before = self.machine.mode();
        // Whatever it answers in write mode, it decides itself.
        self.signalled &= before != Some(Mode::Write);
        if self.is_held() && self.awaits.is_none() {
            self.write();
            self.act(Task::Message);
            assert!(!self.machine.link.is_open() || self.machine.mode() == before, "a message took the hold of a task");
            return;
        }
        self.call(Some(Task::Message));
        let stays = self.answer == Action::Continue
            && self.awaits.is_none()
            && !self.signals_itself
            && self.machine.link.is_open();
        assert!(!stays || self.machine.mode() == before, "a message changed the mode by itself");
    }

    fn stop(&mut self) {
        self.machine.stop();
        let waits = match self.machine.mode() {
            Some(Mode::Read) => !self.inbox.is_empty(),
            Some(mode) => matches!(mode, Mode::Write | Mode::Held),
            None => false,
        };
        assert!(!self.machine.link.is_open() || waits, "a stop waits for nobody else");
    }

    /// What nobody will be told of is thrown away.
    fn forget_input(&mut self) {
        if !self.machine.link.is_open() {
            self.done_with.extend(self.inbox.drain(..).filter_map(|piece| piece.buffer));
        }
    }

    fn fail(&mut self) {
        self.failed = true;
        self.queued = 0;
    }
}
