//! Model checks of what threads share: the very files of the product, with loom's locks and atomics in `crate::base::sync`, and
//! a model of the kernel's eventfd. Every interleaving within [`PREEMPTIONS_MAX`] is run, and every value that an atomic
//! may be read to have.

#![allow(dead_code, reason = "the product's files have more than the models use")]

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

#[path = "../../src/mail/inbox.rs"]
mod inbox;
#[path = "../../src/buffer/pool.rs"]
mod pool;

/// The product's lowest floor, with two of its rooms rebuilt.
#[path = "../../src/base"]
mod base {
    #[path = "../../models/src/eventfd.rs"]
    pub mod eventfd;
    #[path = "../../models/src/sync.rs"]
    pub mod sync;
    pub mod token;
    pub mod wake;

    /// In the place of `src/base/config.rs`: limits that a model can reach.
    pub mod config {
        pub const COMMANDS_MAX: usize = 2;
        pub const MESSAGES_MAX: usize = 1;
        pub const COMMANDS_PER_TURN: usize = 1;
    }
}

mod inbox_model;
mod pool_model;
mod wake_model;

/// How often a thread is interrupted where it need not be. Loom's authors find two or three enough; without a bound the
/// models take many minutes instead of seconds.
const PREEMPTIONS_MAX: usize = 3;

type Model = (&'static str, fn());

fn main() {
    let models: Vec<Model> = [wake_model::MODELS, inbox_model::MODELS, pool_model::MODELS].concat();
    for (name, model) in &models {
        print!("model {name} ... ");
        io::stdout().flush().expect("stdout is closed");
        let start = Instant::now();
        let runs = check(*model);
        println!("ok: {runs} interleavings in {:.1} s", start.elapsed().as_secs_f32());
    }
    println!("{} passed, 0 failed", models.len());
}

/// Runs `model` in every interleaving; answers in how many. What fails panics.
fn check(model: fn()) -> usize {
    let runs = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&runs);
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(PREEMPTIONS_MAX);
    builder.check(move || {
        count.fetch_add(1, Ordering::Relaxed);
        model();
    });
    runs.load(Ordering::Relaxed)
}
