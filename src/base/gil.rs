//! Letting go of Python's lock, and which interpreter the calling thread is attached to.

use pyo3::ffi;
use pyo3::prelude::*;

/// Runs `f` with the calling thread detached from Python, so that others may run. `f` and its result touch no Python
/// object (I7): one that is cloned or dropped there ends the process, see `.cargo/config.toml`.
pub fn detached<R>(py: Python<'_>, f: impl FnOnce() -> R) -> R {
    /// PyO3 asks for what may go to other threads, as a sign of what may be used detached.
    struct Detached<T>(T);
    // SAFETY: it stays on this thread.
    unsafe impl<T> Send for Detached<T> {}
    impl<T> Detached<T> {
        fn take(self) -> T {
            self.0
        }
    }
    let f = Detached(f);
    py.detach(move || Detached((f.take())())).take()
}

/// The interpreter that the calling thread is attached to.
#[inline]
pub fn current(_py: Python<'_>) -> *mut ffi::PyInterpreterState {
    // SAFETY: attached.
    unsafe { ffi::PyInterpreterState_Get() }
}

/// Its number; no other one of this process ever has it.
pub fn current_id(py: Python<'_>) -> i64 {
    // SAFETY: attached.
    unsafe { ffi::PyInterpreterState_GetID(current(py)) }
}
