//! `Handle` and `TimerHandle`: what `call_soon` and its kin answer. They behave as asyncio's own, also if asked for `__class__`.

use crate::mail::running::Running;
use crate::module::loop_layout::{Core, FREE_MAX, Handle, INLINE, LoopObject, Ref, core, release};
use crate::python::glue::{Static, argument, guarded, guarded_object, member, method};
use crate::python::trashcan;
use crate::python::types;
use pyo3::exceptions::{PyKeyboardInterrupt, PySystemExit};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyTuple, PyType};
use std::ffi::{CStr, c_int, c_void};
use std::mem::offset_of;
use std::ptr;

/// So many handles of a loop are released inside one another before those that come count as deep.
const RELEASED_AT_ONCE: u32 = 8;

/// Says of handles what nobody asks for often.
pub const HELPERS: &str = "erlang._handles";

/// Memory for a handle: an object with one reference, that the collector does not know yet; null with an exception.
///
/// # Safety
/// Attached; `class` is one of the two types of `core`, whose fields the caller fills in.
unsafe fn allocate(core: &Core, class: *mut ffi::PyTypeObject) -> *mut Handle {
    let free = core.free.borrow_mut().pop();
    // SAFETY: I7: the caller is attached; what is in the list is memory of such an object, which nobody else knows.
    unsafe {
        match free {
            Some(memory) => ffi::PyObject_Init(memory.cast(), class).cast(),
            None => ffi::PyObject_GC_New::<Handle>(class),
        }
    }
}

/// Makes a handle of `this` for `callback`, to be run in `context` (null: a copy of what the caller sees now); a timer if there
/// is a time.
///
/// # Errors
/// No memory.
///
/// # Safety
/// Attached; `this` is a loop, the others are borrowed objects.
#[inline]
pub unsafe fn make(
    py: Python<'_>,
    this: *mut LoopObject,
    callback: *mut ffi::PyObject,
    args: &[*mut ffi::PyObject],
    context: *mut ffi::PyObject,
    when: Option<f64>,
) -> PyResult<*mut Handle> {
    // SAFETY: the caller's promise; every field is filled in before the collector or anybody else knows the object.
    unsafe {
        let rest = match args.len() {
            ..=INLINE => ptr::null_mut(),
            _ => {
                let all = args.iter().map(|arg| Bound::from_borrowed_ptr(py, *arg));
                PyTuple::new(py, all.collect::<Vec<_>>())?.into_ptr()
            }
        };
        let context = match context.is_null() {
            true => ffi::PyContext_CopyCurrent(),
            false => ffi::Py_NewRef(context),
        };
        let core = core(this);
        let class = if when.is_some() { core.timer_type } else { core.handle_type };
        let handle = if context.is_null() { ptr::null_mut() } else { allocate(core, class) };
        if handle.is_null() {
            ffi::Py_XDECREF(context);
            ffi::Py_XDECREF(rest);
            return Err(PyErr::fetch(py));
        }
        let inline = |nth: usize| match args.get(nth) {
            Some(arg) if args.len() <= INLINE => ffi::Py_NewRef(*arg),
            _ => ptr::null_mut(),
        };
        (*handle).event_loop = ffi::Py_NewRef(this.cast()).cast();
        (*handle).callback = ffi::Py_NewRef(callback);
        (*handle).args = [inline(0), inline(1)];
        (*handle).rest = rest;
        (*handle).context = context;
        (*handle).source_traceback = ptr::null_mut();
        (*handle).repr = ptr::null_mut();
        (*handle).weak_references = ptr::null_mut();
        (*handle).when = when.unwrap_or_default();
        (*handle).count = if rest.is_null() { args.len() as u8 } else { 0 };
        (*handle).cancelled = 0;
        (*handle).scheduled = 0;
        ffi::PyObject_GC_Track(handle.cast());
        Ok(handle)
    }
}

/// Runs a handle, unless it is cancelled, as a step of the loop whose thread that is, if any.
///
/// # Errors
/// What it raised.
///
/// # Safety
/// Attached; the caller keeps a reference.
#[inline]
pub unsafe fn run(py: Python<'_>, this: *mut Handle, running: Option<&Running>) -> PyResult<()> {
    // SAFETY: the caller's promise. What is called is kept while it runs: it may cancel its own handle.
    unsafe {
        if (*this).cancelled != 0 || (*this).callback.is_null() {
            return Ok(());
        }
        let context = (*this).context;
        if ffi::PyContext_Enter(context) != 0 {
            return Err(PyErr::fetch(py));
        }
        let callback = ffi::Py_NewRef((*this).callback);
        let rest = ffi::Py_XNewRef((*this).rest);
        let [one, two] = (*this).args.map(|arg| ffi::Py_XNewRef(arg));
        running.inspect(|running| running.begin_step(py, callback));
        let result = if rest.is_null() {
            let mut args = [ptr::null_mut(), one, two];
            let count = usize::from((*this).count) | ffi::PY_VECTORCALL_ARGUMENTS_OFFSET;
            ffi::PyObject_Vectorcall(callback, args.as_mut_ptr().add(1), count, ptr::null_mut())
        } else {
            ffi::PyObject_Call(callback, rest, ptr::null_mut())
        };
        running.inspect(|running| running.end_step(py));
        let exited = ffi::PyContext_Exit(context);
        let ran = if result.is_null() || exited != 0 { Err(PyErr::fetch(py)) } else { Ok(()) };
        ffi::Py_XDECREF(result);
        ffi::Py_XDECREF(one);
        ffi::Py_XDECREF(two);
        ffi::Py_XDECREF(rest);
        ffi::Py_DECREF(callback);
        ran
    }
}

/// Passes what a handle, of whatever type, has raised to its loop's exception handler.
///
/// # Errors
/// What no loop holds back.
pub fn failed(handle: &Bound<'_, PyAny>, error: PyErr) -> PyResult<()> {
    let py = handle.py();
    if error.is_instance_of::<PyKeyboardInterrupt>(py) {
        py.import(HELPERS)?.call_method1("interrupted", (handle, error.value(py)))?;
        return Err(error);
    }
    if error.is_instance_of::<PySystemExit>(py) {
        return Err(error);
    }
    if let Some(traceback) = error.traceback(py) {
        // Before 3.12 the exception itself does not know it yet.
        error.value(py).setattr("__traceback__", traceback)?;
    }
    py.import(HELPERS)?.call_method1("failed", (handle, error.value(py))).map(drop)
}

/// In debug mode: checks what `method` was given, and notes where it was called.
///
/// # Errors
/// It was given no callable, or called on a wrong thread.
pub fn check(handle: &Bound<'_, PyAny>, method: &str) -> PyResult<()> {
    handle.py().import(HELPERS)?.call_method1("check", (handle, method)).map(drop)
}

/// In debug mode: notes where it was made.
///
/// # Errors
/// No memory.
pub fn trace(handle: &Bound<'_, PyAny>) -> PyResult<()> {
    handle.py().import(HELPERS)?.call_method1("trace", (handle,)).map(drop)
}

/// In debug mode: runs a handle, and says so if it takes long.
///
/// # Errors
/// What no loop holds back.
pub fn run_in_debug_mode(handle: &Bound<'_, PyAny>) -> PyResult<()> {
    handle.py().import(HELPERS)?.call_method1("run", (handle,)).map(drop)
}

/// What is shown of a handle.
///
/// # Errors
/// Whatever its callback's `repr` raises.
pub fn describe<'py>(handle: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    handle.py().import(HELPERS)?.call_method1("describe", (handle,))
}

unsafe extern "C" fn cancel(object: *mut ffi::PyObject, _: *mut ffi::PyObject) -> *mut ffi::PyObject {
    let this = object.cast::<Handle>();
    guarded_object(|py| {
        // SAFETY: I7: CPython calls attached, with an instance. References are released when nothing is borrowed.
        unsafe {
            if (*this).cancelled != 0 {
                return Ok(py.None().into_bound(py));
            }
            if (*(*this).event_loop).debug != 0 {
                let repr = describe(&argument(py, object))?.into_ptr();
                ffi::Py_XDECREF(ptr::replace(&raw mut (*this).repr, repr));
            }
            (*this).cancelled = 1;
            if (*this).scheduled != 0 {
                let dead = core((*this).event_loop).schedule.borrow_mut().cancelled();
                release(dead);
            }
            release_call(this);
        }
        Ok(py.None().into_bound(py))
    })
}

/// Lets go of the callback and its arguments.
///
/// # Safety
/// Attached; an instance.
unsafe fn release_call(this: *mut Handle) {
    // SAFETY: the caller's promise. Each field is emptied before its object is released.
    unsafe {
        let callback = ptr::replace(&raw mut (*this).callback, ptr::null_mut());
        let [one, two] = ptr::replace(&raw mut (*this).args, [ptr::null_mut(); INLINE]);
        let rest = ptr::replace(&raw mut (*this).rest, ptr::null_mut());
        (*this).count = 0;
        for object in [callback, one, two, rest] {
            ffi::Py_XDECREF(object);
        }
    }
}

unsafe extern "C" fn cancelled(object: *mut ffi::PyObject, _: *mut ffi::PyObject) -> *mut ffi::PyObject {
    // SAFETY: I7: CPython calls attached, with an instance; attached.
    unsafe { ffi::PyBool_FromLong((*object.cast::<Handle>()).cancelled.into()) }
}

unsafe extern "C" fn when(object: *mut ffi::PyObject, _: *mut ffi::PyObject) -> *mut ffi::PyObject {
    // SAFETY: I7: CPython calls attached, with an instance; attached.
    unsafe { ffi::PyFloat_FromDouble((*object.cast::<Handle>()).when) }
}

unsafe extern "C" fn get_context(object: *mut ffi::PyObject, _: *mut ffi::PyObject) -> *mut ffi::PyObject {
    // SAFETY: I7: CPython calls attached, with an instance, which always has one until it is cleared.
    guarded_object(|py| unsafe { Ok(or_none(py, (*object.cast::<Handle>()).context)) })
}

unsafe extern "C" fn run_method(object: *mut ffi::PyObject, _: *mut ffi::PyObject) -> *mut ffi::PyObject {
    guarded_object(|py| {
        // SAFETY: I7: CPython calls attached, with an instance that the caller keeps.
        let (handle, ran) = unsafe { (argument(py, object), run(py, object.cast(), None)) };
        ran.or_else(|error| failed(&handle, error))?;
        Ok(py.None().into_bound(py))
    })
}

unsafe extern "C" fn repr(object: *mut ffi::PyObject) -> *mut ffi::PyObject {
    // SAFETY: I7: CPython calls attached, with an object.
    guarded_object(|py| describe(&unsafe { argument(py, object) }))
}

/// # Safety
/// A borrowed object, or null.
unsafe fn or_none(py: Python<'_>, object: *mut ffi::PyObject) -> Bound<'_, PyAny> {
    // SAFETY: the caller's promise.
    unsafe { Bound::from_borrowed_ptr_or_opt(py, object) }.unwrap_or_else(|| py.None().into_bound(py))
}

unsafe extern "C" fn get_args(object: *mut ffi::PyObject, _: *mut c_void) -> *mut ffi::PyObject {
    guarded_object(|py| {
        // SAFETY: I7: CPython calls attached, with an instance.
        unsafe {
            let this = object.cast::<Handle>();
            if (*this).callback.is_null() || !(*this).rest.is_null() {
                return Ok(or_none(py, (*this).rest));
            }
            let (args, count) = ((*this).args, usize::from((*this).count));
            let args = args[..count].iter().map(|arg| argument(py, *arg));
            Ok(PyTuple::new(py, args.collect::<Vec<_>>())?.into_any())
        }
    })
}

/// `isinstance` believes it.
unsafe extern "C" fn get_class(object: *mut ffi::PyObject, name: *mut c_void) -> *mut ffi::PyObject {
    // SAFETY: I7: CPython calls attached; the closure of the entry below is a string.
    let name = unsafe { CStr::from_ptr(name.cast()) };
    let _ = object;
    guarded_object(|py| py.import("asyncio")?.getattr(name.to_string_lossy().as_ref()))
}

unsafe extern "C" fn hash(object: *mut ffi::PyObject) -> ffi::Py_hash_t {
    guarded(-1, |py| {
        // SAFETY: I7: CPython calls attached, with an instance.
        let when = unsafe { (*object.cast::<Handle>()).when };
        when.into_pyobject(py)?.into_any().hash()
    })
}

/// Timers are compared by their times, as asyncio's are.
unsafe extern "C" fn compare(one: *mut ffi::PyObject, other: *mut ffi::PyObject, how: c_int) -> *mut ffi::PyObject {
    guarded_object(|py| {
        let not_implemented = || Ok(py.NotImplemented().into_bound(py));
        // SAFETY: I7: CPython calls attached, with objects; the first is an instance, and so is the second if it is of that type.
        let ordering = unsafe {
            if ffi::Py_TYPE(other) != ffi::Py_TYPE(one) {
                return not_implemented();
            }
            let (this, that) = (&*one.cast::<Handle>(), &*other.cast::<Handle>());
            let same = this.when == that.when && this.callback == that.callback && this.cancelled == that.cancelled;
            match how {
                ffi::Py_EQ => same,
                ffi::Py_NE => !same,
                ffi::Py_LT => this.when < that.when,
                ffi::Py_GT => this.when > that.when,
                ffi::Py_LE => this.when < that.when || same,
                ffi::Py_GE => this.when > that.when || same,
                _ => return not_implemented(),
            }
        };
        Ok(ordering.into_pyobject(py)?.to_owned().into_any())
    })
}

unsafe extern "C" fn traverse(object: *mut ffi::PyObject, visit: ffi::visitproc, arg: *mut c_void) -> c_int {
    // SAFETY: I7: the collector calls this attached, with an instance; nothing is allocated or released.
    unsafe {
        let this = &*object.cast::<Handle>();
        let [one, two] = this.args;
        let fields = [
            this.event_loop.cast(),
            this.callback,
            one,
            two,
            this.rest,
            this.context,
            this.source_traceback,
            this.repr,
            ffi::Py_TYPE(object).cast(),
        ];
        for field in fields.into_iter().filter(|field: &*mut ffi::PyObject| !field.is_null()) {
            let result = visit(field, arg);
            if result != 0 {
                return result;
            }
        }
    }
    0
}

/// The loop stays: its own fields are cleared when it goes.
unsafe extern "C" fn clear(object: *mut ffi::PyObject) -> c_int {
    let this = object.cast::<Handle>();
    // SAFETY: I7: as in `traverse`. Each field is emptied before its object is released.
    unsafe {
        release_call(this);
        for field in [&raw mut (*this).context, &raw mut (*this).source_traceback, &raw mut (*this).repr] {
            ffi::Py_XDECREF(ptr::replace(field, ptr::null_mut()));
        }
    }
    0
}

unsafe extern "C" fn dealloc(object: *mut ffi::PyObject) {
    // SAFETY: the last reference is gone; CPython calls this attached (I7). The handle keeps its loop.
    unsafe {
        ffi::PyObject_GC_UnTrack(object.cast());
        let this = object.cast::<Handle>();
        if !(*this).weak_references.is_null() {
            ffi::PyObject_ClearWeakRefs(object);
        }
        // A handle may be another one's argument, that one a third one's, and so on.
        match core((*this).event_loop).releasing.get() {
            ..RELEASED_AT_ONCE => release_handle(object),
            _ => trashcan::release_bounded(object, release_handle),
        }
    }
}

/// # Safety
/// Attached; the last reference to the handle is gone, and the collector has forgotten it.
unsafe fn release_handle(object: *mut ffi::PyObject) {
    // SAFETY: the caller's promise. The memory goes to the loop, which is still there, or back to where it came from.
    unsafe {
        let this = object.cast::<Handle>();
        let (class, event_loop) = (ffi::Py_TYPE(object), (*this).event_loop);
        let core = core(event_loop);
        core.releasing.set(core.releasing.get() + 1);
        clear(object);
        core.releasing.set(core.releasing.get() - 1);
        let mut free = core.free.borrow_mut();
        if free.len() < FREE_MAX {
            free.push(this);
        } else {
            ffi::PyObject_GC_Del(object.cast());
        }
        drop(free);
        ffi::Py_DECREF(event_loop.cast());
        ffi::Py_DECREF(class.cast());
    }
}

const CANCEL: ffi::PyMethodDef =
    method(c"cancel", cancel, ffi::METH_NOARGS, c"cancel($self, /)\n--\n\nIt will not be run.");
const CANCELLED: ffi::PyMethodDef =
    method(c"cancelled", cancelled, ffi::METH_NOARGS, c"cancelled($self, /)\n--\n\nWhether it was cancelled.");
const GET_CONTEXT: ffi::PyMethodDef =
    method(c"get_context", get_context, ffi::METH_NOARGS, c"get_context($self, /)\n--\n\nWhat it is run in.");
const RUN: ffi::PyMethodDef = method(c"_run", run_method, ffi::METH_NOARGS, c"_run($self, /)\n--\n\nRuns it.");
const WHEN: ffi::PyMethodDef =
    method(c"when", when, ffi::METH_NOARGS, c"when($self, /)\n--\n\nWhen it is to be run, in the loop's time.");

static METHODS: Static<[ffi::PyMethodDef; 5]> =
    Static([CANCEL, CANCELLED, GET_CONTEXT, RUN, ffi::PyMethodDef::zeroed()]);
static TIMER_METHODS: Static<[ffi::PyMethodDef; 6]> =
    Static([CANCEL, CANCELLED, GET_CONTEXT, RUN, WHEN, ffi::PyMethodDef::zeroed()]);

/// A member that is `None` where there is none.
#[allow(deprecated, reason = "the other kind raises AttributeError instead")]
const OBJECT: c_int = ffi::_Py_T_OBJECT;

static MEMBERS: Static<[ffi::PyMemberDef; 10]> = Static([
    member(c"_loop", OBJECT, offset_of!(Handle, event_loop), ffi::Py_READONLY),
    member(c"_callback", OBJECT, offset_of!(Handle, callback), ffi::Py_READONLY),
    member(c"_context", OBJECT, offset_of!(Handle, context), ffi::Py_READONLY),
    member(c"_source_traceback", OBJECT, offset_of!(Handle, source_traceback), 0),
    member(c"_repr", OBJECT, offset_of!(Handle, repr), ffi::Py_READONLY),
    member(c"_cancelled", ffi::Py_T_BOOL, offset_of!(Handle, cancelled), ffi::Py_READONLY),
    member(c"_when", ffi::Py_T_DOUBLE, offset_of!(Handle, when), ffi::Py_READONLY),
    member(c"_scheduled", ffi::Py_T_BOOL, offset_of!(Handle, scheduled), ffi::Py_READONLY),
    member(c"__weaklistoffset__", ffi::Py_T_PYSSIZET, offset_of!(Handle, weak_references), ffi::Py_READONLY),
    ffi::PyMemberDef { name: ptr::null(), type_code: 0, offset: 0, flags: 0, doc: ptr::null() },
]);

const fn getter(name: &'static CStr, get: ffi::getter, closure: *mut c_void) -> ffi::PyGetSetDef {
    ffi::PyGetSetDef { name: name.as_ptr(), get: Some(get), set: None, doc: ptr::null(), closure }
}

const NO_GETTER: ffi::PyGetSetDef =
    ffi::PyGetSetDef { name: ptr::null(), get: None, set: None, doc: ptr::null(), closure: ptr::null_mut() };

static GETTERS: Static<[ffi::PyGetSetDef; 3]> = Static([
    getter(c"_args", get_args, ptr::null_mut()),
    getter(c"__class__", get_class, c"Handle".as_ptr() as *mut c_void),
    NO_GETTER,
]);

static TIMER_GETTERS: Static<[ffi::PyGetSetDef; 3]> = Static([
    getter(c"_args", get_args, ptr::null_mut()),
    getter(c"__class__", get_class, c"TimerHandle".as_ptr() as *mut c_void),
    NO_GETTER,
]);

/// Makes the two types for the calling interpreter. Only loops make instances, and neither has a subclass: by its type it is
/// known what an object is.
///
/// # Errors
/// The Python exception.
pub fn make_types(py: Python<'_>) -> PyResult<(Bound<'_, PyType>, Bound<'_, PyType>)> {
    let common = [
        (ffi::Py_tp_traverse, traverse as *mut c_void),
        (ffi::Py_tp_clear, clear as *mut c_void),
        (ffi::Py_tp_dealloc, dealloc as *mut c_void),
        (ffi::Py_tp_repr, repr as *mut c_void),
        (ffi::Py_tp_members, MEMBERS.0.as_ptr() as *mut c_void),
    ];
    let handle = [
        (ffi::Py_tp_methods, METHODS.0.as_ptr() as *mut c_void),
        (ffi::Py_tp_getset, GETTERS.0.as_ptr() as *mut c_void),
    ];
    let timer = [
        (ffi::Py_tp_hash, hash as *mut c_void),
        (ffi::Py_tp_richcompare, compare as *mut c_void),
        (ffi::Py_tp_methods, TIMER_METHODS.0.as_ptr() as *mut c_void),
        (ffi::Py_tp_getset, TIMER_GETTERS.0.as_ptr() as *mut c_void),
    ];
    let flags = ffi::Py_TPFLAGS_HAVE_GC | ffi::Py_TPFLAGS_DISALLOW_INSTANTIATION;
    let make = |name, own: &[_]| types::make(py, name, size_of::<Handle>(), flags, &[&common, own].concat(), None);
    Ok((make(c"erlang.Handle", &handle)?, make(c"erlang.TimerHandle", &timer)?))
}

/// A reference for a schedule.
///
/// # Safety
/// Attached; an instance.
pub unsafe fn reference(handle: *mut Handle) -> Ref {
    // SAFETY: the caller's promise.
    Ref(unsafe { ffi::Py_NewRef(handle.cast()) })
}
