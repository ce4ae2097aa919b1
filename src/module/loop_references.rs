//! What a loop has references to, as the collector of garbage sees it.

use crate::module::loop_layout::{Core, LoopObject, Reader, Ref, core};
use pyo3::ffi;
use std::ffi::{c_int, c_void};

/// `tp_traverse`.
pub unsafe extern "C" fn traverse(object: *mut ffi::PyObject, visit: ffi::visitproc, arg: *mut c_void) -> c_int {
    // SAFETY: I7: the collector calls this attached, with an instance; nothing is allocated or released. One that is just being
    // made has no core. Nothing is borrowed while a collection may begin.
    unsafe {
        let this = object.cast::<LoopObject>();
        let result = visit(ffi::Py_TYPE(object).cast(), arg);
        if result != 0 || (*this).core.is_null() {
            return result;
        }
        each(core(this), |object| visit(object, arg)).err().unwrap_or_default()
    }
}

/// Tells of each, until one of them is answered by another number than 0.
fn each(core: &Core, tell: impl Fn(*mut ffi::PyObject) -> c_int) -> Result<(), c_int> {
    let tell = |object| match tell(object) {
        0 => Ok(()),
        result => Err(result),
    };
    if let Ok(schedule) = core.schedule.try_borrow() {
        schedule.iter_ready().chain(schedule.iter_timers()).try_for_each(|Ref(object)| tell(*object))?;
    }
    if let Ok(flushes) = core.flushes.try_borrow() {
        flushes.iter().try_for_each(|Ref(object)| tell(*object))?;
    }
    if let Ok(readers) = core.readers.try_borrow()
        && let Some(watch) = &*readers
    {
        watch.iter().flat_map(Reader::references).try_for_each(|Ref(object)| tell(object))?;
    }
    // What drives a loop of one's own is the loop's alone, and has its transports.
    if let (Ok(turns), Ok(context)) = (core.turns.try_borrow(), core.context.try_borrow())
        && let (Some(_), Some(context)) = (&*turns, &*context)
        && let Ok(table) = context.table.try_borrow()
    {
        table.iter().try_for_each(|connection| tell(connection.protocol.as_ptr()))?;
    }
    Ok(())
}
