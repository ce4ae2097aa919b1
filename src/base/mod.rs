//! What everybody needs.

pub mod atoms;
pub mod config;
pub mod eventfd;
pub mod gil;
pub mod limits;
pub mod stack;
pub mod sync;
pub mod token;
pub mod wake;
