//! In the place of `src/base/sync.rs`: loom's locks and atomics.

use std::sync::PoisonError;

pub use loom::sync::{Mutex, MutexGuard, atomic};

pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
