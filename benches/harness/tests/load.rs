//! The load generator against servers that do what they should, and servers that do not.

use py_reactor_bench::cases::{Bulk, CASES, Case, DOCUMENT_BYTES, Loop, PIECE_BYTES, Service, Traffic};
use py_reactor_bench::load::{Fault, Generator, Observer, Outcome, Window};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::Duration;

const MS: Duration = Duration::from_millis(1);
const PAGE: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 13\r\n\r\nHello, world!";

struct Nobody;

impl Observer for Nobody {
    fn begin(&mut self) -> anyhow::Result<()> {
        Ok(())
    }

    fn end(&mut self) -> anyhow::Result<()> {
        Ok(())
    }
}

/// Takes its time to look.
struct Slow;

impl Observer for Slow {
    fn begin(&mut self) -> anyhow::Result<()> {
        thread::sleep(300 * MS);
        Ok(())
    }

    fn end(&mut self) -> anyhow::Result<()> {
        Ok(())
    }
}

/// A server with a thread for each connection, which ends with the test.
fn serve(connection: impl Fn(TcpStream) + Clone + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let connection = connection.clone();
            thread::spawn(move || connection(stream.unwrap()));
        }
    });
    address
}

/// Echoes what `change` makes of the bytes; it gets how many came before. Ends when it says nothing.
fn echo(change: impl Fn(u64, &mut Vec<u8>) -> Option<()> + Clone + Send + 'static) -> SocketAddr {
    serve(move |mut stream| {
        let (mut buffer, mut before) = ([0; 65_536], 0);
        while let Ok(count @ 1..) = stream.read(&mut buffer) {
            let mut bytes = buffer[..count].to_vec();
            if change(before, &mut bytes).is_none() || stream.write_all(&bytes).is_err() {
                return;
            }
            before += count as u64;
        }
    })
}

fn honest(_: u64, _: &mut Vec<u8>) -> Option<()> {
    Some(())
}

fn case(connections: usize, traffic: Traffic) -> Case {
    Case { connections, traffic, ..CASES[0].clone() }
}

fn small(connections: usize) -> Case {
    case(connections, Traffic::Echo { size: 64, depth: 1 })
}

fn run(case: &Case, target: SocketAddr) -> Result<Outcome, Fault> {
    run_for(case, target, 200 * MS)
}

fn run_for(case: &Case, target: SocketAddr, length: Duration) -> Result<Outcome, Fault> {
    let window = Window { warm_up: 50 * MS, length };
    Generator::default().run(case, target, None, window, &mut Nobody)
}

/// Of windows to try, one after the other: how busy this machine is must not matter.
fn lengths() -> impl Iterator<Item = Duration> {
    std::iter::successors(Some(200 * MS), |length| Some(*length * 2)).take(8)
}

/// What is wrong with a server, once that shows itself.
fn fault(case: &Case, target: SocketAddr) -> Fault {
    lengths().find_map(|length| run_for(case, target, length).err()).expect("nothing was wrong in 50 seconds")
}

/// In a window in which something has come.
fn run_until_measured(case: &Case, target: SocketAddr) -> Outcome {
    let mut outcomes = lengths().map(|length| run_for(case, target, length).unwrap());
    outcomes.find(|outcome| outcome.messages > 0 && outcome.latencies.samples() > 0).expect("nothing in 50 seconds")
}

#[test]
fn every_size_depth_and_number_of_connections() {
    let server = echo(honest);
    for (connections, size, depth) in [(1, 1, 1), (1, 64, 1), (50, 64, 1), (10, 1024, 3), (8, 64, 16), (4, 1 << 20, 1)]
    {
        let outcome = run_until_measured(&case(connections, Traffic::Echo { size, depth }), server);
        assert!(outcome.elapsed >= 200 * MS && !outcome.own_cpu.is_zero());
        // Answers that the window cuts count with those bytes that fell into it.
        let (bytes, messages) = (outcome.bytes as i64, outcome.messages as i64);
        assert!((bytes - messages * size as i64).abs() <= (2 * connections * size * depth) as i64);
    }
}

#[test]
fn http_is_compared_to_the_byte() {
    let answer = |page: Vec<u8>| {
        serve(move |mut stream| {
            let mut request = Vec::new();
            let mut byte = [0];
            while let Ok(1) = stream.read(&mut byte) {
                request.push(byte[0]);
                if request.ends_with(b"\r\n\r\n") && stream.write_all(&page).is_err() {
                    return;
                }
            }
        })
    };
    let http = Case { service: Service::Http, ..case(4, Traffic::Http) };
    run_until_measured(&http, answer(PAGE.to_vec()));
    let wrong = PAGE.to_ascii_lowercase();
    assert!(matches!(fault(&http, answer(wrong)), Fault::WrongByte { position: 0, .. }));
}

/// Sends messages of up to 64 bytes back. Where one is longer, and from then on, `answer` says what to send.
fn beside(answer: impl Fn() -> Vec<u8> + Clone + Send + 'static) -> SocketAddr {
    serve(move |mut stream| {
        let mut buffer = [0; 65_536];
        let mut long = false;
        while let Ok(count @ 1..) = stream.read(&mut buffer) {
            long |= count > 64;
            let bytes = if long { answer() } else { buffer[..count].to_vec() };
            if stream.write_all(&bytes).is_err() {
                return;
            }
        }
    })
}

#[test]
fn a_flood_is_counted_and_its_neighbour_timed() {
    let outcome = run_until_measured(&case(3, Traffic::Beside(Bulk::Flood)), beside(Vec::new));
    assert!(outcome.bytes.abs_diff(outcome.messages * PIECE_BYTES as u64) <= 2 * PIECE_BYTES as u64);
    let talkative = beside(|| vec![1]);
    assert!(matches!(fault(&case(3, Traffic::Beside(Bulk::Flood)), talkative), Fault::Surplus { count: 1.., .. }));
    let deaf = serve(|mut stream| {
        let _ = stream.read(&mut [0; 64]);
    });
    assert!(matches!(fault(&case(3, Traffic::Beside(Bulk::Flood)), deaf), Fault::Ended { connection: 0 }));
}

#[test]
fn documents_are_compared_to_the_byte() {
    let document = |wrong_at: Option<usize>| {
        let mut bytes: Vec<u8> = (0..DOCUMENT_BYTES).map(|at| at as u8).collect();
        wrong_at.into_iter().for_each(|at| bytes[at] ^= 1);
        move || bytes.clone()
    };
    let documents = case(2, Traffic::Beside(Bulk::Document));
    run_until_measured(&documents, beside(document(None)));
    let server = beside(document(Some(300_000)));
    assert!(matches!(fault(&documents, server), Fault::WrongByte { connection: 1, position: 300_000, .. }));
}

#[test]
fn connections_are_made_and_closed_by_both() {
    let outcome = run(&case(8, Traffic::Connect { size: 64 }), echo(honest)).unwrap();
    assert!(outcome.messages > 8);
    let reset = serve(|mut stream| {
        // The client has said more than we read: closing resets.
        let _ = stream.read(&mut [0; 10]);
    });
    fault(&case(8, Traffic::Connect { size: 64 }), reset);
    let mute = serve(|mut stream| {
        let _ = stream.read(&mut [0; 64]);
    });
    assert!(matches!(fault(&case(8, Traffic::Connect { size: 64 }), mute), Fault::Ended { .. }));
}

#[test]
fn a_wrong_byte_is_found_and_named() {
    let wrong = echo(|before, bytes| {
        if before > 6400 {
            bytes[10] ^= 0x20;
        }
        Some(())
    });
    assert!(matches!(fault(&small(3), wrong), Fault::WrongByte { position: 10, .. }));
    let connect = case(3, Traffic::Connect { size: 64 });
    let wrong = echo(|_, bytes| {
        bytes[63] = !bytes[63];
        Some(())
    });
    assert!(matches!(fault(&connect, wrong), Fault::WrongByte { position: 63, .. }));
}

#[test]
fn bytes_of_another_connection_are_wrong() {
    use std::sync::{Arc, Mutex};
    let last = Arc::new(Mutex::new(vec![0; 64]));
    let swapping = echo(move |_, bytes| {
        std::mem::swap(bytes, &mut last.lock().unwrap());
        Some(())
    });
    assert!(matches!(fault(&small(2), swapping), Fault::WrongByte { .. }));
}

#[test]
fn more_bytes_than_were_sent_are_a_fault() {
    let generous = echo(|before, bytes| {
        if before > 640 {
            bytes.push(0);
        }
        Some(())
    });
    let fault = fault(&small(2), generous);
    assert!(matches!(fault, Fault::Surplus { count: 1, .. } | Fault::WrongByte { position: 0, .. }), "{fault}");
}

#[test]
fn a_connection_that_ends_is_a_fault_even_an_idle_one() {
    let ending = echo(|before, _| (before < 640).then_some(()));
    assert!(matches!(fault(&small(2), ending), Fault::Ended { .. }));
    // The idle ones say one thing; then their server closes them.
    let impatient = serve(|mut stream| {
        let mut buffer = [0; 64];
        stream.set_read_timeout(Some(100 * MS)).unwrap();
        while let Ok(count @ 1..) = stream.read(&mut buffer) {
            stream.write_all(&buffer[..count]).unwrap();
        }
    });
    let window = Window { warm_up: MS, length: 3000 * MS };
    let idle = Case { idle: 3, ..small(1) };
    let fault = Generator::default().run(&idle, impatient, None, window, &mut Nobody).map(|outcome| outcome.messages);
    assert!(matches!(fault, Err(Fault::Ended { connection: 1..=3 })), "{fault:?}");
}

#[test]
fn a_server_that_falls_silent_is_a_fault() {
    let silent = echo(|before, bytes| {
        if before > 640 {
            bytes.clear();
        }
        Some(())
    });
    assert!(matches!(fault(&small(2), silent), Fault::Silent { waiting: 2, connections: 2, .. }));
}

#[test]
fn nobody_listens() {
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    assert!(matches!(fault(&small(2), nobody), Fault::Failed { doing: "connect", .. }));
}

/// A server that pauses for 300 ms, once, after so many messages.
fn pausing(after: u64) -> SocketAddr {
    echo(move |before, _| {
        if before == after * 64 {
            thread::sleep(300 * MS);
        }
        Some(())
    })
}

#[test]
fn at_a_fixed_rate_a_pause_costs_all_whom_it_kept_waiting() {
    let window = Window { warm_up: 100 * MS, length: 1000 * MS };
    let open = Case { pace: Loop::Open, ..small(1) };
    let mut generator = Generator::default();
    let mut p90 = |case: &Case, rate, after| {
        let outcome = generator.run(case, pausing(after), rate, window, &mut Nobody).unwrap();
        let curve = outcome.latencies.curve();
        (outcome, curve.iter().find(|point| point.percentile == 90.0).unwrap().us / 1e3)
    };
    // In the middle of the window. Of an even load for a second, three tenths were due during the pause.
    let (outcome, open_ms) = p90(&open, Some(1000.0), 400);
    assert!(outcome.latencies.samples() > 900, "{}", outcome.latencies.samples());
    assert!(open_ms > 100.0, "{open_ms} ms");
    let (_, closed_ms) = p90(&small(1), None, 4000);
    assert!(closed_ms < open_ms / 2.0, "{closed_ms} ms");
}

#[test]
fn a_fixed_rate_is_kept_and_one_that_is_too_high_shows() {
    let window = Window { warm_up: 100 * MS, length: 1000 * MS };
    let open = Case { pace: Loop::Open, ..small(4) };
    let mut generator = Generator::default();
    // What would have been due while the observer looks is not sent afterwards, all at once.
    let outcome = generator.run(&open, echo(honest), Some(500.0), window, &mut Slow).unwrap();
    assert!((200..=550).contains(&outcome.messages), "{}", outcome.messages);
    // Two milliseconds for each message of a connection: 2000 per second at most.
    let slow = echo(|_, _| {
        thread::sleep(2 * MS);
        Some(())
    });
    let outcome = generator.run(&open, slow, Some(10_000.0), window, &mut Nobody).unwrap();
    assert!(outcome.messages < 2500, "{}", outcome.messages);
    // What was never sent has waited too: about half a second on average.
    let percentiles = outcome.latencies.percentiles().unwrap();
    assert!(percentiles.samples > 8000, "{}", percentiles.samples);
    assert!(percentiles.p50 > 100_000.0, "{} µs", percentiles.p50);
}

#[test]
fn the_observer_sees_the_window() {
    #[derive(Default)]
    struct Order(Vec<&'static str>);
    impl Observer for Order {
        fn begin(&mut self) -> anyhow::Result<()> {
            self.0.push("begin");
            Ok(())
        }

        fn end(&mut self) -> anyhow::Result<()> {
            self.0.push("end");
            Err(anyhow::anyhow!("it cannot look"))
        }
    }
    let mut order = Order::default();
    let window = Window { warm_up: MS, length: 20 * MS };
    let fault = Generator::default().run(&small(1), echo(honest), None, window, &mut order).map(|_| ());
    assert!(matches!(fault, Err(Fault::Observer(_))));
    assert_eq!(order.0, ["begin", "end"]);
}

/// Echoes the datagrams that `answer` makes of each.
fn udp(mut answer: impl FnMut(u64, &[u8]) -> Vec<Vec<u8>> + Send + 'static) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    thread::spawn(move || {
        let mut buffer = [0; 2048];
        for number in 0.. {
            let (count, from) = socket.recv_from(&mut buffer).unwrap();
            for datagram in answer(number, &buffer[..count]) {
                // The test may be over.
                let _ = socket.send_to(&datagram, from);
            }
        }
    });
    address
}

fn datagrams(connections: usize) -> Case {
    Case { service: Service::Udp, ..case(connections, Traffic::Datagrams { size: 64 }) }
}

fn run_udp(target: SocketAddr) -> Result<Outcome, Fault> {
    let window = Window { warm_up: 50 * MS, length: 1000 * MS };
    Generator::default().run(&datagrams(4), target, None, window, &mut Nobody)
}

#[test]
fn lost_datagrams_are_sent_again_and_counted() {
    let whole = run_udp(udp(|_, bytes| vec![bytes.to_vec()])).unwrap();
    assert!(whole.messages > 100);
    let lossy = run_udp(udp(|number, bytes| if number % 500 == 499 { vec![] } else { vec![bytes.to_vec()] })).unwrap();
    assert!(lossy.retransmissions > 0 && lossy.messages > 100);
}

#[test]
fn late_answers_are_no_fault_but_others_are() {
    // So slow once that datagrams are sent again, and answered twice.
    let late = run_udp(udp(|number, bytes| {
        if number == 300 {
            thread::sleep(500 * MS);
        }
        vec![bytes.to_vec()]
    }));
    assert!(late.unwrap().retransmissions > 0);
    let wrong = run_udp(udp(|number, bytes| vec![if number == 99 { vec![0; 64] } else { bytes.to_vec() }]));
    assert!(matches!(wrong, Err(Fault::WrongByte { .. })));
    let short = run_udp(udp(|_, bytes| vec![bytes[..63].to_vec()]));
    assert!(matches!(short, Err(Fault::Length { got: 63, expected: 64, .. })));
}

#[test]
fn hundreds_of_idle_connections() {
    let window = Window { warm_up: MS, length: 50 * MS };
    let idle = Case { idle: 300, ..small(10) };
    let outcome = Generator::default().run(&idle, echo(honest), None, window, &mut Nobody).unwrap();
    assert!(outcome.messages > 0);
}
