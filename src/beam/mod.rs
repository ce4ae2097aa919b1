//! How the VM is told.

use std::sync::atomic::{AtomicBool, Ordering};

pub mod atom_names;
pub mod call_reply;
pub mod dirty;
pub mod relay;
pub mod reply;
pub mod resource;
pub mod select;

static THERE: AtomicBool = AtomicBool::new(false);

/// The VM has loaded the library.
pub fn loaded_by_vm() {
    THERE.store(true, Ordering::Relaxed);
}

/// Whether there is a VM: a plain Python may have loaded the library, too.
pub fn is_there() -> bool {
    THERE.load(Ordering::Relaxed)
}
