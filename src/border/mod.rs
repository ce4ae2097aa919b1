//! What Erlang calls.

pub mod alone;
pub mod handle;
pub mod library;
pub mod listener;
pub mod nif;
#[cfg(test)]
mod nif_stubs;
pub mod reasons;
