//! What threads say to each other.

pub mod inbox;
pub mod mailbox;
pub mod running;
pub mod stats;
