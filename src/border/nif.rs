//! The functions that Erlang calls: decode, enqueue, answer (I8). What may block runs dirty or on the reactor thread.

#![forbid(unsafe_code)]

use crate::base::atoms;
use crate::base::config::{Backend, INBOX_BYTES, Mode, Options};
use crate::base::limits::Limits;
use crate::beam::call_reply::Answer;
use crate::beam::dirty;
use crate::beam::relay;
use crate::beam::reply::{OwnedTerm, ReplyTo};
use crate::beam::resource::Ref;
use crate::beam::select::Selectable;
use crate::border::handle::ContextHandle;
use crate::border::library;
use crate::border::listener::Listener;
use crate::border::reasons::{no_descriptor, no_thread, system};
use crate::driver::descriptor::{Descriptor, How, Unfit};
use crate::driver::registry;
use crate::driver::syscalls::errno_of;
use crate::mail::command::{Command, Info, Job, Name, Request};
use crate::mail::inbox::Refused;
use crate::mail::mailbox::Mailbox;
use crate::mail::notice::Notice;
use crate::mail::place::{Place, no_place};
use crate::mail::request_timeout::{Ticket, Unwanted};
use crate::mail::running::NoInterrupt;
use crate::mail::stats::Quantiles;
use crate::python::audit;
use crate::python::interpreter;
use crate::python::subinterpreter::HAS_OWN_GIL;
use crate::reactor::{stacks, thread};
use rustler::{Atom, Binary, Encoder, Env, NifMap, NifResult, Term};
use std::io;
use std::sync::Arc;
use std::time::Duration;

type Context = Ref<ContextHandle>;

#[derive(NifMap)]
struct NativeOptions<'a> {
    backend: Backend,
    cpu: i64, // -1: any
    setup_code: Binary<'a>,
    python_path: Vec<Binary<'a>>,
    /// Empty: none.
    venv: Binary<'a>,
    /// Values of environment variables; without one it is taken away.
    env: Vec<(Binary<'a>, Option<Binary<'a>>)>,
    max_connections: usize,
    write_high_bytes: usize,
    write_low_bytes: usize,
    linger_ms: u64,
    linger_bytes: usize,
    /// Milliseconds; 0 is never.
    idle_timeout_ms: u64,
    write_stall_timeout_ms: u64,
    slow_callback_ms: u64,
    buffers: u16,
    buffer_bytes: usize,
}

fn text(binary: &Binary<'_>) -> String {
    String::from_utf8_lossy(binary).into_owned()
}

fn timeout(ms: u64) -> Option<Duration> {
    (ms > 0).then(|| Duration::from_millis(ms))
}

/// Called by the module's own `load/0`, once.
#[rustler::nif]
fn loaded() -> Atom {
    library::loaded();
    atoms::ok()
}

#[rustler::nif]
fn is_known(reference: Term<'_>) -> bool {
    reference.decode::<Context>().is_ok() || reference.decode::<Ref<Listener>>().is_ok()
}

#[rustler::nif]
fn context_start<'a>(env: Env<'a>, reference: Term<'a>, id: i64, mode: Mode, options: NativeOptions<'a>) -> Term<'a> {
    if mode == Mode::Owngil && !HAS_OWN_GIL {
        let python = env!("PY_REACTOR_PYTHON_VERSION");
        let why = format!(
            "py_reactor was built with Python {python}; an interpreter has a GIL of its own from 3.12 on. Build with \
             PYTHON=/path/to/python3.12, or use subinterp, which isolates but shares the GIL"
        );
        return (atoms::error(), (atoms::unsupported_mode(), mode, why)).encode(env);
    }
    let options = Options {
        id,
        mode,
        backend: options.backend,
        cpu: usize::try_from(options.cpu).ok(),
        setup_code: text(&options.setup_code),
        python_path: options.python_path.iter().map(text).collect(),
        venv: Some(text(&options.venv)).filter(|venv| !venv.is_empty()),
        env: options.env.iter().map(|(name, value)| (text(name), value.as_ref().map(text))).collect(),
        max_connections: options.max_connections,
        linger_ms: options.linger_ms,
        idle_timeout: timeout(options.idle_timeout_ms),
        write_stall_timeout: timeout(options.write_stall_timeout_ms),
        slow_callback: timeout(options.slow_callback_ms),
        buffers: options.buffers,
        buffer_bytes: options.buffer_bytes,
        limits: Limits {
            write_high_bytes: options.write_high_bytes,
            write_low_bytes: options.write_low_bytes,
            inbox_bytes: INBOX_BYTES.max(2 * options.buffer_bytes),
            linger_bytes: options.linger_bytes,
        },
    };
    match start(env, reference, options) {
        Ok(context) => (atoms::ok(), context).encode(env),
        Err(why) => (atoms::error(), (atoms::resources(), why)).encode(env),
    }
}

fn start<'a>(env: Env<'a>, reference: Term<'a>, options: Options) -> Result<Context, String> {
    let no_descriptor = |error: io::Error| no_descriptor(&error);
    let mailbox = Arc::new(Mailbox::new(options.id, env.pid()).map_err(no_descriptor)?);
    let notices = Selectable::new(env, mailbox.notices_fd().map_err(no_descriptor)?);
    let max_connections = options.max_connections;
    let thread = thread::spawn(options, Arc::clone(&mailbox), ReplyTo::new(env.pid(), reference));
    let thread = thread.map_err(|error| no_thread(&error))?;
    let context = Ref::new(ContextHandle::new(mailbox, max_connections, notices, thread));
    if !context.monitor_caller(env) {
        context.mailbox.inbox.kill();
    }
    Ok(context)
}

#[rustler::nif]
fn context_stop(context: Context, drain_ms: u64) -> Atom {
    // Refused where the thread has ended already, or is about to.
    let _ = context.mailbox.inbox.post(Command::Stop { drain: Duration::from_millis(drain_ms) });
    atoms::ok()
}

/// Ends the thread as soon as it looks, and the Python code that runs on it.
#[rustler::nif]
fn context_kill(context: Context) -> Atom {
    context.mailbox.inbox.kill();
    // Where none runs, none begins.
    let _ = context.mailbox.running.interrupt(drop);
    atoms::ok()
}

#[rustler::nif]
fn context_drain<'a>(env: Env<'a>, context: Context, reference: Term<'a>, within_ms: u64) -> Term<'a> {
    let reply = ReplyTo::new(env.pid(), reference);
    // From now on, even if Python keeps the thread from hearing of it.
    context.mailbox.inbox.drain();
    answer(env, context.mailbox.inbox.post(Command::Drain { within: Duration::from_millis(within_ms), reply }))
}

#[rustler::nif]
fn context_interrupt<'a>(env: Env<'a>, context: Context, reference: Term<'a>) -> Term<'a> {
    let reply = ReplyTo::new(env.pid(), reference);
    let done = |raised: bool| {
        reply.send(|env| match raised {
            true => (atoms::ok(), atoms::none()).encode(env),
            false => (atoms::error(), atoms::idle()).encode(env),
        });
    };
    interrupted(env, context.mailbox.running.interrupt(done))
}

fn interrupted(env: Env<'_>, begun: Result<(), NoInterrupt>) -> Term<'_> {
    match begun {
        Ok(()) => atoms::ok().encode(env),
        Err(NoInterrupt::Idle) => (atoms::error(), atoms::idle()).encode(env),
        Err(NoInterrupt::Busy) => (atoms::error(), atoms::busy()).encode(env),
        Err(NoInterrupt::Resources(error)) => (atoms::error(), (atoms::resources(), no_thread(&error))).encode(env),
    }
}

#[rustler::nif]
fn context_stacks<'a>(env: Env<'a>, context: Context, reference: Term<'a>) -> Term<'a> {
    interrupted(env, stacks::tell(&context.mailbox, ReplyTo::new(env.pid(), reference)))
}

/// How many commands wait, and whether Python code may be running.
#[rustler::nif]
fn context_load(context: Context) -> (usize, bool) {
    (context.mailbox.inbox.waiting(), !context.mailbox.running.number().is_multiple_of(2))
}

#[rustler::nif(schedule = "DirtyIo")]
fn context_join(env: Env<'_>, context: Context) -> Atom {
    context.notices.stop(env);
    context.join()
}

#[rustler::nif]
fn handoff<'a>(env: Env<'a>, context: Context, fd: i64, info: Term<'a>, how: How) -> Term<'a> {
    let args = || [context.encode(env), fd.encode(env), info, how.encode(env)];
    if let Some(later) = dirty::elsewhere(env, c"handoff", args, &[info]) {
        return later;
    }
    match hand_over(env, &context, fd, info, how) {
        Ok(()) => atoms::ok().encode(env),
        Err(reason) => (atoms::error(), reason).encode(env),
    }
}

fn hand_over<'a>(env: Env<'a>, context: &Context, fd: i64, info: Term<'a>, how: How) -> Result<(), Term<'a>> {
    let number = i32::try_from(fd).unwrap_or(-1);
    let mut descriptor = Descriptor::claim(number, how).map_err(|unfit| match unfit {
        Unfit::Bad => (atoms::bad_fd(), fd).encode(env),
        Unfit::Served => (atoms::already_handed_off(), fd).encode(env),
        Unfit::Kind(kind) => (atoms::unsupported_descriptor(), kind_atom(env, kind)).encode(env),
        Unfit::NoRoom(errno) => system(env, errno),
    })?;
    if !info.is_map() {
        return Err((atoms::bad_info(), "the second argument must be a map").encode(env));
    }
    let max = context.max_connections;
    let place = Place::take(&context.mailbox.stats, max).ok_or_else(|| {
        // Its peer shall know, whoever else holds the socket.
        descriptor.promise();
        context.mailbox.turned_away(&no_place(max));
        (atoms::max_connections(), max).encode(env)
    })?;
    let command = Command::Adopt { descriptor, place, info: Info::Map(OwnedTerm::new(info)) };
    context.mailbox.inbox.post(command).map_err(|(refused, _)| refused.encode(env))
}

fn kind_atom(env: Env<'_>, kind: &str) -> Atom {
    Atom::from_str(env, kind).unwrap_or_else(|_| atoms::undefined())
}

#[rustler::nif]
fn stats(env: Env<'_>, context: Context) -> NifResult<Term<'_>> {
    let mut map = rustler::types::map::map_new(env);
    for (name, value) in context.mailbox.stats.figures() {
        map = map.map_put(Atom::from_str(env, name)?, value)?;
    }
    let Quantiles { p50, p99, max } = context.mailbox.stats.loop_lag.quantiles();
    let mut lag = rustler::types::map::map_new(env);
    for (name, value) in [("p50", p50), ("p99", p99), ("max", max)] {
        lag = lag.map_put(Atom::from_str(env, name)?, value)?;
    }
    map = map.map_put(Atom::from_str(env, "loop_lag")?, lag)?;
    let (backend, note) = context.mailbox.backend.get().cloned().unwrap_or(("undefined", String::new()));
    map.map_put(atoms::backend(), Atom::from_str(env, backend)?)?.map_put(atoms::backend_note(), note)
}

/// `reference` is `{Ticket, Reference}` where the request can be given up.
fn run<'a>(env: Env<'a>, context: &Context, reference: Term<'a>, job: Job) -> Term<'a> {
    let (ticket, reference) = match reference.decode::<(Ref<Ticket>, Term<'a>)>() {
        Ok((ticket, reference)) => (Some(ticket), reference),
        Err(_) => (None, reference),
    };
    let reply = (!reference.is_atom()).then(|| ReplyTo::new(env.pid(), reference));
    answer(env, context.mailbox.inbox.post(Command::Run { job, reply, ticket }))
}

#[rustler::nif]
fn ticket() -> Ref<Ticket> {
    Ref::new(Ticket::new())
}

#[rustler::nif]
fn give_up(context: Context, ticket: Ref<Ticket>, unwanted: Unwanted) -> Atom {
    context.mailbox.give_up(&ticket, unwanted);
    atoms::ok()
}

fn answer(env: Env<'_>, posted: Result<(), (Refused, Command)>) -> Term<'_> {
    match posted {
        Ok(()) => atoms::ok().encode(env),
        Err((refused, _)) => (atoms::error(), refused).encode(env),
    }
}

#[rustler::nif]
fn exec<'a>(env: Env<'a>, context: Context, reference: Term<'a>, code: Binary<'a>) -> Term<'a> {
    let args = || [context.encode(env), reference, code.to_term(env)];
    if let Some(later) = dirty::text_elsewhere(env, c"exec", args, &code, &[]) {
        return later;
    }
    run(env, &context, reference, Job::Exec(text(&code)))
}

#[rustler::nif]
fn eval<'a>(env: Env<'a>, context: Context, reference: Term<'a>, code: Binary<'a>, locals: Term<'a>) -> Term<'a> {
    let args = || [context.encode(env), reference, code.to_term(env), locals];
    if let Some(later) = dirty::text_elsewhere(env, c"eval", args, &code, &[locals]) {
        return later;
    }
    run(env, &context, reference, Job::Eval(text(&code), OwnedTerm::new(locals)))
}

#[rustler::nif]
fn call<'a>(
    env: Env<'a>,
    context: Context,
    reference: Term<'a>,
    module: Binary<'a>,
    function: Binary<'a>,
    positional: Term<'a>,
    keywords: Term<'a>,
) -> Term<'a> {
    let args = || [context.encode(env), reference, module.to_term(env), function.to_term(env), positional, keywords];
    if let Some(later) = dirty::elsewhere(env, c"call", args, &[positional, keywords]) {
        return later;
    }
    let arguments = OwnedTerm::new((positional, keywords).encode(env));
    run(env, &context, reference, Job::Call(text(&module), text(&function), arguments))
}

#[rustler::nif]
fn connection_ask<'a>(
    env: Env<'a>,
    context: Context,
    reference: Term<'a>,
    connection: Term<'a>,
    request: Term<'a>,
) -> NifResult<Term<'a>> {
    let args = || [context.encode(env), reference, connection, request];
    if let Some(later) = dirty::elsewhere(env, c"connection_ask", args, &[request]) {
        return Ok(later);
    }
    let (fd, exactly) = match connection.decode::<(i64, u64, u64)>() {
        Ok((fd, context, serial)) => (fd, Some((context, serial))),
        Err(_) => (connection.decode::<i64>()?, None),
    };
    let request = match request.decode::<(Atom, Term<'_>)>() {
        Ok((what, data)) if what == atoms::send() => Request::Send(OwnedTerm::new(data)),
        Ok((what, message)) if what == atoms::notify() => Request::Notify(OwnedTerm::new(message)),
        _ => match request.decode::<Atom>()? {
            what if what == atoms::watch() => Request::Monitor,
            what if what == atoms::unwatch() => Request::Demonitor,
            _ => Request::Close,
        },
    };
    let name = Name { fd: i32::try_from(fd).unwrap_or(-1), exactly };
    let reply = ReplyTo::new(env.pid(), reference);
    Ok(answer(env, context.mailbox.inbox.post(Command::Ask { name, request, reply })))
}

#[rustler::nif]
fn connection_list<'a>(env: Env<'a>, context: Context, reference: Term<'a>, whole: bool) -> Term<'a> {
    answer(env, context.mailbox.inbox.post(Command::List { whole, reply: ReplyTo::new(env.pid(), reference) }))
}

#[rustler::nif]
fn notify_arm(env: Env<'_>, context: Context) -> Atom {
    context.notices.arm(env);
    atoms::ok()
}

#[rustler::nif]
fn notify_take(env: Env<'_>, context: Context) -> NifResult<Vec<Term<'_>>> {
    let context_id = context.mailbox.id;
    let (notices, dropped) = context.mailbox.take_notices();
    let mut events: Vec<_> =
        notices.into_iter().map(|notice| notice_term(env, context_id, notice)).collect::<NifResult<_>>()?;
    if dropped > 0 {
        events.push((atoms::dropped(), dropped).encode(env));
    }
    Ok(events)
}

fn notice_term(env: Env<'_>, context_id: i64, notice: Notice) -> NifResult<Term<'_>> {
    let mut meta = rustler::types::map::map_new(env).map_put(atoms::py_context(), context_id)?;
    for (key, value) in notice.meta {
        meta = meta.map_put(Atom::from_str(env, key)?, value)?;
    }
    if let Some(fd) = notice.fd {
        meta = meta.map_put(atoms::fd(), fd)?;
    }
    Ok((atoms::log(), Atom::from_str(env, notice.level)?, notice.message, meta).encode(env))
}

#[rustler::nif]
fn relay_take(env: Env<'_>) -> Term<'_> {
    match dirty::parts_elsewhere(env, c"relay_take", || [], relay::parts_of_next()) {
        Some(later) => later,
        None => relay::take(env).encode(env),
    }
}

#[rustler::nif]
fn answer_call<'a>(env: Env<'a>, answer: Term<'a>, term: Term<'a>) -> Term<'a> {
    if let Some(later) = dirty::elsewhere(env, c"answer_call", || [answer, term], &[term]) {
        return later;
    }
    // Who asked before the library was loaded anew hears that nobody answers, once Erlang has forgotten this.
    if let Ok(answer) = answer.decode::<Ref<Answer>>() {
        answer.give(term);
    }
    atoms::ok().encode(env)
}

#[rustler::nif]
fn dup_fd(env: Env<'_>, fd: i64) -> Term<'_> {
    match registry::duplicate_for_user(i32::try_from(fd).unwrap_or(-1)) {
        Ok(copy) => (atoms::ok(), copy).encode(env),
        Err(error) if errno_of(&error) == libc::EBADF => (atoms::error(), (atoms::bad_fd(), fd)).encode(env),
        Err(error) => (atoms::error(), system(env, errno_of(&error))).encode(env),
    }
}

#[rustler::nif]
fn close_fd(env: Env<'_>, fd: i64) -> Term<'_> {
    match registry::take_duplicate(i32::try_from(fd).unwrap_or(-1)) {
        Some(copy) => {
            drop(copy);
            atoms::ok().encode(env)
        }
        None => (atoms::error(), (atoms::bad_fd(), fd)).encode(env),
    }
}

#[rustler::nif]
fn allow_subprocess(allowed: bool) -> Atom {
    audit::allow_subprocess(allowed);
    atoms::ok()
}

#[rustler::nif(schedule = "DirtyIo")]
fn pause_program(patience_ms: u64) -> bool {
    interpreter::pause_program(Duration::from_millis(patience_ms))
}

#[rustler::nif]
fn version(env: Env<'_>) -> NifResult<Term<'_>> {
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let pairs = [
        (atoms::nif(), env!("CARGO_PKG_VERSION").to_owned()),
        (atoms::python(), env!("PY_REACTOR_PYTHON_VERSION").to_owned()),
        (atoms::kernel(), kernel.trim().to_owned()),
        (atoms::rust(), env!("PY_REACTOR_RUSTC").to_owned()),
    ];
    Term::map_from_pairs(env, &pairs)
}
