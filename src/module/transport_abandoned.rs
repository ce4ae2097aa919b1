//! Transports that only their program keeps, and what becomes of one that nobody has any more: as asyncio's it says so, and is
//! closed without `connection_lost`.

use crate::module::transport_layout::{Transport, find_anywhere, layout, put};
use crate::python::glue::{argument, guarded, guarded_object};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyWeakrefReference;

type Object = *mut ffi::PyObject;

/// By what its connection knows a transport that it does not keep; `None`: it keeps it, for nobody would tell of its end.
pub fn loosened(transport: &Bound<'_, PyAny>) -> Option<Py<PyAny>> {
    // SAFETY: I7, by the token; a transport, which is an object of the collector's.
    let tells = unsafe {
        (*ffi::Py_TYPE(transport.as_ptr())).tp_finalize.is_some_and(|it| it as usize == finalize as *const () as usize)
            && ffi::PyObject_GC_IsFinalized(transport.as_ptr()) == 0
    };
    let weakly = tells.then(|| PyWeakrefReference::new(transport).ok()).flatten()?;
    // SAFETY: I7, by the token; a transport.
    unsafe { (*layout(transport)).loose = 1 };
    Some(weakly.into_any().unbind())
}

/// `_abandon()`: nobody has it any more. Answers whether it has a connection, which has it closed.
pub unsafe extern "C" fn abandon(this: Object, _: Object) -> Object {
    guarded_object(|py| {
        // SAFETY: I7: CPython calls attached; its argument lives through the call.
        let transport = unsafe { argument(py, this) };
        let found = find_anywhere(&transport);
        let has_connection = found.is_some();
        if let Some((context, id)) = found
            && context.abandon_transport(id, &transport)
        {
            // SAFETY: I7, by the token; methods of the type are called with its instances only.
            unsafe {
                (*layout(&transport)).closing = 1;
                (*layout(&transport)).conn_lost = 1;
            }
            // It is kept for its socket alone.
            put(&transport, |it| &mut it.protocol, None);
            put(&transport, |it| &mut it.receive, None);
        }
        Ok(has_connection.into_pyobject(py)?.to_owned().into_any())
    })
}

/// Whether it was said of it that nobody has it any more.
pub fn is_abandoned(transport: &Bound<'_, PyAny>) -> bool {
    // SAFETY: I7, by the token; a transport, which is an object of the collector's.
    unsafe { ffi::PyObject_GC_IsFinalized(transport.as_ptr()) != 0 }
}

/// `tp_finalize`: a transport that nobody has closed says so, and is closed.
pub unsafe extern "C" fn finalize(object: Object) {
    // SAFETY: I7: CPython calls attached, with an instance.
    let is_closed =
        unsafe { (*object.cast::<Transport>()).owns_number == 0 && (*object.cast::<Transport>()).sock.is_null() };
    if is_closed {
        return;
    }
    guarded((), |py| {
        let raised = PyErr::take(py);
        // SAFETY: I7: CPython calls attached, with an instance.
        let transport = unsafe { argument(py, object) };
        if let Err(error) = transport.call_method0("_unclosed") {
            error.write_unraisable(py, Some(&transport));
        }
        if let Some(raised) = raised {
            raised.restore(py);
        }
        Ok(())
    });
}
