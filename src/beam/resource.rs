//! Objects of ours that the VM holds for Erlang.
//!
//! rustler's own cannot be taken over by a library that is loaded again, and have no `stop` callback, without which a
//! selected descriptor cannot be closed safely. So the types are registered by hand, all of them here.
//!
//! The VM frees a type whose library was purged, with its last object. Threads of Python outlive that, and go on making
//! objects: so each type keeps one that is never given back, and is used from then on only.

use rustler::sys::{
    ErlNifEnv, ErlNifEvent, ErlNifMonitor, ErlNifPid, ErlNifResourceDown, ErlNifResourceDtor, ErlNifResourceFlags,
    ErlNifResourceStop, ErlNifResourceType, ErlNifResourceTypeInit, c_int, c_void, enif_alloc_resource,
    enif_get_resource, enif_init_resource_type, enif_keep_resource, enif_make_resource, enif_monitor_process,
    enif_release_resource, enif_self,
};
use rustler::{Decoder, Encoder, Env, Error, NifResult, Term};
use std::ffi::CStr;
use std::mem::MaybeUninit;
use std::ops::Deref;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicPtr, Ordering};

/// What the VM can hold.
pub trait Resource: Sized + Send + Sync + 'static {
    /// Tells it from our other types.
    const NAME: &'static CStr;

    /// A static of its own.
    fn kind() -> &'static Kind;

    /// The process that [`Ref::monitor_caller`] was called by has died.
    fn down(&self, _env: *mut ErlNifEnv) {}

    /// No scheduler polls its descriptor any more.
    fn stopped(&self) {}
}

/// What a type is to the VM.
pub struct Kind {
    registered: AtomicPtr<ErlNifResourceType>,
    current: AtomicPtr<ErlNifResourceType>,
}

impl Kind {
    /// Not registered yet.
    pub const fn new() -> Self {
        Kind { registered: AtomicPtr::new(ptr::null_mut()), current: AtomicPtr::new(ptr::null_mut()) }
    }

    fn current(&self) -> *const ErlNifResourceType {
        self.current.load(Ordering::Acquire)
    }
}

/// Registers `T`, or takes it over from the library that is being replaced. Only while the library is being loaded.
pub fn register<T: Resource>(env: Env<'_>) -> bool {
    const { assert!(align_of::<T>() <= 8, "the VM aligns to 8 bytes") };
    let init = ErlNifResourceTypeInit {
        dtor: dtor::<T> as *const ErlNifResourceDtor,
        stop: stop::<T> as *const ErlNifResourceStop,
        down: down::<T> as *const ErlNifResourceDown,
        members: 3,
        dyncall: ptr::null(),
    };
    let open = |flags| {
        let mut tried = MaybeUninit::uninit();
        // SAFETY: I10: called while loading; the VM copies `init`.
        unsafe { enif_init_resource_type(env.as_c_arg(), T::NAME.as_ptr(), &raw const init, flags, tried.as_mut_ptr()) }
    };
    let mut registered = open(ErlNifResourceFlags::ERL_NIF_RT_CREATE);
    if registered.is_null() {
        registered = open(ErlNifResourceFlags::ERL_NIF_RT_TAKEOVER);
    }
    T::kind().registered.store(registered.cast_mut(), Ordering::Release);
    !registered.is_null()
}

/// The library is loaded: objects of `T` are made of the registered type from now on.
pub fn keep<T: Resource>() {
    let Kind { registered, current } = T::kind();
    let registered = registered.load(Ordering::Acquire);
    if current.load(Ordering::Acquire) != registered {
        // SAFETY: I10: a type that the VM knows. The object is never given back, so that nobody finds that it is empty.
        unsafe { enif_alloc_resource(registered, size_of::<T>()) };
        current.store(registered, Ordering::Release);
    }
}

/// A reference to an object that the VM holds.
pub struct Ref<T: Resource>(NonNull<T>);

// SAFETY: I10: the VM counts references atomically, and `T` may be used by any thread.
unsafe impl<T: Resource> Send for Ref<T> {}
// SAFETY: I10: the VM counts references atomically, and `T` may be used by any thread.
unsafe impl<T: Resource> Sync for Ref<T> {}

impl<T: Resource> Ref<T> {
    /// Gives `object` to the VM.
    pub fn new(object: T) -> Self {
        // SAFETY: I10: the type has room for a `T`, which is written before anybody else has the pointer.
        unsafe {
            let memory = enif_alloc_resource(T::kind().current(), size_of::<T>()).cast::<T>();
            memory.write(object);
            Ref(NonNull::new_unchecked(memory))
        }
    }

    /// Calls [`Resource::down`] when the calling process dies. False if there is none, or it is about to.
    pub fn monitor_caller(&self, env: Env<'_>) -> bool {
        let mut caller = MaybeUninit::uninit();
        // SAFETY: I10: the object is alive; the pid is used if the VM has written it.
        unsafe {
            !enif_self(env.as_c_arg(), caller.as_mut_ptr()).is_null()
                && enif_monitor_process(env.as_c_arg(), self.0.as_ptr().cast(), caller.as_ptr(), ptr::null_mut()) == 0
        }
    }
}

impl<T: Resource> Clone for Ref<T> {
    fn clone(&self) -> Self {
        // SAFETY: I10: the object is alive; the new reference is ours.
        unsafe { enif_keep_resource(self.0.as_ptr().cast()) };
        Ref(self.0)
    }
}

impl<T: Resource> Deref for Ref<T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: I10: the reference that `self` counts keeps the object.
        unsafe { self.0.as_ref() }
    }
}

impl<T: Resource> Drop for Ref<T> {
    fn drop(&mut self) {
        // SAFETY: I10: gives back the reference that `new` or `decode` counted.
        unsafe { enif_release_resource(self.0.as_ptr().cast()) };
    }
}

impl<T: Resource> Encoder for Ref<T> {
    fn encode<'a>(&self, env: Env<'a>) -> Term<'a> {
        // SAFETY: I10: the object is alive.
        unsafe { Term::new(env, enif_make_resource(env.as_c_arg(), self.0.as_ptr().cast())) }
    }
}

/// An object that was made before the library was unloaded is a bad argument.
impl<'a, T: Resource> Decoder<'a> for Ref<T> {
    fn decode(term: Term<'a>) -> NifResult<Self> {
        let mut object = ptr::null();
        // SAFETY: I10: `object` is set if the term names an object of our type; we then count our reference.
        unsafe {
            let env = term.get_env().as_c_arg();
            if enif_get_resource(env, term.as_c_arg(), T::kind().current(), &raw mut object) == 0 {
                return Err(Error::BadArg);
            }
            enif_keep_resource(object);
            NonNull::new(object.cast_mut().cast()).map(Ref).ok_or(Error::BadArg)
        }
    }
}

/// Runs `f` for the VM: a panic must not cross into C.
fn contained(f: impl FnOnce()) {
    let _ = catch_unwind(AssertUnwindSafe(f));
}

unsafe extern "C" fn dtor<T: Resource>(_: *mut ErlNifEnv, object: *mut c_void) {
    // SAFETY: I10: the VM passes an object of type `T` that nobody refers to any more.
    contained(|| unsafe { object.cast::<T>().drop_in_place() });
}

unsafe extern "C" fn down<T: Resource>(
    env: *mut ErlNifEnv,
    object: *mut c_void,
    _: *const ErlNifPid,
    _: *const ErlNifMonitor,
) {
    // SAFETY: I10: the VM passes a live object of type `T`.
    contained(|| unsafe { &*object.cast::<T>() }.down(env));
}

unsafe extern "C" fn stop<T: Resource>(_: *mut ErlNifEnv, object: *mut c_void, _: ErlNifEvent, _: c_int) {
    // SAFETY: I10: the VM passes a live object of type `T`.
    contained(|| unsafe { &*object.cast::<T>() }.stopped());
}
