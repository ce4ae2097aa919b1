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
