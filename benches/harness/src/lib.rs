//! Compares servers: the same load on each in turn, on this machine, every echoed byte checked.
//!
//! `main` reads the command line ([`cli`]), [`run`] measures what it asks for, [`report`] writes what came out. One
//! thread makes all the load ([`load`]); the servers are processes of their own ([`server`]).

#![warn(missing_docs)]

pub mod budget;
pub mod cases;
pub mod cli;
pub mod latency;
pub mod limits;
pub mod load;
pub mod machine;
pub mod observe;
pub mod pattern;
pub mod pin;
pub mod progress;
pub mod report;
pub mod results;
pub mod run;
pub mod server;
pub mod stats;
pub mod syscalls;
pub mod usage;
