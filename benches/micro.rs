//! Micro-benchmarks of the parts that every message goes through: `cargo bench --features bench`, with `-- dispatch` for some.
//!
//! `benches/harness` measures servers; this shows which part of one became slower.

#![allow(clippy::unwrap_used, reason = "a benchmark that cannot be set up has nothing better to do than to panic")]

use py_reactor_nif::bench::{Batch, Commands, Connections, Lent, Slots, Steps, Taken, serve, start_python};
use pyo3::prelude::*;
use std::hint::black_box;
use std::sync::mpsc;
use std::time::Instant;
use timing::{Bench, each, each_with};

mod timing;

#[path = "../src/border/nif_stubs.rs"]
mod without_vm;

fn attached<R>(f: impl FnOnce(Python<'_>) -> R) -> R {
    start_python().unwrap();
    Python::attach(f)
}

fn buffers(bench: &Bench) {
    let mut group = bench.group("buffers");
    let mut slots = Slots::new().unwrap();
    group.case(
        "receive and release",
        each(|| {
            let slot = slots.receive().unwrap();
            slots.release(black_box(slot));
        }),
    );
    group.case(
        "receive, lend, give back",
        each(|| {
            let lent = slots.receive_and_lend().unwrap();
            slots.give_back(black_box(lent));
        }),
    );
    // So many that waking the other thread does not count.
    const BURST: u64 = 512;
    group.elements(BURST);
    let (to_other, from_us) = mpsc::sync_channel::<Vec<_>>(1);
    let (to_us, from_other) = mpsc::sync_channel(1);
    let other = std::thread::spawn(move || {
        for burst in from_us {
            burst.into_iter().for_each(Lent::give_back_from_elsewhere);
            to_us.send(()).unwrap();
        }
    });
    group.case(
        "lend 512, which another thread gives back",
        each(|| {
            to_other.send((0..BURST).map(|_| slots.receive_and_lend().unwrap()).collect()).unwrap();
            from_other.recv().unwrap();
            slots.collect();
        }),
    );
    drop(to_other);
    other.join().unwrap();
}

fn connections(bench: &Bench) {
    attached(|py| {
        let group = bench.group("connections");
        let mut connections = Connections::new(py, 1000).unwrap();
        // Far apart, as those of a batch are.
        let mut nth = (0..).step_by(389);
        group.case("get, of 1000", each(|| assert!(connections.get(black_box(nth.next().unwrap())))));
        group.case("remove and insert, of 1000", each(|| connections.replace(black_box(nth.next().unwrap()))));
    });
}

fn commands(bench: &Bench) {
    let mut group = bench.group("commands");
    let commands = Commands::new().unwrap();
    let mut taken = Taken::default();
    group.case(
        "post one, wake, take",
        each(|| {
            assert!(commands.post());
            assert_eq!(commands.take(&mut taken), 1);
        }),
    );
    group.elements(64);
    group.case(
        "post 64, take",
        each(|| {
            for _ in 0..64 {
                assert!(commands.post());
            }
            assert_eq!(commands.take(&mut taken), 64);
        }),
    );
    group.case(
        "signal 64, take",
        each(|| {
            (0..64).for_each(|index| commands.signal(black_box(index)));
            assert_eq!(commands.take_signals(), 64);
        }),
    );
}

fn machine(bench: &Bench) {
    let group = bench.group("machine");
    group.case("a message echoed in write mode", each_with(Steps::new, |steps| steps.echo(black_box(64))));
}

/// The three ways to write that the servers under test have, too.
const STYLES: [(&str, &str); 3] = [
    (
        "inherited write_ready",
        "
import erlang.reactor

class Bench(erlang.reactor.Protocol):
    def data_received(self, data):
        self.write_buffer.extend(data)
        return 'write_pending'
",
    ),
    (
        "write_ready in Python",
        "
import erlang.reactor

class Bench(erlang.reactor.Protocol):
    def data_received(self, data):
        self.write_buffer.extend(data)
        return 'write_pending'

    def write_ready(self):
        if not self.write_buffer:
            return 'read_pending'
        written = self.write(bytes(self.write_buffer))
        del self.write_buffer[:written]
        if self.write_buffer:
            return 'continue'
        return 'read_pending'
",
    ),
    (
        "write in data_received",
        "
import erlang.reactor

class Bench(erlang.reactor.Protocol):
    def data_received(self, data):
        self.write(data)
        return 'continue'
",
    ),
];

/// From completions to payloads: the whole loop, but for the kernel.
fn dispatch(bench: &Bench) {
    attached(|py| {
        let mut group = bench.group("dispatch");
        let batch = Batch { connections: 64, bytes: 64 };
        group.elements(batch.connections as u64);
        for (style, code) in STYLES {
            group.case(&format!("64 messages, {style}"), |turns| serve(py, code, batch, turns).unwrap());
        }
    });
}

/// What an event loop of ours does for each callback, and what Python itself does for that: the cases and the floors of
/// `benches/loops/loops.py`, which has other loops beside them.
fn event_loop(bench: &Bench) {
    attached(|py| {
        let mut group = bench.group("event loop");
        let path = py.import("sys").unwrap().getattr("path").unwrap();
        for folder in ["python", "benches/loops"] {
            path.call_method1("append", (format!("{}/{folder}", env!("CARGO_MANIFEST_DIR")),)).unwrap();
        }
        let cases = py.import("loops").unwrap();
        let batch: u64 = cases.getattr("BATCH").unwrap().extract().unwrap();
        let event_loop = py.import("erlang").unwrap().call_method0("new_event_loop").unwrap();
        group.elements(batch);
        for (kind, table) in [("", "CASES"), ("floor of ", "FLOORS")] {
            for entry in cases.getattr(table).unwrap().call_method0("items").unwrap().try_iter().unwrap() {
                let (case, run): (String, Bound<'_, PyAny>) = entry.unwrap().extract().unwrap();
                let measure = |turns: u64| {
                    let began = Instant::now();
                    match kind {
                        "" => run.call1((&event_loop, turns * batch)),
                        _ => run.call1((turns * batch,)),
                    }
                    .unwrap();
                    began.elapsed()
                };
                group.case(&format!("{kind}{case}"), measure);
            }
        }
        event_loop.call_method0("close").unwrap();
    });
}

fn main() {
    let bench = Bench::of_arguments();
    [buffers, connections, commands, machine, dispatch, event_loop].iter().for_each(|part| part(&bench));
}
