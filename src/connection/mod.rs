//! What one connection is.

pub mod callbacks;
mod closing;
pub mod context;
mod datagrams;
pub mod directory;
pub mod intake;
pub mod machine;
pub mod outbox;
pub mod outcome;
pub mod overrides;
pub mod table;
pub mod tasks;
pub mod traffic;
pub mod transports;
pub mod write_buffer;
