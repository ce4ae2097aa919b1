//! Tasks of a connection: what they hold, and what waits for them.

#![forbid(unsafe_code)]

use super::*;
use crate::base::limits::DATAGRAM_TASKS_MAX;

#[test]
fn a_task_holds_the_connection_and_answers_when_it_ends() {
    let mut machine = Machine::new(SOCKET);
    settled(&mut machine);
    machine.link.received(10, true);
    assert_eq!(machine.next(&LIMITS, true), Next::DataReceived);
    machine.link.delivered(10);
    machine.task_began(Task::InTurn, || false);
    machine.link.received(10, true);
    assert_eq!(settled(&mut machine), [], "it holds");
    assert!(!machine.permits(Task::Message, Action::WritePending) && machine.permits(Task::Message, Action::Close));
    machine.acted(Action::Continue, || false);
    machine.signalled(|| false);
    assert_eq!(machine.mode(), Some(Mode::Held), "neither a message nor a signal ends that");
    machine.task_ended(Task::InTurn);
    machine.acted(Action::AsyncPending, || false);
    assert_eq!(machine.next(&LIMITS, true), Next::WriteReady, "the signal came early");
}

#[test]
fn who_is_gone_is_lost_when_the_tasks_have_ended() {
    let mut machine = Machine::new(SOCKET);
    settled(&mut machine);
    machine.task_began(Task::InTurn, || false);
    machine.task_began(Task::Own, || false);
    machine.link.receive_failed(104);
    assert_eq!(settled(&mut machine), [Next::CancelTasks]);
    machine.task_ended(Task::Own);
    assert_eq!(settled(&mut machine), []);
    machine.task_ended(Task::InTurn);
    machine.acted(Action::Continue, || false);
    assert_eq!(settled(&mut machine)[..2], [Next::ConnectionLost, Next::Close]);
}

#[test]
fn a_stop_waits_for_the_task_that_holds_and_for_no_other() {
    let mut machine = Machine::new(SOCKET);
    settled(&mut machine);
    machine.task_began(Task::InTurn, || false);
    machine.task_began(Task::Own, || false);
    machine.stop();
    assert_eq!(settled(&mut machine), [Next::CancelReceive]);
    machine.link.receive_cancelled();
    assert!(machine.link.is_open());
    machine.task_ended(Task::InTurn);
    machine.acted(Action::Continue, || false);
    assert_eq!(settled(&mut machine)[..2], [Next::ShutdownWrite, Next::CancelTasks]);
    machine.give_up_tasks();
    assert_eq!(settled(&mut machine)[0], Next::ConnectionLost);
}

#[test]
fn datagrams_have_tasks_up_to_a_bound() {
    let mut machine = Machine::new(Directions { half_closes: false, ..SOCKET });
    settled(&mut machine);
    for _ in 0..DATAGRAM_TASKS_MAX {
        machine.link.received(1, true);
        assert_eq!(machine.next(&LIMITS, true), Next::DataReceived);
        machine.link.delivered(1);
        machine.task_began(Task::Datagram, || false);
        assert_eq!(machine.mode(), Some(Mode::Read));
    }
    machine.link.received(1, true);
    assert_eq!(settled(&mut machine), [], "it waits");
    machine.task_ended(Task::Datagram);
    machine.acted(Action::Continue, || false);
    assert_eq!(machine.next(&LIMITS, true), Next::DataReceived);
}

#[test]
fn a_signal_is_heard_beside_as_many_tasks_as_there_may_be() {
    let mut world = World::new(Directions { half_closes: false, ..SOCKET }, true);
    let awaits = Happening::Awaits(Some(Task::Datagram));
    [Happening::Writes(0), awaits, Happening::Buffers(true)].into_iter().for_each(|happening| world.happen(happening));
    let datagram = || Happening::Received { bytes: 1, more: true, buffer: None };
    (0..=DATAGRAM_TASKS_MAX).for_each(|_| world.happen(datagram()));
    world.happen(Happening::Signalled);
    world.happen(Happening::TaskEnds(0));
    world.end();
}
