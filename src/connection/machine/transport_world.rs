//! A model of driver, peer, and a program that does as it likes. It asserts what a transport must never see.

#![forbid(unsafe_code)]

use crate::base::ear::{Ear, Heard};
use crate::base::limits::Limits;
use crate::connection::machine::{Directions, End, Machine, Marks, Mode, Next};

const SOCKET: Directions = Directions { readable: true, writable: true, half_closes: true };
const LIMITS: Limits = Limits { write_high_bytes: 1, write_low_bytes: 1, inbox_bytes: 50, linger_bytes: 1 };
/// Small, so that they are reached.
pub const MARKS: Marks = Marks { high: 40, low: 10 };

/// What may happen to a transport. What nothing runs for that could bring it about, does not happen.
#[derive(Clone, Debug)]
pub enum Happening {
    /// `connection_made` was called.
    Made,
    /// Data, with which the receive ends unless `more`.
    Received { bytes: usize, more: bool },
    /// Data that was left where it is, which may go straight into the program's memory.
    Readable { bytes: usize },
    /// The peer sends no more.
    Eof,
    /// The receive fails.
    ReceiveError,
    /// An ear hears this.
    Hears(Heard),
    /// The cancel of the receive finds it, or misses.
    CancelAnswers { missed: bool },
    /// The send ends, having sent that part of 255 of what is queued, but at least one byte.
    Sent { part: u8 },
    /// The send fails.
    SendError,
    /// `write`.
    Writes(usize),
    /// What each callback writes from now on.
    Answers(usize),
    /// `write_eof`.
    WriteEof,
    /// `pause_reading`, or `resume_reading`.
    Pauses(bool),
    /// Whether `eof_received` has it stay open from now on.
    Stays(bool),
    /// The next callback is interrupted: what it was told is told again.
    Interrupts,
    /// `set_write_buffer_limits`.
    SetsMarks(Marks),
    /// Somebody waits for an empty queue, to write to the socket; or has done so.
    Lends(bool),
    /// `close`.
    Closes,
    /// `abort`.
    Aborts,
    /// Its program has no reference to it any more.
    Forgets,
    /// Its loop has stopped, and goes on by another driver.
    Moves,
}

/// Everything around the machine of one transport.
pub struct TransportWorld {
    machine: Machine,
    marks: Marks,
    made: bool,
    paused: bool,
    stays: bool,
    interrupts: bool,
    answers: usize,
    receiving: bool,
    cancelling: bool,
    sending: bool,
    ear: Ear,
    inbox: Vec<usize>,
    queued: usize,
    accepted: usize,
    sent: usize,
    /// `write_eof` was called, and FIN was sent.
    ended: (bool, bool),
    /// The peer is heard no more.
    hung_up: bool,
    writer_paused: bool,
    awaits_empty: bool,
    lent: bool,
    told_eof: bool,
    closing: bool,
    failed: bool,
    /// The peer is gone, by what a receive or (`true`) a send says; what came before waits to be delivered.
    failing: Option<bool>,
    /// It was heard that the peer is gone, which is to be told by a receive.
    drains: bool,
    /// It is kept by more than its program.
    held: bool,
    lost: bool,
    closed: bool,
}

impl TransportWorld {
    /// One that was just made.
    pub fn new() -> Self {
        TransportWorld {
            machine: Machine::of_transport(SOCKET, MARKS),
            marks: MARKS,
            made: false,
            paused: false,
            stays: true,
            interrupts: false,
            answers: 0,
            receiving: false,
            cancelling: false,
            sending: false,
            ear: Ear::Off,
            inbox: Vec::new(),
            queued: 0,
            accepted: 0,
            sent: 0,
            ended: (false, false),
            hung_up: false,
            writer_paused: false,
            awaits_empty: false,
            lent: false,
            told_eof: false,
            closing: false,
            failed: false,
            failing: None,
            drains: false,
            held: true,
            lost: false,
            closed: false,
        }
    }

    /// Something happens, and what follows is done.
    pub fn happen(&mut self, happening: Happening) {
        if self.closed {
            return;
        }
        if matches!(happening, Happening::Forgets) {
            return self.forget();
        }
        self.hold();
        self.take(happening);
        self.settle();
    }

    fn hold(&mut self) {
        self.machine.hold();
        self.held = true;
    }

    /// Whoever is still kept is in no danger.
    fn forget(&mut self) {
        if !self.held {
            self.hold();
            self.fail();
            self.lost = true;
            self.machine.link.abandon();
            self.settle();
        }
    }

    /// Whatever came before: it is made and aborted, and the kernel's last answers end it, although the first cancel misses.
    pub fn end(&mut self) {
        self.happen(Happening::Made);
        self.happen(Happening::Aborts);
        self.happen(Happening::CancelAnswers { missed: true });
        self.happen(Happening::CancelAnswers { missed: false });
        self.happen(Happening::SendError);
        self.happen(Happening::Lends(false));
        assert!(self.closed, "an operation or the connection was forgotten: {:?}", self.machine);
    }

    fn write(&mut self, bytes: usize) {
        if bytes == 0 || self.ended.0 || self.machine.link.is_finished() {
            return;
        }
        let sends = self.machine.queued(bytes);
        self.queued += bytes;
        self.accepted += bytes;
        assert!(!sends || self.queued > self.marks.high, "a send at once of what may wait");
        if sends {
            assert!(!std::mem::replace(&mut self.sending, true), "I3: two sends");
            // Some of it is taken at once, or all of it.
            match bytes % 3 {
                0 => {}
                1 => self.take(Happening::Sent { part: 255 }),
                _ => self.take(Happening::Sent { part: 100 }),
            }
        }
        let pauses = self.machine.pauses_writer();
        self.check_pause(pauses);
    }

    fn check_pause(&mut self, pauses: bool) {
        let is_due = self.queued > self.marks.high && !self.writer_paused;
        assert_eq!(pauses, is_due, "pause_writing, but {} are queued", self.queued);
        self.writer_paused |= pauses;
    }

    fn call(&mut self) {
        assert!(self.made, "a callback before connection_made");
        assert!(!self.lost && !self.closing, "a callback although it was closed");
        assert!(!self.paused, "a callback although reading is paused");
        self.write(self.answers);
    }

    fn close(&mut self) {
        self.closing = true;
        self.inbox.clear();
        self.machine.link.close(End::Closed);
    }

    fn data_received(&mut self) {
        self.call();
        assert!(!self.told_eof, "data after the end of file");
        let bytes = self.inbox.remove(0);
        self.machine.link.delivered(bytes);
        if std::mem::take(&mut self.interrupts) && self.machine.link.is_open() {
            self.inbox.insert(0, bytes);
            self.machine.link.undelivered(bytes);
        }
    }

    fn eof_received(&mut self) {
        self.call();
        assert!(self.inbox.is_empty() && !self.told_eof, "data first");
        self.told_eof = !std::mem::take(&mut self.interrupts);
        if !self.told_eof {
            self.machine.link.received_eof();
        } else if !self.stays {
            self.close();
        }
    }

    fn settle(&mut self) {
        for calls in (0..4usize).rev().chain(std::iter::repeat(0)) {
            let next = self.machine.next(&LIMITS, calls > 0);
            if self.machine.link.is_finished() && !self.failed && self.failing.is_some() {
                self.end_of_failing();
            }
            assert!(self.made || next == Next::Nothing, "something happens before it is made");
            match next {
                Next::DataReceived => self.data_received(),
                Next::EofReceived => self.eof_received(),
                Next::Drained => self.drained(),
                Next::ConnectionLost => {
                    assert!(!self.receiving && !self.sending, "connection_lost while an operation runs");
                    assert!(!self.lent, "its socket is about to be closed under somebody who writes to it");
                    assert!(!std::mem::replace(&mut self.lost, true), "B9: connection_lost twice");
                    assert!(self.failed || self.sent == self.accepted, "closed before all was sent");
                }
                Next::Receive => {
                    assert!(!self.paused || self.drains, "a receive although reading is paused");
                    assert!(self.failing.is_none(), "a receive although it has failed");
                    assert!(!std::mem::replace(&mut self.receiving, true), "two receives");
                }
                Next::CancelReceive => {
                    assert!(self.receiving && !self.cancelling, "a cancel of nothing");
                    self.cancelling = true;
                }
                Next::Listen(ear) => self.ear = ear,
                Next::Send => {
                    assert!(!std::mem::replace(&mut self.sending, true), "I3: two sends");
                    assert_ne!(self.failing, Some(true), "a send although one has failed");
                    assert!(self.queued > 0, "a send of nothing");
                }
                Next::ShutdownWrite => {
                    assert!(
                        self.ended.0 && !std::mem::replace(&mut self.ended.1, true),
                        "an end of output unasked for"
                    );
                    assert!(!self.sending && self.queued == 0, "FIN before everything was sent");
                }
                Next::Abort => self.cancelling |= self.receiving,
                Next::Close => {
                    assert!(self.lost && !self.receiving && !self.sending, "I4: closed under an operation");
                    assert_eq!(self.ear, Ear::Off, "I4: closed while it is listened to");
                    self.closed = true;
                    return;
                }
                Next::Yield => {
                    assert_eq!(calls, 0, "yields only when its turn is over");
                    return self.check();
                }
                Next::LetGo => {
                    assert!(std::mem::take(&mut self.held), "let go twice");
                    assert!(self.is_idle(), "let go although something is due to it");
                }
                Next::Nothing => {
                    assert_ne!(self.held, self.is_idle(), "kept although nothing is due to it, or not kept");
                    return self.check();
                }
                Next::WriteReady | Next::CancelTasks => panic!("a transport has neither"),
            }
        }
    }

    fn drained(&mut self) {
        let resumes = self.writer_paused && self.queued <= self.marks.low;
        let is_told = self.awaits_empty && (self.queued == 0 || self.failed);
        assert!(resumes || is_told, "told of nothing, with {} queued", self.queued);
        self.writer_paused &= !resumes;
        self.awaits_empty &= !is_told;
        if resumes && !self.closing {
            self.write(self.answers);
        }
    }

    /// What came before is delivered, unless a writer that is to hear of it reads no more.
    fn end_of_failing(&mut self) {
        let waits = self.failing == Some(true) && self.paused;
        assert!(self.closing || self.inbox.is_empty() || waits, "what came before a reset is thrown away");
        if !self.closing || (self.failing == Some(true) && self.queued > 0) {
            self.fail();
        }
    }

    /// Whether it is open, and nothing happens but what its program or its peer begins.
    fn is_idle(&self) -> bool {
        let reads = !self.paused && !self.told_eof;
        self.made && self.machine.link.is_open() && !reads && self.queued == 0 && !self.sending && !self.lent
    }

    /// What holds while nothing happens.
    fn check(&self) {
        if !self.made {
            return;
        }
        let is_open = self.machine.link.is_open();
        assert_eq!(self.machine.mode().is_some(), is_open);
        assert!(!is_open || !self.closing, "it was closed, and is open");
        assert!(!is_open || self.receiving || self.hung_up || self.ear != Ear::Off, "nobody would hear its end (B11)");
        assert!(
            !self.writer_paused || self.queued > self.marks.low || self.lost || self.failed,
            "a writer is forgotten"
        );
        assert!(!self.awaits_empty || (self.queued > 0 && !self.failed), "who waits is forgotten");
        let may_receive = is_open && !self.paused && !self.machine.link.peer_closed() && self.failing.is_none();
        assert!(!may_receive || self.receiving || !self.inbox.is_empty(), "nothing is received");
        assert!(!is_open || self.failing.is_none() || !self.inbox.is_empty(), "the end is not told");
        assert!(
            !is_open || !self.drains || self.receiving || self.receives_nothing_more() || !self.inbox.is_empty(),
            "nobody looks why"
        );
        assert!(self.queued == 0 || self.sending || !is_open || self.failing == Some(true), "nothing is sent");
        assert!(
            is_open || self.receiving || self.sending || self.queued > 0 || self.lent,
            "a close that is not gone on with"
        );
    }

    fn take(&mut self, happening: Happening) {
        match happening {
            Happening::Made => {
                self.made = true;
                self.machine.made(|| false);
            }
            Happening::Received { bytes, more } if self.receiving => {
                self.receiving = more;
                self.cancelling &= more;
                if self.machine.link.received(bytes, more) {
                    assert!(!self.closing, "what came after the close is kept");
                    self.inbox.push(bytes);
                }
            }
            Happening::Readable { bytes } => self.readable(bytes),
            Happening::Eof if self.receiving => {
                (self.receiving, self.cancelling) = (false, false);
                self.machine.link.received_eof();
            }
            Happening::ReceiveError if self.receiving => {
                (self.receiving, self.cancelling) = (false, false);
                let was_open = self.machine.link.is_open();
                self.machine.link.receive_failed(libc::ECONNRESET);
                if was_open && !self.inbox.is_empty() {
                    self.failing.get_or_insert(false);
                    self.hung_up = true;
                } else if was_open {
                    self.fail();
                    assert_eq!(self.machine.link.end(), End::Reset(Some(libc::ECONNRESET)));
                }
            }
            Happening::Hears(heard) if self.ear != Ear::Off && !self.hung_up => {
                self.hung_up = heard != Heard::InputEnds;
                let is_open = self.machine.link.is_open();
                self.machine.link.heard(heard);
                match heard == Heard::Failed {
                    true if is_open && self.machine.link.is_open() && !self.machine.link.is_at_eof() => {
                        self.drains = true
                    }
                    true if self.machine.link.is_open() => self.failing = Some(false),
                    true => self.fail(),
                    false => {}
                }
            }
            Happening::CancelAnswers { missed } if self.cancelling => {
                self.cancelling = false;
                if missed {
                    self.machine.link.cancel_missed();
                } else {
                    self.receiving = false;
                    self.machine.link.receive_cancelled();
                }
            }
            Happening::Sent { part } if self.sending => {
                let bytes = if self.failed { 0 } else { 1 + (self.queued - 1) * usize::from(part) / 255 };
                self.sending = false;
                self.queued -= bytes;
                self.sent += bytes;
                self.machine.sent(bytes, &LIMITS);
            }
            Happening::SendError if self.sending => {
                self.sending = false;
                self.send_fails();
            }
            // Nothing runs that could bring this about, or it is the program's doing.
            happening => self.act(happening),
        }
    }

    fn readable(&mut self, bytes: usize) {
        if self.receiving && self.machine.delivers() {
            assert!(self.inbox.is_empty() && !self.told_eof, "what came before is overtaken");
            return self.call();
        }
        assert!(!self.receiving || self.paused || self.closing || !self.inbox.is_empty(), "kept for nothing");
        self.take(Happening::Received { bytes, more: true });
    }

    fn moves(&mut self) {
        self.cancelling = false;
        if std::mem::take(&mut self.receiving) {
            self.machine.link.receive_cancelled();
        }
        if std::mem::take(&mut self.sending) {
            self.machine.sent(0, &LIMITS);
        }
        self.machine.link.moved();
        self.ear = Ear::Off;
    }

    fn send_fails(&mut self) {
        let was_aborted = self.failed;
        self.machine.link.send_failed(libc::EPIPE);
        if self.machine.link.is_open() {
            assert!(!self.inbox.is_empty(), "a failed send is not told");
            self.failing = Some(true);
            self.hung_up = true;
        } else {
            self.fail();
            assert!(was_aborted || self.machine.link.end() == End::Reset(Some(libc::EPIPE)));
        }
    }

    /// What the program does.
    fn act(&mut self, happening: Happening) {
        match happening {
            Happening::Writes(bytes) => self.write(bytes),
            Happening::Answers(bytes) => self.answers = bytes,
            Happening::WriteEof if !self.closing => {
                self.ended.0 = true;
                self.machine.link.end_output();
            }
            Happening::Pauses(pauses) if !self.closing => {
                self.paused = pauses;
                self.machine.pause_reading(pauses);
                assert_eq!(self.machine.mode().is_some_and(|mode| mode == Mode::Async), pauses && !self.failed);
            }
            Happening::Stays(stays) => self.stays = stays,
            Happening::Interrupts => self.interrupts = true,
            Happening::SetsMarks(marks) => {
                self.marks = marks;
                let pauses = self.machine.set_marks(marks);
                self.check_pause(pauses);
            }
            Happening::Lends(lends) if self.machine.link.is_open() || !lends => {
                (self.awaits_empty, self.lent) = (lends, lends);
                self.machine.lend(lends);
            }
            Happening::Moves => self.moves(),
            Happening::Closes => self.close(),
            Happening::Aborts => {
                self.fail();
                self.machine.link.fail(End::Closed);
            }
            _ => {}
        }
    }

    fn receives_nothing_more(&self) -> bool {
        self.failing.is_some() || self.machine.link.is_at_eof()
    }

    fn fail(&mut self) {
        self.failed = true;
        self.closing = true;
        self.queued = 0;
        self.inbox.clear();
    }
}
