//! What everybody needs.

pub mod affinity;
pub mod atoms;
pub mod config;
pub mod ear;
pub mod eventfd;
pub mod gil;
#[cfg(not(Py_3_12))]
pub mod gil_requests;
pub mod limits;
pub mod numbers;
pub mod sleeper;
pub mod stack;
pub mod sync;
pub mod timers;
pub mod token;
pub mod wake;
