//! Names that a loop and its transports look up for each connection: one object each, by which CPython finds attributes fast. And
//! those methods of asyncio's that most servers and protocols have there, which need not be called.

#![forbid(unsafe_code)]

use crate::module::loop_futures::Futures;
use crate::module::stock_streams::StockStreams;
use crate::python::methods::Known;
use pyo3::prelude::*;
use pyo3::types::PyString;

/// Those of one interpreter.
pub struct Words {
    pub active_count: Py<PyString>,
    pub attach: Py<PyString>,
    pub buffer_updated: Py<PyString>,
    pub close: Py<PyString>,
    pub connection_lost: Py<PyString>,
    pub connection_made: Py<PyString>,
    pub data_received: Py<PyString>,
    pub detach: Py<PyString>,
    pub eof_received: Py<PyString>,
    pub get_buffer: Py<PyString>,
    pub served: Py<PyString>,
    /// `Server._attach` and `Server._detach`, where they count by a number, `_active_count`, and do no more until the last
    /// connection goes.
    pub counts: [Known; 2],
    /// What the base classes of protocols have: it does nothing.
    pub ignores_eof: [Known; 2],
    pub ignores_loss: Known,
    pub futures: Futures,
    pub streams: StockStreams,
}

impl Words {
    /// Those of the calling interpreter.
    pub fn new(py: Python<'_>) -> Self {
        let intern = |name: &str| PyString::intern(py, name).unbind();
        let ignores = |class, name| Known::method(py, "asyncio.protocols", class, name, &[]);
        let counts = |name, names: &[_]| Known::method(py, "asyncio.base_events", "Server", name, names);
        Words {
            active_count: intern("_active_count"),
            attach: intern("_attach"),
            buffer_updated: intern("buffer_updated"),
            close: intern("close"),
            connection_lost: intern("connection_lost"),
            connection_made: intern("connection_made"),
            data_received: intern("data_received"),
            detach: intern("_detach"),
            eof_received: intern("eof_received"),
            get_buffer: intern("get_buffer"),
            served: intern("_served"),
            counts: [
                counts("_attach", &["_sockets", "_active_count"]),
                counts("_detach", &["_active_count", "_sockets", "_wakeup"]),
            ],
            ignores_eof: ["Protocol", "BufferedProtocol"].map(|class| ignores(class, "eof_received")),
            ignores_loss: ignores("BaseProtocol", "connection_lost"),
            futures: Futures::new(py),
            streams: StockStreams::new(py),
        }
    }
}
