//! Why a context does not serve, and how Erlang is told.

#![forbid(unsafe_code)]

use super::backend::NoDriver;
use super::jobs;
use crate::base::atoms;
use pyo3::prelude::*;
use rustler::{Encoder, Env, Term};
use std::any::Any;
use std::io;

/// Why a context did not start, or ended by itself.
pub enum Failure {
    /// Python does not start.
    Python(String),
    /// The set-up code raised, or the package `erlang` is missing.
    Setup(PyErr),
    /// The virtual environment cannot be used.
    Venv(String),
    /// The thread cannot stay on the CPU that was asked for.
    Cpu(usize, io::Error),
    /// The driver asked for cannot be used.
    Backend(String),
    /// The driver failed.
    Driver(io::Error),
    /// Memory or descriptors were refused.
    Resources(io::Error),
    /// A panic: a fault of this library.
    Panic(String),
}

impl From<NoDriver> for Failure {
    fn from(none: NoDriver) -> Self {
        match none {
            NoDriver::Backend(why) => Failure::Backend(why),
            NoDriver::Resources(error) => Failure::Resources(error),
        }
    }
}

impl Failure {
    /// As Erlang gets it; with `py`, the exception's text and traceback, too.
    pub(super) fn term<'a>(&self, py: Option<Python<'_>>, env: Env<'a>) -> Term<'a> {
        match self {
            Failure::Python(why) => (atoms::python_start(), why).encode(env),
            Failure::Setup(error) => match py {
                Some(py) => (atoms::setup_code(), jobs::error_term(py, env, error)).encode(env),
                None => atoms::setup_code().encode(env),
            },
            Failure::Venv(why) => (atoms::venv(), why).encode(env),
            Failure::Cpu(cpu, error) => {
                (atoms::cpu(), format!("this process may not use CPU {cpu}: {error}")).encode(env)
            }
            Failure::Backend(why) => (atoms::backend(), why).encode(env),
            Failure::Driver(error) => (atoms::driver(), error.to_string()).encode(env),
            Failure::Resources(error) => (atoms::resources(), error.to_string()).encode(env),
            Failure::Panic(why) => (atoms::panic(), why).encode(env),
        }
    }
}

/// What it says.
pub(super) fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("a panic without words").to_owned()
}
