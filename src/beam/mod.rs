//! How the VM is told.

pub mod call_reply;
pub mod dirty;
pub mod relay;
pub mod reply;
pub mod resource;
pub mod select;
