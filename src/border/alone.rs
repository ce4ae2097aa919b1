//! The library as a plain Python loads it, without a VM: the same built-in module, for loops of one's own.
//!
//! `priv/alone/_py_reactor.so` (scripts/build_nif.sh) stands before this library there: it has stand-ins for the functions of the VM.

use crate::module;
use crate::reactor::own_loop;
use pyo3::ffi;

/// What Python looks for in an extension module of that name.
#[unsafe(no_mangle)]
extern "C" fn PyInit__py_reactor() -> *mut ffi::PyObject {
    own_loop::provide();
    module::init()
}
