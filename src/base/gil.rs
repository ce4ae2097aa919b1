//! Letting go of Python's lock, and which interpreter the calling thread is attached to.

use pyo3::ffi;
use pyo3::prelude::*;

/// Runs `f` with the calling thread detached from Python, so that others may run. `f` and its result touch no Python
/// object (I7): one that is cloned or dropped there ends the process, see `.cargo/config.toml`.
pub fn detached<R>(py: Python<'_>, f: impl FnOnce() -> R) -> R {
    /// PyO3 asks for what may go to other threads, as a sign of what may be used detached.
    struct Detached<T>(T);
    // SAFETY: I7: it stays on this thread.
    unsafe impl<T> Send for Detached<T> {}
    impl<T> Detached<T> {
        fn take(self) -> T {
            self.0
        }
    }
    let f = Detached(f);
    let (result, waits) = py.detach(move || Detached(((f.take())(), Wait::begin()))).take();
    drop(waits);
    result
}

/// A thread waits for the GIL as long as it has this: another interpreter that computes is asked to let go of it.
pub struct Wait {
    #[cfg(not(Py_3_12))]
    counted: bool,
}

impl Wait {
    /// The calling thread, detached, is about to attach.
    #[inline]
    pub fn begin() -> Self {
        Wait {
            #[cfg(not(Py_3_12))]
            counted: super::gil_requests::begin(),
        }
    }
}

impl Drop for Wait {
    #[inline]
    fn drop(&mut self) {
        #[cfg(not(Py_3_12))]
        if self.counted {
            super::gil_requests::end();
        }
    }
}

/// The calling thread, attached, is a context's from now on; in an interpreter of its `own`, or in the main one.
pub fn add_thread(py: Python<'_>, own: bool) {
    #[cfg(not(Py_3_12))]
    super::gil_requests::add(py, current(py), own);
    let _ = (py, own);
}

/// It is no more.
pub fn remove_thread(py: Python<'_>) {
    #[cfg(not(Py_3_12))]
    {
        let state = super::gil_requests::state(py);
        detached(py, || super::gil_requests::remove(state));
    }
    let _ = py;
}

/// The interpreter that the calling thread is attached to.
#[inline]
pub fn current(_py: Python<'_>) -> *mut ffi::PyInterpreterState {
    // SAFETY: I7, by the token.
    unsafe { ffi::PyInterpreterState_Get() }
}

/// Its number; no other one of this process ever has it.
pub fn current_id(py: Python<'_>) -> i64 {
    // SAFETY: I7, by the token.
    unsafe { ffi::PyInterpreterState_GetID(current(py)) }
}
