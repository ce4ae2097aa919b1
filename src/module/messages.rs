//! `erlang.send` and `erlang.self`: from any thread of Python to Erlang processes.

use crate::base::config::REMOTE_NAMES_MAX;
use crate::beam;
use crate::beam::atom_names::{self, Budget, NoAtom};
use crate::beam::relay::{self, Full};
use crate::python::glue::{class_name, guarded_object};

use crate::connection::context;

use crate::python::terms::TermConverter;
use pyo3::exceptions::{PyBlockingIOError, PyLookupError, PyRuntimeError, PyTypeError, PyValueError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyString, PyTuple};
use rustler::env::{OwnedEnv, SavedTerm};
use rustler::{Encoder, Env, LocalPid, Term};
use std::ptr;

/// Whom a message is for.
enum To {
    /// A process of this node.
    Process(LocalPid),
    /// What only Erlang can reach: a pid of another node, or `{Name, Node}`.
    Elsewhere(SavedTerm),
}

/// `send(to, term)`.
pub unsafe extern "C" fn send(_: *mut ffi::PyObject, args: *mut ffi::PyObject) -> *mut ffi::PyObject {
    guarded_object(|py| {
        let (mut to, mut term) = (ptr::null_mut(), ptr::null_mut());
        // SAFETY: I7: CPython calls attached; its arguments live through the call; the format takes two objects,
        // borrowed.
        if unsafe { ffi::PyArg_ParseTuple(args, c"OO:send".as_ptr(), &raw mut to, &raw mut term) } == 0 {
            return Err(PyErr::fetch(py));
        }
        if !beam::is_there() {
            return Err(PyRuntimeError::new_err(
                "erlang.send() works inside the Erlang VM only; this is a plain Python interpreter",
            ));
        }
        // SAFETY: I7: CPython calls attached; the format has filled both with objects that outlive the call.
        let (to, term) = unsafe { (Bound::from_borrowed_ptr(py, to), Bound::from_borrowed_ptr(py, term)) };
        deliver(py, &to, &term)?;
        Ok(py.None().into_bound(py))
    })
}

/// The pid of the context's Erlang process, on its thread; elsewhere None.
pub unsafe extern "C" fn own_pid(_: *mut ffi::PyObject, _: *mut ffi::PyObject) -> *mut ffi::PyObject {
    guarded_object(|py| {
        let Some(context) = context::current(py) else { return Ok(py.None().into_bound(py)) };
        let converter = TermConverter::new(py)?;
        OwnedEnv::new().run(|env| converter.to_python(py, context.mailbox.owner.encode(env)))
    })
}

fn deliver(py: Python<'_>, to: &Bound<'_, PyAny>, term: &Bound<'_, PyAny>) -> PyResult<()> {
    let converter = TermConverter::new(py)?;
    let mut mail = OwnedEnv::new();
    let to = mail.run(|env| destination(&mail, env, &converter, to))?;
    let message = mail.run(|env| converter.to_term(env, term).map(|term| mail.save(term)))?;
    match to {
        To::Process(pid) => {
            // One that has died wants no messages, as in Erlang.
            let _ = mail.send_and_clear(&pid, |env| message.load(env));
            Ok(())
        }
        To::Elsewhere(to) => mail.run(|env| relay::post(env, to.load(env), message.load(env))).map_err(|Full| {
            PyBlockingIOError::new_err(
                "too many messages to other nodes wait to be sent: a node takes them too slowly; try again later",
            )
        }),
    }
}

fn destination<'a>(mail: &OwnedEnv, env: Env<'a>, converter: &TermConverter, to: &Bound<'_, PyAny>) -> PyResult<To> {
    if let Ok(name) = to.cast::<PyString>() {
        let pid = atom_names::existing(env, name.to_str()?).and_then(|name| env.whereis_pid(name));
        return pid.map(To::Process).ok_or_else(|| no_process(to));
    }
    if let Ok(parts) = to.cast::<PyTuple>()
        && let Ok((name, node)) = parts.extract::<(String, String)>()
    {
        let pair = (remote_atom(env, &name)?, remote_atom(env, &node)?);
        return Ok(To::Elsewhere(mail.save(pair)));
    }
    if converter.is_pid(to)? {
        let term = converter.to_term(env, to)?;
        return Ok(term.decode().map_or_else(|_| To::Elsewhere(mail.save(term)), To::Process));
    }
    let class = class_name(&to.get_type());
    Err(PyTypeError::new_err(format!(
        "a message goes to an erlang.Pid, a registered name (str) or a tuple (name, node), not to {class}"
    )))
}

fn no_process(name: &Bound<'_, PyAny>) -> PyErr {
    let name = name.repr().map_or_else(|_| "this name".to_owned(), |name| name.to_string());
    PyLookupError::new_err(format!("no process of this node is registered as {name}"))
}

/// An atom that only the other node may know, so that it is made here; so many and no more (I9).
fn remote_atom<'a>(env: Env<'a>, name: &str) -> PyResult<Term<'a>> {
    static BUDGET: Budget = Budget::new(REMOTE_NAMES_MAX);
    BUDGET.atom(env, name).map_err(|why| match why {
        NoAtom::TooLong => PyValueError::new_err(format!("{name:?} cannot be an atom: at most 255 characters")),
        NoAtom::TooMany(max) => PyValueError::new_err(format!(
            "{name:?} is no atom of this node, and {max} names have been made atoms for other nodes, which stay for ever; \
             send to a pid instead"
        )),
    })
}
