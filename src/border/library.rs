//! The library as the VM loads it: at first, once more beside itself (`code:load_file/1`), and anew after it was purged
//! (`init:restart/0`).
//!
//! Threads of ours and the main interpreter live as long as the process, and so does the library: it is never unmapped,
//! and every later load finds the state of the first. Contexts live on when the module is replaced. When it was purged,
//! their handles are strangers to the new one, and `py_nif:load/0` tells their processes.

use crate::beam::call_reply::Answer;
use crate::beam::resource::{keep, register};
use crate::beam::select::Selectable;
use crate::border::handle::ContextHandle;
use crate::border::listener::Listener;
use crate::mail::request_timeout::Ticket;
use crate::module;
use crate::python::interpreter;
use crate::reactor::own_loop;
use rustler::Env;
use rustler::codegen_runtime::{ErlNifEntry, ErlNifEnv, ErlNifFunc, ErlNifTerm, c_int, c_void, inventory};
use std::panic::catch_unwind;
use std::ptr;
use std::sync::LazyLock;

/// What the VM is told of the library.
struct Entry(ErlNifEntry);

// SAFETY: I10: the pointers in it are to what is static and never changed.
unsafe impl Send for Entry {}
// SAFETY: I10: the pointers in it are to what is static and never changed.
unsafe impl Sync for Entry {}

static ENTRY: LazyLock<Entry> = LazyLock::new(|| {
    let functions: Vec<ErlNifFunc> = inventory::iter::<rustler::Nif>().map(rustler::Nif::get_def).collect();
    let mut entry = ErlNifEntry::new(c"py_nif", functions.leak(), load);
    entry.upgrade = Some(upgrade);
    Entry(entry)
});

/// Tells this library from another build of it in the same process, which has threads and a Python of its own.
static MARK: u8 = 0;

/// What the VM looks for in a library.
#[unsafe(no_mangle)]
extern "C" fn nif_init() -> *const ErlNifEntry {
    &raw const ENTRY.0
}

unsafe extern "C" fn load(env: *mut ErlNifEnv, private: *mut *mut c_void, _: ErlNifTerm) -> c_int {
    // SAFETY: I10: the VM's own arguments.
    unsafe { begin(env, private) }
}

/// The module is loaded again while its old code is there.
unsafe extern "C" fn upgrade(
    env: *mut ErlNifEnv,
    private: *mut *mut c_void,
    old: *mut *mut c_void,
    _: ErlNifTerm,
) -> c_int {
    // SAFETY: I10: the VM's own arguments.
    unsafe { if ptr::eq((*old).cast(), &raw const MARK) { begin(env, private) } else { 1 } }
}

/// # Safety
/// `env` and `private` are what the VM has passed to `load` or `upgrade`.
unsafe fn begin(env: *mut ErlNifEnv, private: *mut *mut c_void) -> c_int {
    let begun = catch_unwind(|| {
        // SAFETY: the caller's promise.
        let env = unsafe { Env::new_init_env(&env, env) };
        interpreter::provide(module::BUILTIN);
        own_loop::provide();
        crate::beam::loaded_by_vm();
        interpreter::pin_library()
            && register::<Selectable>(env)
            && register::<ContextHandle>(env)
            && register::<Answer>(env)
            && register::<Ticket>(env)
            && register::<Listener>(env)
    });
    // SAFETY: the caller's promise.
    unsafe { *private = (&raw const MARK).cast_mut().cast() };
    c_int::from(!begun.unwrap_or_default())
}

/// What is left to do once the VM has loaded the library.
pub fn loaded() {
    keep::<Selectable>();
    keep::<ContextHandle>();
    keep::<Answer>();
    keep::<Ticket>();
    keep::<Listener>();
}
