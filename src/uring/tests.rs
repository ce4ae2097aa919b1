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

/// A connection whose receive was stopped, as of one that floods; and its peer.
fn flooding(driver: &mut Uring, pool: &mut Pool, index: usize) -> (UnixStream, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    receive(driver, index, &ours);
    assert_eq!(turn(driver, pool), []);
    driver.cancel_receive(id(index));
    let cancelled = Event { id: id(index), outcome: Outcome::ReceiveFailed(libc::ECANCELED) };
    assert_eq!(turn(driver, pool), [cancelled]);
    (ours, theirs)
}

/// What has arrived for `index`: the length of each buffer, which is given back. The receive has ended with the last.
fn arrived(events: &[Event], index: usize, pool: &mut Pool) -> Vec<u32> {
    let mut goes_on = true;
    let lengths = events.iter().filter(|event| event.id == id(index)).map(|event| {
        let Outcome::Received { buffer, len, more } = event.outcome else { panic!("{event:?}") };
        assert!(goes_on, "it had ended");
        goes_on = more;
        pool.release(buffer);
        len
    });
    let lengths = lengths.collect();
    assert!(!goes_on, "the receive of {index} goes on");
    lengths
}

/// I9: of those that flood each gets a few buffers a turn, and whoever else has something is told first.
#[test]
fn who_floods_is_received_from_a_few_buffers_a_turn() {
    let (mut driver, mut pool) = driver(1024);
    let mut pairs: Vec<_> = (0..17).map(|index| flooding(&mut driver, &mut pool, index)).collect();
    for (index, (ours, theirs)) in pairs.iter_mut().enumerate() {
        theirs.write_all(&[0; 64 * 40]).unwrap();
        receive(&mut driver, index, ours);
    }
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    receive(&mut driver, 17, &ours);
    theirs.write_all(b"ping").unwrap();
    let events = turn(&mut driver, &mut pool);
    assert!(matches!(events[0], Event { outcome: Outcome::Received { buffer: _, len: 4, more: true }, .. }));
    for index in 0..16 {
        assert_eq!(arrived(&events, index, &mut pool), [64; 32]);
    }
    assert!(events.iter().all(|event| event.id != id(16)), "it waits for the next turn");
    let events = turn(&mut driver, &mut pool);
    assert_eq!(arrived(&events, 16, &mut pool), [64; 32]);
    // The rest is no flood: what follows is the ring's.
    receive(&mut driver, 16, &pairs[16].0);
    let events = turn(&mut driver, &mut pool);
    assert_eq!(arrived(&events, 16, &mut pool), [64; 8]);
    receive(&mut driver, 16, &pairs[16].0);
    assert_eq!(turn(&mut driver, &mut pool), []);
    assert_eq!(driver.slots[16].receive, Life::Submitted);
    assert!(driver.shut_down(Instant::now() + Duration::from_secs(20)));
}

#[test]
fn the_end_of_a_flood_is_told_after_its_data() {
    let (mut driver, mut pool) = driver(256);
    let (ours, mut theirs) = flooding(&mut driver, &mut pool, 0);
    receive(&mut driver, 0, &ours);
    theirs.write_all(&[0; 64 * 32]).unwrap();
    drop(theirs);
    let events = turn(&mut driver, &mut pool);
    assert_eq!(arrived(&events, 0, &mut pool), [64; 32]);
    receive(&mut driver, 0, &ours);
    assert_eq!(turn(&mut driver, &mut pool), [Event { id: id(0), outcome: Outcome::EndOfFile }]);
    assert_eq!(driver.slots[0].receive, Life::Idle);
    assert!(driver.shut_down(Instant::now() + Duration::from_secs(20)));
}

/// I5: and a connection that comes after it is no flood yet.
#[test]
fn a_receive_by_calls_is_cancelled_once() {
    let (mut driver, mut pool) = driver(8);
    let (ours, mut theirs) = flooding(&mut driver, &mut pool, 0);
    receive(&mut driver, 0, &ours);
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

/// I9: whoever stops and goes on between two waits is among those that flood once.
#[test]
fn a_receive_by_calls_that_is_begun_again_and_again_waits_once() {
    let (mut driver, mut pool) = driver(8);
    let (ours, mut theirs) = flooding(&mut driver, &mut pool, 0);
    for _ in 0..100 {
        receive(&mut driver, 0, &ours);
        driver.cancel_receive(id(0));
    }
    assert_eq!(driver.flooding.len(), 1);
    receive(&mut driver, 0, &ours);
    theirs.write_all(b"late").unwrap();
    let events = turn(&mut driver, &mut pool);
    assert_eq!(events.len(), 101, "each has ended once");
    assert!(matches!(events[100].outcome, Outcome::Received { len: 4, .. }));
    assert!(driver.flooding.is_empty());
    assert!(driver.shut_down(Instant::now() + Duration::from_secs(20)));
}

/// B4: where no buffer is left, it waits among the others.
#[test]
fn a_flood_without_buffers_waits_for_one() {
    let (mut driver, mut pool) = driver(4);
    let (ours, mut theirs) = flooding(&mut driver, &mut pool, 0);
    receive(&mut driver, 0, &ours);
    theirs.write_all(&[0; 64 * 8]).unwrap();
    let taken: Vec<_> = std::iter::from_fn(|| pool.post()).map(|(slot, _)| slot).collect();
    assert_eq!(turn(&mut driver, &mut pool), []);
    for slot in taken {
        pool.reap(slot);
        pool.release(slot);
    }
    let mut bytes = 0;
    for _ in 0..20 {
        for event in turn(&mut driver, &mut pool) {
            let Outcome::Received { buffer, len, more: true } = event.outcome else { panic!("{event:?}") };
            bytes += len;
            pool.release(buffer);
        }
    }
    assert_eq!(bytes, 64 * 8);
    assert!(driver.shut_down(Instant::now() + Duration::from_secs(20)));
}
