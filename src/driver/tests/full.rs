//! The kernel watches nothing more (`fs.epoll.max_user_watches`): what is refused ends with that cause, the others go on.

#![forbid(unsafe_code)]

use super::*;
use crate::base::ear::{Ear, Heard};
use crate::driver::epoll::full;
use crate::driver::{Opening, Queue};
use std::net::{TcpListener, TcpStream};

impl Bench {
    fn waits(&mut self, timeout: Duration) -> Vec<Event> {
        let mut events = std::mem::take(&mut self.events);
        self.driver.wait(Some(timeout), &mut self.pool, &mut events).unwrap();
        events
    }
}

on_every_driver! {
    fn an_ear_that_is_refused_ends_its_connection(bench, buffers: 8) {
        let [(ours, _theirs), (other, others)] = [(); 2].map(|()| UnixStream::pair().unwrap());
        bench.driver.listen(id(1), socket(&other), Ear::Input);
        full::set(true);
        bench.driver.listen(id(0), socket(&ours), Ear::Input);
        assert_eq!(bench.outcome(0), Outcome::Deaf(libc::ENOSPC));
        bench.driver.listen(id(0), socket(&ours), Ear::Off);
        // Who is watched already stays so, whatever is asked of it.
        bench.driver.listen(id(1), socket(&other), Ear::Gone);
        assert_eq!(bench.waits(Duration::ZERO), []);
        drop(others);
        assert_eq!(bench.outcome(1), Outcome::Heard(Heard::HungUp));
        bench.driver.listen(id(1), socket(&other), Ear::Off);
        assert_eq!(bench.waits(Duration::ZERO), []);
    }

    /// Of a set that holds a stray another one is made; where there is no room for that, all stay in the old one.
    fn who_is_watched_stays_so_where_there_is_no_room_for_another_set(bench, buffers: 8) {
        let (kept, theirs) = UnixStream::pair().unwrap();
        let ours = kept.try_clone().unwrap();
        let target = socket(&ours);
        let (other, others) = UnixStream::pair().unwrap();
        bench.driver.listen(id(0), target, Ear::Input);
        bench.driver.listen(id(1), socket(&other), Ear::Input);
        assert_eq!(bench.waits(Duration::ZERO), []);
        drop(ours);
        bench.driver.listen(id(0), target, Ear::Off);
        drop(theirs);
        full::set(true);
        for _ in 0..3 {
            assert_eq!(bench.waits(Duration::ZERO), []);
        }
        drop(others);
        assert_eq!(bench.outcome(1), Outcome::Heard(Heard::HungUp));
        bench.driver.listen(id(1), socket(&other), Ear::Off);
        full::set(false);
        for _ in 0..3 {
            assert_eq!(bench.waits(Duration::ZERO), []);
        }
        let before = Instant::now();
        let pause = Duration::from_millis(20);
        assert_eq!(bench.waits(pause), []);
        assert!(before.elapsed() >= pause, "it spins");
    }
}

/// A ring asks for no room in a set for these.
#[test]
fn epoll_ends_what_is_refused_and_nothing_else() {
    static MUCH: [u8; 3_000_000] = [9; 3_000_000];
    let mut bench = Bench::new("epoll", 8);
    let [(first, _theirs), (second, mut others), (third, mut thirds)] = [(); 3].map(|()| UnixStream::pair().unwrap());
    bench.receive(1, socket(&second));
    full::set(true);
    bench.receive(0, socket(&first));
    assert_eq!(bench.outcome(0), Outcome::ReceiveFailed(libc::ENOSPC));
    // What fits is sent; the rest would have to wait for room.
    bench.send(2, &third, &MUCH);
    assert!(matches!(bench.outcome(2), Outcome::Sent(1..)));
    while bench.events.is_empty() {
        bench.send(2, &third, &MUCH);
        bench.events.retain(|event| !matches!(event.outcome, Outcome::Sent(_)));
        let mut events = bench.waits(Duration::ZERO);
        bench.events.append(&mut events);
    }
    assert_eq!(bench.outcome(2), Outcome::SendFailed(libc::ENOSPC));
    // Who is watched already may send, and wait for that.
    others.write_all(b"goes on").unwrap();
    assert_eq!(bench.data(1), b"goes on");
    bench.driver.cancel_receive(id(1));
    assert_eq!(bench.outcome(1), Outcome::ReceiveFailed(libc::ECANCELED));
    bench.receive(1, socket(&second));
    assert_eq!(bench.outcome(1), Outcome::ReceiveFailed(libc::ENOSPC), "its place was given up");
    assert_eq!(bench.waits(Duration::ZERO), []);
    full::set(false);
    bench.receive(1, socket(&second));
    others.write_all(b"again").unwrap();
    assert_eq!(bench.data(1), b"again");
    thirds.read_exact(&mut [0]).unwrap();
}

#[test]
fn epoll_says_of_accepts_and_connects_that_they_are_refused() {
    let mut bench = Bench::new("epoll", 8);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let accept = Opening::Accept { most: 1, queue: Queue::Kept };
    full::set(true);
    bench.driver.open(id(0), listener.as_raw_fd(), accept);
    assert_eq!(bench.outcome(0), Outcome::AcceptFailed(libc::ENOSPC));
    bench.driver.open(id(1), listener.as_raw_fd(), Opening::Connect);
    assert_eq!(bench.outcome(1), Outcome::Connected(libc::ENOSPC));
    full::set(false);
    bench.driver.open(id(2), listener.as_raw_fd(), accept);
    let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    assert_eq!(bench.outcome(2), Outcome::Accepted(1));
    assert!(bench.driver.arrival(id(2)).is_some());
}

/// The descriptors of a loop: it is told of them later, but it is told.
#[test]
fn epoll_looks_again_and_again_at_what_it_cannot_watch() {
    let mut bench = Bench::new("epoll", 8);
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    full::set(true);
    bench.driver.watch(Some(ours.as_raw_fd()));
    for _ in 0..2 {
        let told = bench.until(|event| (event.outcome == Outcome::Watched).then_some(event.id));
        assert_eq!(told.index, 0);
    }
    full::set(false);
    assert_eq!(bench.waits(Duration::ZERO), [], "it is watched now, and nothing is there");
    theirs.write_all(b"x").unwrap();
    bench.until(|event| (event.outcome == Outcome::Watched).then_some(()));
    full::set(true);
    bench.driver.watch(Some(theirs.as_raw_fd()));
    bench.driver.watch(None);
    assert_eq!(bench.waits(Duration::ZERO), []);
}
