//! Which methods of the base class a protocol still has: those the reactor need not call through Python.
//!
//! A class may be patched, an instance may get a method or another class, at any time. What was seen of the class holds as
//! long as it has the version that it had: CPython changes that with every change of the class and its bases, and no two
//! classes ever have the same. What the instance has is looked at each time (`own_attributes`).

use crate::python::instance::instance;
use crate::python::own_attributes::lacks;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyString;
use std::cell::Cell;
use std::ptr;

/// A method of the base class.
#[derive(Clone, Copy)]
pub enum Method {
    /// `write`.
    Write = 1,
    /// `write_ready`.
    WriteReady = 2,
    /// `datagram_received`.
    DatagramReceived = 4,
}

/// Its instances have a dict.
const HAS_DICT: u8 = 128;

/// The methods of the base class, as that defines them.
pub type BaseMethods = [(Method, &'static str, ffi::PyCFunction); 3];

/// Whether these methods of `protocol` (a `Protocol`), each with its name, are the `base` class's.
#[inline(always)]
pub fn inherits<const N: usize>(
    protocol: &Bound<'_, PyAny>,
    base: &BaseMethods,
    methods: [(Method, &Bound<'_, PyString>); N],
) -> bool {
    let this = instance(protocol);
    // SAFETY: I7: the caller's promise: this is the layout; attached.
    let (version, seen, inherited) =
        unsafe { ((*protocol.get_type_ptr()).tp_version_tag, (*this).seen_version, (*this).inherited) };
    let inherited = if version == seen && seen != 0 { inherited } else { look(protocol, base) };
    let wanted = methods.iter().fold(0, |wanted, (method, _)| wanted | *method as u8);
    if inherited & wanted != wanted {
        return false;
    }
    // SAFETY: I7, as above; the instance is kept, and what is borrowed is a cell: Python code that runs meanwhile may come here.
    let seen_names = unsafe { &(*this).seen_names };
    let names = |name: &str| base.iter().any(|(_, ours, _)| *ours == name);
    inherited & HAS_DICT == 0 || lacks(protocol, &methods.map(|(_, name)| name), names, seen_names)
}

/// Looks at the class.
#[cold]
fn look(protocol: &Bound<'_, PyAny>, base: &BaseMethods) -> u8 {
    let class = protocol.get_type();
    // Where code decides what an attribute is, it has to be asked each time.
    let is_plain = || class.getattr("__getattribute__").is_ok_and(|found| found.is(object_getattribute(class.py())));
    let is_ours = |name: &str, function| class.getattr(name).is_ok_and(|found| is_method(&found, function));
    // SAFETY: I7, by the token; the type of an object.
    let has_dict = unsafe { (*protocol.get_type_ptr()).tp_dictoffset != 0 };
    let mut inherited = if has_dict { HAS_DICT } else { 0 };
    if is_plain() {
        for (method, name, function) in *base {
            inherited |= if is_ours(name, function) { method as u8 } else { 0 };
        }
    }
    let this = instance(protocol);
    // SAFETY: I7, by the token; the caller's promise: this is the layout. The version is known now that something was
    // looked up; 0: CPython gives this class none.
    unsafe {
        (*this).inherited = inherited;
        (*this).seen_names = Cell::new(-1);
        (*this).seen_version = (*protocol.get_type_ptr()).tp_version_tag;
    }
    inherited
}

fn object_getattribute(py: Python<'_>) -> Bound<'_, PyAny> {
    let none = py.None().into_bound(py);
    // SAFETY: I7, by the token; `object` is static.
    let object = unsafe { Bound::from_borrowed_ptr(py, (&raw mut ffi::PyBaseObject_Type).cast()) };
    object.getattr("__getattribute__").unwrap_or(none)
}

/// Whether `found` is the descriptor of this method.
fn is_method(found: &Bound<'_, PyAny>, function: ffi::PyCFunction) -> bool {
    // SAFETY: I7, by the token; an object whose type is checked before it is taken for one, and whose definition is
    // static.
    unsafe {
        ptr::eq(found.get_type_ptr(), &raw const ffi::PyMethodDescr_Type)
            && ptr::fn_addr_eq(
                (*(*found.as_ptr().cast::<ffi::PyMethodDescrObject>()).d_method).ml_meth.PyCFunction,
                function,
            )
    }
}
