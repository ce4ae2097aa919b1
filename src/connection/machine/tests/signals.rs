//! Signals: whose wait they end, and what stands in `write_buffer` when one comes.

#![forbid(unsafe_code)]

use super::*;

#[test]
fn a_signal_of_ones_own_counts_where_nothing_can_be_read() {
    let mut machine = Machine::new(Directions { readable: false, writable: true, half_closes: false });
    assert_eq!(machine.next(&LIMITS, true), Next::WriteReady);
    machine.signalled_early();
    machine.acted(Action::ReadPending, || false);
    assert_eq!(machine.next(&LIMITS, true), Next::WriteReady);
}

#[test]
fn a_signal_from_within_the_callback_counts() {
    let mut machine = Machine::new(SOCKET);
    settled(&mut machine);
    machine.signalled_early();
    machine.acted(Action::AsyncPending, || false);
    assert_eq!(machine.next(&LIMITS, true), Next::WriteReady);
    machine.acted(Action::ReadPending, || false);
    machine.signalled_early();
    machine.acted(Action::Continue, || false);
    machine.acted(Action::AsyncPending, || false);
    assert_eq!(settled(&mut machine), [], "an old signal is not kept");
}

#[test]
fn a_signal_from_within_connection_made_is_not_kept_for_later() {
    let mut machine = Machine::new(SOCKET);
    machine.signalled_early();
    machine.made(|| false);
    settled(&mut machine);
    machine.acted(Action::AsyncPending, || false);
    assert_eq!(settled(&mut machine), []);
}

#[test]
fn a_signal_from_within_eof_received_counts() {
    let mut machine = Machine::new(SOCKET);
    settled(&mut machine);
    machine.link.received_eof();
    assert_eq!(machine.next(&LIMITS, true), Next::EofReceived);
    machine.signalled_early();
    machine.acted(Action::Continue, || false);
    assert_eq!(machine.next(&LIMITS, true), Next::WriteReady);
}

#[test]
fn a_message_leaves_the_mode_unless_it_signals() {
    let mut machine = Machine::new(SOCKET);
    settled(&mut machine);
    machine.acted(Action::AsyncPending, || false);
    machine.acted(Action::Continue, || false);
    assert_eq!(machine.mode(), Some(Mode::Async));
    machine.signalled_early();
    machine.acted(Action::Continue, || false);
    assert_eq!(machine.mode(), Some(Mode::Write));
    machine.acted(Action::Continue, || false);
    assert_eq!(machine.mode(), Some(Mode::Write));
    machine.acted(Action::ReadPending, || false);
    assert_eq!(machine.mode(), Some(Mode::Read));
    machine.acted(Action::Close, || false);
    assert_eq!(machine.mode(), None);
}

#[test]
fn a_signal_in_read_mode_is_for_what_stands_in_write_buffer() {
    let mut machine = Machine::new(SOCKET);
    settled(&mut machine);
    machine.signalled(|| false);
    assert_eq!(settled(&mut machine), [], "nothing to write, nothing to wait for");
    machine.signalled(|| true);
    assert_eq!(machine.next(&LIMITS, true), Next::WriteReady);
    machine.signalled(|| unreachable!("it is asked for output anyway"));
    machine.acted(Action::ReadPending, || unreachable!("nobody has signalled from within"));
    assert_eq!(settled(&mut machine), []);
}

#[test]
fn a_signal_from_within_is_for_what_stands_in_write_buffer_whatever_is_answered() {
    for answer in [Action::Continue, Action::ReadPending, Action::WritePending, Action::AsyncPending] {
        let mut machine = Machine::new(SOCKET);
        settled(&mut machine);
        machine.signalled_early();
        machine.acted(answer, || true);
        assert_eq!(machine.next(&LIMITS, true), Next::WriteReady, "{answer:?}");
    }
    let mut machine = Machine::new(SOCKET);
    machine.signalled_early();
    machine.made(|| true);
    assert_eq!(machine.next(&LIMITS, true), Next::WriteReady);
    machine.signalled_early();
    machine.acted(Action::Close, || unreachable!("it closes"));
    assert_eq!(machine.mode(), None);
}

#[test]
fn a_signal_while_a_task_holds_is_for_what_stands_in_write_buffer_at_its_end() {
    let mut machine = Machine::new(SOCKET);
    settled(&mut machine);
    machine.task_began(Task::InTurn, || false);
    machine.signalled(|| unreachable!("the task has the connection"));
    machine.task_ended(Task::InTurn);
    machine.acted(Action::Continue, || true);
    assert_eq!(machine.next(&LIMITS, true), Next::WriteReady);
}

#[test]
fn what_stands_in_write_buffer_is_written_before_a_half_closed_connection_ends() {
    let mut machine = Machine::new(SOCKET);
    settled(&mut machine);
    machine.link.received_eof();
    assert_eq!(machine.next(&LIMITS, true), Next::EofReceived);
    machine.signalled_early();
    machine.acted(Action::ReadPending, || true);
    assert_eq!(machine.next(&LIMITS, true), Next::WriteReady);
    machine.wrote(10, 10);
    machine.acted(Action::ReadPending, || false);
    assert_eq!(settled(&mut machine), [Next::Send], "nothing is left to be done but that");
    machine.sent(10, &LIMITS);
    assert!(settled(&mut machine).contains(&Next::ConnectionLost));
}

#[test]
fn where_nothing_can_be_written_a_signal_does_not_stop_the_reading() {
    let mut machine = Machine::new(Directions { readable: true, writable: false, half_closes: false });
    settled(&mut machine);
    machine.signalled(|| true);
    assert_eq!(machine.mode(), Some(Mode::Read));
    let mut machine = Machine::new(SOCKET);
    settled(&mut machine);
    machine.link.end_output();
    machine.signalled(|| true);
    assert_eq!(machine.mode(), Some(Mode::Read), "its output has ended");
}

#[test]
fn a_signal_of_the_callback_of_a_datagram_does_not_wait_for_its_task() {
    let mut machine = Machine::new(Directions { half_closes: false, ..SOCKET });
    settled(&mut machine);
    machine.link.received(1, true);
    assert_eq!(machine.next(&LIMITS, true), Next::DataReceived);
    machine.link.delivered(1);
    machine.signalled_early();
    machine.task_began(Task::Datagram, || true);
    assert_eq!(machine.next(&LIMITS, true), Next::WriteReady);
}
