//! The native half of `py_reactor`: Python protocol classes served inside the Erlang VM, over io_uring.
//!
//! ```text
//! Erlang ── nif ──▶ mailbox ──▶ reactor::Reactor::run
//!                                 │  driver (uring) ── event ──▶ machine ── next ──▶ python callback
//!                                 └──────────◀── send ── outbox ◀── write ─────────────────┘
//! Erlang ◀── select ── notices ◀──┘
//! ```
//!
//! `docs/architecture.md` has a map of the source; `docs/invariants.md` lists I1 to I9 and B1 to B10, which comments
//! cite by number.

#[cfg(not(any(doc, doctest, pyo3_disable_reference_pool)))]
compile_error!(
    "build with --cfg pyo3_disable_reference_pool, as .cargo/config.toml says: a RUSTFLAGS of the environment, or rustflags \
     of another configuration, have replaced it"
);

mod address;
mod atoms;
#[cfg(feature = "bench")]
pub mod bench;
mod buffer;
mod call_reply;
mod config;
mod context;
mod descriptors;
mod driver;
#[cfg(test)]
mod driver_tests;
mod eventfd;
mod fallback;
#[cfg(feature = "faults")]
mod faults;
mod inbox;
mod listener;
mod machine;
mod mailbox;
mod nif;
#[cfg(test)]
mod nif_stubs;
mod outbox;
mod python;
mod reactor;
mod relay;
mod resource;
mod select;
mod stats;
mod sync;
mod syscalls;
mod table;
mod thread;
mod token;
mod traffic;
mod uring;
mod wake;
mod watchdog;

fn load(env: rustler::Env<'_>, _: rustler::Term<'_>) -> bool {
    select::register(env)
}

rustler::init!("py_nif", load = load);
