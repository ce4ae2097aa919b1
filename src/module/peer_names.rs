//! The addresses of datagrams as Python objects, and back: those that were seen last are kept, since who has sent a datagram
//! sends the next one soon, and is answered.

use crate::driver::address::Address;
use pyo3::prelude::*;
use pyo3::types::{PyInt, PyString, PyTuple};
use std::net::{IpAddr, SocketAddr, SocketAddrV6};

/// So many are kept.
const KEPT: usize = 256;

/// Bytes of the address of IPv6, which is the longer one.
const LEN_MAX: usize = size_of::<libc::sockaddr_in6>();

/// The address of a peer by IP, as the kernel writes it; empty: of whoever the socket is connected to.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct PeerName {
    bytes: [u8; LEN_MAX],
    len: u8,
}

impl PeerName {
    /// Of what the kernel wrote, unless it is none by IP.
    pub fn of(bytes: &[u8]) -> Option<Self> {
        let mut name = PeerName { len: bytes.len() as u8, ..PeerName::default() };
        name.bytes.get_mut(..bytes.len())?.copy_from_slice(bytes);
        (!bytes.is_empty()).then_some(name)
    }

    /// For the kernel.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }

    fn place(&self) -> usize {
        let mix = |hash: u32, byte: &u8| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193);
        let hash = self.as_bytes().iter().fold(0x811c_9dc5, mix);
        (hash ^ hash >> 15) as usize % KEPT
    }
}

/// Those that are kept.
#[derive(Default)]
pub struct PeerNames {
    /// By where the name says.
    kept: Vec<Option<(PeerName, Py<PyAny>)>>,
    /// Where the object is, by its address.
    places: Vec<u8>,
}

fn place_of(object: &Bound<'_, PyAny>) -> usize {
    let address = object.as_ptr() as usize;
    (address >> 4 ^ address >> 12) % KEPT
}

impl PeerNames {
    /// The object that is kept for that name.
    pub fn known<'py>(&self, py: Python<'py>, name: &PeerName) -> Option<Bound<'py, PyAny>> {
        let (known, object) = self.kept.get(name.place())?.as_ref()?;
        (known == name).then(|| object.bind(py).clone())
    }

    /// Keeps an object for a name. Answers the one that has to go.
    pub fn keep(&mut self, name: PeerName, object: &Bound<'_, PyAny>) -> Option<Py<PyAny>> {
        if self.kept.is_empty() {
            self.kept.resize_with(KEPT, || None);
            self.places.resize(KEPT, 0);
        }
        let place = name.place();
        self.places[place_of(object)] = place as u8;
        self.kept[place].replace((name, object.clone().unbind())).map(|(_, gone)| gone)
    }

    /// The address that `object` says, if it is one of those.
    pub fn name(&self, object: &Bound<'_, PyAny>) -> Option<PeerName> {
        let place = self.places.get(place_of(object)).copied().unwrap_or_default();
        match self.kept.get(usize::from(place)) {
            Some(Some((name, known))) if known.as_ptr() == object.as_ptr() => Some(*name),
            _ => None,
        }
    }
}

/// The address that a tuple says, with numbers for an address and a port. What is not as simple as that is left to Python's own
/// sockets, which look names up.
pub fn parse(object: &Bound<'_, PyAny>, v6: bool) -> Option<PeerName> {
    let parts = object.cast_exact::<PyTuple>().ok()?;
    let len = parts.len();
    if !(len == 2 || v6 && len == 4) {
        return None;
    }
    let number = |nth| parts.get_borrowed_item(nth).ok()?.cast_exact::<PyInt>().ok()?.extract::<u32>().ok();
    let host = parts.get_borrowed_item(0).ok()?;
    let ip: IpAddr = host.cast_exact::<PyString>().ok()?.to_str().ok()?.parse().ok()?;
    let port = u16::try_from(number(1)?).ok()?;
    let (flow, scope) = if len == 4 { (number(2)?, number(3)?) } else { (0, 0) };
    let address = match ip {
        IpAddr::V4(_) if !v6 => SocketAddr::new(ip, port),
        IpAddr::V6(ip) if v6 && flow <= 0xf_ffff => SocketAddrV6::new(ip, port, flow, scope).into(),
        _ => return None,
    };
    let address = Address::from(address);
    let (start, len) = address.as_c();
    // SAFETY: I10: so many bytes of an address of our own.
    PeerName::of(unsafe { std::slice::from_raw_parts(start.cast(), len as usize) })
}
