//! asyncio's own streams, fed without Python code: what `StreamReaderProtocol.data_received`, `StreamReader.feed_data` and
//! `StreamReader._wakeup_waiter` do, with the same attributes, where they are these very methods. Everything else is called.

use crate::python::methods::{Known, Method};
use pyo3::exceptions::{PyException, PyNotImplementedError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyByteArray, PyBytes, PyInt, PyString, PyWeakrefMethods, PyWeakrefReference};
use std::ptr;

/// The methods that need not be called, and the names of what they use: those of one interpreter.
pub struct StockStreams {
    receives: Known,
    finds_reader: Known,
    feeds: Known,
    wakes: Known,
    data_received: Py<PyString>,
    stream_reader: Py<PyString>,
    stream_reader_wr: Py<PyString>,
    feed_data: Py<PyString>,
    wakeup_waiter: Py<PyString>,
    eof: Py<PyString>,
    buffer: Py<PyString>,
    waiter: Py<PyString>,
    limit: Py<PyString>,
    cancelled: Py<PyString>,
    set_result: Py<PyString>,
}

impl StockStreams {
    /// Those of the calling interpreter.
    pub fn new(py: Python<'_>) -> Self {
        let intern = |name: &str| PyString::intern(py, name).unbind();
        let known = |class, name, names: &[_]| Known::method(py, "asyncio.streams", class, name, names);
        let by_feed_data = [
            "_eof",
            "_buffer",
            "extend",
            "_wakeup_waiter",
            "_transport",
            "_paused",
            "len",
            "_limit",
            "pause_reading",
            "NotImplementedError",
        ];
        StockStreams {
            receives: known("StreamReaderProtocol", "data_received", &["_stream_reader", "feed_data"]),
            finds_reader: Known::property(
                py,
                "asyncio.streams",
                "StreamReaderProtocol",
                "_stream_reader",
                &["_stream_reader_wr"],
            ),
            feeds: known("StreamReader", "feed_data", &by_feed_data),
            wakes: known("StreamReader", "_wakeup_waiter", &["_waiter", "cancelled", "set_result"]),
            data_received: intern("data_received"),
            stream_reader: intern("_stream_reader"),
            stream_reader_wr: intern("_stream_reader_wr"),
            feed_data: intern("feed_data"),
            wakeup_waiter: intern("_wakeup_waiter"),
            eof: intern("_eof"),
            buffer: intern("_buffer"),
            waiter: intern("_waiter"),
            limit: intern("_limit"),
            cancelled: intern("cancelled"),
            set_result: intern("set_result"),
        }
    }

    /// Whether what `protocol` receives may be given to [`StockStreams::feed`].
    pub fn serve(&self, protocol: &Bound<'_, PyAny>) -> bool {
        let name = self.data_received.bind(protocol.py());
        Method::of(protocol, name).is_ok_and(|method| method.is(&self.receives))
    }

    /// Does what `protocol.data_received(data)` would. Answers whether it has: where something is not as expected, nothing has
    /// been done.
    ///
    /// # Errors
    /// What that would raise.
    pub fn feed(&self, protocol: &Bound<'_, PyAny>, data: &Bound<'_, PyBytes>) -> PyResult<bool> {
        let py = protocol.py();
        if !self.finds_reader.is_of_class(protocol, self.stream_reader.bind(py)) {
            return Ok(false);
        }
        let reference = protocol.getattr(self.stream_reader_wr.bind(py))?;
        let reader = match reference.cast_exact::<PyWeakrefReference>() {
            Ok(reference) => reference.upgrade(),
            Err(_) if reference.is_none() => None,
            Err(_) => return Ok(false),
        };
        // Nobody reads any more.
        let Some(reader) = reader else { return Ok(true) };
        let is_stock = Method::of(&reader, self.feed_data.bind(py))?.is(&self.feeds)
            && Method::of(&reader, self.wakeup_waiter.bind(py))?.is(&self.wakes);
        if !is_stock || data.as_bytes().is_empty() || reader.getattr(self.eof.bind(py))?.is_truthy()? {
            return Ok(false);
        }
        let buffer = reader.getattr(self.buffer.bind(py))?;
        let Ok(buffer) = buffer.cast_exact::<PyByteArray>() else { return Ok(false) };
        extend(buffer, data.as_bytes())?;
        self.wake(&reader)?;
        self.pause(&reader, buffer.len()).map(|()| true)
    }

    fn wake(&self, reader: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = reader.py();
        let waiter = reader.getattr(self.waiter.bind(py))?;
        if waiter.is_none() {
            return Ok(());
        }
        reader.setattr(self.waiter.bind(py), py.None())?;
        match waiter.call_method0(self.cancelled.bind(py))?.is_truthy()? {
            true => Ok(()),
            false => waiter.call_method1(self.set_result.bind(py), (py.None(),)).map(drop),
        }
    }

    /// Pauses the transport if too much is there.
    fn pause(&self, reader: &Bound<'_, PyAny>, len: usize) -> PyResult<()> {
        let py = reader.py();
        let limit = match reader.getattr(self.limit.bind(py)) {
            // An interrupt, and its like.
            Err(error) if !error.is_instance_of::<PyException>(py) => return Err(error),
            limit => limit.ok().filter(|limit| limit.is_exact_instance_of::<PyInt>()),
        };
        match limit.and_then(|limit| limit.extract::<usize>().ok()) {
            Some(limit) if len <= limit.saturating_mul(2) => Ok(()),
            _ => pause_beyond(reader),
        }
    }
}

/// The same, of a limit that need not be an `int`.
#[cold]
fn pause_beyond(reader: &Bound<'_, PyAny>) -> PyResult<()> {
    let py = reader.py();
    let transport = reader.getattr("_transport")?;
    if transport.is_none() || reader.getattr("_paused")?.is_truthy()? {
        return Ok(());
    }
    let (len, limit) = (reader.getattr("_buffer")?.len()?, reader.getattr("_limit")?);
    if !len.into_pyobject(py)?.gt(2usize.into_pyobject(py)?.mul(limit)?)? {
        return Ok(());
    }
    match transport.call_method0("pause_reading") {
        Ok(_) => reader.setattr("_paused", true),
        // It cannot: then it is not asked again.
        Err(error) if error.is_instance_of::<PyNotImplementedError>(py) => reader.setattr("_transport", py.None()),
        Err(error) => Err(error),
    }
}

/// `buffer.extend(data)`.
///
/// # Errors
/// No memory, or somebody looks at it.
fn extend(buffer: &Bound<'_, PyByteArray>, data: &[u8]) -> PyResult<()> {
    let len = buffer.len();
    // SAFETY: I7, by the token; a bytearray, which has so many bytes more once it could be resized, and whose memory nobody else
    // looks at: it cannot be resized then. `data` is another object's.
    unsafe {
        if ffi::PyByteArray_Resize(buffer.as_ptr(), (len + data.len()) as ffi::Py_ssize_t) < 0 {
            return Err(PyErr::fetch(buffer.py()));
        }
        let end = ffi::PyByteArray_AsString(buffer.as_ptr()).cast::<u8>().add(len);
        ptr::copy_nonoverlapping(data.as_ptr(), end, data.len());
    }
    Ok(())
}
