//! What one connection is.

pub mod callbacks;
mod closing;
pub mod context;
pub mod directory;
pub mod machine;
pub mod outbox;
pub mod overrides;
pub mod table;
pub mod tasks;
pub mod traffic;
pub mod write_buffer;
