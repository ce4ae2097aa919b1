//! Erlang terms to Python objects and back. What has no counterpart is an error, never a crash; depth is bounded,
//! by a number and by the stack of the calling thread.

#![forbid(unsafe_code)]

use crate::base::atoms;
use crate::base::config::{ATOMS_MAX, TERM_DEPTH_MAX, TERM_PARTS_MAX, TERM_STACK_BYTES};
use crate::base::stack;
use crate::beam::atom_names::{Budget, NoAtom};
use crate::python::describe::is_coroutine;
use pyo3::exceptions::{PyRecursionError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyByteArray, PyBytes, PyDict, PyFloat, PyInt, PyList, PyMemoryView, PyString, PyTuple};
use rustler::types::tuple::{get_tuple, make_tuple};
use rustler::{Atom, Binary, Encoder, Env, ListIterator, MapIterator, NewBinary, Term, TermType};
use std::cell::Cell;

/// The version byte of the external term format, and the tags of big integers in it.
const FORMAT_VERSION: u8 = 131;
const SMALL_BIG: u8 = 110;
const LARGE_BIG: u8 = 111;

/// The classes of `erlang._terms`, for terms that Python only carries.
pub struct TermConverter {
    module: Py<PyModule>,
    /// Parts that the conversion under way may still have.
    parts_left: Cell<usize>,
}

impl TermConverter {
    /// Imports them.
    ///
    /// # Errors
    /// The package `erlang` is not on the path.
    pub fn new(py: Python<'_>) -> PyResult<Self> {
        Ok(TermConverter { module: py.import("erlang._terms")?.unbind(), parts_left: Cell::new(0) })
    }

    /// Makes a Python object of `term`.
    ///
    /// # Errors
    /// A Python exception that says what cannot be converted.
    pub fn to_python<'py>(&self, py: Python<'py>, term: Term<'_>) -> PyResult<Bound<'py, PyAny>> {
        self.parts_left.set(TERM_PARTS_MAX);
        self.object(py, term, TERM_DEPTH_MAX)
    }

    /// Makes a Python dict with `str` keys of a map whose keys are atoms, binaries or strings.
    ///
    /// # Errors
    /// A Python exception that says what cannot be converted.
    pub fn to_str_dict<'py>(&self, py: Python<'py>, term: Term<'_>) -> PyResult<Bound<'py, PyDict>> {
        let dict = PyDict::new(py);
        let entries = MapIterator::new(term).ok_or_else(|| PyTypeError::new_err("a map is needed"))?;
        for (key, value) in entries {
            let key = match key.get_type() {
                TermType::Atom => PyString::new(py, &name(key)?).into_any(),
                _ => self.to_python(py, key)?,
            };
            if !key.is_instance_of::<PyString>() {
                return Err(PyTypeError::new_err(format!("a key must be an atom or a binary, not {}", key.repr()?)));
            }
            dict.set_item(key, self.to_python(py, value)?)?;
        }
        Ok(dict)
    }

    /// Counts one more part of what is converted.
    fn count(&self, depth: usize) -> PyResult<()> {
        if depth == 0 {
            return Err(PyRecursionError::new_err(format!("nested deeper than {TERM_DEPTH_MAX}")));
        }
        if stack::left() < TERM_STACK_BYTES {
            return Err(PyRecursionError::new_err(
                "nested too deep for the stack of this thread, which is small (threading.stack_size)",
            ));
        }
        let left = self.parts_left.get().checked_sub(1);
        self.parts_left.set(left.ok_or_else(|| PyValueError::new_err(format!("more than {TERM_PARTS_MAX} parts")))?);
        Ok(())
    }

    fn object<'py>(&self, py: Python<'py>, term: Term<'_>, depth: usize) -> PyResult<Bound<'py, PyAny>> {
        self.count(depth)?;
        let each = |terms: Vec<Term<'_>>| -> PyResult<Vec<_>> {
            terms.into_iter().map(|term| self.object(py, term, depth - 1)).collect()
        };
        match term.get_type() {
            TermType::Atom => atom_object(py, term),
            TermType::Integer => integer_object(py, term),
            TermType::Float => Ok(PyFloat::new(py, term.decode().map_err(invalid)?).into_any()),
            TermType::Binary => binary_object(py, term),
            TermType::List => {
                // The iterator panics at the end of an improper list, so the length is asked first.
                term.list_length()
                    .map_err(|_| PyValueError::new_err("an improper list cannot become a Python list"))?;
                let items: ListIterator<'_> = term.decode().map_err(invalid)?;
                Ok(PyList::new(py, each(items.collect())?)?.into_any())
            }
            TermType::Tuple => {
                let items = get_tuple(term).map_err(invalid)?;
                if let [tag, bytes] = items[..]
                    && tag == atoms::bytes().to_term(tag.get_env())
                    && let Ok(bytes) = Binary::from_term(bytes)
                {
                    return Ok(PyBytes::new(py, &bytes).into_any());
                }
                Ok(PyTuple::new(py, each(items)?)?.into_any())
            }
            TermType::Map => {
                let dict = PyDict::new(py);
                for (key, value) in MapIterator::new(term).ok_or_else(|| invalid(rustler::Error::BadArg))? {
                    dict.set_item(self.object(py, key, depth - 1)?, self.object(py, value, depth - 1)?)?;
                }
                Ok(dict.into_any())
            }
            TermType::Pid => self.carry(py, "Pid", term),
            TermType::Ref => self.carry(py, "Ref", term),
            TermType::Port => self.carry(py, "Port", term),
            TermType::Fun => self.carry(py, "Fun", term),
            TermType::Unknown => Err(PyTypeError::new_err("this term has no Python counterpart")),
        }
    }

    fn carry<'py>(&self, py: Python<'py>, class: &str, term: Term<'_>) -> PyResult<Bound<'py, PyAny>> {
        let external = PyBytes::new(py, term.to_binary().as_slice());
        self.module.bind(py).getattr(class)?.call1((external, format!("{term:?}")))
    }

    /// Whether `object` is an `erlang.Pid`.
    ///
    /// # Errors
    /// The Python exception.
    pub fn is_pid(&self, object: &Bound<'_, PyAny>) -> PyResult<bool> {
        object.is_instance(&self.module.bind(object.py()).getattr("Pid")?)
    }

    /// Makes a term of a Python object.
    ///
    /// # Errors
    /// A Python exception that says what cannot be converted.
    pub fn to_term<'a>(&self, env: Env<'a>, object: &Bound<'_, PyAny>) -> PyResult<Term<'a>> {
        self.parts_left.set(TERM_PARTS_MAX);
        self.term(env, object, TERM_DEPTH_MAX)
    }

    fn term<'a>(&self, env: Env<'a>, object: &Bound<'_, PyAny>, depth: usize) -> PyResult<Term<'a>> {
        self.count(depth)?;
        if object.is_none() {
            return Ok(atoms::none().encode(env));
        }
        if let Ok(value) = object.cast::<PyBool>() {
            return Ok(value.is_true().encode(env));
        }
        if let Ok(value) = object.cast::<PyInt>() {
            return integer_term(env, value);
        }
        if let Ok(value) = object.cast::<PyFloat>() {
            return Ok(float_term(env, value.value()));
        }
        if let Ok(value) = object.cast::<PyString>() {
            return value.to_str().map(|text| binary_term(env, text.as_bytes()));
        }
        if let Ok(value) = object.cast::<PyBytes>() {
            return Ok(binary_term(env, value.as_bytes()));
        }
        if object.is_instance_of::<PyByteArray>() || object.is_instance_of::<PyMemoryView>() {
            let copy = object.py().get_type::<PyBytes>().call1((object,))?;
            return Ok(binary_term(env, copy.cast::<PyBytes>()?.as_bytes()));
        }
        if let Ok(items) = object.cast::<PyList>() {
            let terms: PyResult<Vec<_>> = items.iter().map(|item| self.term(env, &item, depth - 1)).collect();
            return Ok(terms?.encode(env));
        }
        if let Ok(items) = object.cast::<PyTuple>() {
            let terms: PyResult<Vec<_>> = items.iter().map(|item| self.term(env, &item, depth - 1)).collect();
            return Ok(make_tuple(env, &terms?));
        }
        if let Ok(items) = object.cast::<PyDict>() {
            let mut map = rustler::types::map::map_new(env);
            // A copy: converting an item may run Python, which may change the dict.
            for item in items.items() {
                let (key, value): (Bound<'_, PyAny>, Bound<'_, PyAny>) = item.extract()?;
                let (key, value) = (self.term(env, &key, depth - 1)?, self.term(env, &value, depth - 1)?);
                map = map.map_put(key, value).map_err(invalid)?;
            }
            return Ok(map);
        }
        if object.is_instance(&self.module.bind(object.py()).getattr("Opaque")?)? {
            if object.is_instance(&self.module.bind(object.py()).getattr("Atom")?)? {
                return atom_term(env, &object.str()?);
            }
            let external = object.getattr("_external")?;
            let external = external.cast::<PyBytes>()?.as_bytes();
            return env.binary_to_term(external).map(|(term, _)| term).ok_or_else(|| invalid(rustler::Error::BadArg));
        }
        let kind = object.get_type().name()?.to_string();
        let advice = if is_coroutine(object) { "; py:call awaits what an `async def` function returns" } else { "" };
        Err(PyTypeError::new_err(format!("a Python {kind} cannot become an Erlang term{advice}")))
    }
}

fn invalid(_: rustler::Error) -> PyErr {
    PyValueError::new_err("this term cannot be converted")
}

fn name(atom: Term<'_>) -> PyResult<String> {
    if let Ok(name) = atom.atom_to_string() {
        return Ok(name);
    }
    // Atoms beyond Latin-1 are in the external format as UTF-8: version, tag, length (1 or 2 bytes), text.
    let external = atom.to_binary();
    let text = match external.as_slice() {
        [_, 118, _, _, text @ ..] | [_, 119, _, text @ ..] => text,
        _ => return Err(PyValueError::new_err("this atom cannot be converted")),
    };
    String::from_utf8(text.to_vec()).map_err(|_| PyValueError::new_err("this atom is not UTF-8"))
}

fn atom_object<'py>(py: Python<'py>, term: Term<'_>) -> PyResult<Bound<'py, PyAny>> {
    let atom: Atom = term.decode().map_err(invalid)?;
    let is = |other: Atom| atom == other;
    if is(atoms::true_()) || is(atoms::false_()) {
        return Ok(PyBool::new(py, is(atoms::true_())).to_owned().into_any());
    }
    if is(atoms::none()) || is(atoms::nil()) || is(atoms::undefined()) {
        return Ok(py.None().into_bound(py));
    }
    let float =
        [(atoms::nan(), f64::NAN), (atoms::infinity(), f64::INFINITY), (atoms::neg_infinity(), f64::NEG_INFINITY)];
    if let Some((_, value)) = float.into_iter().find(|(name, _)| is(*name)) {
        return Ok(PyFloat::new(py, value).into_any());
    }
    Ok(PyString::new(py, &name(term)?).into_any())
}

fn atom_term<'a>(env: Env<'a>, name: &Bound<'_, PyString>) -> PyResult<Term<'a>> {
    static BUDGET: Budget = Budget::new(ATOMS_MAX);
    let name = name.to_str()?;
    BUDGET.atom(env, name).map_err(|why| match why {
        NoAtom::TooLong => PyValueError::new_err(format!("{name:?} cannot be an atom: at most 255 characters")),
        NoAtom::TooMany(max) => PyValueError::new_err(format!(
            "erlang.atom({name:?}) is no atom of this node, and Python has made {max} new ones already, which stay for ever; \
             send names that are not fixed as str"
        )),
    })
}

fn integer_object<'py>(py: Python<'py>, term: Term<'_>) -> PyResult<Bound<'py, PyAny>> {
    if let Ok(value) = term.decode::<i64>() {
        return Ok(value.into_pyobject(py)?.into_any());
    }
    let external = term.to_binary();
    let (sign, magnitude) = match external.as_slice() {
        [FORMAT_VERSION, SMALL_BIG, _, sign, magnitude @ ..] => (*sign, magnitude),
        [FORMAT_VERSION, LARGE_BIG, _, _, _, _, sign, magnitude @ ..] => (*sign, magnitude),
        _ => return Err(PyValueError::new_err("this integer cannot be converted")),
    };
    let value = py.get_type::<PyInt>().call_method1("from_bytes", (PyBytes::new(py, magnitude), "little"))?;
    if sign == 0 { Ok(value) } else { value.neg() }
}

fn integer_term<'a>(env: Env<'a>, value: &Bound<'_, PyInt>) -> PyResult<Term<'a>> {
    if let Ok(small) = value.extract::<i64>() {
        return Ok(small.encode(env));
    }
    let negative = value.lt(0)?;
    let magnitude = if negative { value.neg()? } else { value.as_any().clone() };
    let len = magnitude.call_method0("bit_length")?.extract::<usize>()?.div_ceil(8);
    let magnitude = magnitude.call_method1("to_bytes", (len, "little"))?;
    let magnitude = magnitude.cast::<PyBytes>()?.as_bytes();
    let mut external = vec![FORMAT_VERSION];
    match u8::try_from(len) {
        Ok(len) => external.extend([SMALL_BIG, len]),
        Err(_) => {
            let len = u32::try_from(len).map_err(|_| PyValueError::new_err("this integer is too large"))?;
            external.push(LARGE_BIG);
            external.extend(len.to_be_bytes());
        }
    }
    external.push(u8::from(negative));
    external.extend(magnitude);
    env.binary_to_term(&external)
        .map(|(term, _)| term)
        .ok_or_else(|| PyValueError::new_err("this integer is too large for Erlang"))
}

fn float_term<'a>(env: Env<'a>, value: f64) -> Term<'a> {
    match value {
        _ if value.is_nan() => atoms::nan().encode(env),
        f64::INFINITY => atoms::infinity().encode(env),
        f64::NEG_INFINITY => atoms::neg_infinity().encode(env),
        _ => value.encode(env),
    }
}

fn binary_object<'py>(py: Python<'py>, term: Term<'_>) -> PyResult<Bound<'py, PyAny>> {
    let bytes = Binary::from_term(term).map_err(|_| PyTypeError::new_err("a bitstring has no Python counterpart"))?;
    Ok(match std::str::from_utf8(&bytes) {
        Ok(text) => PyString::new(py, text).into_any(),
        Err(_) => PyBytes::new(py, &bytes).into_any(),
    })
}

fn binary_term<'a>(env: Env<'a>, bytes: &[u8]) -> Term<'a> {
    NewBinary::from_slice(env, bytes).into()
}
