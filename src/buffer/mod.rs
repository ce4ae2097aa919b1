//! The memory that the kernel receives into and Python sees.

mod pool;

pub use pool::{DATA_OFFSET, HEADER_BYTES, Lien, Pool, Shared, SlotHeader, return_from_any_thread};
