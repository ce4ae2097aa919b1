//! Datagrams that a protocol sends.

#![forbid(unsafe_code)]

use crate::base::token::ConnId;
use crate::connection::context::{Connection, Context, reentered};
use crate::connection::outbox::datagram_cost;
use crate::driver::address::Address;
use crate::python::addresses;
use crate::python::bytes_like;
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;

impl Context {
    /// `Protocol.sendto`: queues a datagram, all of it or nothing, and answers how many bytes were taken.
    ///
    /// # Errors
    /// `TypeError`: not a bytes-like object, not an address, or not a datagram socket.
    pub fn send_to(&self, id: ConnId, data: &Bound<'_, PyAny>, to: &Bound<'_, PyAny>) -> PyResult<usize> {
        let family = {
            let mut table = self.table.try_borrow_mut().map_err(reentered)?;
            let Some(connection) = table.get(id) else { return Ok(0) };
            connection.datagrams.as_ref().map(|datagrams| datagrams.v6)
        };
        let v6 = family.ok_or_else(|| PyTypeError::new_err("sendto() is for datagram sockets; use write()"))?;
        let to = if to.is_none() { None } else { Some(addresses::from_python(to, v6)?) };
        bytes_like::with_bytes(data, |bytes| {
            let mut table = self.table.try_borrow_mut().map_err(reentered)?;
            let Some(connection) = table.get(id) else { return Ok(0) };
            let taken = self.queue_datagram(connection, bytes, to)?;
            drop(table);
            self.touch(id);
            Ok(taken)
        })
    }

    pub(super) fn queue_datagram(
        &self,
        connection: &mut Connection,
        bytes: &[u8],
        to: Option<Address>,
    ) -> PyResult<usize> {
        let Some(datagrams) = &connection.datagrams else { return Ok(0) };
        let to = if datagrams.connected { to } else { to.or(datagrams.last_from) };
        if to.is_none() && !datagrams.connected {
            return Err(PyValueError::new_err(
                "this socket is not connected and nothing has arrived: name a destination with sendto(data, addr)",
            ));
        }
        let cost = datagram_cost(bytes.len());
        // One that is larger than the mark goes when nothing else waits: it must be able to leave at all.
        let fits = cost <= connection.machine.room(&self.limits) || !connection.machine.link.has_output();
        let taken = if fits && connection.machine.link.is_open() { cost } else { 0 };
        connection.machine.wrote(cost, taken);
        if taken == 0 {
            return Ok(0);
        }
        connection.outbox.push_datagram(bytes, to, &mut self.spares.borrow_mut());
        Ok(bytes.len())
    }
}
