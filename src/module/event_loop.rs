//! `_Loop`: the native half of an event loop, under `python/erlang/_loop.py`. What is called for each callback is here; the rest
//! of asyncio's loop is inherited.

use crate::base::token::ConnId;
use crate::connection::context::{self, Context};
use crate::mail::mailbox::Mailbox;
use crate::module::handle;
use crate::module::loop_calls::{
    call_at, call_later, call_soon, call_soon_threadsafe, create_future, entry, is_debugged, time,
};
use crate::module::loop_layout::{Core, Handle, LoopObject, Ref, Turns, core, release, this_thread};
use crate::module::loop_openings::{Openings, Stopped};
use crate::module::loop_references::traverse;
use crate::module::readers::{self, add_reader, add_writer, remove_reader, remove_writer, waiting_for};
use crate::module::words::Words;
use crate::python::glue::{Static, argument, guarded, guarded_object, method};
use crate::python::types;
use pyo3::exceptions::{PyRuntimeError, PyTypeError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyList, PyTuple, PyType};
use std::cell::{Cell, RefCell};
use std::ffi::{CStr, c_int, c_void};
use std::mem::offset_of;
use std::os::fd::RawFd;
use std::ptr;
use std::rc::Rc;
use std::sync::{Arc, OnceLock};

/// Makes what drives a loop of one's own, with a backend of that name, and the connections that it has already.
pub type MakeTurns = fn(Python<'_>, &str, &Arc<Mailbox>, Option<Rc<Context>>) -> PyResult<Box<dyn Turns>>;

/// Makes the mailbox of a loop of one's own.
pub type MakeMailbox = fn() -> std::io::Result<Mailbox>;

static DRIVERS: OnceLock<(MakeMailbox, MakeTurns)> = OnceLock::new();

/// Names what drives loops of one's own, which stands on a floor above.
pub fn provide(make_mailbox: MakeMailbox, make_turns: MakeTurns) {
    let _ = DRIVERS.set((make_mailbox, make_turns));
}

fn drivers() -> PyResult<(MakeMailbox, MakeTurns)> {
    DRIVERS.get().copied().ok_or_else(|| PyRuntimeError::new_err("py_reactor: nothing drives loops of one's own here"))
}

/// `_add_callback(handle)`: of asyncio's own type, too, as its selector's readers are.
unsafe extern "C" fn add_callback(this: *mut ffi::PyObject, handle: *mut ffi::PyObject) -> *mut ffi::PyObject {
    guarded_object(|py| {
        // SAFETY: I7: CPython calls attached, a method with an instance of its type.
        unsafe {
            let is_cancelled = argument(py, handle).getattr("_cancelled")?.is_truthy()?;
            if !is_cancelled {
                core(this.cast()).schedule.borrow_mut().soon(Ref(ffi::Py_NewRef(handle)));
            }
        }
        Ok(py.None().into_bound(py))
    })
}

/// `_write_to_self()`: has the loop look, from any thread, or from a signal handler.
unsafe extern "C" fn write_to_self(this: *mut ffi::PyObject, _: *mut ffi::PyObject) -> *mut ffi::PyObject {
    guarded_object(|py| {
        // SAFETY: I7: CPython calls attached, a method with an instance of its type.
        let core = unsafe { core(this.cast()) };
        if let Some(mailbox) = &*core.mailbox.borrow() {
            mailbox.inbox.wake();
        }
        Ok(py.None().into_bound(py))
    })
}

/// `_drop_all()`: nothing of what waits will be run.
unsafe extern "C" fn drop_all(this: *mut ffi::PyObject, _: *mut ffi::PyObject) -> *mut ffi::PyObject {
    guarded_object(|py| {
        // SAFETY: I7: CPython calls attached, a method with an instance of its type. What is taken out is released when nothing is borrowed.
        unsafe {
            let core = core(this.cast());
            let all = core.schedule.borrow_mut().clear();
            all.iter().for_each(|task| forget_timer(core, *task));
            release(all);
            drop_readers(core);
            core.openings.clear();
            // Its descriptors go, too.
            end_turns(py, core);
            let mailbox = core.mailbox.take();
            drop(mailbox);
        }
        Ok(py.None().into_bound(py))
    })
}

/// What drives it goes, and with it its connections.
fn end_turns(py: Python<'_>, core: &Core) {
    if let Some((thread, turns)) = core.turns.take() {
        turns.end(py, thread == this_thread());
    }
    let context = core.context.take();
    drop(context);
}

/// # Safety
/// Attached; nothing is borrowed.
unsafe fn drop_readers(core: &Core) {
    // SAFETY: the caller's promise; the references were the loop's.
    unsafe { release(core.flushes.take()) };
    if let Some(watch) = core.readers.take() {
        core.readers_are_new.set(true);
        // SAFETY: the caller's promise; the references were the loop's.
        watch.iter().for_each(|reader| unsafe { release(reader.references()) });
    }
}

/// # Safety
/// A reference of the loop's schedule.
unsafe fn forget_timer(core: &Core, Ref(object): Ref) {
    // SAFETY: the caller's promise: it is a handle of ours if it has that type.
    unsafe {
        if ffi::Py_TYPE(object) == core.timer_type {
            (*object.cast::<Handle>()).scheduled = 0;
        }
    }
}

/// `_open(fd, most)`: from now on as many connections as `most` are accepted at a time from a listening socket, and told to
/// `_accepted`, or `_accept_failed`; 0: the end of a connect is told to `_connected`. Answers its number.
unsafe extern "C" fn open(this: *mut ffi::PyObject, args: *mut ffi::PyObject) -> *mut ffi::PyObject {
    guarded_object(|py| {
        // SAFETY: I7: CPython calls attached, a method with an instance of its type.
        let (core, args) = unsafe { (core(this.cast()), argument(py, args)) };
        let (fd, most): (RawFd, usize) = args.extract()?;
        Ok(core.openings.add(fd, most).bits().into_pyobject(py)?.into_any())
    })
}

/// `_stop_opening(number)`: it is told of no more, and its descriptor may be closed. Answers whether it was there.
unsafe extern "C" fn stop_opening(this: *mut ffi::PyObject, number: *mut ffi::PyObject) -> *mut ffi::PyObject {
    guarded_object(|py| {
        // SAFETY: I7: CPython calls attached, a method with an instance of its type.
        let (core, number): (_, u64) = unsafe { (core(this.cast()), argument(py, number).extract()?) };
        let stopped = core.openings.stop(ConnId::from_bits(number));
        if matches!(stopped, Stopped::Later) && core.thread.get() == 0 {
            // The loop ran on another thread, and does not run: without what drove it there, nothing holds the descriptor.
            hand_over(py, core);
        }
        Ok((!matches!(stopped, Stopped::Unknown)).into_pyobject(py)?.to_owned().into_any())
    })
}

/// `_transport_of(fd)`: the transport whose socket has that number.
unsafe extern "C" fn transport_of(this: *mut ffi::PyObject, fd: *mut ffi::PyObject) -> *mut ffi::PyObject {
    guarded_object(|py| {
        // SAFETY: I7: CPython calls attached, a method with an instance of its type.
        let (core, fd): (_, RawFd) = unsafe { (core(this.cast()), argument(py, fd).extract()?) };
        let context = core.context.borrow().clone();
        let transport = context.and_then(|context| context.transport_of(py, fd));
        Ok(transport.unwrap_or_else(|| py.None()).into_bound(py))
    })
}

/// `_be_own()`: nobody drives this loop but `_run_once`.
unsafe extern "C" fn be_own(this: *mut ffi::PyObject, _: *mut ffi::PyObject) -> *mut ffi::PyObject {
    guarded_object(|py| {
        let (make_mailbox, _) = drivers()?;
        let mailbox = Arc::new(make_mailbox()?);
        // SAFETY: I7: CPython calls attached, a method with an instance of its type.
        let core = unsafe { core(this.cast()) };
        readers::begin(core)?;
        core.mailbox.replace(Some(mailbox));
        Ok(py.None().into_bound(py))
    })
}

/// `_be_contexts()`: the context whose thread this is drives it. Answers whether there is one.
unsafe extern "C" fn be_contexts(this: *mut ffi::PyObject, _: *mut ffi::PyObject) -> *mut ffi::PyObject {
    guarded_object(|py| {
        let context = context::current(py);
        if let Some(context) = &context {
            // SAFETY: I7: CPython calls attached, a method with an instance of its type.
            let core = unsafe { core(this.cast()) };
            readers::begin(core)?;
            core.mailbox.replace(Some(Arc::clone(&context.mailbox)));
            core.context.replace(Some(Rc::clone(context)));
            core.thread.set(this_thread());
        }
        Ok(context.is_some().into_pyobject(py)?.to_owned().into_any())
    })
}

/// Takes what drives a loop of one's own on this thread, which is made if need be.
fn turns_of(event_loop: &Bound<'_, PyAny>, core: &Core) -> PyResult<Box<dyn Turns>> {
    let py = event_loop.py();
    match core.turns.take() {
        Some((thread, turns)) if thread == this_thread() => return Ok(turns),
        before => core.turns.replace(before),
    };
    hand_over(py, core);
    let backend: String = event_loop.getattr("_backend")?.extract()?;
    let mailbox = core.mailbox.borrow().clone();
    let mailbox = mailbox.ok_or_else(|| PyRuntimeError::new_err("Event loop is closed"))?;
    core.readers_are_new.set(core.readers.borrow().is_some());
    let connections = core.context.borrow().clone();
    let turns = drivers()?.1(py, &backend, &mailbox, connections)?;
    let before = core.context.replace(Some(turns.context()));
    drop(before);
    Ok(turns)
}

/// What drives it belongs to another thread (I1), and goes: what it has opened begins anew, and its connections go on.
fn hand_over(py: Python<'_>, core: &Core) {
    if let Some((_, turns)) = core.turns.take() {
        turns.hand_over(py);
    }
    core.openings.drive_by(None);
}

/// Where the connections of a loop's transports are.
///
/// # Errors
/// The loop is closed.
pub fn context_of(event_loop: &Bound<'_, PyAny>) -> PyResult<Rc<Context>> {
    // SAFETY: I7, by the token; the caller has checked that it is a loop, and keeps it.
    let (core, closed) =
        unsafe { (core(event_loop.as_ptr().cast()), (*event_loop.as_ptr().cast::<LoopObject>()).closed) };
    if core.context.borrow().is_none() && closed == 0 {
        let turns = turns_of(event_loop, core)?;
        core.turns.replace(Some((this_thread(), turns)));
    }
    let context = core.context.borrow().clone();
    let context = context.filter(|context| closed == 0 && !context.is_over.get());
    context.ok_or_else(|| PyRuntimeError::new_err("Event loop is closed"))
}

/// `_run_once()`, which `run_forever` calls until the loop is to stop: one turn.
unsafe extern "C" fn run_once(this: *mut ffi::PyObject, _: *mut ffi::PyObject) -> *mut ffi::PyObject {
    /// Nobody runs it any more, whatever has happened.
    struct Running<'a>(&'a Core);
    impl Drop for Running<'_> {
        fn drop(&mut self) {
            self.0.thread.set(0);
        }
    }
    guarded_object(|py| {
        // SAFETY: I7: CPython calls attached, a method with an instance of its type, which the caller keeps.
        let (event_loop, core) = unsafe { (argument(py, this), core(this.cast())) };
        if core.thread.get() != 0 {
            return Err(PyRuntimeError::new_err("This event loop is already running"));
        }
        let here = this_thread();
        core.thread.set(here);
        let running = Running(core);
        let mut turns = turns_of(&event_loop, core)?;
        let ran = turns.run(&event_loop);
        core.turns.replace(Some((here, turns)));
        drop(running);
        ran.map(|()| py.None().into_bound(py))
    })
}

unsafe extern "C" fn stop(this: *mut ffi::PyObject, _: *mut ffi::PyObject) -> *mut ffi::PyObject {
    guarded_object(|py| {
        // SAFETY: I7: CPython calls attached, a method with an instance of its type.
        unsafe { (*this.cast::<LoopObject>()).stopping = 1 };
        Ok(py.None().into_bound(py))
    })
}

/// `tp_new`.
unsafe extern "C" fn new(
    class: *mut ffi::PyTypeObject,
    _: *mut ffi::PyObject,
    _: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    guarded_object(|py| {
        let (_, handle_type, timer_type) = loop_types(py)?;
        let core = Box::new(Core {
            schedule: RefCell::default(),
            free: RefCell::default(),
            releasing: Cell::new(0),
            handle_type: handle_type.into_ptr().cast(),
            timer_type: timer_type.into_ptr().cast(),
            mailbox: RefCell::default(),
            thread: Cell::new(0),
            turns: RefCell::default(),
            readers: RefCell::default(),
            readers_are_new: Cell::new(false),
            openings: Openings::default(),
            flushes: RefCell::default(),
            words: Words::new(py),
            context: RefCell::default(),
        });
        // SAFETY: I7: CPython calls attached; the type's own allocator gives zeroed memory of its size, which the collector may look at at once.
        unsafe {
            let alloc = (*class).tp_alloc.ok_or_else(|| PyTypeError::new_err("a loop cannot be made"))?;
            let object = Bound::from_owned_ptr_or_err(py, alloc(class, 0))?;
            (*object.as_ptr().cast::<LoopObject>()).core = Box::into_raw(core);
            Ok(object)
        }
    })
}

unsafe extern "C" fn clear(object: *mut ffi::PyObject) -> c_int {
    // SAFETY: I7: as in `traverse`; what is taken out is released afterwards.
    unsafe {
        let this = object.cast::<LoopObject>();
        if !(*this).core.is_null() {
            let core = core(this);
            let all = core.schedule.borrow_mut().clear();
            all.iter().for_each(|task| forget_timer(core, *task));
            release(all);
            drop_readers(core);
        }
    }
    0
}

unsafe extern "C" fn dealloc(object: *mut ffi::PyObject) {
    // SAFETY: the last reference is gone, so there is no handle any more; CPython calls this attached (I7). The usual order
    // for a heap type.
    unsafe {
        ffi::PyObject_GC_UnTrack(object.cast());
        clear(object);
        let class = ffi::Py_TYPE(object);
        let raw = ptr::replace(&raw mut (*object.cast::<LoopObject>()).core, ptr::null_mut());
        if !raw.is_null() {
            guarded((), |py| {
                let core = Box::from_raw(raw);
                end_turns(py, &core);
                for memory in core.free.take() {
                    ffi::PyObject_GC_Del(memory.cast());
                }
                let types = [core.handle_type, core.timer_type];
                drop(core);
                types.into_iter().for_each(|class| ffi::Py_DECREF(class.cast()));
                Ok(())
            });
        }
        if let Some(free) = (*class).tp_free {
            free(object.cast());
        }
        ffi::Py_DECREF(class.cast());
    }
}

/// A flag that Python code reads and sets.
macro_rules! flag {
    ($get:ident, $set:ident, $field:ident) => {
        unsafe extern "C" fn $get(this: *mut ffi::PyObject, _: *mut c_void) -> *mut ffi::PyObject {
            // SAFETY: I7: CPython calls attached, with an instance; attached.
            unsafe { ffi::PyBool_FromLong((*this.cast::<LoopObject>()).$field.into()) }
        }

        unsafe extern "C" fn $set(this: *mut ffi::PyObject, value: *mut ffi::PyObject, _: *mut c_void) -> c_int {
            guarded(-1, |py| {
                // SAFETY: I7: CPython calls attached, with an instance and a value, or null to delete it.
                unsafe {
                    let value = Bound::from_borrowed_ptr_or_opt(py, value);
                    (*this.cast::<LoopObject>()).$field = value.map_or(Ok(false), |value| value.is_truthy())?.into();
                }
                Ok(0)
            })
        }
    };
}

flag!(get_closed, set_closed, closed);
flag!(get_debug, set_debug, debug);
flag!(get_stopping, set_stopping, stopping);

/// `_ready`, and `_scheduled`: what waits, for those who look at what asyncio's own loop has by these names.
unsafe extern "C" fn get_waiting(this: *mut ffi::PyObject, timers: *mut c_void) -> *mut ffi::PyObject {
    guarded_object(|py| {
        // SAFETY: I7: CPython calls attached, with an instance, whose schedule has a reference to each.
        let waiting: Vec<_> = unsafe {
            let schedule = core(this.cast()).schedule.borrow();
            let all: &mut dyn Iterator<Item = &Ref> = match timers.is_null() {
                true => &mut schedule.iter_ready(),
                false => &mut schedule.iter_timers(),
            };
            all.map(|Ref(object)| argument(py, *object)).collect()
        };
        Ok(PyList::new(py, waiting)?.into_any())
    })
}

/// What asyncio's constructor sets is not wanted.
unsafe extern "C" fn set_nothing(_: *mut ffi::PyObject, _: *mut ffi::PyObject, _: *mut c_void) -> c_int {
    0
}

const fn property(name: &'static CStr, get: ffi::getter, set: ffi::setter) -> ffi::PyGetSetDef {
    ffi::PyGetSetDef { name: name.as_ptr(), get: Some(get), set: Some(set), doc: ptr::null(), closure: ptr::null_mut() }
}

/// Any pointer that is not null.
const TIMERS: *mut c_void = c"timers".as_ptr() as *mut c_void;

static PROPERTIES: Static<[ffi::PyGetSetDef; 6]> = Static([
    property(c"_closed", get_closed, set_closed),
    property(c"_debug", get_debug, set_debug),
    property(c"_stopping", get_stopping, set_stopping),
    property(c"_ready", get_waiting, set_nothing),
    ffi::PyGetSetDef { closure: TIMERS, ..property(c"_scheduled", get_waiting, set_nothing) },
    ffi::PyGetSetDef { name: ptr::null(), get: None, set: None, doc: ptr::null(), closure: ptr::null_mut() },
]);

static METHODS: Static<[ffi::PyMethodDef; 23]> = Static([
    entry(
        c"call_soon",
        call_soon,
        c"call_soon($self, callback, *args, context=None)\n--\n\nIt is called in the next turn.",
    ),
    entry(
        c"call_soon_threadsafe",
        call_soon_threadsafe,
        c"call_soon_threadsafe($self, callback, *args, context=None)\n--\n\nThe same, from any thread.",
    ),
    entry(
        c"call_later",
        call_later,
        c"call_later($self, delay, callback, *args, context=None)\n--\n\nIt is called after so many seconds.",
    ),
    entry(
        c"call_at",
        call_at,
        c"call_at($self, when, callback, *args, context=None)\n--\n\nIt is called at that time.",
    ),
    method(c"create_future", create_future, ffi::METH_NOARGS, c"create_future($self, /)\n--\n\nA future of it."),
    method(c"get_debug", is_debugged, ffi::METH_NOARGS, c"get_debug($self, /)\n--\n\nWhether it is in debug mode."),
    method(c"time", time, ffi::METH_NOARGS, c"time($self, /)\n--\n\nThe loop's clock: time.monotonic()."),
    method(c"stop", stop, ffi::METH_NOARGS, c"stop($self, /)\n--\n\nEnds run_forever, after what is ready."),
    method(c"_run_once", run_once, ffi::METH_NOARGS, c"Turns once."),
    method(c"_add_callback", add_callback, ffi::METH_O, c"A handle is ready."),
    method(c"_write_to_self", write_to_self, ffi::METH_NOARGS, c"Wakes the loop."),
    method(c"_drop_all", drop_all, ffi::METH_NOARGS, c"Forgets what waits."),
    entry(c"_add_reader", add_reader, c"Runs a callback whenever a descriptor has input."),
    entry(c"_add_writer", add_writer, c"Runs a callback whenever a descriptor has room."),
    method(c"_remove_reader", remove_reader, ffi::METH_O, c"Ends that; False: there was none."),
    method(c"_remove_writer", remove_writer, ffi::METH_O, c"Ends that; False: there was none."),
    method(c"_waiting_for", waiting_for, ffi::METH_O, c"Which events of it are waited for, as selectors names them."),
    method(
        c"_open",
        open,
        ffi::METH_VARARGS,
        c"_open($self, fd, most, /)\n--\n\nAccepts, or awaits the end of a connect.",
    ),
    method(c"_stop_opening", stop_opening, ffi::METH_O, c"Stops that, so that its descriptor may be closed."),
    method(c"_transport_of", transport_of, ffi::METH_O, c"The transport whose socket has that number."),
    method(c"_be_own", be_own, ffi::METH_NOARGS, c"A loop of one's own."),
    method(c"_be_contexts", be_contexts, ffi::METH_NOARGS, c"The loop of this thread's context; False: it has none."),
    ffi::PyMethodDef::zeroed(),
]);

const DOC: &CStr = c"The native half of an event loop. See erlang._loop.";

fn make_type(py: Python<'_>) -> PyResult<Bound<'_, PyType>> {
    let slots = [
        (ffi::Py_tp_doc, DOC.as_ptr() as *mut c_void),
        (ffi::Py_tp_new, new as *mut c_void),
        (ffi::Py_tp_traverse, traverse as *mut c_void),
        (ffi::Py_tp_clear, clear as *mut c_void),
        (ffi::Py_tp_dealloc, dealloc as *mut c_void),
        (ffi::Py_tp_methods, METHODS.0.as_ptr() as *mut c_void),
        (ffi::Py_tp_getset, PROPERTIES.0.as_ptr() as *mut c_void),
    ];
    let flags = ffi::Py_TPFLAGS_BASETYPE | ffi::Py_TPFLAGS_HAVE_GC;
    types::make(py, c"erlang._Loop", size_of::<LoopObject>(), flags, &slots, None)
}

/// The types of the calling interpreter: of loops, handles and timers.
///
/// # Errors
/// The Python exception.
pub fn loop_types(py: Python<'_>) -> PyResult<(Bound<'_, PyType>, Bound<'_, PyType>, Bound<'_, PyType>)> {
    let kept = types::kept_as(py, "_py_reactor.loop", || {
        let (handle, timer) = handle::make_types(py)?;
        Ok(PyTuple::new(py, [make_type(py)?, handle, timer])?.into_any())
    })?;
    kept.extract()
}

/// Whether `object` is one of our loops. Not by `isinstance`, which believes what `__class__` says.
///
/// # Errors
/// The Python exception.
pub fn is_loop(object: &Bound<'_, PyAny>) -> PyResult<bool> {
    let (class, ..) = loop_types(object.py())?;
    // SAFETY: I7, by the token; looks at types only.
    Ok(unsafe { ffi::PyObject_TypeCheck(object.as_ptr(), class.as_type_ptr()) } != 0)
}

/// `loop_type()`.
pub unsafe extern "C" fn loop_type(_: *mut ffi::PyObject, _: *mut ffi::PyObject) -> *mut ffi::PyObject {
    guarded_object(|py| Ok(loop_types(py)?.0.into_any()))
}

// The layouts are C's own.
const _: () = assert!(offset_of!(LoopObject, core) == size_of::<ffi::PyObject>());
