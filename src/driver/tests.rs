//! The law of drivers, kept by each of them: one body per promise, run on every driver over real socket pairs.

use crate::base::token::ConnId;
use crate::base::wake::Wake;
use crate::buffer::Pool;
use crate::driver::address::Meaning;
use crate::driver::datagram;
use crate::driver::{Driver, Event, Io, Outcome, Payload, Target};
use crate::fallback::Epoll;
use crate::uring::{self, Features, Uring};
use std::collections::HashMap;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// No promise is about time; a broken one should not hang the suite.
const PATIENCE: Duration = Duration::from_secs(20);

struct Bench {
    driver: Box<dyn Driver>,
    pool: Pool,
    wake: &'static Wake,
    /// What arrived and was not asked for yet.
    events: Vec<Event>,
    received: HashMap<u32, Vec<u8>>,
    targets: HashMap<u32, Target>,
}

fn socket(of: &impl AsRawFd) -> Target {
    Target { fd: of.as_raw_fd(), io: Io::Socket }
}

fn file(of: &impl AsRawFd) -> Target {
    // SAFETY: I10: no pointers. What `Descriptor::prepare` does.
    unsafe { libc::fcntl(of.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK) };
    Target { fd: of.as_raw_fd(), io: Io::File }
}

fn id(index: u32) -> ConnId {
    ConnId { index, generation: 3 }
}

impl Bench {
    fn new(kind: &str, buffers: u16) -> Self {
        let wake: &'static Wake = Box::leak(Box::new(Wake::new().unwrap()));
        let mut pool = Pool::new(buffers, 256, || wake.signal()).unwrap();
        let mut uring = |features: &Features| {
            let proven = uring::probe(features).unwrap_or_else(|refusal| panic!("{refusal}"));
            assert_eq!(&proven.features, features);
            Uring::new(proven, wake.waiter().unwrap(), &mut pool).unwrap_or_else(|refusal| panic!("{refusal}"))
        };
        let driver: Box<dyn Driver> = match kind {
            "uring" => Box::new(uring(&Features::ALL)),
            "uring_6_0" => Box::new(uring(&Features { defer_taskrun: false, ..Features::ALL })),
            "uring_5_19" => Box::new(uring(&Features::default())),
            _ => Box::new(Epoll::new(wake.waiter().unwrap()).unwrap()),
        };
        Bench { driver, pool, wake, events: Vec::new(), received: HashMap::new(), targets: HashMap::new() }
    }

    /// Waits until an event that `wanted` picks arrives, and takes it. Data of others is kept, its buffers released.
    fn until<T>(&mut self, wanted: impl Fn(&Event) -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(position) = self.events.iter().position(|event| wanted(event).is_some()) {
                let event = self.events.remove(position);
                return wanted(&event).unwrap();
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "no such event; there are {:?}", self.events);
            let mut batch = Vec::new();
            // For as long as it may take: to wake again and again would hide what is never told.
            self.driver.wait(Some(left), &mut self.pool, &mut batch).unwrap();
            self.events.append(&mut batch);
        }
    }

    fn outcome(&mut self, of: u32) -> Outcome {
        self.until(|event| (event.id == id(of)).then_some(event.outcome))
    }

    fn receive(&mut self, of: u32, target: Target) {
        self.targets.insert(of, target);
        self.driver.receive(id(of), target);
    }

    /// The next data of a connection, copied; its buffer goes back, and the receive goes on.
    fn data(&mut self, of: u32) -> Vec<u8> {
        match self.outcome(of) {
            Outcome::Received { buffer, len, more } => {
                if !more {
                    self.driver.receive(id(of), self.targets[&of]);
                }
                // SAFETY: I10: the event gave the buffer to us, with `len` bytes in it.
                let bytes = unsafe { std::slice::from_raw_parts(self.pool.data(buffer), len as usize) }.to_vec();
                self.pool.release(buffer);
                bytes
            }
            other => panic!("{other:?} instead of data"),
        }
    }

    fn data_of_len(&mut self, of: u32, len: usize) -> Vec<u8> {
        let mut bytes = self.received.remove(&of).unwrap_or_default();
        while bytes.len() < len {
            bytes.extend(self.data(of));
        }
        bytes
    }

    fn send(&mut self, of: u32, to: &UnixStream, bytes: &'static [u8]) {
        // SAFETY: I10: static.
        unsafe { self.send_payload(of, socket(to), Payload::Bytes(bytes.as_ptr(), bytes.len())) };
    }

    /// # Safety
    /// As for [`Driver::send`]. A send that ends at once has its event here.
    unsafe fn send_payload(&mut self, of: u32, to: Target, payload: Payload) {
        // SAFETY: the caller's promise.
        let ended = unsafe { self.driver.send(id(of), to, payload) };
        self.events.extend(ended.map(|outcome| Event { id: id(of), outcome }));
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        assert!(self.driver.shut_down(Instant::now() + PATIENCE), "operations are left");
    }
}

macro_rules! on_every_driver {
    ($($(#[$doc:meta])* fn $name:ident($bench:ident, buffers: $buffers:literal) $body:block)*) => {
        $( mod $name {
            use super::*;
            $(#[$doc])*
            fn body(mut $bench: Bench) $body
            #[test] fn uring() { body(Bench::new("uring", $buffers)) }
            // Kernels that have less.
            #[test] fn uring_6_0() { body(Bench::new("uring_6_0", $buffers)) }
            #[test] fn uring_5_19() { body(Bench::new("uring_5_19", $buffers)) }
            #[test] fn epoll() { body(Bench::new("epoll", $buffers)) }
        } )*
    };
}

on_every_driver! {
    fn data_then_end_of_file(bench, buffers: 8) {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        bench.receive(0, socket(&ours));
        theirs.write_all(&[7; 900]).unwrap();
        drop(theirs);
        assert_eq!(bench.data_of_len(0, 900), [7; 900]);
        assert_eq!(bench.outcome(0), Outcome::EndOfFile);
    }

    fn a_send_arrives_whole_or_goes_on(bench, buffers: 8) {
        static BYTES: [u8; 3_000_000] = [9; 3_000_000];
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let reader = std::thread::spawn(move || {
            let mut all = Vec::new();
            theirs.read_to_end(&mut all).unwrap();
            all
        });
        let mut sent = 0;
        while sent < BYTES.len() {
            bench.send(0, &ours, &BYTES[sent..]);
            match bench.outcome(0) {
                Outcome::Sent(bytes @ 1..) => sent += bytes as usize,
                other => panic!("{other:?}"),
            }
        }
        drop(ours);
        assert!(reader.join().unwrap() == BYTES);
    }

    fn much_that_has_room_is_sent_at_once(bench, buffers: 8) {
        static BYTES: [u8; 8192] = [9; 8192];
        let (ours, _theirs) = UnixStream::pair().unwrap();
        // SAFETY: I10: static.
        let ended = unsafe { bench.driver.send(id(0), socket(&ours), Payload::Bytes(BYTES.as_ptr(), BYTES.len())) };
        assert_eq!(ended, Some(Outcome::Sent(8192)));
    }

    fn much_that_is_gathered_is_sent_at_once(bench, buffers: 8) {
        static BYTES: [u8; 2048] = [9; 2048];
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let mut vectors = [libc::iovec { iov_base: BYTES.as_ptr().cast_mut().cast(), iov_len: BYTES.len() }; 3];
        // SAFETY: I10: all-zero is a valid message; the vectors live until the send has ended, and the bytes for ever.
        let ended = unsafe {
            let mut message: libc::msghdr = std::mem::zeroed();
            (message.msg_iov, message.msg_iovlen) = (vectors.as_mut_ptr(), vectors.len());
            bench.driver.send(id(0), socket(&ours), Payload::Gather(&raw const message, 3 * BYTES.len()))
        };
        assert_eq!(ended, Some(Outcome::Sent(3 * 2048)));
    }

    fn what_fits_is_sent_now_and_nothing_is_begun(bench, buffers: 8) {
        static BYTES: [u8; 65536] = [7; 65536];
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut sent = 0;
        // SAFETY: I10: static.
        while let Some(outcome) = unsafe { bench.driver.send_now(socket(&ours), Payload::Bytes(BYTES.as_ptr(), BYTES.len())) } {
            let Outcome::Sent(len @ 1..) = outcome else { panic!("{outcome:?}") };
            sent += len as usize;
        }
        let mut got = vec![0; sent];
        theirs.read_exact(&mut got).unwrap();
        bench.driver.wait(Some(Duration::ZERO), &mut bench.pool, &mut bench.events).unwrap();
        assert!(got.iter().all(|byte| *byte == 7) && bench.events.is_empty(), "{:?}", bench.events);
        // What is begun afterwards follows.
        bench.send(0, &ours, b"behind");
        assert_eq!(bench.outcome(0), Outcome::Sent(6));
        drop(theirs);
        // SAFETY: I10: static.
        let failed = unsafe { bench.driver.send_now(socket(&ours), Payload::Bytes(BYTES.as_ptr(), BYTES.len())) };
        assert_eq!(failed, Some(Outcome::SendFailed(libc::EPIPE)));
    }

    fn a_gathered_send_keeps_its_order(bench, buffers: 8) {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let parts: [&[u8]; 3] = [b"one ", b"two ", b"three"];
        let mut vectors = parts.map(|part| libc::iovec { iov_base: part.as_ptr().cast_mut().cast(), iov_len: part.len() });
        // SAFETY: I10: all-zero is a valid message; the vectors and what they point to live until the send has ended.
        unsafe {
            let mut message: libc::msghdr = std::mem::zeroed();
            message.msg_iov = vectors.as_mut_ptr();
            message.msg_iovlen = vectors.len();
            bench.send_payload(0, socket(&ours), Payload::Gather(&raw const message, 13));
            assert_eq!(bench.outcome(0), Outcome::Sent(13));
        }
        let mut got = [0; 13];
        theirs.read_exact(&mut got).unwrap();
        assert_eq!(&got, b"one two three");
    }

    fn a_send_to_a_closed_peer_fails_without_a_signal(bench, buffers: 8) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        drop(theirs);
        bench.send(0, &ours, b"lost");
        assert_eq!(bench.outcome(0), Outcome::SendFailed(libc::EPIPE));
    }

    fn a_cancelled_receive_ends_once_and_loses_nothing(bench, buffers: 8) {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        bench.receive(0, socket(&ours));
        bench.driver.cancel_receive(id(0));
        while bench.outcome(0) != Outcome::ReceiveFailed(libc::ECANCELED) {
            bench.driver.cancel_receive(id(0));
        }
        theirs.write_all(b"kept").unwrap();
        bench.receive(0, socket(&ours));
        loop {
            // A second cancel may have been under way.
            match bench.outcome(0) {
                Outcome::Received { buffer, len, .. } => {
                    assert_eq!(len, 4);
                    bench.pool.release(buffer);
                    break;
                }
                Outcome::CancelMissed => {}
                other => panic!("{other:?}"),
            }
        }
    }

    /// More operations than any queue holds at a time.
    fn a_full_submission_queue_delays_and_loses_nothing(bench, buffers: 64) {
        let pairs: Vec<_> = (0..3000).map(|_| UnixStream::pair().unwrap()).collect();
        for (index, (ours, _)) in pairs.iter().enumerate() {
            bench.receive(index as u32, socket(ours));
            bench.send(index as u32, ours, b"y");
        }
        for (_, theirs) in &pairs {
            (&*theirs).write_all(b"x").unwrap();
        }
        let (mut sent, mut received) = (0, 0);
        while sent < pairs.len() || received < pairs.len() {
            match bench.until(|event| Some(event.outcome)) {
                Outcome::Sent(1) => sent += 1,
                Outcome::Received { buffer, len: 1, .. } => {
                    bench.pool.release(buffer);
                    received += 1;
                }
                other => panic!("{other:?}"),
            }
        }
    }

    fn another_thread_wakes_a_wait_without_limit(bench, buffers: 8) {
        let wake = bench.wake;
        for _ in 0..3 {
            std::thread::spawn(move || wake.signal());
            let mut events = Vec::new();
            bench.driver.wait(None, &mut bench.pool, &mut events).unwrap();
            assert_eq!(events.iter().filter(|event| event.outcome == Outcome::Woken).count(), 1);
            wake.clear();
        }
    }

    fn shutting_the_socket_down_ends_both_operations(bench, buffers: 8) {
        static BYTES: [u8; 3_000_000] = [9; 3_000_000];
        let (ours, _theirs) = UnixStream::pair().unwrap();
        bench.receive(0, socket(&ours));
        let mut left: &'static [u8] = &BYTES;
        bench.send(0, &ours, left);
        // The peer reads nothing: after what fits, the send waits.
        let mut events = Vec::new();
        bench.driver.wait(Some(Duration::ZERO), &mut bench.pool, &mut events).unwrap();
        while let Some(Event { outcome: Outcome::Sent(bytes), .. }) = events.pop() {
            left = &left[bytes as usize..];
            bench.send(0, &ours, left);
            bench.driver.wait(Some(Duration::ZERO), &mut bench.pool, &mut events).unwrap();
        }
        ours.shutdown(std::net::Shutdown::Both).unwrap();
        bench.until(|event| (event.outcome == Outcome::EndOfFile).then_some(()));
        bench.until(|event| matches!(event.outcome, Outcome::Sent(_) | Outcome::SendFailed(_)).then_some(()));
    }

    fn datagrams_keep_bounds_and_senders(bench, buffers: 8) {
        let ours = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let theirs = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let target = Target { fd: ours.as_raw_fd(), io: Io::Datagram };
        bench.receive(0, target);
        let to = ours.local_addr().unwrap();
        for bytes in [&b"one"[..], b"", b"three"] {
            theirs.send_to(bytes, to).unwrap();
        }
        let mut got = Vec::new();
        while got.len() < 3 {
            let Outcome::Datagram { buffer, more } = bench.outcome(0) else { panic!("no datagram") };
            // SAFETY: I10: the event gave the buffer to us, with a datagram in it.
            unsafe {
                let data = bench.pool.data(buffer);
                let parsed = datagram::parse(data, bench.pool.capacity());
                assert!(!parsed.truncated);
                assert_eq!(parsed.from.meaning(), Meaning::Ip(theirs.local_addr().unwrap()));
                got.push(std::slice::from_raw_parts(data.add(datagram::PAYLOAD_OFFSET), parsed.len).to_vec());
            }
            bench.pool.release(buffer);
            if !more {
                bench.receive(0, target);
            }
        }
        assert_eq!(got, [&b"one"[..], b"", b"three"]);
    }

    fn datagrams_are_sent_up_to_one_that_fails(bench, buffers: 8) {
        static TOO_LONG: [u8; 70_000] = [0; 70_000];
        let ours = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        ours.connect(ours.local_addr().unwrap()).unwrap();
        let target = Target { fd: ours.as_raw_fd(), io: Io::Datagram };
        let all = [&b"one"[..], b"", &TOO_LONG, b"four"];
        let mut vectors =
            all.map(|bytes| libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() });
        let mut messages = vectors.each_mut().map(|vector| {
            // SAFETY: I10: all-zero is a valid `mmsghdr`.
            let mut message: libc::mmsghdr = unsafe { std::mem::zeroed() };
            (message.msg_hdr.msg_iov, message.msg_hdr.msg_iovlen) = (vector, 1);
            message
        });
        for (first, outcome) in [
            (0, Outcome::SentDatagrams(2)),
            (2, Outcome::SendFailed(libc::EMSGSIZE)),
            (3, Outcome::SentDatagrams(1)),
        ] {
            let rest = &mut messages[first..];
            // SAFETY: I10: the headers and what they name live until the end of this function, and the event is awaited.
            unsafe { bench.send_payload(0, target, Payload::Datagrams(rest.as_mut_ptr(), rest.len())) };
            assert_eq!(bench.outcome(0), outcome);
        }
        let mut buffer = [0; 10];
        for bytes in [&b"one"[..], b"", b"four"] {
            let len = ours.recv(&mut buffer).unwrap();
            assert_eq!(&buffer[..len], bytes);
        }
    }

    fn a_datagram_that_does_not_fit_says_so(bench, buffers: 8) {
        let ours = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        bench.receive(0, Target { fd: ours.as_raw_fd(), io: Io::Datagram });
        ours.send_to(&[0; 400], ours.local_addr().unwrap()).unwrap();
        let Outcome::Datagram { buffer, .. } = bench.outcome(0) else { panic!("no datagram") };
        // SAFETY: I2: the event gave the buffer to us, with a datagram in it.
        assert!(unsafe { datagram::parse(bench.pool.data(buffer), bench.pool.capacity()).truncated });
        bench.pool.release(buffer);
    }

    fn pipes_carry_data_and_its_end(bench, buffers: 8) {
        static BYTES: [u8; 200_000] = [5; 200_000];
        let (reader, writer) = std::io::pipe().unwrap();
        bench.receive(0, file(&reader));
        let mut left: &'static [u8] = &BYTES;
        let mut got = 0;
        // Both ends in one thread: neither may block it.
        while got < BYTES.len() {
            if !left.is_empty() {
                // SAFETY: I10: static.
                unsafe { bench.send_payload(1, file(&writer), Payload::Bytes(left.as_ptr(), left.len())) };
            }
            let sent = loop {
                match bench.until(|event| Some((event.id.index, event.outcome))) {
                    (1, Outcome::Sent(bytes)) => break bytes as usize,
                    (0, Outcome::Received { buffer, len, more }) => {
                        bench.pool.release(buffer);
                        got += len as usize;
                        if !more {
                            bench.receive(0, file(&reader));
                        }
                        if got == BYTES.len() {
                            break 0;
                        }
                    }
                    other => panic!("{other:?}"),
                }
            };
            left = &left[sent..];
        }
        drop(writer);
        assert_eq!(bench.outcome(0), Outcome::EndOfFile);
    }

    fn a_terminal_echoes_and_hangs_up(bench, buffers: 8) {
        let (mut master, slave) = terminal();
        bench.receive(0, file(&slave));
        master.write_all(b"line\n").unwrap();
        assert_eq!(bench.data(0), b"line\n");
        // SAFETY: I10: static.
        unsafe { bench.send_payload(0, file(&slave), Payload::Bytes(b"answer".as_ptr(), 6)) };
        assert_eq!(bench.outcome(0), Outcome::Sent(6));
        bench.receive(1, file(&master));
        // An operation that waits holds its descriptor open (I4).
        bench.driver.cancel_receive(id(0));
        bench.until(|event| (event.outcome == Outcome::ReceiveFailed(libc::ECANCELED)).then_some(()));
        drop(slave);
        while let Outcome::Received { buffer, .. } = bench.outcome(1) {
            bench.pool.release(buffer);
            bench.receive(1, file(&master));
        }
    }
}

/// The end is heard where nothing is received.
mod ears;
mod full;
mod left;
mod numbers;
mod openings;
mod starved;

/// Both sides of a new pseudo-terminal.
fn terminal() -> (std::fs::File, std::fs::File) {
    let (mut master, mut slave) = (-1, -1);
    let none = std::ptr::null_mut();
    // SAFETY: I10: two places for numbers, which are ours alone when the call succeeds.
    unsafe {
        assert_eq!(libc::openpty(&raw mut master, &raw mut slave, none, none.cast(), none.cast()), 0);
        (std::fs::File::from_raw_fd(master), std::fs::File::from_raw_fd(slave))
    }
}

/// I1. Two traits fit a type that may be sent, so that which one is meant cannot be told: that does not compile.
#[test]
fn a_driver_stays_on_its_thread() {
    trait Stays<A> {
        fn stays() {}
    }
    struct Goes;
    impl<T: ?Sized> Stays<()> for T {}
    impl<T: ?Sized + Send> Stays<Goes> for T {}
    <dyn Driver as Stays<_>>::stays();
}
