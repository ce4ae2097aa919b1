//! Listening sockets as Erlang has them: opened and closed by the listener's process, accepted from by contexts.

use crate::base::atoms;
use crate::beam::reply::ReplyTo;
use crate::beam::resource::{Kind, Ref, Resource};
use crate::beam::select::Selectable;
use crate::border::handle::ContextHandle;
use crate::border::reasons::{posix, system};
use crate::driver::address::{Address, Meaning};
use crate::driver::registry::duplicate;
use crate::driver::syscalls::no_delay;
use crate::driver::syscalls::{check, errno_of};
use crate::mail::command::Command;
use crate::mail::listening::{Listening, News};
use crate::mail::sharing::Share;
use rustler::sys::ErlNifEnv;
use rustler::{Atom, Encoder, Env, Error, NifResult, Term};
use std::ffi::CStr;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::Arc;

/// A listening socket, as Erlang refers to it. It is closed when the process that has opened it dies.
pub struct Listener {
    listening: Arc<Listening>,
    /// Of the same socket: by this the process waits for clients while nobody accepts.
    clients: Ref<Selectable>,
}

impl Resource for Listener {
    const NAME: &'static CStr = c"py_reactor_listener";

    fn kind() -> &'static Kind {
        static KIND: Kind = Kind::new();
        &KIND
    }

    fn down(&self, _: *mut ErlNifEnv) {
        self.listening.close();
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.listening.close();
    }
}

/// Opens a non-blocking listening socket with `SO_REUSEADDR`, or `SO_REUSEPORT` as well, and answers it with the port it got.
///
/// # Errors
/// Those of `socket`, `bind` and `listen`.
fn open(ip: IpAddr, port: u16, backlog: i32, reuse_port: bool) -> io::Result<(OwnedFd, u16)> {
    let family = if ip.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    // SAFETY: I10: no pointers; the result is checked, and is then ours alone.
    let socket = unsafe {
        let fd = check(libc::socket(family, libc::SOCK_STREAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC, 0))?;
        OwnedFd::from_raw_fd(fd)
    };
    let fd = socket.as_raw_fd();
    // Those that are accepted from it have that, too.
    no_delay(fd);
    let on = 1i32;
    let wanted = Address::from(SocketAddr::new(ip, port));
    let mut bound = Address::empty();
    // SAFETY: I10: pointers to locals with their sizes.
    unsafe {
        let size = size_of::<i32>() as libc::socklen_t;
        check(libc::setsockopt(fd, libc::SOL_SOCKET, libc::SO_REUSEADDR, (&raw const on).cast(), size))?;
        if reuse_port {
            check(libc::setsockopt(fd, libc::SOL_SOCKET, libc::SO_REUSEPORT, (&raw const on).cast(), size))?;
        }
        let (address, len) = wanted.as_c();
        check(libc::bind(fd, address, len))?;
        check(libc::listen(fd, backlog))?;
        let (address, len) = bound.as_c_mut();
        check(libc::getsockname(fd, address, len))?;
    }
    match bound.meaning() {
        Meaning::Ip(address) => Ok((socket, address.port())),
        _ => Ok((socket, port)),
    }
}

fn say(env: Env<'_>, news: News) -> Term<'_> {
    match news {
        News::Nobody => atoms::nobody_accepts().encode(env),
        News::Trouble(errno) => (atoms::trouble(), posix(env, errno)).encode(env),
    }
}

fn address(ip: Term<'_>) -> NifResult<IpAddr> {
    if let Ok((a, b, c, d)) = ip.decode::<(u8, u8, u8, u8)>() {
        return Ok(IpAddr::from([a, b, c, d]));
    }
    let parts = rustler::types::tuple::get_tuple(ip)?;
    let parts: Vec<u16> = parts.into_iter().map(Term::decode).collect::<NifResult<_>>()?;
    <[u16; 8]>::try_from(parts).map(IpAddr::from).map_err(|_| Error::BadArg)
}

#[rustler::nif]
fn listen<'a>(
    env: Env<'a>,
    reference: Term<'a>,
    ip: Term<'a>,
    port: u16,
    backlog: i32,
    reuse_port: bool,
) -> NifResult<Term<'a>> {
    let ip = address(ip)?;
    let opened = open(ip, port, backlog, reuse_port).and_then(|(socket, port)| {
        let clients = Selectable::new(env, duplicate(socket.as_raw_fd())?);
        let listening = Arc::new(Listening::new(socket, ReplyTo::new(env.pid(), reference), say));
        let listener = Ref::new(Listener { listening, clients });
        listener.monitor_caller(env);
        Ok((listener, port))
    });
    Ok(match opened {
        Ok((listener, port)) => (atoms::ok(), listener, port).encode(env),
        Err(error) => (atoms::error(), system(env, errno_of(&error))).encode(env),
    })
}

#[rustler::nif]
fn listener_arm(env: Env<'_>, listener: Ref<Listener>) -> Atom {
    listener.clients.arm(env);
    atoms::ok()
}

#[rustler::nif]
fn listener_share(env: Env<'_>, listener: Ref<Listener>, context: Ref<ContextHandle>) -> Term<'_> {
    let ContextHandle { mailbox, max_connections, .. } = &*context;
    let share = Share { mailbox: Arc::clone(mailbox), max_connections: *max_connections };
    if listener.listening.join(Arc::new(share)) {
        let serial = mailbox.serial;
        let accept = Command::Accept { listening: Arc::clone(&listener.listening), serial };
        if let Err((refused, _)) = mailbox.inbox.post(accept) {
            listener.listening.forget(serial);
            return (atoms::error(), refused).encode(env);
        }
    }
    atoms::ok().encode(env)
}

#[rustler::nif]
fn listener_is_wanted(listener: Ref<Listener>) -> bool {
    listener.listening.is_wanted()
}

#[rustler::nif]
fn listener_close(env: Env<'_>, listener: Ref<Listener>) -> Atom {
    listener.listening.close();
    listener.clients.stop(env);
    atoms::ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_in_use_is_an_error() {
        let (_socket, port) = open(IpAddr::from([127, 0, 0, 1]), 0, 16, false).unwrap();
        let error = open(IpAddr::from([127, 0, 0, 1]), port, 16, false).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    }
}
