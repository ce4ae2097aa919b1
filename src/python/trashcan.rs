//! Objects of ours that hold each other, a chain of a million, are released without a million frames on the stack: what
//! lies deep waits until the outermost is done. CPython does so for its own types, but exports no function for it.

use pyo3::ffi;
use std::cell::RefCell;
use std::ptr;

/// So many are released inside one another. A thread may have little stack.
const DEPTH_MAX: u32 = 16;

/// What the calling thread releases just now.
struct Trash {
    /// Objects are released in their own interpreter (I7); a thread may be in several, one inside the other.
    interpreter: *mut ffi::PyInterpreterState,
    depth: u32,
    later: Vec<*mut ffi::PyObject>,
}

impl Trash {
    const fn of(interpreter: *mut ffi::PyInterpreterState) -> Self {
        Trash { interpreter, depth: 0, later: Vec::new() }
    }
}

thread_local! {
    static TRASH: RefCell<Trash> = const { RefCell::new(Trash::of(ptr::null_mut())) };
}

/// Never borrowed while an object is released. `None` on a thread that has ended as far as Rust is concerned.
fn with<R>(f: impl FnOnce(&mut Trash) -> R) -> Option<R> {
    TRASH.try_with(|trash| trash.try_borrow_mut().ok().map(|mut trash| f(&mut trash))).ok().flatten()
}

/// Calls `release` with `object`, now or, if this comes from deep inside of such a call, later.
///
/// # Safety
/// Attached. Nobody refers to `object`, and no collector tracks it; `release` frees it.
pub unsafe fn release_bounded(object: *mut ffi::PyObject, release: unsafe fn(*mut ffi::PyObject)) {
    // SAFETY: I7: the caller's promise.
    let here = unsafe { ffi::PyInterpreterState_Get() };
    let outer = with(|trash| (trash.interpreter != here).then(|| std::mem::replace(trash, Trash::of(here)))).flatten();
    let later = with(|trash| {
        let deep = trash.depth >= DEPTH_MAX;
        match deep {
            true => trash.later.push(object),
            false => trash.depth += 1,
        }
        deep
    });
    if later == Some(true) {
        return;
    }
    // SAFETY: the caller's promise; and what waited was promised likewise, in this interpreter.
    unsafe {
        release(object);
        while let Some(Some(next)) = with(|trash| if trash.depth == 1 { trash.later.pop() } else { None }) {
            release(next);
        }
    }
    with(|trash| trash.depth -= 1);
    if let Some(outer) = outer {
        with(|trash| *trash = outer);
    }
}
