//! The native half of `py_reactor`: Python protocol classes served inside the Erlang VM, over io_uring.
//!
//! ```text
//! Erlang ── nif ──▶ mailbox ──▶ reactor::Reactor::run
//!                                 │  driver (uring) ── event ──▶ machine ── next ──▶ python callback
//!                                 └──────────◀── send ── outbox ◀── write ─────────────────┘
//! Erlang ◀── select ── notices ◀──┘
//! ```
//!
//! `docs/architecture.md` has a map of the source; `docs/invariants.md` lists I1 to I10 and B1 to B15, which comments
//! cite by number.

#[cfg(not(any(doc, doctest, pyo3_disable_reference_pool)))]
compile_error!(
    "build with --cfg pyo3_disable_reference_pool, as .cargo/config.toml says: a RUSTFLAGS of the environment, or rustflags \
     of another configuration, have replaced it"
);

mod base;
mod beam;
#[cfg(feature = "bench")]
pub mod bench;
mod border;
mod buffer;
mod connection;
mod driver;
mod fallback;
mod mail;
mod module;
mod python;
mod reactor;
mod uring;
