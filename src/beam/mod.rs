//! How the VM is told.

pub mod call_reply;
pub mod relay;
pub mod select;
