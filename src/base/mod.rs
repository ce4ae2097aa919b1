//! What everybody needs.

pub mod atoms;
pub mod config;
pub mod eventfd;
pub mod sync;
pub mod token;
pub mod wake;
