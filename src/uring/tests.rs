//! What of the io_uring driver does not show in its events.

#![forbid(unsafe_code)]

use super::*;
use crate::base::wake::Wake;
use std::io::Write;
use std::os::unix::net::UnixStream;

fn driver(buffers: u16) -> (Uring, Pool) {
    driver_with(Pool::new(buffers, 64, || ()).unwrap())
}

pub(super) fn driver_with(mut pool: Pool) -> (Uring, Pool) {
    let wake = Wake::new().unwrap();
    let proven = probe(&Features::ALL).unwrap_or_else(|refusal| panic!("{refusal}"));
    let driver = Uring::new(proven, wake.waiter().unwrap(), &mut pool).unwrap_or_else(|refusal| panic!("{refusal}"));
    (driver, pool)
}

pub(super) fn turn(driver: &mut Uring, pool: &mut Pool) -> Vec<Event> {
    let mut events = Vec::new();
    driver.wait(Some(Duration::ZERO), pool, &mut events).unwrap();
    events
}

pub(super) fn id(index: usize) -> ConnId {
    ConnId { index: index as u32, generation: 0 }
}

fn receive(driver: &mut Uring, index: usize, socket: &UnixStream) {
    driver.receive(id(index), Target { fd: socket.as_raw_fd(), io: Io::Socket });
}

/// B4: a herd that lacks buffers is served in order, and costs no more tries than there are buffers.
#[test]
fn of_the_starved_the_oldest_are_tried_as_many_as_there_are_buffers() {
    let (mut driver, mut pool) = driver(4);
    let pairs: Vec<_> = (0..300).map(|_| UnixStream::pair().unwrap()).collect();
    for (index, (ours, theirs)) in pairs.iter().enumerate() {
        receive(&mut driver, index, ours);
        (&*theirs).write_all(b"x").unwrap();
    }
    let mut served = Vec::new();
    let mut turns = 0;
    while served.len() < pairs.len() {
        turns += 1;
        assert!(turns < 4 * pairs.len(), "{} of {} were served", served.len(), pairs.len());
        for event in turn(&mut driver, &mut pool) {
            let Outcome::Received { buffer, .. } = event.outcome else { panic!("{event:?}") };
            served.push(event.id.index as usize);
            pool.release(buffer);
        }
        let submitted = driver.slots.iter().filter(|slot| slot.receive == Life::Submitted).count();
        assert!(turns < 4 || submitted <= served.len() + 3, "{submitted} are tried, {} of them served", served.len());
    }
    assert_eq!(served, (0..pairs.len()).collect::<Vec<_>>());
    assert!(driver.shut_down(Instant::now() + Duration::from_secs(20)));
}

/// An event loop's descriptor is heard after the kernel had no memory to poll it, and not if it is none.
#[test]
fn what_is_watched_is_polled_again_after_a_want_of_memory() {
    let (mut driver, mut pool) = driver(4);
    let (watched, mut peer) = UnixStream::pair().unwrap();
    peer.write_all(b"x").unwrap();
    for (errno, heard) in [(libc::ENOMEM, 1), (libc::EBADF, 0)] {
        driver.watch_instead(Some(watched.as_raw_fd()));
        let id = driver.watched.id();
        assert_eq!(driver.watched_polled(id, -errno), None);
        let told = turn(&mut driver, &mut pool);
        assert_eq!(told.iter().filter(|event| event.outcome == Outcome::Watched).count(), heard, "{told:?}");
    }
}

/// As if the kernel had lost the end: the receive waits on another socket, one that goes on.
#[test]
fn a_receive_that_has_missed_the_end_is_renewed() {
    let (mut driver, mut pool) = driver(8);
    let (quiet, _peer) = UnixStream::pair().unwrap();
    let (ended, mut peer) = UnixStream::pair().unwrap();
    receive(&mut driver, 0, &quiet);
    assert_eq!(turn(&mut driver, &mut pool), []);
    driver.look(&[id(0)]);
    assert_eq!(driver.slots[0].receive, Life::Submitted, "nothing has ended");
    peer.write_all(b"last").unwrap();
    drop(peer);
    driver.slots[0].target.fd = ended.as_raw_fd();
    driver.look(&[id(0), id(7)]);
    let mut outcomes = Vec::new();
    for _ in 0..10 {
        outcomes.extend(turn(&mut driver, &mut pool).into_iter().map(|event| event.outcome));
    }
    let [Outcome::Received { buffer, len: 4, more: true }, Outcome::EndOfFile] = outcomes[..] else {
        panic!("{outcomes:?}")
    };
    pool.release(buffer);
    assert!(driver.shut_down(Instant::now() + Duration::from_secs(20)));
}

/// A connection whose input is left, and its peer.
fn left(driver: &mut Uring, pool: &mut Pool, index: usize) -> (UnixStream, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    receive(driver, index, &ours);
    driver.leave_input(id(index), true);
    for _ in 0..3 {
        assert_eq!(turn(driver, pool), []);
    }
    assert_eq!(driver.slots[index].receive, Life::Polling);
    (ours, theirs)
}

fn readable(index: usize) -> Event {
    Event { id: id(index), outcome: Outcome::Readable }
}

/// What is taken of `index`: the length of each buffer, which is given back, and what else is told.
fn taken(driver: &mut Uring, index: usize, pool: &mut Pool) -> (Vec<u32>, Vec<Outcome>) {
    let mut events = Vec::new();
    driver.receive_left(id(index), pool, &mut events);
    let (mut lengths, mut others) = (Vec::new(), Vec::new());
    for event in events {
        match event.outcome {
            Outcome::Received { buffer, len, more: true } => {
                pool.release(buffer);
                lengths.push(len);
            }
            other => others.push(other),
        }
    }
    (lengths, others)
}

/// I9: of those that send much a few have their turn, each with a few buffers, and whoever else has something is told of first.
#[test]
fn who_sends_much_is_told_of_behind_the_others_a_few_per_turn() {
    let (mut driver, mut pool) = driver(1024);
    let mut pairs: Vec<_> = (0..17).map(|index| left(&mut driver, &mut pool, index)).collect();
    for (_, theirs) in &mut pairs {
        theirs.write_all(&[0; 64 * 40]).unwrap();
    }
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    receive(&mut driver, 17, &ours);
    theirs.write_all(b"ping").unwrap();
    let events = turn(&mut driver, &mut pool);
    assert!(matches!(events[0], Event { outcome: Outcome::Received { buffer: _, len: 4, more: true }, .. }));
    assert_eq!(events[1..], std::array::from_fn::<_, 16, _>(readable));
    for index in 0..16 {
        assert_eq!(taken(&mut driver, index, &mut pool), (vec![64; 32], vec![]));
    }
    // Who had filled all room is behind who has not had a turn, and is not waited for.
    let events = turn(&mut driver, &mut pool);
    assert_eq!(events[..2], [readable(16), readable(0)]);
    assert_eq!(taken(&mut driver, 16, &mut pool).0, [64; 32]);
    assert_eq!(taken(&mut driver, 0, &mut pool).0, [64; 8]);
    assert_eq!(driver.slots[0].receive, Life::Polling, "there is no more");
    assert!(driver.shut_down(Instant::now() + Duration::from_secs(20)));
}

#[test]
fn the_end_is_told_after_what_was_left() {
    let (mut driver, mut pool) = driver(256);
    let (_ours, mut theirs) = left(&mut driver, &mut pool, 0);
    theirs.write_all(&[0; 64 * 32]).unwrap();
    drop(theirs);
    assert_eq!(turn(&mut driver, &mut pool), [readable(0)]);
    assert_eq!(taken(&mut driver, 0, &mut pool), (vec![64; 32], vec![]));
    assert_eq!(turn(&mut driver, &mut pool), [readable(0)]);
    assert_eq!(taken(&mut driver, 0, &mut pool), (vec![], vec![Outcome::EndOfFile]));
    assert_eq!(driver.slots[0].receive, Life::Idle);
    assert!(driver.shut_down(Instant::now() + Duration::from_secs(20)));
}

/// I5: and the input of a connection that comes after it is not left.
#[test]
fn a_receive_that_is_to_be_told_of_is_cancelled_once() {
    let (mut driver, mut pool) = driver(8);
    let (ours, mut theirs) = left(&mut driver, &mut pool, 0);
    driver.tell_soon(id(0));
    driver.cancel_receive(id(0));
    driver.cancel_receive(id(0));
    theirs.write_all(b"late").unwrap();
    let later = ConnId { index: 0, generation: 1 };
    driver.receive(later, Target { fd: ours.as_raw_fd(), io: Io::Socket });
    let events = turn(&mut driver, &mut pool);
    let [first, Event { id: of, outcome: Outcome::Received { len: 4, more: true, .. } }] = events[..] else {
        panic!("{events:?}")
    };
    assert_eq!(first, Event { id: id(0), outcome: Outcome::ReceiveFailed(libc::ECANCELED) });
    assert_eq!(of, later);
    assert_eq!(driver.slots[0].receive, Life::Submitted);
    assert!(driver.shut_down(Instant::now() + Duration::from_secs(20)));
}

/// I9: whoever stops and goes on between two waits is told of once.
#[test]
fn who_is_to_be_told_of_again_and_again_waits_once() {
    let (mut driver, mut pool) = driver(8);
    let (_ours, _theirs) = left(&mut driver, &mut pool, 0);
    for _ in 0..100 {
        driver.tell_soon(id(0));
        driver.cancel_receive(id(0));
    }
    driver.tell_soon(id(0));
    assert_eq!(driver.told.len(), 1);
    let events = turn(&mut driver, &mut pool);
    assert_eq!(events.len(), 101, "each has ended once");
    assert_eq!(events[100], readable(0));
    assert!(driver.told.is_empty());
    assert!(driver.shut_down(Instant::now() + Duration::from_secs(20)));
}
