//! `ReactorBuffer`: a subclass of `bytes` whose instances live in the memory that the kernel received into.
//!
//! CPython keeps the contents of a `bytes` object right behind its header. A slot of the [`Pool`](crate::buffer::Pool)
//! has room for that header in front of the data, so making a Python object of received bytes means writing 48 bytes:
//! nothing is copied, and every method of `bytes` is there because it *is* one. Views hold a reference to the object, so
//! the slot returns when the last reference and the last view are gone: when CPython deallocates it.

use crate::buffer::{DATA_OFFSET, HEADER_BYTES, Pool, Shared, SlotHeader, return_from_any_thread};
use crate::python::glue::{Static, method};
use crate::python::types;

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyType;
use std::cell::RefCell;
use std::ffi::{CStr, c_void};
use std::mem::offset_of;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;
use std::rc::Rc;

// The header that `lend` writes and the data that the kernel writes must meet exactly.
#[allow(deprecated, reason = "only the offset is used")]
const _: () = assert!(HEADER_BYTES + offset_of!(ffi::PyBytesObject, ob_sval) == DATA_OFFSET);

thread_local! {
    /// The pool of this thread's reactor: its slots come back without a lock.
    static LOCAL: RefCell<Option<Rc<RefCell<Pool>>>> = const { RefCell::new(None) };
}

/// Makes `pool` the one whose slots come back without a lock on this thread; `None` at the thread's end.
pub fn set_local_pool(pool: Option<Rc<RefCell<Pool>>>) {
    LOCAL.set(pool);
}

/// Makes an object of the `len` bytes that begin at `offset` in `slot`, which the kernel has just filled. Copies them to the heap where
/// `pool` runs low (the answer tells).
pub fn lend<'py>(
    py: Python<'py>,
    buffer_type: &Bound<'py, PyType>,
    pool: &mut Pool,
    slot: u16,
    offset: usize,
    len: usize,
) -> PyResult<(Bound<'py, PyAny>, bool)> {
    debug_assert!(offset + len <= pool.capacity());
    if !pool.may_lend() {
        // SAFETY: I2: the slot is the reactor's, and holds `len` bytes.
        let bytes = unsafe { std::slice::from_raw_parts(pool.data(slot).add(offset), len) };
        let copy = copied(py, buffer_type, bytes);
        pool.release(slot);
        return copy.map(|copy| (copy, true));
    }
    let start = pool.lend(slot, offset);
    // SAFETY: I2: the slot belongs to the new object until `dealloc` returns it; it has room for the header, `len` bytes
    // and a NUL.
    let object = unsafe { write_header(start, buffer_type.as_ptr().cast(), len) };
    // SAFETY: I7, by the token; a new reference.
    Ok((unsafe { Bound::from_owned_ptr(py, object) }, false))
}

/// Makes plain `bytes` of the `len` bytes that begin at `offset` in `slot`, which the kernel has just filled and which is free then.
///
/// # Errors
/// No memory.
pub fn take_bytes<'py>(
    py: Python<'py>,
    pool: &mut Pool,
    slot: u16,
    offset: usize,
    len: usize,
) -> PyResult<Bound<'py, PyAny>> {
    debug_assert!(offset + len <= pool.capacity());
    // SAFETY: I2: the slot is the reactor's, and holds `len` bytes; they are copied into a new object, whose reference is new, or
    // null with an exception set.
    let made = unsafe {
        let start = pool.data(slot).add(offset).cast_const().cast();
        Bound::from_owned_ptr_or_err(py, ffi::PyBytes_FromStringAndSize(start, len as ffi::Py_ssize_t))
    };
    pool.release(slot);
    made
}

/// Makes an object on the heap with a copy of `bytes`.
pub fn copied<'py>(py: Python<'py>, buffer_type: &Bound<'py, PyType>, bytes: &[u8]) -> PyResult<Bound<'py, PyAny>> {
    // SAFETY: I7, by the token; `alloc` made room for `bytes`; the reference is new, or null with an exception set.
    unsafe {
        let object = alloc(buffer_type.as_ptr().cast(), bytes.len() as ffi::Py_ssize_t);
        if !object.is_null() {
            ptr::copy_nonoverlapping(bytes.as_ptr(), object.cast::<u8>().add(DATA_OFFSET - HEADER_BYTES), bytes.len());
        }
        Bound::from_owned_ptr_or_err(py, object)
    }
}

/// Writes the header of a `bytes` object of `len` bytes, with one reference, and the NUL behind them.
///
/// # Safety
/// `start` points at a slot header that is followed by room for the object; `buffer_type` is our type.
unsafe fn write_header(start: *mut u8, buffer_type: *mut ffi::PyTypeObject, len: usize) -> *mut ffi::PyObject {
    // SAFETY: I2, the caller's promise. `PyObject_InitVar` counts the reference to the heap type.
    #[allow(deprecated, reason = "a bytes object made by hand starts with an unknown hash, as CPython's own do")]
    unsafe {
        let object = start.add(HEADER_BYTES).cast::<ffi::PyBytesObject>();
        ffi::PyObject_InitVar(object.cast(), buffer_type, len as ffi::Py_ssize_t);
        (*object).ob_shash = -1;
        start.add(DATA_OFFSET + len).write(0);
        object.cast()
    }
}

/// `tp_alloc`: memory from Python's heap, with a slot header that says so.
unsafe extern "C" fn alloc(buffer_type: *mut ffi::PyTypeObject, len: ffi::Py_ssize_t) -> *mut ffi::PyObject {
    // SAFETY: I7: CPython calls slot functions attached; sizes are checked.
    unsafe {
        let Some(size) = usize::try_from(len).ok().and_then(|len| len.checked_add(DATA_OFFSET + 1)) else {
            return ffi::PyErr_NoMemory();
        };
        let start = ffi::PyMem_Malloc(size).cast::<u8>();
        if start.is_null() {
            return ffi::PyErr_NoMemory();
        }
        start.cast::<SlotHeader>().write(SlotHeader { pool: ptr::null(), index: 0 });
        write_header(start, buffer_type, len as usize)
    }
}

/// `tp_dealloc`: gives the memory back to where it came from.
unsafe extern "C" fn dealloc(object: *mut ffi::PyObject) {
    // SAFETY: I2: every instance was made by `lend` or `alloc`, so a slot header precedes it; nobody has a reference or
    // a view any more. Instances of heap types hold a reference to their type.
    unsafe {
        let buffer_type = ffi::Py_TYPE(object);
        let start = object.cast::<u8>().sub(HEADER_BYTES);
        let SlotHeader { pool, index } = start.cast::<SlotHeader>().read();
        if pool.is_null() {
            ffi::PyMem_Free(start.cast());
        } else {
            give_back(pool, index as u16);
        }
        ffi::Py_DECREF(buffer_type.cast());
    }
}

/// A panic must cross neither into C nor into the code that happens to let go of the object: what it was about is leaked,
/// and its hook has told of it.
///
/// # Safety
/// As for [`return_from_any_thread`].
unsafe fn give_back(pool: *const Shared, slot: u16) {
    // SAFETY: I2, the caller's promise.
    _ = catch_unwind(AssertUnwindSafe(|| unsafe {
        if !give_back_here(pool, slot) {
            return_from_any_thread(pool, slot);
        }
    }));
}

/// Without a lock, if `pool` is this thread's and not in use. Answers whether it was.
fn give_back_here(pool: *const Shared, slot: u16) -> bool {
    let local = LOCAL.try_with(|local| {
        let Ok(local) = local.try_borrow() else { return false };
        let Some(ours) = local.as_ref() else { return false };
        match ours.try_borrow_mut() {
            Ok(mut ours) if ptr::eq(ours.key(), pool) => {
                ours.give_back(slot);
                true
            }
            _ => false,
        }
    });
    local == Ok(true)
}

unsafe extern "C" fn memoryview(object: *mut ffi::PyObject, _: *mut ffi::PyObject) -> *mut ffi::PyObject {
    // SAFETY: I7, by the token; a new reference, or null with an exception set.
    unsafe { ffi::PyMemoryView_FromObject(object) }
}

/// `__reduce_ex__`: a pickle must not depend on this process: it holds plain `bytes`.
unsafe extern "C" fn reduce(object: *mut ffi::PyObject, _: *mut ffi::PyObject) -> *mut ffi::PyObject {
    // SAFETY: I7, by the token; `object` is a `bytes`; format "O(N)" takes over the new reference.
    unsafe {
        let copy = ffi::PyBytes_FromStringAndSize(ffi::PyBytes_AS_STRING(object), ffi::Py_SIZE(object));
        if copy.is_null() {
            return ptr::null_mut();
        }
        ffi::Py_BuildValue(c"O(N)".as_ptr(), &raw mut ffi::PyBytes_Type, copy)
    }
}

/// `fromhex`, which `bytes` would have make one of us: what nobody has received needs no buffer.
unsafe extern "C" fn fromhex(_: *mut ffi::PyObject, text: *mut ffi::PyObject) -> *mut ffi::PyObject {
    // SAFETY: I7: attached, by CPython, whose argument it is; a static type, borrowed by the format; a new reference, or null.
    unsafe {
        let bytes = (&raw mut ffi::PyBytes_Type).cast();
        ffi::PyObject_CallMethod(bytes, c"fromhex".as_ptr(), c"(O)".as_ptr(), text)
    }
}

static METHODS: Static<[ffi::PyMethodDef; 4]> = Static([
    method(
        c"memoryview",
        memoryview,
        ffi::METH_NOARGS,
        c"memoryview()\n--\n\nA read-only view of the bytes, without a copy.",
    ),
    method(
        c"fromhex",
        fromhex,
        ffi::METH_CLASS | ffi::METH_O,
        c"fromhex(string, /)\n--\n\nAs bytes.fromhex: plain bytes of a string of hexadecimal digits.",
    ),
    method(c"__reduce_ex__", reduce, ffi::METH_O, c"Pickles as bytes."),
    ffi::PyMethodDef::zeroed(),
]);

const DOC: &CStr = c"Received bytes, in the memory that the kernel put them into.

A subclass of bytes: everything that works with bytes works with it, in place. It may be kept as long as you like; each
kept buffer (or memoryview of one) occupies a whole receive buffer (16 KiB unless configured otherwise), so copy a small
part that you need for long: bytes(data[:n]). ReactorBuffer(b'...') makes one on the heap, for tests.";

/// Makes the type for the calling interpreter. No instance may get another class, nor another object this one: by its class
/// it is known where an object's memory came from.
///
/// # Errors
/// The Python exception.
pub fn make_type(py: Python<'_>) -> PyResult<Bound<'_, PyType>> {
    let slots = [
        (ffi::Py_tp_doc, DOC.as_ptr() as *mut c_void),
        (ffi::Py_tp_alloc, alloc as *mut c_void),
        (ffi::Py_tp_dealloc, dealloc as *mut c_void),
        (ffi::Py_tp_methods, METHODS.0.as_ptr() as *mut c_void),
    ];
    // SAFETY: I7, by the token; `bytes` is a static type.
    let bytes = unsafe { Bound::from_borrowed_ptr(py, (&raw mut ffi::PyBytes_Type).cast()) };
    types::make(py, c"erlang.reactor.ReactorBuffer", 0, ffi::Py_TPFLAGS_IMMUTABLETYPE, &slots, Some(&bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As `dealloc` would, of an object whose header is not what we wrote. It is C that calls it.
    unsafe extern "C" fn give_back_for_c(pool: *const Shared, slot: u16) {
        // SAFETY: the caller's promise.
        unsafe { give_back(pool, slot) };
    }

    #[test]
    fn a_panic_while_a_slot_returns_costs_at_most_the_slot() {
        let pool = Rc::new(RefCell::new(Pool::new(4, 100, || ()).unwrap()));
        let key = pool.borrow().key();
        let lend = || {
            let mut pool = pool.borrow_mut();
            let (slot, _) = pool.post().unwrap();
            pool.reap(slot);
            pool.lend(slot, 0);
            slot
        };
        let (one, other) = (lend(), lend());
        set_local_pool(Some(Rc::clone(&pool)));
        // Twice what is lent once, and what there is not.
        for slot in [one, one, 4] {
            // SAFETY: the pool is alive, and checks the slot, which has no memory that anybody uses.
            unsafe { give_back_for_c(key, slot) };
        }
        assert_eq!(pool.borrow().usage(), (4, 1));
        // SAFETY: the slot is lent.
        unsafe { give_back_for_c(key, other) };
        set_local_pool(None);
        assert_eq!(pool.borrow().usage(), (4, 0));
        assert_eq!(pool.borrow().free(), 4);
    }
}
