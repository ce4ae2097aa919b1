//! The machine against a world that answers in any order, and its rules one by one.

#![forbid(unsafe_code)]

mod signals;
mod tasks;
mod transports;

use super::happening::Happening;
use super::world::{LIMITS, World};
use super::*;
use crate::base::ear::{Ear, Heard};
use proptest::prelude::*;

const SOCKET: Directions = Directions { readable: true, writable: true, half_closes: true };

fn happening() -> impl Strategy<Value = Happening> {
    use crate::base::ear::Heard::{Failed, HungUp, InputEnds};
    use Happening::*;
    let action = prop_oneof![
        Just(Action::Continue),
        Just(Action::WritePending),
        Just(Action::ReadPending),
        Just(Action::AsyncPending),
        Just(Action::Close),
    ];
    prop_oneof![
        6 => (1usize..60, any::<bool>()).prop_map(|(bytes, more)| Received { bytes, more, buffer: None }),
        1 => Just(Eof),
        1 => Just(ReceiveError),
        2 => prop_oneof![Just(InputEnds), Just(HungUp), Just(Failed)].prop_map(Heard),
        1 => Just(Deaf),
        1 => Just(EndsOutput),
        2 => any::<bool>().prop_map(|missed| CancelAnswers { missed }),
        6 => any::<u8>().prop_map(|part| Sent { part }),
        1 => Just(SendError),
        2 => Just(Signalled),
        2 => Just(Message),
        1 => Just(LingerExpired),
        4 => action.prop_map(Answer),
        2 => (0usize..150).prop_map(Writes),
        1 => any::<bool>().prop_map(WritesObjects),
        2 => prop::option::of(any::<u8>()).prop_map(SendsFirst),
        1 => any::<bool>().prop_map(Reads),
        1 => any::<bool>().prop_map(SignalsItself),
        2 => any::<bool>().prop_map(Buffers),
        2 => prop_oneof![Just(None), Just(Some(Task::InTurn)), Just(Some(Task::Message)), Just(Some(Task::Datagram))]
            .prop_map(Awaits),
        1 => Just(TaskBegins),
        4 => any::<u8>().prop_map(TaskEnds),
        1 => Just(TasksGivenUp),
        1 => Just(Killed),
        1 => Just(Closed),
        1 => Just(Stopped),
        1 => Just(Retired),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn every_promise_holds_whatever_happens(
        happenings in prop::collection::vec(happening(), 1..60),
        (readable, writable, half_closes) in any::<(bool, bool, bool)>(),
        made in prop::bool::weighted(0.9),
    ) {
        let mut world = World::new(Directions { readable, writable, half_closes }, made);
        for happening in happenings {
            world.happen(happening);
        }
        world.end();
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
    assert!(machine.link.received(10, true));
    assert_eq!(machine.next(&LIMITS, true), Next::DataReceived);
    machine.link.delivered(10);
    machine.acted(Action::WritePending, || false);
    assert_eq!(machine.next(&LIMITS, true), Next::WriteReady);
    machine.wrote(10, 10);
    machine.acted(Action::ReadPending, || false);
    assert_eq!(settled(&mut machine), [Next::Send]);
    machine.sent(10, &LIMITS);
    assert_eq!(settled(&mut machine), []);
}

#[test]
fn data_waits_while_the_protocol_writes() {
    let mut machine = Machine::new(SOCKET);
    settled(&mut machine);
    machine.acted(Action::AsyncPending, || false);
    machine.link.received(10, true);
    assert_eq!(settled(&mut machine), []);
    machine.link.received(45, true);
    assert_eq!(settled(&mut machine), [Next::CancelReceive], "the inbox is full");
    machine.link.receive_cancelled();
    machine.signalled(|| false);
    assert_eq!(machine.next(&LIMITS, true), Next::WriteReady);
    machine.acted(Action::ReadPending, || false);
    assert_eq!(machine.next(&LIMITS, true), Next::DataReceived);
    machine.link.delivered(55);
    machine.acted(Action::Continue, || false);
    assert_eq!(settled(&mut machine), [Next::Receive], "there is room again");
}

#[test]
fn write_ready_waits_for_the_low_water_mark_after_a_refusal() {
    let mut machine = Machine::new(SOCKET);
    settled(&mut machine);
    machine.acted(Action::WritePending, || false);
    assert_eq!(machine.next(&LIMITS, true), Next::WriteReady);
    machine.wrote(500, 100);
    machine.acted(Action::Continue, || false);
    assert_eq!(settled(&mut machine), [Next::Send]);
    machine.sent(70, &LIMITS);
    assert_eq!(settled(&mut machine), [Next::Send], "30 left: more than the mark");
    machine.sent(10, &LIMITS);
    assert_eq!(machine.next(&LIMITS, true), Next::WriteReady);
}

#[test]
fn an_object_is_taken_whole_where_nothing_waits() {
    let mut machine = Machine::new(SOCKET);
    settled(&mut machine);
    machine.acted(Action::WritePending, || false);
    assert_eq!(machine.next(&LIMITS, true), Next::WriteReady);
    assert_eq!(machine.offered(5000, true, &LIMITS), 5000);
    assert_eq!((machine.offered(1, true, &LIMITS), machine.offered(1, false, &LIMITS)), (0, 0), "something waits");
    machine.acted(Action::Continue, || false);
    assert_eq!(settled(&mut machine), [Next::Send]);
    machine.sent(4950, &LIMITS);
    assert_eq!(settled(&mut machine), [Next::Send], "50 left: there is room, but more than the low mark");
    machine.sent(30, &LIMITS);
    assert_eq!(machine.next(&LIMITS, true), Next::WriteReady);
}

#[test]
fn a_large_object_of_which_a_part_was_taken_is_asked_for_again_when_nothing_waits() {
    let mut machine = Machine::new(SOCKET);
    settled(&mut machine);
    machine.offered(10, true, &LIMITS);
    machine.acted(Action::WritePending, || false);
    assert_eq!(machine.next(&LIMITS, true), Next::WriteReady);
    assert_eq!(machine.offered(5000, true, &LIMITS), 90);
    machine.acted(Action::Continue, || false);
    assert_eq!(settled(&mut machine), [Next::Send]);
    machine.sent(99, &LIMITS);
    assert_eq!(settled(&mut machine), [Next::Send], "1 is left: below the low mark");
    machine.sent(1, &LIMITS);
    assert_eq!(machine.next(&LIMITS, true), Next::WriteReady);
    assert_eq!(machine.offered(4910, true, &LIMITS), 4910);
}

#[test]
fn what_is_written_after_the_peers_half_close_is_delivered() {
    let mut machine = Machine::new(SOCKET);
    settled(&mut machine);
    machine.link.received(5, true);
    machine.link.received_eof();
    assert_eq!(machine.next(&LIMITS, true), Next::DataReceived);
    machine.link.delivered(5);
    machine.acted(Action::WritePending, || false);
    assert_eq!(machine.next(&LIMITS, true), Next::WriteReady);
    machine.wrote(50, 50);
    machine.acted(Action::ReadPending, || false);
    assert_eq!(machine.next(&LIMITS, true), Next::EofReceived);
    machine.acted(Action::Close, || false);
    assert_eq!(settled(&mut machine), [Next::Send]);
    machine.sent(50, &LIMITS);
    assert_eq!(settled(&mut machine)[..3], [Next::ShutdownWrite, Next::ConnectionLost, Next::Close]);
}

#[test]
fn a_close_lingers_until_the_peer_is_done() {
    let mut machine = Machine::new(SOCKET);
    settled(&mut machine);
    machine.link.received(5, true);
    machine.next(&LIMITS, true);
    machine.link.delivered(5);
    machine.wrote(5, 5);
    machine.acted(Action::Close, || false);
    assert_eq!(settled(&mut machine), [Next::Send]);
    machine.sent(5, &LIMITS);
    assert_eq!(settled(&mut machine), [Next::ShutdownWrite, Next::ConnectionLost]);
    assert!(!machine.link.received(100, true), "input is discarded");
    assert_eq!(settled(&mut machine), []);
    machine.link.received_eof();
    assert_eq!(settled(&mut machine)[0], Next::Close);
}

#[test]
fn a_connection_that_was_never_made_is_never_lost() {
    let mut machine = Machine::new(SOCKET);
    machine.link.never_made();
    let steps: Vec<_> = (0..3).map(|_| machine.next(&LIMITS, true)).collect();
    assert_eq!(steps, [Next::ShutdownWrite, Next::Receive, Next::Nothing]);
}

#[test]
fn a_write_only_end_is_asked_for_output_and_never_read() {
    let mut machine = Machine::new(Directions { readable: false, writable: true, half_closes: false });
    assert_eq!(machine.next(&LIMITS, true), Next::WriteReady);
    machine.acted(Action::ReadPending, || false);
    assert_eq!(settled(&mut machine), [Next::Listen(Ear::Gone)]);
    machine.signalled(|| false);
    assert_eq!(machine.next(&LIMITS, true), Next::WriteReady);
    machine.acted(Action::Close, || false);
    let end = [Next::ShutdownWrite, Next::ConnectionLost, Next::Listen(Ear::Off), Next::Close];
    assert_eq!(settled(&mut machine)[..4], end);
}

#[test]
fn who_is_not_listened_to_ends_with_the_cause_unless_it_receives() {
    let mut machine = Machine::new(SOCKET);
    settled(&mut machine);
    machine.link.deaf(28);
    assert_eq!(settled(&mut machine), [], "the receive hears the end");
    machine.acted(Action::AsyncPending, || false);
    machine.link.received_eof();
    assert_eq!(settled(&mut machine), [Next::Listen(Ear::Gone)]);
    machine.link.deaf(28);
    assert_eq!(settled(&mut machine)[..2], [Next::ConnectionLost, Next::Listen(Ear::Off)]);
    assert_eq!(machine.link.end(), End::Reset(Some(28)));
}

#[test]
fn who_tries_to_write_after_its_output_has_ended_reads_on() {
    let mut machine = Machine::new(SOCKET);
    settled(&mut machine);
    machine.link.end_output();
    machine.acted(Action::WritePending, || false);
    assert_eq!(machine.next(&LIMITS, true), Next::WriteReady);
    assert_eq!(machine.offered(10, true, &LIMITS), 0);
    machine.acted(Action::Continue, || false);
    assert_eq!(settled(&mut machine), [Next::ShutdownWrite]);
    machine.link.received(10, true);
    assert_eq!(machine.next(&LIMITS, true), Next::DataReceived);
    machine.link.delivered(10);
    machine.acted(Action::WritePending, || false);
    machine.link.received_eof();
    assert_eq!(machine.next(&LIMITS, true), Next::EofReceived);
    machine.acted(Action::Continue, || false);
    assert_eq!(settled(&mut machine)[0], Next::ShutdownWrite);
    assert_eq!(machine.link.end(), End::PeerClosed, "both have said all that they had to say");
}

#[test]
fn who_hangs_up_while_a_waiting_protocol_is_drained_ends_it() {
    let mut machine = Machine::new(SOCKET);
    settled(&mut machine);
    machine.link.received(5, true);
    assert_eq!(machine.next(&LIMITS, true), Next::DataReceived);
    machine.link.delivered(5);
    machine.acted(Action::AsyncPending, || false);
    machine.link.retire();
    assert_eq!(settled(&mut machine)[0], Next::CancelReceive);
    machine.link.receive_cancelled();
    settled(&mut machine);
    machine.link.heard(crate::base::ear::Heard::HungUp);
    assert!(settled(&mut machine).contains(&Next::ConnectionLost));
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
    machine.link.received(10, true);
    machine.link.retire();
    assert_eq!(machine.next(&LIMITS, true), Next::DataReceived);
    machine.link.delivered(10);
    machine.acted(Action::AsyncPending, || false);
    assert_eq!(settled(&mut machine), [Next::CancelReceive], "nothing new is read");
    machine.link.receive_cancelled();
    assert_eq!(settled(&mut machine), [Next::Listen(Ear::Input)], "the answer is awaited");
    machine.signalled(|| false);
    assert_eq!(machine.next(&LIMITS, true), Next::WriteReady);
    machine.wrote(10, 10);
    machine.acted(Action::ReadPending, || false);
    assert_eq!(settled(&mut machine), [Next::Send]);
    machine.sent(10, &LIMITS);
    assert_eq!(settled(&mut machine)[..2], [Next::ShutdownWrite, Next::ConnectionLost]);
}

#[test]
fn a_stopped_connection_writes_what_it_has_and_closes() {
    let mut machine = Machine::new(SOCKET);
    settled(&mut machine);
    machine.acted(Action::WritePending, || false);
    machine.stop();
    assert_eq!(machine.next(&LIMITS, true), Next::WriteReady);
    machine.offered(500, false, &LIMITS);
    machine.acted(Action::Continue, || false);
    assert_eq!(settled(&mut machine), [Next::Send, Next::CancelReceive], "nothing new is read");
    machine.link.receive_cancelled();
    machine.sent(100, &LIMITS);
    assert_eq!(machine.next(&LIMITS, true), Next::WriteReady);
    machine.offered(10, false, &LIMITS);
    machine.acted(Action::ReadPending, || false);
    assert_eq!(settled(&mut machine), [Next::Send]);
    machine.sent(10, &LIMITS);
    assert_eq!(settled(&mut machine)[..2], [Next::ShutdownWrite, Next::ConnectionLost]);
    assert_eq!(machine.link.end(), End::Stopped);
    for answer in [Action::Continue, Action::AsyncPending] {
        let mut machine = Machine::new(SOCKET);
        settled(&mut machine);
        machine.acted(answer, || false);
        machine.stop();
        assert_eq!(machine.next(&LIMITS, true), Next::ShutdownWrite, "it is not waited for");
    }
}

#[test]
fn the_first_cause_of_the_end_counts() {
    let ended = |cause: fn(&mut Machine)| {
        let mut machine = Machine::new(SOCKET);
        settled(&mut machine);
        cause(&mut machine);
        settled(&mut machine);
        machine.link.fail(End::Killed);
        machine.link.end()
    };
    assert_eq!(ended(|machine| machine.acted(Action::Close, || false)), End::Closed);
    assert_eq!(ended(|machine| machine.link.receive_failed(libc::ETIMEDOUT)), End::Reset(Some(libc::ETIMEDOUT)));
    assert_eq!(
        ended(|machine| {
            machine.link.send_failed(libc::EPIPE);
            machine.link.receive_failed(libc::ECONNRESET);
        }),
        End::Reset(Some(libc::EPIPE))
    );
    assert_eq!(ended(|machine| machine.link.never_made()), End::Exception);
    assert_eq!(ended(|_| ()), End::Killed);
    assert_eq!(
        ended(|machine| {
            machine.link.received_eof();
            assert_eq!(machine.next(&LIMITS, true), Next::EofReceived);
            machine.acted(Action::Close, || false);
        }),
        End::PeerClosed
    );
    assert_eq!(
        ended(|machine| {
            machine.link.retire();
            settled(machine);
            machine.link.receive_cancelled();
        }),
        End::Stopped
    );
}

#[test]
fn an_ear_listens_while_nothing_is_received() {
    let mut machine = Machine::new(SOCKET);
    settled(&mut machine);
    machine.acted(Action::AsyncPending, || false);
    machine.link.received(55, true);
    assert_eq!(settled(&mut machine), [Next::CancelReceive]);
    machine.link.receive_cancelled();
    assert_eq!(settled(&mut machine), [Next::Listen(Ear::Input)]);
    machine.link.heard(Heard::InputEnds);
    assert!(machine.link.peer_closed());
    assert_eq!(settled(&mut machine), [Next::Listen(Ear::Gone)], "what is unread is there");
    machine.link.delivered(55);
    assert_eq!(settled(&mut machine), [Next::Receive, Next::Listen(Ear::Off)]);
    machine.link.received_eof();
    assert_eq!(settled(&mut machine), [Next::Listen(Ear::Gone)]);
    machine.link.heard(Heard::Failed);
    assert_eq!(settled(&mut machine)[..3], [Next::ConnectionLost, Next::Listen(Ear::Off), Next::Close]);
    assert_eq!(machine.link.end(), End::Reset(None));
}

#[test]
fn who_hangs_up_is_gone_once_all_that_came_is_dealt_with() {
    let mut machine = Machine::new(SOCKET);
    settled(&mut machine);
    machine.acted(Action::AsyncPending, || false);
    machine.link.received(10, true);
    machine.link.received_eof();
    assert_eq!(settled(&mut machine), [Next::Listen(Ear::Gone)]);
    machine.link.heard(Heard::HungUp);
    assert_eq!(settled(&mut machine), [Next::Listen(Ear::Off)], "ten bytes wait");
    machine.link.delivered(10);
    assert_eq!(settled(&mut machine)[0], Next::ConnectionLost);
}

#[test]
fn a_hang_up_comes_after_the_end_of_file() {
    let mut machine = Machine::new(SOCKET);
    settled(&mut machine);
    machine.acted(Action::AsyncPending, || false);
    machine.link.received(10, true);
    machine.link.received_eof();
    settled(&mut machine);
    machine.link.heard(Heard::HungUp);
    machine.signalled(|| false);
    assert_eq!(machine.next(&LIMITS, true), Next::WriteReady);
    machine.acted(Action::ReadPending, || false);
    assert_eq!(machine.next(&LIMITS, true), Next::DataReceived);
    machine.link.delivered(10);
    machine.acted(Action::Continue, || false);
    assert_eq!(machine.next(&LIMITS, true), Next::EofReceived);
    machine.acted(Action::Continue, || false);
    assert_eq!(machine.next(&LIMITS, true), Next::ConnectionLost);
}

/// Of a pipe that is read, the writer has only stopped sending: it never received.
#[test]
fn a_writer_that_hangs_up_has_its_end_of_file_first() {
    let mut machine = Machine::new(Directions { readable: true, writable: false, half_closes: false });
    settled(&mut machine);
    machine.acted(Action::AsyncPending, || false);
    machine.link.received_eof();
    assert_eq!(settled(&mut machine), [Next::Listen(Ear::Gone)]);
    machine.link.heard(Heard::HungUp);
    assert_eq!(settled(&mut machine), [Next::Listen(Ear::Off)], "its protocol waits for somebody else");
    machine.signalled(|| false);
    assert_eq!(machine.next(&LIMITS, true), Next::WriteReady);
    machine.acted(Action::ReadPending, || false);
    assert_eq!(machine.next(&LIMITS, true), Next::EofReceived);
    machine.acted(Action::Continue, || false);
    assert_eq!(machine.next(&LIMITS, true), Next::ConnectionLost);
}

#[test]
fn room_for_an_answer_is_what_write_takes_while_nothing_waits_for_room() {
    let mut machine = Machine::new(SOCKET);
    settled(&mut machine);
    assert!(machine.has_room_for(100, &LIMITS) && !machine.has_room_for(101, &LIMITS));
    assert_eq!(machine.offered(40, false, &LIMITS), 40);
    assert!(machine.has_room_for(60, &LIMITS) && !machine.has_room_for(61, &LIMITS));
    assert_eq!(machine.offered(61, false, &LIMITS), 60);
    assert_eq!(machine.next(&LIMITS, true), Next::Send);
    machine.sent(70, &LIMITS);
    assert!(!machine.has_room_for(1, &LIMITS), "what was refused waits for the low-water mark");
    assert_eq!(machine.next(&LIMITS, true), Next::Send);
    machine.sent(10, &LIMITS);
    assert!(machine.has_room_for(80, &LIMITS));
}

#[test]
fn where_nothing_can_be_written_who_tries_waits_for_room_until_the_writer_is_gone() {
    let mut machine = Machine::new(Directions { readable: true, writable: false, half_closes: false });
    settled(&mut machine);
    machine.acted(Action::WritePending, || false);
    assert_eq!(machine.next(&LIMITS, true), Next::WriteReady);
    machine.wrote(10, 0);
    machine.acted(Action::Continue, || false);
    machine.link.received_eof();
    assert_eq!(settled(&mut machine), [Next::Listen(Ear::Gone)]);
    machine.link.heard(Heard::HungUp);
    assert_eq!(settled(&mut machine)[0], Next::ConnectionLost);
}
