//! The machine of a transport against its world, and its rules one by one.

#![forbid(unsafe_code)]

use super::super::transport_world::{Happening, MARKS, TransportWorld};
use super::{LIMITS, SOCKET, settled};
use crate::base::ear::{Ear, Heard};
use crate::connection::machine::{End, Machine, Marks, Next};
use proptest::prelude::*;

fn happening() -> impl Strategy<Value = Happening> {
    use Happening::*;
    let heard = prop_oneof![Just(Heard::InputEnds), Just(Heard::HungUp), Just(Heard::Failed)];
    prop_oneof![
        1 => Just(Made),
        6 => (1usize..60, any::<bool>()).prop_map(|(bytes, more)| Received { bytes, more }),
        4 => (1usize..60).prop_map(|bytes| Readable { bytes }),
        1 => Just(Eof),
        1 => Just(ReceiveError),
        2 => heard.prop_map(Hears),
        2 => any::<bool>().prop_map(|missed| CancelAnswers { missed }),
        6 => any::<u8>().prop_map(|part| Sent { part }),
        1 => Just(SendError),
        6 => (0usize..100).prop_map(Writes),
        2 => (0usize..60).prop_map(Answers),
        1 => Just(WriteEof),
        4 => any::<bool>().prop_map(Pauses),
        1 => any::<bool>().prop_map(Stays),
        1 => Just(Interrupts),
        1 => (0usize..60, 0usize..60).prop_map(|(low, more)| SetsMarks(Marks { high: low + more, low })),
        2 => any::<bool>().prop_map(Lends),
        1 => Just(Closes),
        1 => Just(Aborts),
        1 => Just(Forgets),
        1 => Just(Moves),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn every_promise_of_a_transport_holds_whatever_happens(
        made_first in prop::bool::weighted(0.9),
        happenings in prop::collection::vec(happening(), 1..60),
    ) {
        let mut world = TransportWorld::new();
        if made_first {
            world.happen(Happening::Made);
        }
        for happening in happenings {
            world.happen(happening);
        }
        world.end();
    }
}

fn made() -> Machine {
    let mut machine = Machine::of_transport(SOCKET, MARKS);
    assert_eq!(settled(&mut machine), [], "connection_made comes first");
    machine.made(|| false);
    assert_eq!(settled(&mut machine), [Next::Receive]);
    machine
}

#[test]
fn what_is_written_is_taken_and_its_writer_paused_between_the_marks() {
    let mut machine = made();
    assert!(!machine.queued(40) && !machine.pauses_writer());
    assert!(machine.queued(1000), "above the high mark: sent at once");
    assert!(!machine.queued(1000), "one send at a time");
    assert!(machine.pauses_writer());
    assert!(!machine.pauses_writer(), "once");
    assert_eq!(settled(&mut machine), []);
    machine.sent(2020, &LIMITS);
    assert_eq!(settled(&mut machine), [Next::Send], "20 left: above the low mark");
    machine.sent(10, &LIMITS);
    assert_eq!(settled(&mut machine), [Next::Drained, Next::Send]);
}

#[test]
fn a_reader_that_pauses_is_called_no_more_and_hears_the_end() {
    let mut machine = made();
    machine.pause_reading(true);
    machine.link.received(55, true);
    assert_eq!(settled(&mut machine), [Next::CancelReceive, Next::LetGo], "the inbox is full");
    machine.hold();
    machine.link.receive_cancelled();
    assert_eq!(settled(&mut machine), [Next::Listen(Ear::Input), Next::LetGo]);
    machine.pause_reading(false);
    machine.hold();
    assert_eq!(machine.next(&LIMITS, true), Next::DataReceived);
    machine.link.delivered(55);
    machine.pause_reading(true);
    assert_eq!(settled(&mut machine), [Next::LetGo]);
    machine.hold();
    machine.link.heard(Heard::Failed);
    let looks = [Next::Receive, Next::Listen(Ear::Off), Next::LetGo];
    assert_eq!(settled(&mut machine), looks, "which will say why");
    machine.link.receive_failed(libc::ETIMEDOUT);
    assert_eq!(settled(&mut machine)[..2], [Next::ConnectionLost, Next::Close]);
    assert_eq!(machine.link.end(), End::Reset(Some(libc::ETIMEDOUT)));
}

#[test]
fn what_is_received_into_the_programs_own_memory_overtakes_nothing() {
    let machine = Machine::of_transport(SOCKET, MARKS);
    assert!(!machine.delivers(), "connection_made comes first");
    let mut machine = made();
    assert!(machine.delivers());
    machine.link.received(5, true);
    assert!(!machine.delivers());
    assert_eq!(machine.next(&LIMITS, true), Next::DataReceived);
    machine.link.delivered(5);
    assert!(machine.delivers());
    machine.pause_reading(true);
    assert!(!machine.delivers());
    machine.pause_reading(false);
    machine.link.received_eof();
    assert!(!machine.delivers());
    let mut machine = made();
    machine.link.close(End::Closed);
    assert!(!machine.delivers());
}

#[test]
fn who_reads_no_more_and_writes_nothing_is_kept_by_its_program_alone() {
    let mut machine = made();
    machine.queued(10);
    machine.pause_reading(true);
    assert_eq!(settled(&mut machine), [Next::Send], "what was written leaves first");
    machine.sent(10, &LIMITS);
    assert_eq!(settled(&mut machine), [Next::LetGo]);
    assert_eq!(settled(&mut machine), [], "once");
    machine.hold();
    machine.lend(true);
    assert_eq!(settled(&mut machine), [Next::Drained], "somebody else writes");
    machine.lend(false);
    assert_eq!(settled(&mut machine), [Next::LetGo]);
    machine.hold();
    machine.link.abandon();
    assert_eq!(settled(&mut machine), [Next::Abort], "the receive");
    machine.link.receive_cancelled();
    assert_eq!(machine.next(&LIMITS, true), Next::Close, "nobody is told");
    assert_eq!(machine.link.end(), End::Abandoned);
}

#[test]
fn what_came_before_a_reset_is_delivered() {
    let mut machine = made();
    machine.link.received(30, true);
    machine.link.receive_failed(libc::ECONNRESET);
    assert_eq!(machine.next(&LIMITS, false), Next::Yield, "in its turn");
    machine.pause_reading(true);
    assert_eq!(settled(&mut machine), [Next::LetGo], "and when its reader wants it");
    machine.hold();
    machine.pause_reading(false);
    assert_eq!(machine.next(&LIMITS, true), Next::DataReceived);
    machine.link.delivered(30);
    assert_eq!(machine.next(&LIMITS, true), Next::ConnectionLost);
    assert_eq!(machine.link.end(), End::Reset(Some(libc::ECONNRESET)));
}

#[test]
fn a_failed_send_comes_after_what_has_arrived_and_waits_for_no_reader_that_pauses() {
    for pauses in [false, true] {
        let mut machine = made();
        machine.queued(10);
        assert_eq!(settled(&mut machine), [Next::Send]);
        machine.link.received(30, true);
        machine.link.send_failed(libc::EPIPE);
        machine.pause_reading(pauses);
        if !pauses {
            assert_eq!(machine.next(&LIMITS, true), Next::DataReceived);
            machine.link.delivered(30);
        }
        assert_eq!(settled(&mut machine), [Next::Abort], "the receive");
        machine.link.receive_cancelled();
        assert_eq!(machine.next(&LIMITS, true), Next::ConnectionLost);
        assert_eq!(machine.link.end(), End::Reset(Some(libc::EPIPE)));
    }
}

#[test]
fn a_close_flushes_and_ends_without_lingering() {
    let mut machine = made();
    machine.queued(10);
    machine.link.close(End::Closed);
    assert_eq!(settled(&mut machine), [Next::Send, Next::CancelReceive]);
    machine.link.receive_cancelled();
    assert_eq!(settled(&mut machine), []);
    machine.sent(10, &LIMITS);
    assert_eq!(settled(&mut machine)[..2], [Next::ConnectionLost, Next::Close]);
    assert_eq!(machine.link.end(), End::Closed);
}

#[test]
fn connection_lost_waits_for_what_runs() {
    let mut machine = made();
    machine.queued(10);
    assert_eq!(settled(&mut machine), [Next::Send]);
    machine.link.fail(End::Closed);
    assert_eq!(settled(&mut machine), [Next::Abort]);
    machine.link.receive_cancelled();
    assert_eq!(settled(&mut machine), []);
    machine.sent(0, &LIMITS);
    assert_eq!(settled(&mut machine)[..2], [Next::ConnectionLost, Next::Close]);
}

#[test]
fn what_a_close_could_not_deliver_is_told() {
    let mut machine = made();
    machine.queued(10);
    machine.link.close(End::Closed);
    settled(&mut machine);
    machine.link.receive_failed(libc::ECONNRESET);
    assert_eq!(settled(&mut machine), [], "nothing is read any more: that does not end it");
    machine.link.send_failed(libc::EPIPE);
    assert_eq!(machine.next(&LIMITS, true), Next::ConnectionLost);
    assert_eq!(machine.link.end(), End::Reset(Some(libc::EPIPE)));
}

#[test]
fn output_ends_when_all_is_out_and_input_goes_on() {
    let mut machine = made();
    machine.queued(10);
    machine.link.end_output();
    assert_eq!(settled(&mut machine), [Next::Send]);
    machine.sent(10, &LIMITS);
    assert_eq!(settled(&mut machine), [Next::ShutdownWrite]);
    machine.link.received(5, true);
    assert_eq!(machine.next(&LIMITS, true), Next::DataReceived);
    machine.link.delivered(5);
    machine.link.received_eof();
    assert_eq!(machine.next(&LIMITS, true), Next::EofReceived);
    assert_eq!(settled(&mut machine), [Next::Listen(Ear::Gone), Next::LetGo], "whoever stays closes it");
    machine.hold();
    machine.link.heard(Heard::HungUp);
    assert_eq!(settled(&mut machine), [Next::Listen(Ear::Off), Next::LetGo]);
    machine.link.close(End::Closed);
    assert_eq!(settled(&mut machine)[..2], [Next::ConnectionLost, Next::Close]);
}

#[test]
fn who_waits_for_an_empty_queue_is_told_once_and_the_socket_left_open() {
    let mut machine = made();
    machine.queued(10);
    machine.lend(true);
    assert_eq!(settled(&mut machine), [Next::Send]);
    machine.sent(9, &LIMITS);
    assert_eq!(settled(&mut machine), [Next::Send]);
    machine.sent(1, &LIMITS);
    assert_eq!(settled(&mut machine), [Next::Drained]);
    machine.link.receive_failed(libc::ECONNRESET);
    assert_eq!(settled(&mut machine), []);
    machine.lend(false);
    assert_eq!(settled(&mut machine)[..2], [Next::ConnectionLost, Next::Close]);
}

#[test]
fn who_waits_for_an_empty_queue_hears_that_there_will_be_none() {
    let close = |machine: &mut Machine| {
        machine.link.close(End::Closed);
        machine.sent(10, &LIMITS);
    };
    let abort = |machine: &mut Machine| {
        machine.link.fail(End::Closed);
        machine.link.send_failed(libc::ECANCELED);
    };
    let reset = |machine: &mut Machine| machine.link.send_failed(libc::ECONNRESET);
    for end in [close as fn(&mut Machine), abort, reset] {
        let mut machine = made();
        machine.queued(10);
        machine.lend(true);
        assert_eq!(settled(&mut machine), [Next::Send]);
        end(&mut machine);
        assert_eq!(machine.next(&LIMITS, true), Next::Drained);
        assert!(!settled(&mut machine).contains(&Next::ConnectionLost), "not before it has ended the loan");
        machine.link.receive_cancelled();
        assert_eq!(settled(&mut machine), []);
        machine.lend(false);
        assert_eq!(settled(&mut machine).last(), Some(&Next::Close));
    }
}

#[test]
fn who_waits_for_an_empty_queue_hears_of_a_send_that_fails_while_reading_is_paused() {
    let mut machine = made();
    machine.queued(10);
    machine.link.received(1, false);
    machine.pause_reading(true);
    machine.lend(true);
    settled(&mut machine);
    machine.link.heard(Heard::HungUp);
    settled(&mut machine);
    machine.link.send_failed(libc::ECONNRESET);
    assert!(settled(&mut machine).contains(&Next::Drained));
}

#[test]
fn a_protocol_ends_its_output_too_and_the_connection_with_both_ends() {
    let mut machine = Machine::new(SOCKET);
    settled(&mut machine);
    machine.offered(10, false, &LIMITS);
    machine.link.end_output();
    assert_eq!(machine.room(&LIMITS), 0, "nothing more is taken");
    assert_eq!(settled(&mut machine), [Next::Send]);
    machine.sent(10, &LIMITS);
    assert_eq!(settled(&mut machine), [Next::ShutdownWrite]);
    machine.link.received_eof();
    assert_eq!(machine.next(&LIMITS, true), Next::EofReceived);
    machine.acted(super::Action::Continue, || false);
    assert_eq!(settled(&mut machine)[..2], [Next::ShutdownWrite, Next::ConnectionLost]);
    assert_eq!(machine.link.end(), End::PeerClosed);
}
