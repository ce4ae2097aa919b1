//! What threads say to each other.

pub mod command;
pub mod inbox;
pub mod listening;
pub mod mailbox;
pub mod notice;
pub mod place;
pub mod request_timeout;
pub mod running;
pub mod sharing;
pub mod stats;
