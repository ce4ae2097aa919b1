//! The machine against a world that answers in any order: a model of driver, peer and protocol, without any of them.

use super::*;
use proptest::prelude::*;

const LIMITS: Limits = Limits { write_high_bytes: 100, write_low_bytes: 20, inbox_bytes: 50, linger_bytes: 200 };

const SOCKET: Directions = Directions { readable: true, writable: true, half_closes: true };

/// What may happen to a connection from outside.
#[derive(Clone, Debug)]
enum Happening {
    Received {
        bytes: usize,
        more: bool,
    },
    Eof,
    ReceiveError,
    CancelAnswers {
        missed: bool,
    },
    Sent {
        part: u8,
    },
    SendError,
    Signalled,
    LingerExpired,
    /// What the protocol answers from now on.
    Answer(Action),
    /// How much it writes in each callback.
    Writes(usize),
    /// Somebody sent the protocol a message.
    Message,
    Killed,
    Stopped,
    Retired,
}

fn happening() -> impl Strategy<Value = Happening> {
    use Happening::*;
    let action = prop_oneof![
        Just(Action::Continue),
        Just(Action::WritePending),
        Just(Action::ReadPending),
        Just(Action::AsyncPending),
        Just(Action::Close),
    ];
    prop_oneof![
        6 => (1usize..60, any::<bool>()).prop_map(|(bytes, more)| Received { bytes, more }),
        1 => Just(Eof),
        1 => Just(ReceiveError),
        2 => any::<bool>().prop_map(|missed| CancelAnswers { missed }),
        6 => any::<u8>().prop_map(|part| Sent { part }),
        1 => Just(SendError),
        2 => Just(Signalled),
        2 => Just(Message),
        1 => Just(LingerExpired),
        4 => action.prop_map(Answer),
        2 => (0usize..150).prop_map(Writes),
        1 => Just(Killed),
        1 => Just(Stopped),
        1 => Just(Retired),
    ]
}

/// Everything around the machine, with what it must never see.
struct World {
    machine: Machine,
    answer: Action,
    writes: usize,
    receiving: bool,
    cancelling: bool,
    sending: bool,
    queued: usize,
    /// Bytes written and not sent, by our own count.
    accepted: usize,
    sent: usize,
    inbox: usize,
    failed: bool,
    told_eof: bool,
    lost: bool,
    closed: bool,
}

impl World {
    fn new(directions: Directions) -> Self {
        World {
            machine: Machine::new(directions),
            answer: Action::Continue,
            writes: 10,
            receiving: false,
            cancelling: false,
            sending: false,
            queued: 0,
            accepted: 0,
            sent: 0,
            inbox: 0,
            failed: false,
            told_eof: false,
            lost: false,
            closed: false,
        }
    }

    fn write(&mut self) {
        let taken = self.writes.min(self.machine.room(&LIMITS));
        self.machine.wrote(self.writes, taken);
        self.queued += taken;
        self.accepted += taken;
        assert!(self.queued <= LIMITS.write_high_bytes, "B3: more queued than the high-water mark");
    }

    fn call(&mut self, callback: Callback) {
        assert!(!self.lost, "B9: a callback after connection_lost");
        self.write();
        let action = if callback.allows(self.answer) { self.answer } else { Action::Close };
        self.machine.acted(callback, action);
    }

    fn settle(&mut self) {
        for calls in (0..8usize).rev().chain(std::iter::repeat(0)) {
            match self.machine.next(&LIMITS, calls > 0) {
                Next::DataReceived => {
                    assert!(self.inbox > 0 && !self.told_eof);
                    let bytes = self.inbox.min(30);
                    self.inbox -= bytes;
                    self.machine.delivered(bytes);
                    self.call(Callback::DataReceived);
                }
                Next::EofReceived => {
                    assert!(self.inbox == 0 && !self.told_eof, "data first, end of file once");
                    self.told_eof = true;
                    self.call(Callback::EofReceived);
                }
                Next::WriteReady => self.call(Callback::WriteReady),
                Next::ConnectionLost => {
                    assert!(!std::mem::replace(&mut self.lost, true), "B9: connection_lost twice");
                }
                Next::Receive => assert!(!std::mem::replace(&mut self.receiving, true), "two receives"),
                Next::CancelReceive => {
                    assert!(self.receiving && !self.cancelling, "a cancel of nothing");
                    self.cancelling = true;
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
                    assert!(self.receiving || self.sending);
                    self.cancelling |= self.receiving;
                }
                Next::Close => {
                    assert!(!self.receiving && !self.sending, "I4: closed under an operation");
                    assert!(self.lost, "B9: closed without connection_lost");
                    self.closed = true;
                    return;
                }
                Next::Yield => {
                    assert_eq!(calls, 0, "yields only when its turn is over");
                    return;
                }
                Next::Nothing => return,
            }
        }
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Received { bytes, more } if self.receiving => {
                self.receiving = more;
                self.cancelling &= more;
                if self.machine.received(bytes, more) {
                    self.inbox += bytes;
                }
            }
            Happening::Eof if self.receiving => {
                (self.receiving, self.cancelling) = (false, false);
                self.machine.received_eof();
            }
            Happening::ReceiveError if self.receiving => {
                (self.receiving, self.cancelling) = (false, false);
                self.fail();
                self.machine.receive_failed();
            }
            Happening::CancelAnswers { missed } if self.cancelling => {
                self.cancelling = false;
                if missed {
                    self.machine.cancel_missed();
                } else {
                    self.receiving = false;
                    self.machine.receive_cancelled();
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
                self.fail();
                self.machine.send_failed();
            }
            Happening::Message if self.machine.is_open() => {
                let before = self.machine.mode();
                self.call(Callback::MessageReceived);
                let stays = self.answer == Action::Continue && self.machine.is_open();
                assert!(!stays || self.machine.mode() == before, "a message changed the mode by itself");
            }
            Happening::Signalled => self.machine.signalled(),
            Happening::LingerExpired => self.machine.linger_expired(),
            Happening::Answer(action) => self.answer = action,
            Happening::Writes(bytes) => self.writes = bytes,
            Happening::Killed => {
                self.fail();
                self.machine.fail(End::Killed);
            }
            Happening::Stopped => {
                self.machine.close(End::Stopped);
                self.inbox = 0;
            }
            Happening::Retired => self.machine.retire(),
            // Nothing runs that could bring this about.
            _ => {}
        }
        if !self.machine.is_open() {
            self.inbox = 0;
        }
    }

    fn fail(&mut self) {
        self.failed = true;
        self.queued = 0;
        self.inbox = 0;
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn every_promise_holds_whatever_happens(
        happenings in prop::collection::vec(happening(), 1..60),
        (readable, writable, half_closes) in any::<(bool, bool, bool)>(),
    ) {
        let mut world = World::new(Directions { readable, writable, half_closes });
        world.settle();
        for happening in happenings {
            if world.closed {
                break;
            }
            world.happen(happening);
            world.settle();
        }
        // Whatever came before: a kill, and the kernel's last answers, always end it, although the first cancel misses.
        for happening in [
            Happening::Killed,
            Happening::CancelAnswers { missed: true },
            Happening::CancelAnswers { missed: false },
            Happening::Sent { part: 0 },
        ] {
            if !world.closed {
                world.happen(happening);
                world.settle();
            }
        }
        prop_assert!(world.closed, "an operation or the connection was forgotten: {:?}", world.machine);
        prop_assert!(world.lost);
    }
}

fn settled(machine: &mut Machine) -> Vec<Next> {
    std::iter::from_fn(|| Some(machine.next(&LIMITS, true)))
        .take_while(|next| *next != Next::Nothing)
        .take(20)
        .collect()
}

#[test]
fn an_echo_takes_no_detour() {
    let mut machine = Machine::new(SOCKET);
    assert_eq!(settled(&mut machine), [Next::Receive]);
    assert!(machine.received(10, true));
    assert_eq!(machine.next(&LIMITS, true), Next::DataReceived);
    machine.delivered(10);
    machine.acted(Callback::DataReceived, Action::WritePending);
    assert_eq!(machine.next(&LIMITS, true), Next::WriteReady);
    machine.wrote(10, 10);
    machine.acted(Callback::WriteReady, Action::ReadPending);
    assert_eq!(settled(&mut machine), [Next::Send]);
    machine.sent(10, &LIMITS);
    assert_eq!(settled(&mut machine), []);
}

#[test]
fn data_waits_while_the_protocol_writes() {
    let mut machine = Machine::new(SOCKET);
    settled(&mut machine);
    machine.acted(Callback::DataReceived, Action::AsyncPending);
    machine.received(10, true);
    assert_eq!(settled(&mut machine), []);
    machine.received(45, true);
    assert_eq!(settled(&mut machine), [Next::CancelReceive], "the inbox is full");
    machine.receive_cancelled();
    machine.signalled();
    assert_eq!(machine.next(&LIMITS, true), Next::WriteReady);
    machine.acted(Callback::WriteReady, Action::ReadPending);
    assert_eq!(machine.next(&LIMITS, true), Next::DataReceived);
    machine.delivered(55);
    machine.acted(Callback::DataReceived, Action::Continue);
    assert_eq!(settled(&mut machine), [Next::Receive], "there is room again");
}

#[test]
fn write_ready_waits_for_the_low_water_mark_after_a_refusal() {
    let mut machine = Machine::new(SOCKET);
    settled(&mut machine);
    machine.acted(Callback::DataReceived, Action::WritePending);
    assert_eq!(machine.next(&LIMITS, true), Next::WriteReady);
    machine.wrote(500, 100);
    machine.acted(Callback::WriteReady, Action::Continue);
    assert_eq!(settled(&mut machine), [Next::Send]);
    machine.sent(70, &LIMITS);
    assert_eq!(settled(&mut machine), [Next::Send], "30 left: more than the mark");
    machine.sent(10, &LIMITS);
    assert_eq!(machine.next(&LIMITS, true), Next::WriteReady);
}

#[test]
fn what_is_written_after_the_peers_half_close_is_delivered() {
    let mut machine = Machine::new(SOCKET);
    settled(&mut machine);
    machine.received(5, true);
    machine.received_eof();
    assert_eq!(machine.next(&LIMITS, true), Next::DataReceived);
    machine.delivered(5);
    machine.acted(Callback::DataReceived, Action::WritePending);
    assert_eq!(machine.next(&LIMITS, true), Next::WriteReady);
    machine.wrote(50, 50);
    machine.acted(Callback::WriteReady, Action::ReadPending);
    assert_eq!(machine.next(&LIMITS, true), Next::EofReceived);
    machine.acted(Callback::EofReceived, Action::Close);
    assert_eq!(settled(&mut machine), [Next::Send]);
    machine.sent(50, &LIMITS);
    assert_eq!(settled(&mut machine)[..3], [Next::ShutdownWrite, Next::ConnectionLost, Next::Close]);
}

#[test]
fn a_close_lingers_until_the_peer_is_done() {
    let mut machine = Machine::new(SOCKET);
    settled(&mut machine);
    machine.received(5, true);
    machine.next(&LIMITS, true);
    machine.delivered(5);
    machine.wrote(5, 5);
    machine.acted(Callback::DataReceived, Action::Close);
    assert_eq!(settled(&mut machine), [Next::Send]);
    machine.sent(5, &LIMITS);
    assert_eq!(settled(&mut machine), [Next::ShutdownWrite, Next::ConnectionLost]);
    assert!(!machine.received(100, true), "input is discarded");
    assert_eq!(settled(&mut machine), []);
    machine.received_eof();
    assert_eq!(settled(&mut machine)[0], Next::Close);
}

#[test]
fn a_connection_that_was_never_made_is_never_lost() {
    let mut machine = Machine::new(SOCKET);
    machine.never_made();
    let steps: Vec<_> = (0..3).map(|_| machine.next(&LIMITS, true)).collect();
    assert_eq!(steps, [Next::ShutdownWrite, Next::Receive, Next::Nothing]);
}

#[test]
fn a_write_only_end_is_asked_for_output_and_never_read() {
    let mut machine = Machine::new(Directions { readable: false, writable: true, half_closes: false });
    assert_eq!(machine.next(&LIMITS, true), Next::WriteReady);
    machine.acted(Callback::WriteReady, Action::ReadPending);
    assert_eq!(settled(&mut machine), []);
    machine.signalled();
    assert_eq!(machine.next(&LIMITS, true), Next::WriteReady);
    machine.acted(Callback::WriteReady, Action::Close);
    assert_eq!(settled(&mut machine)[..3], [Next::ShutdownWrite, Next::ConnectionLost, Next::Close]);
}

#[test]
fn a_read_only_end_takes_nothing() {
    let mut machine = Machine::new(Directions { readable: true, writable: false, half_closes: false });
    assert_eq!(settled(&mut machine), [Next::Receive]);
    assert_eq!(machine.room(&LIMITS), 0);
}

#[test]
fn a_retired_connection_answers_what_has_arrived_and_closes() {
    let mut machine = Machine::new(SOCKET);
    settled(&mut machine);
    machine.received(10, true);
    machine.retire();
    assert_eq!(machine.next(&LIMITS, true), Next::DataReceived);
    machine.delivered(10);
    machine.acted(Callback::DataReceived, Action::AsyncPending);
    assert_eq!(settled(&mut machine), [Next::CancelReceive], "nothing new is read");
    machine.receive_cancelled();
    assert_eq!(settled(&mut machine), [], "the answer is awaited");
    machine.signalled();
    assert_eq!(machine.next(&LIMITS, true), Next::WriteReady);
    machine.wrote(10, 10);
    machine.acted(Callback::WriteReady, Action::ReadPending);
    assert_eq!(settled(&mut machine), [Next::Send]);
    machine.sent(10, &LIMITS);
    assert_eq!(settled(&mut machine)[..2], [Next::ShutdownWrite, Next::ConnectionLost]);
}

#[test]
fn a_signal_from_within_the_callback_counts() {
    let mut machine = Machine::new(SOCKET);
    settled(&mut machine);
    machine.signalled_early();
    machine.acted(Callback::DataReceived, Action::AsyncPending);
    assert_eq!(machine.next(&LIMITS, true), Next::WriteReady);
    machine.acted(Callback::WriteReady, Action::ReadPending);
    machine.signalled_early();
    machine.acted(Callback::DataReceived, Action::Continue);
    machine.acted(Callback::DataReceived, Action::AsyncPending);
    assert_eq!(settled(&mut machine), [], "an old signal is not kept");
}

#[test]
fn a_signal_from_within_connection_made_is_not_kept_for_later() {
    let mut machine = Machine::new(SOCKET);
    machine.signalled_early();
    machine.made();
    settled(&mut machine);
    machine.acted(Callback::DataReceived, Action::AsyncPending);
    assert_eq!(settled(&mut machine), []);
}

#[test]
fn a_message_leaves_the_mode_unless_it_signals() {
    let mut machine = Machine::new(SOCKET);
    settled(&mut machine);
    machine.acted(Callback::DataReceived, Action::AsyncPending);
    machine.acted(Callback::MessageReceived, Action::Continue);
    assert_eq!(machine.mode(), Some(Mode::Async));
    machine.signalled_early();
    machine.acted(Callback::MessageReceived, Action::Continue);
    assert_eq!(machine.mode(), Some(Mode::Write));
    machine.acted(Callback::MessageReceived, Action::Continue);
    assert_eq!(machine.mode(), Some(Mode::Write));
    machine.acted(Callback::MessageReceived, Action::ReadPending);
    assert_eq!(machine.mode(), Some(Mode::Read));
    machine.acted(Callback::MessageReceived, Action::Close);
    assert_eq!(machine.mode(), None);
}

#[test]
fn the_first_cause_of_the_end_counts() {
    let ended = |cause: fn(&mut Machine)| {
        let mut machine = Machine::new(SOCKET);
        settled(&mut machine);
        cause(&mut machine);
        settled(&mut machine);
        machine.fail(End::Killed);
        machine.end()
    };
    assert_eq!(ended(|machine| machine.acted(Callback::DataReceived, Action::Close)), End::Closed);
    assert_eq!(ended(|machine| machine.receive_failed()), End::Reset);
    assert_eq!(ended(|machine| machine.never_made()), End::Exception);
    assert_eq!(ended(|_| ()), End::Killed);
    assert_eq!(
        ended(|machine| {
            machine.received_eof();
            assert_eq!(machine.next(&LIMITS, true), Next::EofReceived);
            machine.acted(Callback::EofReceived, Action::Close);
        }),
        End::PeerClosed
    );
    assert_eq!(
        ended(|machine| {
            machine.retire();
            settled(machine);
            machine.receive_cancelled();
        }),
        End::Stopped
    );
}
