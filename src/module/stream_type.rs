//! `Stream`: the native half of `erlang.streams.StreamReader`. What is asked of asyncio's reader is asked of it, and answered
//! without a switch of tasks where the data is there.

use crate::module::loop_calls::entry;
use crate::module::stream::{Names, Parts, Stream, stream};
use crate::module::stream_input::Separators;
use crate::module::stream_read::{self, Kind};
use crate::python::boxed;
use crate::python::glue::{Static, argument, arguments, fast, guarded_object, method};
use crate::python::types;
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyTuple, PyWeakrefMethods, PyWeakrefReference};

/// Defines a method without arguments.
macro_rules! asks {
    ($name:ident, |$py:ident, $this:ident, $stream:ident| $body:expr) => {
        unsafe extern "C" fn $name($this: *mut ffi::PyObject, _: *mut ffi::PyObject) -> *mut ffi::PyObject {
            guarded_object(|$py| {
                // SAFETY: I7: CPython calls attached, a method with an instance of its type, which the caller keeps.
                let $stream = unsafe { stream($this) };
                let _ = $stream;
                $body
            })
        }
    };
}

/// Defines a method with one argument.
macro_rules! takes {
    ($name:ident, |$py:ident, $stream:ident, $given:ident| $body:expr) => {
        unsafe extern "C" fn $name(this: *mut ffi::PyObject, given: *mut ffi::PyObject) -> *mut ffi::PyObject {
            guarded_object(|$py| {
                // SAFETY: I7: CPython calls attached, a method with an instance of its type, which the caller keeps.
                let ($stream, $given) = unsafe { (stream(this), argument($py, given)) };
                $body?;
                Ok($py.None().into_bound($py))
            })
        }
    };
}

takes!(feed_data, |py, stream, data| stream.feed(&data));

/// What is received for a reader that nobody has any more is nobody's.
unsafe extern "C" fn feed_if_there(reader: *mut ffi::PyObject, data: *mut ffi::PyObject) -> *mut ffi::PyObject {
    guarded_object(|py| {
        // SAFETY: I7: CPython calls attached, with the object that `feeder` has made this of, a weak reference.
        let (reader, data) =
            unsafe { (argument(py, reader).cast_into_unchecked::<PyWeakrefReference>(), argument(py, data)) };
        if let Some(reader) = reader.upgrade() {
            // SAFETY: I7, by the token: it is of an instance, which is kept here.
            unsafe { stream(reader.as_ptr()) }.feed(&data)?;
        }
        Ok(py.None().into_bound(py))
    })
}

asks!(feeder, |py, this, stream| {
    static DEFINITION: Static<ffi::PyMethodDef> =
        Static(method(c"feed_data", feed_if_there, ffi::METH_O, c"This was received."));
    // SAFETY: I7: CPython calls attached, a method with an instance of its type; the definition is static; a new reference, or
    // null with an exception.
    unsafe {
        let reader = PyWeakrefReference::new(&argument(py, this))?;
        let function =
            ffi::PyCFunction_NewEx((&raw const DEFINITION.0).cast_mut(), reader.as_ptr(), std::ptr::null_mut());
        Bound::from_owned_ptr_or_err(py, function)
    }
});

takes!(set_transport, |py, stream, transport| {
    let before = stream.parts.borrow_mut().transport.replace(transport.unbind());
    drop(before);
    PyResult::Ok(())
});

takes!(set_exception, |py, stream, exception| {
    let before = stream.parts.borrow_mut().exception.replace(exception.clone().unbind());
    drop(before);
    stream.wake(py, Some(&exception))
});

takes!(set_busy, |py, stream, busy| busy.is_truthy().map(|busy| stream.is_busy.set(busy)));

takes!(set_limit, |py, stream, limit| {
    clamped(&limit).map(|limit| stream.limit.set(usize::try_from(limit).unwrap_or_default()))
});

asks!(get_limit, |py, this, stream| Ok(stream.limit.get().into_pyobject(py)?.into_any()));

asks!(get_transport, |py, this, stream| {
    let transport = stream.parts.borrow().transport.as_ref().map(|transport| transport.bind(py).clone());
    Ok(transport.unwrap_or_else(|| py.None().into_bound(py)))
});

takes!(begin, |py, stream, args| {
    let (limit, create_future): (Bound<'_, PyAny>, Bound<'_, PyAny>) = args.cast::<PyTuple>()?.extract()?;
    let limit = clamped(&limit)?;
    if limit <= 0 {
        return Err(PyValueError::new_err("Limit cannot be <= 0"));
    }
    stream.limit.set(limit as usize);
    let types = stream_types(py)?;
    let parts = Parts {
        create_future: Some(create_future.unbind()),
        read_type: Some(types.get_item(1)?.unbind()),
        nothing: Some(types.get_item(2)?.unbind()),
        names: Some(Names::new(py)),
        ..Parts::default()
    };
    let before = stream.parts.replace(parts);
    drop(before);
    PyResult::Ok(())
});

asks!(feed_eof, |py, this, stream| {
    stream.has_ended.set(true);
    stream.wake(py, None)?;
    Ok(py.None().into_bound(py))
});

asks!(exception, |py, this, stream| {
    let exception = stream.parts.borrow().exception.as_ref().map(|exception| exception.bind(py).clone());
    Ok(exception.unwrap_or_else(|| py.None().into_bound(py)))
});

asks!(at_eof, |py, this, stream| {
    let at_eof = stream.has_ended.get() && stream.input.borrow().is_empty(py);
    Ok(at_eof.into_pyobject(py)?.to_owned().into_any())
});

asks!(unread, |py, this, stream| Ok(stream.input.borrow().len(py).into_pyobject(py)?.into_any()));
asks!(is_busy, |py, this, stream| Ok(stream.is_busy.get().into_pyobject(py)?.to_owned().into_any()));
asks!(readline, |py, this, stream| make_read(py, this, Kind::Line(Separators::newline())));
asks!(next, |py, this, stream| make_read(py, this, Kind::Next(Separators::newline())));

asks!(itself, |py, this, stream| {
    // SAFETY: I7: CPython calls attached, a method with an instance of its type.
    Ok(unsafe { argument(py, this) })
});

/// An integer, or the nearest one that there is room for, as slices take theirs.
///
/// # Errors
/// It is none.
fn clamped(given: &Bound<'_, PyAny>) -> PyResult<isize> {
    // SAFETY: I7, by the token; without an error to raise for what is too much.
    let number = unsafe { ffi::PyNumber_AsSsize_t(given.as_ptr(), std::ptr::null_mut()) };
    match PyErr::take(given.py()) {
        Some(error) if number == -1 => Err(error),
        _ => Ok(number),
    }
}

/// # Errors
/// No memory, or it was never begun.
fn make_read<'py>(py: Python<'py>, this: *mut ffi::PyObject, kind: Kind) -> PyResult<Bound<'py, PyAny>> {
    // SAFETY: I7, by the token: its methods call this, with an instance.
    let parts = unsafe { stream(this) }.parts.borrow();
    let class = parts.read_type.as_ref().map(|class| class.bind(py).clone());
    drop(parts);
    let class = class.ok_or_else(|| PyTypeError::new_err("this reader has no loop"))?;
    // SAFETY: I7: as above; `begin` has put the type there.
    unsafe { stream_read::make(py, &class, this, kind) }
}

/// `_drain(transport, slowly)`: what is awaited at once, or what `slowly` answers.
unsafe extern "C" fn drain(
    this: *mut ffi::PyObject,
    args: *mut *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
) -> *mut ffi::PyObject {
    guarded_object(|py| {
        // SAFETY: I7: CPython calls attached, a method with an instance of its type, which the caller keeps, and so many objects.
        let (stream, given) = unsafe { (stream(this), arguments(args, count as usize)) };
        let [transport, slowly] = given else {
            return Err(PyTypeError::new_err("a transport and a function are needed"));
        };
        // SAFETY: I7: as above.
        let (transport, slowly) = unsafe { (argument(py, *transport), argument(py, *slowly)) };
        let parts = stream.parts.borrow();
        let nothing = parts.nothing.as_ref().filter(|_| !stream.is_busy.get() && parts.exception.is_none());
        let nothing = nothing.map(|nothing| nothing.bind(py).clone());
        drop(parts);
        match nothing {
            Some(nothing) if !transport.call_method0(stream.name(py, |names| &names.is_closing)?)?.is_truthy()? => {
                Ok(nothing)
            }
            _ => slowly.call0(),
        }
    })
}

/// The one argument that there may be, by its place or its name.
fn one_argument<'py>(
    given: Option<Bound<'py, PyAny>>,
    count: usize,
    names: Option<Bound<'py, PyTuple>>,
    name: &str,
) -> PyResult<Option<Bound<'py, PyAny>>> {
    let is_meant = names.is_none_or(|names| names.iter().all(|one| one.extract::<&str>().is_ok_and(|one| one == name)));
    match count {
        0 => Ok(None),
        1 if is_meant => Ok(given),
        _ => Err(PyTypeError::new_err(format!("there is one argument, {name}"))),
    }
}

/// Defines a method with one argument that may be missing, or named.
macro_rules! may_take {
    ($method:ident, $name:literal, |$given:ident| $kind:expr) => {
        unsafe extern "C" fn $method(
            this: *mut ffi::PyObject,
            args: *const *mut ffi::PyObject,
            count: ffi::Py_ssize_t,
            names: *mut ffi::PyObject,
        ) -> *mut ffi::PyObject {
            guarded_object(|py| {
                // SAFETY: I7: CPython calls attached, a method with an instance of its type, and passes `count` objects, then one
                // for each of the names.
                let $given = unsafe {
                    let names =
                        Bound::from_borrowed_ptr_or_opt(py, names).map(|names| names.cast_into_unchecked::<PyTuple>());
                    let count = count as usize + names.as_ref().map_or(0, |names| names.len());
                    one_argument((count > 0).then(|| argument(py, *args)), count, names, $name)?
                };
                make_read(py, this, $kind)
            })
        }
    };
}

may_take!(read, "n", |given| Kind::Some(given.map_or(Ok(-1), |n| clamped(&n))?));
may_take!(readexactly, "n", |given| {
    let missing = || PyTypeError::new_err("readexactly() missing 1 required positional argument: 'n'");
    let wrong = |_| PyValueError::new_err("readexactly size can not be less than zero");
    Kind::Exactly(usize::try_from(clamped(&given.ok_or_else(missing)?)?).map_err(wrong)?)
});
may_take!(readuntil, "separator", |given| {
    Kind::Until(given.map_or_else(|| Ok(Separators::newline()), |given| Separators::of(&given))?)
});

static METHODS: Static<[ffi::PyMethodDef; 22]> = Static([
    entry(c"read", read, c"read($self, /, n=-1)\n--\n\nAwait up to n bytes, or all that come."),
    entry(c"readexactly", readexactly, c"readexactly($self, /, n)\n--\n\nAwait exactly n bytes."),
    entry(
        c"readuntil",
        readuntil,
        c"readuntil($self, /, separator=b'\\n')\n--\n\nAwait what comes before a separator, and that.",
    ),
    method(c"readline", readline, ffi::METH_NOARGS, c"readline($self, /)\n--\n\nAwait a line."),
    method(c"__aiter__", itself, ffi::METH_NOARGS, c"Line by line."),
    method(c"__anext__", next, ffi::METH_NOARGS, c"The next line."),
    method(c"at_eof", at_eof, ffi::METH_NOARGS, c"at_eof($self, /)\n--\n\nWhether all is read, and no more comes."),
    method(c"exception", exception, ffi::METH_NOARGS, c"exception($self, /)\n--\n\nWhat the connection failed with."),
    method(c"set_exception", set_exception, ffi::METH_O, c"set_exception($self, exc, /)\n--\n\nThe connection failed."),
    method(
        c"set_transport",
        set_transport,
        ffi::METH_O,
        c"set_transport($self, transport, /)\n--\n\nWhose reader it is.",
    ),
    method(c"feed_data", feed_data, ffi::METH_O, c"feed_data($self, data, /)\n--\n\nThis was received."),
    method(c"feed_eof", feed_eof, ffi::METH_NOARGS, c"feed_eof($self, /)\n--\n\nNo more comes."),
    method(c"_begin", begin, ffi::METH_VARARGS, c"Of a limit, and create_future of a loop."),
    method(c"_set_limit", set_limit, ffi::METH_O, c"Another limit."),
    method(c"_get_limit", get_limit, ffi::METH_NOARGS, c"The limit."),
    method(c"_get_transport", get_transport, ffi::METH_NOARGS, c"Whose reader it is, or None."),
    method(c"_feeder", feeder, ffi::METH_NOARGS, c"feed_data once more, which does not keep the reader."),
    method(c"_set_busy", set_busy, ffi::METH_O, c"Whether there is something to drain, or to tell there."),
    method(c"_is_busy", is_busy, ffi::METH_NOARGS, c"Whether there is."),
    method(c"_unread", unread, ffi::METH_NOARGS, c"How much is received and not read."),
    fast(c"_drain", drain, c"Of a writer that may have nothing to wait for."),
    ffi::PyMethodDef::zeroed(),
]);

fn make_types(py: Python<'_>) -> PyResult<Bound<'_, PyTuple>> {
    let flags = ffi::Py_TPFLAGS_BASETYPE;
    let stream = boxed::make_type::<Stream>(py, c"erlang.Stream", flags, METHODS.0.as_ptr())?;
    let (stream, read_type) = (stream.into_any(), stream_read::make_type(py)?.into_any());
    // SAFETY: I7, by the token: an instance of the one type, for the other.
    let nothing = unsafe { stream_read::make(py, &read_type, stream.call0()?.as_ptr(), Kind::Nothing)? };
    PyTuple::new(py, [stream, read_type, nothing])
}

/// The types of the calling interpreter: of streams, and of what is awaited; and one of the latter that waits for nothing.
///
/// # Errors
/// The Python exception.
fn stream_types(py: Python<'_>) -> PyResult<Bound<'_, PyTuple>> {
    Ok(types::kept_as(py, "_py_reactor.stream", || Ok(make_types(py)?.into_any()))?.cast_into()?)
}

/// `stream_type()`.
pub unsafe extern "C" fn stream_type(_: *mut ffi::PyObject, _: *mut ffi::PyObject) -> *mut ffi::PyObject {
    guarded_object(|py| stream_types(py)?.get_item(0))
}
