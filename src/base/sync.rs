//! The locks and atomics of what threads share. The models (`models/`) put loom's in their place.

#![forbid(unsafe_code)]

use std::sync::PoisonError;

pub use std::sync::{Mutex, MutexGuard, atomic};

/// Locks, whatever became of a thread that held the lock: what is behind these locks is whole after every statement.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
