//! Whether an instance has attributes of its own, which go before what its class has; asked for each message.
//!
//! CPython makes the dict of an instance only when somebody asks for it. Until then the values stand in an array, and their
//! names in a table that all instances of the class share, which may grow and never shrinks. To ask for the dict would make it:
//! memory for each connection, and from then on every access to an attribute would be slower. So that table is looked at:
//! a name that was not in it is not there as long as it has not grown. How all that lies in memory differs from version to
//! version. From 3.14 on CPython is asked as it asks itself before it calls a method, which makes no dict. Where none of this
//! helps, the dict is asked for.

#[cfg(Py_3_14)]
use crate::python::methods::_PyObject_GetMethod;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyString;
use std::cell::Cell;
use std::ptr;

/// The beginning of CPython's `PyDictKeysObject`, in 3.11 and 3.12.
#[repr(C)]
struct Table {
    references: ffi::Py_ssize_t,
    log2_size: u8,
    log2_index_bytes: u8,
    kind: u8,
    version: u32,
    usable: ffi::Py_ssize_t,
    count: ffi::Py_ssize_t,
    // Behind it: 2 to the power of `log2_index_bytes` bytes of index, and the entries.
}

/// The `kind` of a table that instances share: all names are `str`.
#[cfg(not(Py_3_14))]
const SHARED: u8 = 2;

/// Where an instance has its attributes.
#[allow(dead_code, reason = "each version has some of them")]
enum Attributes {
    Nowhere,
    /// In a dict, borrowed.
    Dict(*mut ffi::PyObject),
    /// In an array, under names that are in this table.
    Array(*const Table),
    /// None of those names, wherever the others are.
    Elsewhere,
    Unknown,
}

/// # Safety
/// Attached; the object has a dict, or may get one.
#[cfg(not(Py_3_14))]
unsafe fn attributes(object: *mut ffi::PyObject, _: &[&Bound<'_, PyString>]) -> Attributes {
    // SAFETY: I7, the caller's promise. The type's flag says that the dict is kept three words before the object. Its values are
    // four words before (3.11), or where the dict would be, with a bit set (3.12), or, from 3.13 on, in objects that have no
    // fields of C: not in ours. The type is a heap type then, which has the table of names.
    unsafe {
        let class = ffi::Py_TYPE(object);
        if (*class).tp_flags & ffi::Py_TPFLAGS_MANAGED_DICT == 0 {
            return Attributes::Unknown;
        }
        let words = object.cast::<*mut ffi::PyObject>();
        let dict = *words.sub(3);
        #[cfg(not(Py_3_12))]
        let in_array = !(*words.sub(4)).is_null();
        #[cfg(all(Py_3_12, not(Py_3_13)))]
        let in_array = dict.addr() & 1 == 1;
        #[cfg(Py_3_13)]
        let in_array = false;
        let table = (*class.cast::<ffi::PyHeapTypeObject>()).ht_cached_keys.cast::<Table>();
        match dict {
            _ if in_array && !table.is_null() && (*table).kind == SHARED => Attributes::Array(table),
            _ if in_array => Attributes::Unknown,
            _ if dict.is_null() => Attributes::Nowhere,
            _ => Attributes::Dict(dict),
        }
    }
}

/// # Safety
/// Attached; the object has a dict, or may get one.
#[cfg(Py_3_14)]
unsafe fn attributes(object: *mut ffi::PyObject, wanted: &[&Bound<'_, PyString>]) -> Attributes {
    // SAFETY: I7, the caller's promise. Where code of the class decides (`__getattr__`), it would be run: nothing is asked. What
    // is answered is ours to drop: what the class has stays with the class, and what the object has with the object.
    unsafe {
        let plain = (*ffi::Py_TYPE(object)).tp_getattro;
        if !plain.is_some_and(|found| ptr::fn_addr_eq(found, ffi::PyObject_GenericGetAttr as ffi::getattrofunc)) {
            return Attributes::Unknown;
        }
        let lacks = |name: &&Bound<'_, PyString>| {
            let mut method = ptr::null_mut();
            let found = _PyObject_GetMethod(object, name.as_ptr(), &raw mut method);
            ffi::PyErr_Clear();
            ffi::Py_XDECREF(method);
            found == 1
        };
        if wanted.iter().all(lacks) { Attributes::Elsewhere } else { Attributes::Unknown }
    }
}

/// Whether `object`, which has a dict or may get one, and whose class has methods of the names `wanted`, has no attributes of these
/// names of its own. `names` says of which names the caller may ask; `seen`, at first -1, is the caller's, one for all of them and
/// each class.
#[inline]
pub fn lacks(
    object: &Bound<'_, PyAny>,
    wanted: &[&Bound<'_, PyString>],
    names: impl Fn(&str) -> bool,
    seen: &Cell<ffi::Py_ssize_t>,
) -> bool {
    // SAFETY: I7, by the token and the caller's promise. A type keeps its table, which is looked at while no code runs. A dict
    // is kept here: a key that is no plain `str` runs code when it is compared, and that may give the object another dict.
    unsafe {
        match attributes(object.as_ptr(), wanted) {
            Attributes::Nowhere | Attributes::Elsewhere => true,
            Attributes::Dict(dict) => {
                let dict = Bound::from_borrowed_ptr(object.py(), dict);
                are_not_in(dict.as_ptr(), wanted)
            }
            Attributes::Array(table) if (*table).count == seen.get() => true,
            Attributes::Array(table) if !knows_one(object.py(), table, &names) => {
                seen.set((*table).count);
                true
            }
            Attributes::Array(_) | Attributes::Unknown => {
                let dict = ffi::PyObject_GenericGetDict(object.as_ptr(), ptr::null_mut());
                let lacks = !dict.is_null() && are_not_in(dict, wanted);
                ffi::PyErr_Clear();
                ffi::Py_XDECREF(dict);
                lacks
            }
        }
    }
}

/// # Safety
/// Attached; a dict that the caller keeps.
unsafe fn are_not_in(dict: *mut ffi::PyObject, wanted: &[&Bound<'_, PyString>]) -> bool {
    wanted.iter().all(|name| {
        // SAFETY: I7, the caller's promise.
        let found = unsafe { ffi::PyDict_Contains(dict, name.as_ptr()) };
        if found < 0 {
            // SAFETY: I7, the caller's promise.
            unsafe { ffi::PyErr_Clear() };
        }
        found == 0
    })
}

/// Whether one of those names is in `table`, perhaps because of another instance.
///
/// # Safety
/// A table that instances share.
#[cold]
unsafe fn knows_one(py: Python<'_>, table: *const Table, names: impl Fn(&str) -> bool) -> bool {
    // SAFETY: I7, the caller's promise: as many entries as it counts are behind its index, each a name and an empty place. Names
    // are never taken out.
    unsafe {
        let index_bytes = 1usize << (*table).log2_index_bytes;
        let entries = table.add(1).cast::<u8>().add(index_bytes).cast::<[*mut ffi::PyObject; 2]>();
        (0..(*table).count as usize).any(|nth| {
            let known = Bound::from_borrowed_ptr_or_opt(py, (*entries.add(nth))[0]);
            known.is_none_or(|known| known.extract::<&str>().map_or(true, &names))
        })
    }
}
