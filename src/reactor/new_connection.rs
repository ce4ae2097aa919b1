//! A connection is born: a descriptor that was handed over, or accepted, gets its protocol, and `connection_made` is called.

#![forbid(unsafe_code)]

use super::Reactor;
use crate::base::token::ConnId;
use crate::connection::callbacks::{format_exception, nothing};
use crate::connection::context::{Connection, Datagrams};
use crate::connection::directory::Entry;
use crate::connection::machine::{Directions, Machine};
use crate::driver::Io;
use crate::driver::descriptor::Descriptor;
use crate::driver::registry::Abilities;
use crate::mail::command::Info;
use crate::mail::notice::Notice;
use crate::mail::place::Place;
use crate::python::instance;
use crate::python::variables;
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::PyDict;

impl Reactor {
    /// Serves a descriptor from now on, or closes it.
    pub(super) fn adopt(&mut self, py: Python<'_>, mut descriptor: Descriptor, place: Place, info: &Info) {
        let fd = descriptor.number();
        // The handoff was answered `ok': from here on a failure ends the connection, and its peer is to see that.
        descriptor.promise();
        match self.introduce(py, descriptor, place, info) {
            Ok((id, protocol, info)) => {
                self.context.mailbox.stats.accepted.add(1);
                let make = || protocol.call_method1("connection_made", (fd, info));
                let made = self.context.callback(&protocol, Some(id), "connection_made", make);
                match nothing(made) {
                    Ok(()) => self.with(id, |connection| connection.made(py)),
                    Err(fault) => {
                        self.fault(&protocol, "connection_made", fault);
                        self.with(id, |connection| connection.machine.link.never_made())
                    }
                };
                self.settle(py, id);
            }
            Err(error) => {
                self.context.mailbox.stats.exceptions.add(1);
                let message =
                    format!("a connection was closed, for it got no protocol: {}", format_exception(py, &error));
                self.context.mailbox.notify(Notice { level: "error", message, meta: Vec::new(), fd: Some(fd) });
            }
        }
    }

    /// Makes a protocol for `descriptor`. On an error the connection is closed, by being dropped.
    fn introduce<'py>(
        &mut self,
        py: Python<'py>,
        mut descriptor: Descriptor,
        place: Place,
        info: &Info,
    ) -> PyResult<(ConnId, Bound<'py, PyAny>, Bound<'py, PyDict>)> {
        let info = self.python.client_info(py, info, &descriptor)?;
        let factory = self.context.factory.borrow().as_ref().map(|factory| factory.clone_ref(py));
        let factory = factory.ok_or_else(|| {
            PyRuntimeError::new_err(format!(
                "context {} has no protocol factory: call erlang.reactor.set_protocol_factory in its setup_code, say, before \
                 connections come",
                self.context.mailbox.id
            ))
        })?;
        let variables = variables::copy(py)?;
        let make = || self.python.names.make_protocol(factory.bind(py));
        let make = || variables::within(py, variables.as_ptr(), make);
        let (protocol, slow) = self.context.mailbox.running.call(py, make);
        if let Some(took) = slow {
            let ms = took.as_millis();
            let message = format!(
                "the protocol factory took at least {ms} ms; meanwhile its context served nobody (slow_callback_ms)"
            );
            self.context.mailbox.notify(Notice { level: "warning", message, meta: Vec::new(), fd: None });
        }
        let protocol = protocol?;
        let fd = descriptor.number();
        descriptor.prepare();
        let Abilities { io, readable, writable } = descriptor.abilities();
        let directions = Directions { readable, writable, half_closes: io == Io::Socket };
        let datagrams = match io {
            Io::Datagram => Some(Box::new(Datagrams {
                connected: descriptor.is_connected(),
                v6: descriptor.is_v6(),
                last_from: None,
            })),
            Io::Socket | Io::File => None,
        };
        let served = protocol.clone().unbind();
        let mut connection = Connection::new(Machine::new(directions), descriptor, served, Some(place));
        connection.datagrams = datagrams;
        let id = self.context.table.borrow_mut().insert(connection);
        let address = protocol.as_ptr() as usize;
        let mailbox = &self.context.mailbox;
        let serial = self.with(id, |connection| {
            let entry = Entry::new(&mut connection.descriptor, mailbox, id, address);
            connection.entry.insert(entry).serial()
        });
        let handle = (fd, mailbox.serial, serial.unwrap_or_default());
        if let Err(error) = instance::attach(&protocol, id, handle, &info, variables) {
            let refused = self.context.table.borrow_mut().remove(id);
            drop(refused);
            return Err(error);
        }
        Ok((id, protocol, info))
    }
}
