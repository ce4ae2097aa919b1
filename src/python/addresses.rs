//! Socket addresses as Python's `socket` module writes them: `(host, port)`, `(host, port, flowinfo, scope_id)`, a path.

use crate::driver::address::{Address, Meaning};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyString, PyTuple};
use std::ffi::OsStr;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Of an address that the kernel told; `None` for an unnamed Unix socket.
///
/// # Errors
/// No memory.
pub fn to_python<'py>(py: Python<'py>, address: &Address) -> PyResult<Bound<'py, PyAny>> {
    Ok(match address.meaning() {
        Meaning::Ip(SocketAddr::V4(v4)) => (v4.ip().to_string(), v4.port()).into_pyobject(py)?.into_any(),
        Meaning::Ip(SocketAddr::V6(v6)) => {
            (v6.ip().to_string(), v6.port(), v6.flowinfo(), v6.scope_id()).into_pyobject(py)?.into_any()
        }
        Meaning::Path(path) if path.first() == Some(&0) => PyBytes::new(py, &path).into_any(),
        Meaning::Path(path) => OsStr::from_bytes(&path).into_pyobject(py)?.into_any(),
        Meaning::Unnamed => py.None().into_bound(py),
    })
}

/// The destination that a protocol names; IPv4 addresses are mapped where the socket is IPv6. Names are not looked up.
///
/// # Errors
/// `TypeError` or `ValueError`: it is no address.
pub fn from_python(address: &Bound<'_, PyAny>, v6: bool) -> PyResult<Address> {
    if address.is_instance_of::<PyString>() || address.is_instance_of::<PyBytes>() {
        let path: PathBuf = match address.cast::<PyBytes>() {
            Ok(bytes) => OsStr::from_bytes(bytes.as_bytes()).into(),
            Err(_) => address.extract()?,
        };
        return Address::path(Path::new(&path))
            .ok_or_else(|| PyValueError::new_err("the path of a socket is too long"));
    }
    let parts = address
        .cast::<PyTuple>()
        .map_err(|_| PyTypeError::new_err("an address is a tuple (host, port), or the path of a Unix socket"))?;
    let (host, port) = (parts.get_item(0)?.extract::<String>()?, parts.get_item(1)?.extract::<u16>()?);
    let number = |index| parts.get_item(index).map_or(Ok(0), |part| part.extract::<u32>());
    let ip: IpAddr = host.parse().map_err(|_| {
        PyValueError::new_err(format!("{host:?} is not an IP address; names are not looked up on a reactor thread"))
    })?;
    let ip = match ip {
        IpAddr::V4(v4) if v6 => IpAddr::V6(v4.to_ipv6_mapped()),
        other => other,
    };
    Ok(match ip {
        IpAddr::V6(ip) if ip != Ipv6Addr::UNSPECIFIED => {
            SocketAddr::V6(SocketAddrV6::new(ip, port, number(2)?, number(3)?)).into()
        }
        ip => SocketAddr::new(ip, port).into(),
    })
}
