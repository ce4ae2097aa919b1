//! Micro-benchmarks of the parts that every message goes through: `cargo bench --features bench`, with `-- dispatch` for some.
//!
//! `benches/harness` measures servers; this shows which part of one became slower.

#![allow(clippy::unwrap_used, reason = "a benchmark that cannot be set up has nothing better to do than to panic")]

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use py_reactor_nif::bench::{Batch, Commands, Connections, Lent, Slots, Steps, Taken, serve, start_python};
use pyo3::prelude::*;
use std::hint::black_box;
use std::sync::mpsc;
use std::time::Instant;

#[path = "../src/border/nif_stubs.rs"]
mod without_vm;

fn attached<R>(f: impl FnOnce(Python<'_>) -> R) -> R {
    start_python().unwrap();
    Python::attach(f)
}

fn buffers(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("buffers");
    let mut slots = Slots::new().unwrap();
    group.bench_function("receive and release", |bencher| {
        bencher.iter(|| {
            let slot = slots.receive().unwrap();
            slots.release(black_box(slot));
        });
    });
    group.bench_function("receive, lend, give back", |bencher| {
        bencher.iter(|| {
            let lent = slots.receive_and_lend().unwrap();
            slots.give_back(black_box(lent));
        });
    });
    // So many that waking the other thread does not count.
    const BURST: u64 = 512;
    group.throughput(Throughput::Elements(BURST));
    let (to_other, from_us) = mpsc::sync_channel::<Vec<_>>(1);
    let (to_us, from_other) = mpsc::sync_channel(1);
    let other = std::thread::spawn(move || {
        for burst in from_us {
            burst.into_iter().for_each(Lent::give_back_from_elsewhere);
            to_us.send(()).unwrap();
        }
    });
    group.bench_function("lend 512, which another thread gives back", |bencher| {
        bencher.iter(|| {
            to_other.send((0..BURST).map(|_| slots.receive_and_lend().unwrap()).collect()).unwrap();
            from_other.recv().unwrap();
            slots.collect();
        });
    });
    drop(to_other);
    other.join().unwrap();
    group.finish();
}

fn connections(criterion: &mut Criterion) {
    attached(|py| {
        let mut group = criterion.benchmark_group("connections");
        let mut connections = Connections::new(py, 1000).unwrap();
        // Far apart, as those of a batch are.
        let mut nth = (0..).step_by(389);
        group.bench_function("get, of 1000", |bencher| {
            bencher.iter(|| assert!(connections.get(black_box(nth.next().unwrap()))));
        });
        group.bench_function("remove and insert, of 1000", |bencher| {
            bencher.iter(|| connections.replace(black_box(nth.next().unwrap())));
        });
        group.finish();
    });
}

fn commands(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("commands");
    let commands = Commands::new().unwrap();
    let mut taken = Taken::default();
    group.bench_function("post one, wake, take", |bencher| {
        bencher.iter(|| {
            assert!(commands.post());
            assert_eq!(commands.take(&mut taken), 1);
        });
    });
    group.throughput(Throughput::Elements(64));
    group.bench_function("post 64, take", |bencher| {
        bencher.iter(|| {
            for _ in 0..64 {
                assert!(commands.post());
            }
            assert_eq!(commands.take(&mut taken), 64);
        });
    });
    group.bench_function("signal 64, take", |bencher| {
        bencher.iter(|| {
            (0..64).for_each(|index| commands.signal(black_box(index)));
            assert_eq!(commands.take_signals(), 64);
        });
    });
    group.finish();
}

fn machine(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("machine");
    group.bench_function("a message echoed in write mode", |bencher| {
        bencher.iter_batched_ref(Steps::new, |steps| steps.echo(black_box(64)), BatchSize::NumIterations(1000));
    });
    group.finish();
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
fn dispatch(criterion: &mut Criterion) {
    attached(|py| {
        let mut group = criterion.benchmark_group("dispatch");
        let batch = Batch { connections: 64, bytes: 64 };
        group.throughput(Throughput::Elements(batch.connections as u64));
        for (style, code) in STYLES {
            group.bench_function(format!("64 messages, {style}"), |bencher| {
                bencher.iter_custom(|turns| serve(py, code, batch, turns).unwrap());
            });
        }
        group.finish();
    });
}

/// What an event loop of ours does for each callback, and what Python itself does for that: the cases and the floors of
/// `benches/loops/loops.py`, which has other loops beside them.
fn event_loop(criterion: &mut Criterion) {
    attached(|py| {
        let mut group = criterion.benchmark_group("event loop");
        let path = py.import("sys").unwrap().getattr("path").unwrap();
        for folder in ["python", "benches/loops"] {
            path.call_method1("append", (format!("{}/{folder}", env!("CARGO_MANIFEST_DIR")),)).unwrap();
        }
        let cases = py.import("loops").unwrap();
        let batch: u64 = cases.getattr("BATCH").unwrap().extract().unwrap();
        let event_loop = py.import("erlang").unwrap().call_method0("new_event_loop").unwrap();
        group.throughput(Throughput::Elements(batch));
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
                group.bench_function(format!("{kind}{case}"), |bencher| bencher.iter_custom(measure));
            }
        }
        event_loop.call_method0("close").unwrap();
        group.finish();
    });
}

criterion_group!(benches, buffers, connections, commands, machine, dispatch, event_loop);
criterion_main!(benches);
