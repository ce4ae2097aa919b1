//! Names that a loop and its transports look up for each connection: one object each, by which CPython finds attributes fast.

#![forbid(unsafe_code)]

use pyo3::prelude::*;
use pyo3::types::PyString;

/// Those of one interpreter.
pub struct Words {
    pub attach: Py<PyString>,
    pub begin: Py<PyString>,
    pub buffer_updated: Py<PyString>,
    pub close: Py<PyString>,
    pub connection_lost: Py<PyString>,
    pub connection_made: Py<PyString>,
    pub data_received: Py<PyString>,
    pub detach: Py<PyString>,
    pub eof_received: Py<PyString>,
    pub get_buffer: Py<PyString>,
    pub served: Py<PyString>,
}

impl Words {
    /// Those of the calling interpreter.
    pub fn new(py: Python<'_>) -> Self {
        let intern = |name: &str| PyString::intern(py, name).unbind();
        Words {
            attach: intern("_attach"),
            begin: intern("_begin"),
            buffer_updated: intern("buffer_updated"),
            close: intern("close"),
            connection_lost: intern("connection_lost"),
            connection_made: intern("connection_made"),
            data_received: intern("data_received"),
            detach: intern("_detach"),
            eof_received: intern("eof_received"),
            get_buffer: intern("get_buffer"),
            served: intern("_served"),
        }
    }
}
