//! A listening socket, and the contexts that accept from it, each on its own thread.
//!
//! Whoever waits to accept stands in the kernel's queue, and is woken for one connection. That wake-up is lost where its thread is
//! held up by Python code, or ends: so then somebody else is asked to look. Only where all are full is a client turned away.

use crate::base::sync::lock;
use crate::beam::reply::ReplyTo;
use crate::driver::descriptor::Descriptor;
use rustler::{Encoder, Env, Term};
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

/// One that accepts from it.
pub trait Acceptor: Send + Sync {
    /// Names it among all of this VM.
    fn serial(&self) -> u64;

    /// Whether a connection would be taken now, if there is room.
    fn takes_connections(&self) -> bool;

    /// Its thread does nothing but wait.
    fn is_waiting(&self) -> bool;

    /// It is to look whether somebody waits: it may not have been woken for that.
    fn look_again(&self);

    /// It is to look at what has changed.
    fn wake(&self);

    /// Serves a connection, unless it has no room.
    ///
    /// # Errors
    /// It does not; here the connection is.
    fn give(&self, descriptor: Descriptor, peer: SocketAddr) -> Result<(), Descriptor>;
}

struct Sharer {
    acceptor: Arc<dyn Acceptor>,
    /// It has as many connections as it may have.
    full: bool,
    /// And accepts, to turn them away.
    turns_away: bool,
}

impl Sharer {
    fn takes(&self) -> bool {
        !self.full && self.acceptor.takes_connections()
    }
}

/// What its owner is told of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum News {
    /// Nobody accepts any more.
    Nobody,
    /// `accept` has failed with this `errno`, and will be tried again.
    Trouble(i32),
}

/// How news become a term.
pub type Say = for<'a> fn(Env<'a>, News) -> Term<'a>;

/// The socket, until the last one that accepts has let go of it.
pub struct Listening {
    socket: OwnedFd,
    over: AtomicBool,
    sharers: Mutex<Vec<Sharer>>,
    /// Whose turn it is to be asked.
    turn: AtomicUsize,
    /// The trouble that was told of; 0: there is none.
    trouble: AtomicI32,
    owner: Mutex<ReplyTo>,
    say: Say,
}

impl Listening {
    /// Nobody accepts from `socket` yet. `owner` is told the news, as `say` puts them.
    pub fn new(socket: OwnedFd, owner: ReplyTo, say: Say) -> Self {
        Listening {
            socket,
            over: AtomicBool::new(false),
            sharers: Mutex::default(),
            turn: AtomicUsize::new(0),
            trouble: AtomicI32::new(0),
            owner: Mutex::new(owner),
            say,
        }
    }

    /// From any thread, now: nobody can connect any more, and who waits to accept lets go of the socket.
    pub fn close(&self) {
        self.over.store(true, Ordering::Release);
        // Not only closed: operations of the kernel keep the socket.
        // SAFETY: I10: no pointers; the socket is ours.
        unsafe { libc::shutdown(self.socket.as_raw_fd(), libc::SHUT_RDWR) };
        for sharer in &*lock(&self.sharers) {
            sharer.acceptor.wake();
        }
    }

    /// Whether it was closed.
    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::Acquire)
    }

    /// `acceptor` will accept from it. Answers whether it did not before.
    pub fn join(&self, acceptor: Arc<dyn Acceptor>) -> bool {
        let mut sharers = lock(&self.sharers);
        let is_new = sharers.iter().all(|sharer| sharer.acceptor.serial() != acceptor.serial());
        if is_new {
            sharers.push(Sharer { acceptor, full: false, turns_away: false });
        }
        is_new
    }

    /// It does not any more, whether or not it was woken for somebody. From a thread that the VM does not manage.
    pub fn leave(&self, serial: u64) {
        if self.forget(serial) && !self.is_over() {
            self.tell(News::Nobody);
        }
        self.relay(serial);
    }

    /// It never did, after all. Answers whether it was the last.
    pub fn forget(&self, serial: u64) -> bool {
        let mut sharers = lock(&self.sharers);
        let before = sharers.len();
        sharers.retain(|sharer| sharer.acceptor.serial() != serial);
        before > 0 && sharers.is_empty()
    }

    /// Notes whether `serial` is full. Answers whether it is to accept nevertheless, to turn clients away: nobody takes them.
    pub fn set_full(&self, serial: u64, full: bool) -> bool {
        let mut sharers = lock(&self.sharers);
        let mut gained = false;
        for sharer in sharers.iter_mut().filter(|sharer| sharer.acceptor.serial() == serial) {
            gained = sharer.full && !full;
            sharer.full = full;
        }
        let turns_away = full && !sharers.iter().any(Sharer::takes);
        for sharer in sharers.iter_mut() {
            if sharer.acceptor.serial() == serial {
                sharer.turns_away = turns_away;
            } else if gained && sharer.turns_away {
                sharer.acceptor.wake();
            }
        }
        turns_away
    }

    /// Whether more than one accepts from it.
    pub fn is_shared(&self) -> bool {
        lock(&self.sharers).len() > 1
    }

    /// Whether somebody accepts: to take connections or, where all are full, to turn them away.
    pub fn is_wanted(&self) -> bool {
        lock(&self.sharers).iter().any(|sharer| sharer.acceptor.takes_connections())
    }

    fn somebody_waits(&self) -> bool {
        let mut poll = libc::pollfd { fd: self.socket.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: I10: one valid pollfd; does not wait.
        !self.is_over() && unsafe { libc::poll(&raw mut poll, 1, 0) } == 1
    }

    /// `serial` may have been woken for somebody, and does not see to it: another one looks.
    pub fn relay(&self, serial: u64) {
        if !self.somebody_waits() {
            return;
        }
        let sharers = lock(&self.sharers);
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let others = || {
            let from_turn = (0..sharers.len()).map(|nth| &sharers[turn.wrapping_add(nth) % sharers.len()]);
            from_turn.filter(|sharer| sharer.acceptor.serial() != serial && sharer.takes())
        };
        let next = others().find(|sharer| sharer.acceptor.is_waiting()).or_else(|| others().next());
        if let Some(next) = next {
            next.acceptor.look_again();
        }
    }

    /// Gives what `serial` has accepted, and has no room for, to another one.
    ///
    /// # Errors
    /// Nobody has room.
    pub fn pass_on(&self, serial: u64, mut descriptor: Descriptor, peer: SocketAddr) -> Result<(), Descriptor> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let sharers = lock(&self.sharers);
        for nth in 0..sharers.len() {
            let Sharer { acceptor, .. } = &sharers[turn.wrapping_add(nth) % sharers.len()];
            if acceptor.serial() != serial {
                match acceptor.give(descriptor, peer) {
                    Ok(()) => return Ok(()),
                    Err(refused) => descriptor = refused,
                }
            }
        }
        Err(descriptor)
    }

    /// `accept` has failed; 0: it has not. Told once, as long as it is the same. From a thread that the VM does not manage.
    pub fn has_trouble(&self, errno: i32) {
        if self.trouble.load(Ordering::Relaxed) != errno
            && self.trouble.swap(errno, Ordering::Relaxed) != errno
            && errno != 0
        {
            self.tell(News::Trouble(errno));
        }
    }

    fn tell(&self, news: News) {
        lock(&self.owner).send_first(|env| (self.say)(env, news).encode(env));
    }
}

impl AsRawFd for Listening {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}
