//! `py:exec`, `py:eval` and `py:call`: Python that Erlang asks a context to run.

#![forbid(unsafe_code)]

use crate::base::atoms;
use crate::beam::reply::{OwnedTerm, ReplyTo};
use crate::beam::resource::Ref;
use crate::connection::callbacks::{describe_exception, format_exception};
use crate::mail::command::Job;
use crate::mail::mailbox::Mailbox;
use crate::mail::notice::Notice;
use crate::mail::request_timeout::{Ticket, next_serial};
use crate::python::describe::is_coroutine;
use crate::python::glue::class_name;
use crate::python::terms::TermConverter;
use pyo3::exceptions::PyException;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyModule, PyTuple};
use rustler::types::tuple::get_tuple;
use rustler::{Encoder, Env, ListIterator, Term};

/// Why a job has no result.
enum Failure {
    /// Python raised.
    Raised(PyErr),
    /// An argument or the result cannot be converted.
    Unsupported(String),
}

impl From<PyErr> for Failure {
    fn from(error: PyErr) -> Self {
        Failure::Raised(error)
    }
}

/// Of an exception that the conversion of terms raised. What is no `Exception`, an interrupt, says nothing of the terms.
fn unsupported(py: Python<'_>) -> impl Fn(PyErr) -> Failure {
    move |error| match error.is_instance_of::<PyException>(py) {
        true => Failure::Unsupported(error.value(py).to_string()),
        false => Failure::Raised(error),
    }
}

/// Who waits for what Erlang asked for.
pub struct Waiter {
    /// Who is answered; without anybody, an exception is logged.
    pub reply: Option<ReplyTo>,
    /// By which it may be given up.
    pub ticket: Option<Ref<Ticket>>,
}

impl Waiter {
    /// Whether anybody does, still: if so, the stretch that runs now runs for it.
    fn waits(&self, mailbox: &Mailbox) -> bool {
        self.ticket.as_ref().is_none_or(|ticket| ticket.runs(mailbox.running.number()))
    }

    /// It has become that task. Answers whether anybody waits for it.
    pub fn became(&self, task: &Bound<'_, PyAny>) -> bool {
        self.ticket.as_ref().is_none_or(|ticket| ticket.became(task.as_ptr()))
    }

    /// The number of the request.
    pub fn serial(&self) -> u64 {
        self.ticket.as_ref().map_or_else(next_serial, |ticket| ticket.serial())
    }

    /// The context ends.
    pub fn stopped(self) {
        if let Some(reply) = self.reply {
            reply.stopped();
        }
    }

    /// What a task has ended with is answered.
    pub fn tell(
        self,
        py: Python<'_>,
        converter: &TermConverter,
        result: PyResult<Bound<'_, PyAny>>,
        mailbox: &Mailbox,
    ) {
        self.answer(py, converter, result.map_err(Failure::Raised), mailbox);
    }

    fn answer(
        self,
        py: Python<'_>,
        converter: &TermConverter,
        result: Result<Bound<'_, PyAny>, Failure>,
        mailbox: &Mailbox,
    ) {
        let Some(reply) = &self.reply else {
            let why = match result {
                Ok(_) => return,
                Err(Failure::Raised(error)) => format!("raised:\n{}", format_exception(py, &error)),
                Err(Failure::Unsupported(why)) => format!("could not be made: {why}"),
            };
            let message = format!("a cast {why}");
            return mailbox.notify(Notice { level: "error", message, meta: Vec::new(), fd: None });
        };
        reply.send_first(|env| {
            // A stretch of its own, which the ticket can name: what makes a term, or a text, may run the user's code.
            let answer = || self.waits(mailbox).then(|| answer(py, converter, env, result));
            let (answer, slow) = mailbox.running.call(py, answer);
            if let Some(took) = slow {
                mailbox.was_slow_between(took);
            }
            answer.unwrap_or_else(|| (atoms::error(), atoms::idle()).encode(env))
        });
    }
}

/// Runs a job with `globals` and answers; without anybody to answer, an exception becomes a log record. Of one that was
/// given up nothing begins any more, and nobody is answered. Of a call that returned a coroutine the result is that, and who
/// waits for what it will return.
pub fn run<'py>(
    converter: &TermConverter,
    globals: &Bound<'py, PyDict>,
    job: Job,
    waiter: Waiter,
    mailbox: &Mailbox,
) -> Option<(Bound<'py, PyAny>, Waiter)> {
    let py = globals.py();
    let may_await = matches!(job, Job::Call(..));
    let work = || match job {
        Job::Exec(code) => {
            exec(globals, &code, "<py:exec>").map(|()| py.None().into_bound(py)).map_err(Failure::Raised)
        }
        Job::Eval(code, locals) => eval(converter, globals, &code, &locals),
        Job::Call(module, function, args) => call(converter, globals, &module, &function, &args),
    };
    let (result, _slow) = mailbox.running.call(py, || waiter.waits(mailbox).then(work));
    match result? {
        Ok(result) if may_await && is_coroutine(&result) => return Some((result, waiter)),
        result => waiter.answer(py, converter, result, mailbox),
    }
    None
}

fn answer<'a>(
    py: Python<'_>,
    converter: &TermConverter,
    env: Env<'a>,
    result: Result<Bound<'_, PyAny>, Failure>,
) -> Term<'a> {
    match result.and_then(|value| converter.to_term(env, &value).map_err(unsupported(py))) {
        Ok(term) => (atoms::ok(), term).encode(env),
        Err(Failure::Raised(error)) => (atoms::error(), error_term(py, env, &error)).encode(env),
        Err(Failure::Unsupported(why)) => (atoms::error(), (atoms::unsupported_term(), why)).encode(env),
    }
}

/// `{python_error, #{type, message, traceback}}`.
pub fn error_term<'a>(py: Python<'_>, env: Env<'a>, error: &PyErr) -> Term<'a> {
    let kind = class_name(&error.get_type(py));
    let (message, traceback) = describe_exception(py, error);
    let pairs = [(atoms::r#type(), kind), (atoms::message(), message), (atoms::traceback(), traceback)];
    let map = Term::map_from_pairs(env, &pairs).unwrap_or_else(|_| rustler::types::map::map_new(env));
    (atoms::python_error(), map).encode(env)
}

/// Runs statements in `globals`; tracebacks call them `name`.
///
/// # Errors
/// What they raised.
pub fn exec(globals: &Bound<'_, PyDict>, code: &str, name: &str) -> PyResult<()> {
    let builtins = PyModule::import(globals.py(), "builtins")?;
    let code = builtins.call_method1("compile", (code, name, "exec"))?;
    builtins.call_method1("exec", (code, globals)).map(drop)
}

fn eval<'py>(
    converter: &TermConverter,
    globals: &Bound<'py, PyDict>,
    code: &str,
    locals: &OwnedTerm,
) -> Result<Bound<'py, PyAny>, Failure> {
    let py = globals.py();
    let locals = locals.open(|term| converter.to_str_dict(py, term).map(Bound::unbind)).map_err(unsupported(py))?;
    let builtins = PyModule::import(py, "builtins")?;
    let code = builtins.call_method1("compile", (code, "<py:eval>", "eval"))?;
    Ok(builtins.call_method1("eval", (code, globals, locals))?)
}

fn call<'py>(
    converter: &TermConverter,
    globals: &Bound<'py, PyDict>,
    module: &str,
    function: &str,
    args: &OwnedTerm,
) -> Result<Bound<'py, PyAny>, Failure> {
    let py = globals.py();
    let (args, kwargs) = args.open(|term| arguments(py, converter, term)).map_err(unsupported(py))?;
    let mut names = function.split('.');
    let first = names.next().unwrap_or_default();
    let mut target = match module {
        "__main__" => globals.get_item(first)?.ok_or_else(|| {
            pyo3::exceptions::PyNameError::new_err(format!("name '{first}' is not defined in this context"))
        })?,
        _ => py.import(module)?.getattr(first)?,
    };
    for name in names {
        target = target.getattr(name)?;
    }
    Ok(target.call(args.into_bound(py), Some(&kwargs.into_bound(py)))?)
}

fn arguments(py: Python<'_>, converter: &TermConverter, term: Term<'_>) -> PyResult<(Py<PyTuple>, Py<PyDict>)> {
    let bad = || pyo3::exceptions::PyTypeError::new_err("arguments must be a proper list");
    let parts = get_tuple(term).map_err(|_| bad())?;
    let [args, kwargs] = parts[..] else { return Err(bad()) };
    args.list_length().map_err(|_| bad())?;
    let items: ListIterator<'_> = args.decode().map_err(|_| bad())?;
    let items: PyResult<Vec<_>> = items.map(|item| converter.to_python(py, item)).collect();
    Ok((PyTuple::new(py, items?)?.unbind(), converter.to_str_dict(py, kwargs)?.unbind()))
}
