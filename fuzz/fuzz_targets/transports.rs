//! The transport of an event loop, in any order of events. Under test are the product's own files, those that are pure: the
//! machine with the contract of transports. Driver, peer and program are a model that does what the fuzzer's bytes say, and
//! asserts after every step what a transport must never see. In the end it is aborted, and must be closed by that.

#![no_main]
#![allow(dead_code, reason = "the product's files have more than this needs")]

#[path = "../../src/base"]
mod base {
    pub mod ear;
    pub mod limits;
}
#[path = "../../src/connection"]
mod connection {
    pub mod machine;
    #[path = "machine/transport_world.rs"]
    pub mod transport_world;
}

use base::ear::Heard;
use connection::machine::Marks;
use connection::transport_world::{Happening, TransportWorld};
use libfuzzer_sys::fuzz_target;

/// Two bytes: what, and how.
fn happening(what: u8, how: u8) -> Happening {
    let flag = how & 1 != 0;
    let amount = usize::from(how >> 1);
    match what % 26 {
        0 => Happening::Made,
        1 => Happening::Eof,
        2 => Happening::ReceiveError,
        3..=4 => Happening::Hears([Heard::InputEnds, Heard::HungUp, Heard::Failed][usize::from(how) % 3]),
        5..=6 => Happening::CancelAnswers { missed: flag },
        7..=9 => Happening::Sent { part: how },
        10 => Happening::SendError,
        11..=12 => Happening::Writes(amount),
        13 => Happening::Answers(amount),
        14 => Happening::WriteEof,
        15..=16 => Happening::Pauses(flag),
        17 => Happening::Stays(flag),
        18 => Happening::SetsMarks(Marks {
            high: usize::from(how & 15) * 8,
            low: usize::from((how & 15).min(how >> 4)) * 8,
        }),
        19..=20 => Happening::Lends(flag),
        21 => {
            [Happening::Closes, Happening::Aborts, Happening::Forgets, Happening::Moves][usize::from(how) % 4].clone()
        }
        22..=23 => Happening::Readable { bytes: 1 + amount % 60 },
        _ => Happening::Received { bytes: 1 + amount % 60, more: flag },
    }
}

fuzz_target!(|bytes: &[u8]| {
    let mut world = TransportWorld::new();
    for step in bytes.chunks_exact(2) {
        world.happen(happening(step[0], step[1]));
    }
    world.end();
});
