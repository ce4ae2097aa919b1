//! Socket addresses as Python's `socket` module writes them: `(host, port)`, `(host, port, flowinfo, scope_id)`, a path.

use crate::driver::address::{Address, Meaning};
use pyo3::exceptions::{PyOverflowError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyString, PyTuple};
use std::ffi::{CString, OsStr};
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

/// The number of the interface `zone`: what follows the `%` of an address, its name or the number itself.
fn interface(zone: &str) -> Option<u32> {
    if let Ok(number) = zone.parse() {
        return Some(number);
    }
    let name = CString::new(zone).ok()?;
    // SAFETY: I10: a C string.
    Some(unsafe { libc::if_nametoindex(name.as_ptr()) }).filter(|number| *number != 0)
}

/// The `scope_id` that `info` lacks: `addr` is link-local and the `peer`'s, which is behind that interface.
///
/// # Errors
/// No memory.
pub fn missing_scope(info: &Bound<'_, PyDict>, peer: impl FnOnce() -> Option<Address>) -> PyResult<Option<u32>> {
    let Some(addr) = info.get_item("addr")? else { return Ok(None) };
    let Some(ip) = addr.extract::<String>().ok().and_then(|text| text.parse::<Ipv6Addr>().ok()) else {
        return Ok(None);
    };
    if !ip.is_unicast_link_local() || info.contains("scope_id")? {
        return Ok(None);
    }
    Ok(match peer().map(|peer| peer.meaning()) {
        Some(Meaning::Ip(SocketAddr::V6(peer))) if *peer.ip() == ip => {
            Some(peer.scope_id()).filter(|scope| *scope != 0)
        }
        _ => None,
    })
}

/// A part of an address that is too large is no address either.
fn in_range<N>(py: Python<'_>, number: PyResult<N>) -> PyResult<N> {
    number.map_err(|error| match error.is_instance_of::<PyOverflowError>(py) {
        true => PyValueError::new_err("a port, or another number of an address, is out of range"),
        false => error,
    })
}

/// The destination that a protocol names, with the zone of an IPv6 address, if need be; IPv4 addresses are mapped where the socket is IPv6. Names are not looked up.
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
    let py = address.py();
    if !matches!(parts.len(), 2..=4) {
        return Err(PyTypeError::new_err(format!("an address is a tuple of 2 to 4 parts, not of {}", parts.len())));
    }
    let (host, port) = (parts.get_item(0)?.extract::<String>()?, in_range(py, parts.get_item(1)?.extract::<u16>())?);
    let number = |index| parts.get_item(index).map_or(Ok(0), |part| in_range(py, part.extract::<u32>()));
    let (text, zone) = host.split_once('%').map_or((&*host, None), |(text, zone)| (text, Some(zone)));
    let ip: Option<IpAddr> = text.parse().ok();
    let ip = ip.filter(|ip| ip.is_ipv6() || zone.is_none()).ok_or_else(|| {
        PyValueError::new_err(format!("{host:?} is not an IP address; names are not looked up on a reactor thread"))
    })?;
    let zone = zone.map_or(Ok(0), |zone| {
        interface(zone).ok_or_else(|| PyValueError::new_err(format!("'{host}': there is no interface '{zone}'")))
    })?;
    let ip = match ip {
        IpAddr::V4(v4) if v6 => IpAddr::V6(v4.to_ipv6_mapped()),
        other => other,
    };
    Ok(match ip {
        IpAddr::V6(ip) if ip != Ipv6Addr::UNSPECIFIED => {
            let scope = Some(number(3)?).filter(|scope| *scope != 0).unwrap_or(zone);
            SocketAddr::V6(SocketAddrV6::new(ip, port, number(2)?, scope)).into()
        }
        ip => SocketAddr::new(ip, port).into(),
    })
}
