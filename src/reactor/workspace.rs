//! What one context owns in its interpreter: globals, names, and the helpers of the package `erlang`.

#![forbid(unsafe_code)]

use crate::connection::callbacks::Names;
use crate::driver::descriptor::Descriptor;
use crate::mail::command::Info;
use crate::module;
use crate::python::addresses;
use crate::python::terms::TermConverter;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyString};
use std::net::SocketAddr;

/// The Python side of a context.
pub struct Workspace {
    /// Types and interned names.
    pub names: Names,
    /// Term conversion.
    pub converter: TermConverter,
    /// The globals of `py:exec`, `setup_code` included.
    pub globals: Py<PyDict>,
}

impl Workspace {
    /// Puts `path` in front of `sys.path`, imports the package `erlang`, makes fresh globals.
    ///
    /// # Errors
    /// The package is not on the path.
    pub fn new(py: Python<'_>, path: &[String]) -> PyResult<Self> {
        let sys_path = py.import("sys")?.getattr("path")?.cast_into::<PyList>()?;
        for directory in path.iter().rev() {
            if !sys_path.contains(directory)? {
                sys_path.insert(0, directory)?;
            }
        }
        // It makes the types.
        py.import(module::NAME.to_string_lossy().as_ref())?;
        let globals = PyDict::new(py);
        globals.set_item("__name__", "__main__")?;
        globals.set_item("__builtins__", py.import("builtins")?)?;
        globals.set_item("erlang", py.import("erlang")?)?;
        Ok(Workspace {
            names: Names::new(py, &module::protocol::BASE_METHODS)?,
            converter: TermConverter::new(py)?,
            globals: globals.unbind(),
        })
    }

    /// `client_info` of what Erlang gave, for `descriptor`.
    ///
    /// # Errors
    /// It cannot be converted.
    pub fn client_info<'py>(
        &self,
        py: Python<'py>,
        info: &Info,
        descriptor: &Descriptor,
    ) -> PyResult<Bound<'py, PyDict>> {
        match info {
            // `py_info` has seen to the address.
            Info::Map(map) => {
                let info = map.open(|term| self.converter.to_str_dict(py, term).map(Bound::unbind))?;
                let info = info.into_bound(py);
                if let Some(scope) = addresses::missing_scope(&info, || descriptor.peer())? {
                    info.set_item(PyString::intern(py, "scope_id"), scope)?;
                }
                Ok(info)
            }
            Info::Peer(peer) => {
                let info = PyDict::new(py);
                info.set_item(PyString::intern(py, "addr"), peer.ip().to_string())?;
                info.set_item(PyString::intern(py, "port"), peer.port())?;
                info.set_item(PyString::intern(py, "type"), PyString::intern(py, "tcp"))?;
                if let SocketAddr::V6(peer) = peer
                    && peer.scope_id() != 0
                {
                    info.set_item(PyString::intern(py, "scope_id"), peer.scope_id())?;
                }
                Ok(info)
            }
        }
    }
}
