use super::*;
use crate::driver::{Arrival, Opening, Queue};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{IntoRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixListener;
use std::sync::mpsc;

fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// A socket that has begun to connect.
fn connecting(to: SocketAddr) -> OwnedFd {
    let to = crate::driver::address::Address::from(to);
    // SAFETY: I10: no pointers but to an address of our own, with its length; the number is new and ours.
    unsafe {
        let fd = OwnedFd::from_raw_fd(libc::socket(libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_NONBLOCK, 0));
        let (address, len) = to.as_c();
        assert_eq!(libc::connect(fd.as_raw_fd(), address, len), -1);
        assert_eq!(std::io::Error::last_os_error().raw_os_error(), Some(libc::EINPROGRESS));
        fd
    }
}

impl Bench {
    fn accept(&mut self, of: u32, fd: RawFd, most: usize) {
        self.driver.open(id(of), fd, Opening::Accept { most, queue: Queue::Relayed });
    }

    fn arrivals(&mut self, of: u32) -> Vec<Arrival> {
        std::iter::from_fn(|| self.driver.arrival(id(of))).collect()
    }

    /// Turns a few times; nothing comes.
    fn stays_quiet(&mut self) {
        for _ in 0..3 {
            self.driver.wait(Some(Duration::ZERO), &mut self.pool, &mut self.events).unwrap();
        }
        assert!(self.events.is_empty(), "{:?}", self.events);
    }
}

on_every_driver! {
    fn an_accept_takes_no_more_than_it_may_and_ends_once(bench, buffers: 8) {
        let (listener, address) = listener();
        let clients: Vec<_> = (0..5).map(|_| TcpStream::connect(address).unwrap()).collect();
        let mut peers = Vec::new();
        for (nth, count) in [(0, 2), (1, 2), (2, 1)] {
            bench.accept(nth, listener.as_raw_fd(), 2);
            assert_eq!(bench.outcome(nth), Outcome::Accepted(count));
            let arrivals = bench.arrivals(nth);
            assert_eq!(arrivals.len(), count as usize);
            peers.extend(arrivals.iter().map(|arrival| arrival.peer.meaning()));
            bench.stays_quiet();
        }
        let expected: Vec<_> = clients.iter().map(|client| Meaning::Ip(client.local_addr().unwrap())).collect();
        assert_eq!(peers, expected);
    }

    fn an_accept_waits_for_somebody(bench, buffers: 8) {
        let (listener, address) = listener();
        bench.accept(0, listener.as_raw_fd(), 16);
        bench.stays_quiet();
        let mut client = TcpStream::connect(address).unwrap();
        assert_eq!(bench.outcome(0), Outcome::Accepted(1));
        let Arrival { socket, .. } = bench.driver.arrival(id(0)).unwrap();
        // SAFETY: I10: no pointers.
        let flag = |which| unsafe { libc::fcntl(socket.as_raw_fd(), which) };
        assert_eq!((flag(libc::F_GETFL) & libc::O_NONBLOCK, flag(libc::F_GETFD)), (libc::O_NONBLOCK, libc::FD_CLOEXEC));
        bench.receive(7, super::super::socket(&socket));
        client.write_all(b"hello").unwrap();
        assert_eq!(bench.data(7), b"hello");
        drop(client);
        assert_eq!(bench.outcome(7), Outcome::EndOfFile);
    }

    fn a_unix_socket_is_accepted_from(bench, buffers: 8) {
        let path = std::env::temp_dir().join(format!("openings-{}-{:p}", std::process::id(), &bench));
        let listener = UnixListener::bind(&path).unwrap();
        listener.set_nonblocking(true).unwrap();
        bench.accept(0, listener.as_raw_fd(), 16);
        let _client = UnixStream::connect(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert_eq!(bench.outcome(0), Outcome::Accepted(1));
        assert_eq!(bench.arrivals(0)[0].peer.meaning(), Meaning::Unnamed);
    }

    /// I4: when it is stopped, the descriptor may be closed, and that has an effect.
    fn a_stopped_accept_holds_no_descriptor(bench, buffers: 8) {
        for nth in 0..50 {
            let (listener, address) = listener();
            bench.accept(nth, listener.as_raw_fd(), 16);
            if nth % 2 == 0 {
                bench.stays_quiet();
            }
            bench.driver.stop_opening(id(nth));
            drop(listener);
            let error = TcpStream::connect(address).unwrap_err();
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused, "round {nth}");
            bench.driver.stop_opening(id(nth));
            bench.stays_quiet();
        }
    }

    /// The number is somebody else's by the time the kernel's answer is looked at.
    fn what_comes_while_it_is_stopped_reaches_nobody(bench, buffers: 8) {
        for nth in 0..50 {
            let (first, address) = listener();
            let (second, other) = listener();
            let number = first.into_raw_fd();
            bench.accept(2 * nth, number, 16);
            bench.stays_quiet();
            let _client = TcpStream::connect(address).unwrap();
            bench.driver.stop_opening(id(2 * nth));
            // SAFETY: I10: puts another listener at the number, as closing it and opening that would.
            let number = unsafe { libc::dup2(second.as_raw_fd(), number); OwnedFd::from_raw_fd(number) };
            let mut stranger = TcpStream::connect(other).unwrap();
            bench.stays_quiet();
            bench.accept(2 * nth + 1, number.as_raw_fd(), 16);
            assert_eq!(bench.outcome(2 * nth + 1), Outcome::Accepted(1));
            drop(bench.arrivals(2 * nth + 1));
            assert_eq!(stranger.read(&mut [0]).unwrap(), 0);
        }
    }

    /// Other completions that come while an accept is stopped are not lost.
    fn who_stops_an_accept_loses_nothing(bench, buffers: 8) {
        let (listener, _) = listener();
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        bench.receive(7, socket(&ours));
        bench.accept(0, listener.as_raw_fd(), 16);
        bench.stays_quiet();
        theirs.write_all(b"kept").unwrap();
        bench.driver.stop_opening(id(0));
        assert_eq!(bench.data(7), b"kept");
        drop(theirs);
        assert_eq!(bench.outcome(7), Outcome::EndOfFile);
    }

    fn what_was_accepted_before_it_was_stopped_is_there(bench, buffers: 8) {
        let (listener, address) = listener();
        let _client = TcpStream::connect(address).unwrap();
        bench.accept(0, listener.as_raw_fd(), 16);
        let accepted = Event { id: id(0), outcome: Outcome::Accepted(1) };
        let mut events = Vec::new();
        while events.is_empty() {
            bench.driver.wait(Some(PATIENCE), &mut bench.pool, &mut events).unwrap();
        }
        bench.driver.stop_opening(id(0));
        assert_eq!(events, [accepted]);
        assert_eq!(bench.arrivals(0).len(), 1);
    }

    fn what_does_not_listen_is_an_error(bench, buffers: 8) {
        let (listener, _) = listener();
        bench.accept(0, listener.as_raw_fd(), 16);
        bench.stays_quiet();
        // SAFETY: I10: no pointers.
        unsafe { libc::shutdown(listener.as_raw_fd(), libc::SHUT_RDWR) };
        assert_eq!(bench.outcome(0), Outcome::AcceptFailed(libc::EINVAL));
        bench.stays_quiet();
    }

    fn a_connect_ends(bench, buffers: 8) {
        let (listener, address) = listener();
        let ours = connecting(address);
        bench.driver.open(id(0), ours.as_raw_fd(), Opening::Connect);
        assert_eq!(bench.outcome(0), Outcome::Connected(0));
        drop(listener);
        let refused = connecting(address);
        bench.driver.open(id(1), refused.as_raw_fd(), Opening::Connect);
        assert_eq!(bench.outcome(1), Outcome::Connected(libc::ECONNREFUSED));
        bench.stays_quiet();
    }

    /// Nobody answers there: the backlog is full.
    fn a_connect_is_stopped(bench, buffers: 8) {
        let (listener, address) = listener();
        // SAFETY: I10: no pointers.
        unsafe { libc::listen(listener.as_raw_fd(), 0) };
        let _queued = connecting(address);
        let ours = connecting(address);
        bench.driver.open(id(0), ours.as_raw_fd(), Opening::Connect);
        bench.stays_quiet();
        bench.driver.stop_opening(id(0));
        drop(ours);
        bench.stays_quiet();
    }
}

/// What a thread that accepts tells: who it is to the system, or its number.
enum Said {
    Waits(i32),
    Accepted(usize),
    Woke(usize),
}

/// Accepts one at a time until it is woken. Answers how often its wait ended.
fn accept_until_woken(
    kind: &str,
    queue: Queue,
    nth: usize,
    listening: RawFd,
    said: &mpsc::Sender<(Said, &'static Wake)>,
) {
    let mut bench = Bench::new(kind, 8);
    // SAFETY: I10: no pointers.
    let thread = unsafe { libc::gettid() };
    loop {
        bench.driver.open(id(0), listening, Opening::Accept { most: 1, queue });
        said.send((Said::Waits(thread), bench.wake)).unwrap();
        let mut events = Vec::new();
        bench.driver.wait(None, &mut bench.pool, &mut events).unwrap();
        said.send((Said::Woke(nth), bench.wake)).unwrap();
        match events[..] {
            [Event { id: of, outcome: Outcome::Accepted(1) }] if of == id(0) => {
                bench.arrivals(0);
                said.send((Said::Accepted(nth), bench.wake)).unwrap();
            }
            [Event { outcome: Outcome::Woken, .. }] => return,
            _ => panic!("{events:?}"),
        }
    }
}

fn sleeps(thread: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/self/task/{thread}/stat")).unwrap_or_default();
    stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('S'))
}

/// Of drivers that wait for one listening socket each is woken in its turn, and nobody else for the same connection. Those that keep
/// their places are woken in that order: the first, as long as it waits.
fn one_is_woken_alone(kind: &'static str, queue: Queue) {
    const DRIVERS: usize = 3;
    const ROUNDS: usize = 4;
    let (listener, address) = listener();
    let listening = listener.as_raw_fd();
    let (sender, said) = mpsc::channel();
    let next = || said.recv_timeout(PATIENCE).unwrap();
    let await_sleep = |thread| {
        let deadline = Instant::now() + PATIENCE;
        while !sleeps(thread) {
            assert!(Instant::now() < deadline);
            std::thread::sleep(Duration::from_millis(1));
        }
    };
    std::thread::scope(|scope| {
        let mut wakes = Vec::new();
        for nth in 0..DRIVERS {
            let sender = sender.clone();
            scope.spawn(move || accept_until_woken(kind, queue, nth, listening, &sender));
            let (Said::Waits(thread), wake) = next() else { panic!() };
            wakes.push(wake);
            await_sleep(thread);
        }
        let mut clients = Vec::new();
        for nth in 0..DRIVERS * ROUNDS {
            clients.push(TcpStream::connect(address).unwrap());
            let turn = if queue == Queue::Kept { 0 } else { nth % DRIVERS };
            assert!(matches!(next().0, Said::Woke(woken) if woken == turn), "{nth}: it was another one's turn");
            assert!(matches!(next().0, Said::Accepted(of) if of == turn));
            let Said::Waits(thread) = next().0 else { panic!("{nth}: somebody else was woken") };
            await_sleep(thread);
        }
        for wake in wakes {
            wake.signal();
            assert!(matches!(next().0, Said::Woke(_)));
        }
    });
}

/// Where nobody sees to it, a driver that does not wait keeps no connection from one that does.
fn who_is_held_up_is_not_waited_for(kind: &str) {
    let (listener, address) = listener();
    let (mut busy, mut waits) = (Bench::new(kind, 8), Bench::new(kind, 8));
    for bench in [&mut busy, &mut waits] {
        bench.driver.open(id(0), listener.as_raw_fd(), Opening::Accept { most: 1, queue: Queue::Last });
        bench.stays_quiet();
    }
    let _client = TcpStream::connect(address).unwrap();
    assert_eq!(waits.outcome(0), Outcome::Accepted(1));
    busy.stays_quiet();
}

#[test]
fn who_is_held_up_is_not_waited_for_uring() {
    who_is_held_up_is_not_waited_for("uring");
}

#[test]
fn who_is_held_up_is_not_waited_for_epoll() {
    who_is_held_up_is_not_waited_for("epoll");
}

#[test]
fn who_has_waited_longest_is_woken_alone_uring() {
    one_is_woken_alone("uring", Queue::Relayed);
}

#[test]
fn who_has_waited_longest_is_woken_alone_epoll() {
    one_is_woken_alone("epoll", Queue::Relayed);
}

#[test]
fn who_has_waited_longest_is_woken_alone_although_nobody_relays_epoll() {
    one_is_woken_alone("epoll", Queue::Last);
}

#[test]
fn who_keeps_its_place_is_woken_again_epoll() {
    one_is_woken_alone("epoll", Queue::Kept);
}

/// How many epoll sets of this process hold it.
fn sets_with(fd: RawFd) -> usize {
    let number = fd.to_string();
    let holds = |info: &std::fs::DirEntry| {
        let text = std::fs::read_to_string(info.path()).unwrap_or_default();
        text.lines().any(|line| {
            line.strip_prefix("tfd:").and_then(|rest| rest.split_whitespace().next()) == Some(number.as_str())
        })
    };
    std::fs::read_dir("/proc/self/fdinfo").unwrap().flatten().filter(holds).count()
}

/// A server that goes on in time costs no calls; one that does not is not told again and again of what it does not take.
#[test]
fn an_accept_rests_until_the_next_wait_epoll() {
    let (listener, address) = listener();
    let fd = listener.as_raw_fd();
    let mut bench = Bench::new("epoll", 8);
    let mut clients: Vec<_> = (0..5).map(|_| TcpStream::connect(address).unwrap()).collect();
    for (queue, rests) in [(Queue::Relayed, 0), (Queue::Last, 1), (Queue::Kept, 1)] {
        bench.driver.open(id(0), fd, Opening::Accept { most: 1, queue });
        assert_eq!(bench.outcome(0), Outcome::Accepted(1));
        assert_eq!(sets_with(fd), rests);
        bench.arrivals(0);
    }
    bench.driver.open(id(0), fd, Opening::Accept { most: 1, queue: Queue::Kept });
    assert_eq!(bench.outcome(0), Outcome::Accepted(1));
    bench.stays_quiet();
    assert_eq!(sets_with(fd), 0, "nobody goes on, although somebody waits");
    bench.driver.open(id(0), fd, Opening::Accept { most: 1, queue: Queue::Kept });
    assert_eq!(bench.outcome(0), Outcome::Accepted(1));
    bench.driver.stop_opening(id(0));
    assert_eq!(sets_with(fd), 0, "stopped while it rests");
    clients.push(TcpStream::connect(address).unwrap());
    bench.driver.open(id(0), fd, Opening::Accept { most: 2, queue: Queue::Kept });
    assert_eq!(bench.outcome(0), Outcome::Accepted(1));
    // SAFETY: I10: no pointers.
    unsafe { libc::shutdown(fd, libc::SHUT_RDWR) };
    bench.driver.open(id(0), fd, Opening::Accept { most: 2, queue: Queue::Kept });
    assert_eq!(bench.outcome(0), Outcome::AcceptFailed(libc::EINVAL));
    assert_eq!(sets_with(fd), 0, "one that has failed does not rest");
    bench.stays_quiet();
}
