//! A descriptor that an Erlang process waits for with `enif_select`.
//!
//! rustler's resources have no `stop` callback, without which a selected descriptor cannot be closed safely, so this
//! one resource type is registered by hand. The VM owns the descriptor from the first [`Selectable::arm`] on: it is
//! closed in `stop`, when no scheduler polls it any more. If its owner dies, `down` sees to that.

use rustler::codegen_runtime::c_int;
use rustler::sys::{
    ERL_NIF_SELECT_READ, ERL_NIF_SELECT_STOP, ErlNifEnv, ErlNifEvent, ErlNifMonitor, ErlNifPid, ErlNifResourceDown,
    ErlNifResourceDtor, ErlNifResourceFlags, ErlNifResourceStop, ErlNifResourceType, ErlNifResourceTypeInit, c_void,
    enif_alloc_resource, enif_get_resource, enif_init_resource_type, enif_keep_resource, enif_make_resource,
    enif_monitor_process, enif_release_resource, enif_select, enif_self,
};
use rustler::{Env, Term};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};
use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI32, Ordering};

/// The registered type; an address, because the pointer itself is not `Sync`.
static TYPE: OnceLock<usize> = OnceLock::new();

/// What the VM's memory for the resource holds: the descriptor, or -1 once it is closed or about to be.
struct Inner {
    fd: AtomicI32,
    stopped: AtomicI32,
}

/// A reference to the resource.
pub struct Selectable(ptr::NonNull<Inner>);

// SAFETY: the VM counts references atomically, and the contents are atomic.
unsafe impl Send for Selectable {}
// SAFETY: as above.
unsafe impl Sync for Selectable {}

/// Registers the type. Called from the library's load callback.
pub fn register(env: Env<'_>) -> bool {
    let init = ErlNifResourceTypeInit {
        dtor: dtor as *const ErlNifResourceDtor,
        stop: stop as *const ErlNifResourceStop,
        down: down as *const ErlNifResourceDown,
        members: 3,
        dyncall: ptr::null(),
    };
    let mut tried = MaybeUninit::uninit();
    // SAFETY: called while loading; the VM copies `init`.
    let registered = unsafe {
        enif_init_resource_type(
            env.as_c_arg(),
            c"py_reactor_selectable".as_ptr(),
            &raw const init,
            ErlNifResourceFlags::ERL_NIF_RT_CREATE,
            tried.as_mut_ptr(),
        )
    };
    !registered.is_null() && TYPE.set(registered as usize).is_ok()
}

fn resource_type() -> *const ErlNifResourceType {
    TYPE.get().map_or(ptr::null(), |address| *address as *const ErlNifResourceType)
}

impl Selectable {
    /// Gives `fd` to the VM, on behalf of the calling process.
    pub fn new(env: Env<'_>, fd: OwnedFd) -> Self {
        // SAFETY: the type was registered with room for `Inner`, which is written before anybody else has the pointer.
        unsafe {
            let inner = enif_alloc_resource(resource_type(), size_of::<Inner>()).cast::<Inner>();
            inner.write(Inner { fd: AtomicI32::new(fd.into_raw_fd()), stopped: AtomicI32::new(0) });
            let mut owner = MaybeUninit::uninit();
            if !enif_self(env.as_c_arg(), owner.as_mut_ptr()).is_null() {
                enif_monitor_process(env.as_c_arg(), inner.cast(), owner.as_ptr(), ptr::null_mut());
            }
            Selectable(ptr::NonNull::new_unchecked(inner))
        }
    }

    fn inner(&self) -> &Inner {
        // SAFETY: the reference that `self` holds keeps the resource.
        unsafe { self.0.as_ref() }
    }

    /// Asks for one `{select, Resource, undefined, ready_input}` message to the calling process.
    pub fn arm(&self, env: Env<'_>) -> bool {
        let fd = self.inner().fd.load(Ordering::Acquire);
        // SAFETY: the descriptor is open until `stop` runs; a null pid means the caller.
        fd >= 0 && unsafe { select(env.as_c_arg(), fd, ERL_NIF_SELECT_READ, self.0.as_ptr()) } >= 0
    }

    /// Stops selecting and closes the descriptor as soon as the VM allows.
    pub fn stop(&self, env: Env<'_>) {
        // SAFETY: the resource is alive.
        unsafe { stop_selecting(env.as_c_arg(), self.0.as_ptr()) };
    }

    /// The descriptor, unless it is closed. Only for the owning process, which is also the one that stops it.
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        let fd = self.inner().fd.load(Ordering::Acquire);
        // SAFETY: open as long as `fd` is not -1, and the owner does not stop it meanwhile.
        (fd >= 0).then(|| unsafe { BorrowedFd::borrow_raw(fd) })
    }

    /// A term for it.
    pub fn to_term<'a>(&self, env: Env<'a>) -> Term<'a> {
        // SAFETY: the resource is alive.
        unsafe { Term::new(env, enif_make_resource(env.as_c_arg(), self.0.as_ptr().cast())) }
    }

    /// The resource that `term` names.
    pub fn from_term(term: Term<'_>) -> Option<Self> {
        let mut object = ptr::null();
        // SAFETY: `object` is set if the term names a resource of our type; we then count our reference.
        unsafe {
            let env = term.get_env().as_c_arg();
            if enif_get_resource(env, term.as_c_arg(), resource_type(), &raw mut object) == 0 {
                return None;
            }
            enif_keep_resource(object);
            ptr::NonNull::new(object.cast_mut().cast()).map(Selectable)
        }
    }
}

impl Drop for Selectable {
    fn drop(&mut self) {
        // SAFETY: gives back the reference that `new` or `from_term` counted.
        unsafe { enif_release_resource(self.0.as_ptr().cast()) };
    }
}

/// # Safety
/// `fd` is the open descriptor of the live resource `inner`.
unsafe fn select(env: *mut ErlNifEnv, fd: ErlNifEvent, mode: c_int, inner: *mut Inner) -> c_int {
    let undefined = rustler::types::atom::undefined().as_c_arg();
    // SAFETY: the caller's promise.
    unsafe { enif_select(env, fd, mode, inner.cast(), ptr::null(), undefined) }
}

/// # Safety
/// `inner` is a live resource.
unsafe fn stop_selecting(env: *mut ErlNifEnv, inner: *mut Inner) {
    // SAFETY: the caller's promise; the descriptor is open until the VM calls `stop`.
    unsafe {
        let fd = (*inner).fd.load(Ordering::Acquire);
        if fd >= 0 && (*inner).stopped.swap(1, Ordering::AcqRel) == 0 {
            select(env, fd, ERL_NIF_SELECT_STOP, inner);
        }
    }
}

fn close(inner: &Inner) {
    let fd = inner.fd.swap(-1, Ordering::AcqRel);
    if fd >= 0 {
        // SAFETY: the descriptor was the resource's, and nobody finds it there any more.
        drop(unsafe { OwnedFd::from_raw_fd(fd) });
    }
}

unsafe extern "C" fn stop(_: *mut ErlNifEnv, object: *mut c_void, _: ErlNifEvent, _: c_int) {
    // SAFETY: the VM passes a live resource of our type.
    close(unsafe { &*object.cast::<Inner>() });
}

unsafe extern "C" fn down(env: *mut ErlNifEnv, object: *mut c_void, _: *const ErlNifPid, _: *const ErlNifMonitor) {
    // SAFETY: as in `stop`.
    unsafe { stop_selecting(env, object.cast()) };
}

unsafe extern "C" fn dtor(_: *mut ErlNifEnv, object: *mut c_void) {
    // SAFETY: as in `stop`; a selected resource is kept by the VM, so this one was stopped or never armed.
    close(unsafe { &*object.cast::<Inner>() });
}
