//! The load of a neighbour: one connection says a small message after the other, while the others move as much as they can.
//!
//! What counts are the pieces that move; the latencies are the neighbour's. So a server that serves one at the cost of the
//! other shows in one of the two figures. All is done by one thread, in small steps: what the neighbour waits for the load
//! generator is much less than what it waits for a server.

use super::poll::Poll;
use super::recorder::{Next, Recorder};
use super::script::{Script, check};
use super::{Fault, Outcome, SILENCE};
use crate::cases::{Bulk, DOCUMENT_BYTES, PIECE_BYTES};
use crate::pattern::first_difference;
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};
use std::time::{Duration, Instant};

/// Asks for a document: more than a message of the neighbour has.
const REQUEST: [u8; 128] = [b'?'; 128];

/// The neighbour is the first of the sockets.
const NEIGHBOUR: usize = 0;

struct Mover {
    socket: OwnedFd,
    /// It may be tried: the kernel has not said yet that there is nothing to do.
    ready: bool,
    /// Bytes of the document that are still to come.
    due: usize,
    /// Bytes that are no whole piece yet.
    rest: usize,
}

struct Beside<'a> {
    sockets: Vec<Mover>,
    bulk: Bulk,
    script: &'a Script,
    scratch: &'a mut [u8],
    /// What is sent in bulk, or must come.
    bytes: Vec<u8>,
    poll: Poll,
    exchange: u64,
    /// Since when the neighbour waits, and how much of its answer is there.
    waits: Option<(Instant, usize)>,
    progress: Instant,
}

/// The first of `sockets` is the neighbour.
pub(super) fn run(
    sockets: Vec<OwnedFd>,
    bulk: Bulk,
    script: &Script,
    scratch: &mut [u8],
    mut recorder: Recorder<'_>,
) -> Result<Outcome, Fault> {
    let poll = Poll::new().map_err(|errno| Fault::failed(0, "epoll_create", errno))?;
    for (name, socket) in sockets.iter().enumerate() {
        poll.add(socket, name).map_err(|errno| Fault::failed(name, "epoll_ctl", errno))?;
    }
    let bytes = match bulk {
        Bulk::Flood => vec![0; PIECE_BYTES],
        // Wherever in it the scratch begins.
        Bulk::Document => (0..scratch.len() + 256).map(|at| at as u8).collect(),
    };
    let mover = |socket| Mover { socket, ready: false, due: 0, rest: 0 };
    let sockets = sockets.into_iter().map(mover).collect();
    let progress = Instant::now();
    let mut beside = Beside { sockets, bulk, script, scratch, bytes, poll, exchange: 0, waits: None, progress };
    // The server knows the neighbour before the flood begins.
    beside.ping()?;
    while beside.waits.is_some() {
        beside.turn(SILENCE, &mut recorder)?;
    }
    recorder.start();
    beside.ping()?;
    for name in 1..beside.sockets.len() {
        beside.begin(name)?;
    }
    while recorder.next(Instant::now())? != Next::Drain {
        let timeout = match beside.sockets.iter().any(|mover| mover.ready) {
            true => Duration::ZERO,
            false => recorder.until_next(Instant::now()),
        };
        beside.turn(timeout, &mut recorder)?;
        for name in 1..beside.sockets.len() {
            beside.move_some(name, &mut recorder)?;
        }
        if beside.waits.is_none() {
            beside.ping()?;
        }
    }
    beside.drain(&mut recorder)?;
    Ok(recorder.finish())
}

impl Beside<'_> {
    /// The neighbour says the next message.
    fn ping(&mut self) -> Result<(), Fault> {
        let message = self.script.request(NEIGHBOUR, self.exchange);
        self.waits = Some((Instant::now(), 0));
        // So little always fits: nothing else is under way.
        match send(&self.sockets[NEIGHBOUR].socket, message, SendFlags::NOSIGNAL) {
            Ok(count) if count == message.len() => Ok(()),
            Ok(_) => Err(Fault::failed(NEIGHBOUR, "send", Errno::AGAIN)),
            Err(Errno::PIPE | Errno::CONNRESET) => Err(Fault::Ended { connection: NEIGHBOUR }),
            Err(errno) => Err(Fault::failed(NEIGHBOUR, "send", errno)),
        }
    }

    /// One wait, and what the neighbour gets.
    fn turn(&mut self, timeout: Duration, recorder: &mut Recorder<'_>) -> Result<(), Fault> {
        let events = self.poll.wait(timeout).map_err(|errno| Fault::failed(0, "epoll_wait", errno))?;
        for at in 0..events {
            let (name, readable) = self.poll.event(at);
            match name {
                NEIGHBOUR if readable => self.answered(recorder)?,
                NEIGHBOUR => {}
                _ => {
                    if readable && self.bulk == Bulk::Flood {
                        self.still_silent(name)?;
                    }
                    self.sockets[name].ready = true;
                }
            }
        }
        if events > 0 {
            self.progress = Instant::now();
        } else if self.waits.is_some() && self.progress.elapsed() >= SILENCE {
            return Err(Fault::Silent { doing: "beside others", waiting: 1, connections: self.sockets.len() });
        }
        Ok(())
    }

    fn answered(&mut self, recorder: &mut Recorder<'_>) -> Result<(), Fault> {
        let Some(count) = self.receive(NEIGHBOUR)? else { return Ok(()) };
        let now = Instant::now();
        let answer = self.script.answer(NEIGHBOUR, self.exchange);
        let (since, before) = self.waits.take().ok_or(Fault::Surplus { connection: NEIGHBOUR, count })?;
        check(NEIGHBOUR, &self.scratch[..count], answer, before)?;
        if before + count < answer.len() {
            self.waits = Some((since, before + count));
            return Ok(());
        }
        self.exchange += 1;
        recorder.latency(since, now);
        Ok(())
    }

    /// What the server says to one that floods it is wrong.
    fn still_silent(&mut self, name: usize) -> Result<(), Fault> {
        match self.receive(name)? {
            None => Ok(()),
            Some(count) => Err(Fault::Surplus { connection: name, count }),
        }
    }

    fn receive(&mut self, name: usize) -> Result<Option<usize>, Fault> {
        match recv(&self.sockets[name].socket, &mut *self.scratch, RecvFlags::empty()) {
            Ok((0, _)) | Err(Errno::CONNRESET) => Err(Fault::Ended { connection: name }),
            Ok((count, _)) => Ok(Some(count)),
            Err(Errno::AGAIN | Errno::INTR) => Ok(None),
            Err(errno) => Err(Fault::failed(name, "recv", errno)),
        }
    }

    fn begin(&mut self, name: usize) -> Result<(), Fault> {
        self.sockets[name].ready = true;
        if self.bulk == Bulk::Document {
            self.sockets[name].due = DOCUMENT_BYTES;
            match send(&self.sockets[name].socket, &REQUEST, SendFlags::NOSIGNAL) {
                Ok(count) if count == REQUEST.len() => {}
                Ok(_) => return Err(Fault::failed(name, "send", Errno::AGAIN)),
                Err(Errno::PIPE | Errno::CONNRESET) => return Err(Fault::Ended { connection: name }),
                Err(errno) => return Err(Fault::failed(name, "send", errno)),
            }
        }
        Ok(())
    }

    /// One call for a connection that has something to move.
    fn move_some(&mut self, name: usize, recorder: &mut Recorder<'_>) -> Result<(), Fault> {
        if !self.sockets[name].ready {
            return Ok(());
        }
        let moved = match self.bulk {
            Bulk::Flood => match send(&self.sockets[name].socket, &self.bytes, SendFlags::NOSIGNAL) {
                Ok(count) => Some(count),
                Err(Errno::AGAIN | Errno::INTR) => None,
                Err(Errno::PIPE | Errno::CONNRESET) => return Err(Fault::Ended { connection: name }),
                Err(errno) => return Err(Fault::failed(name, "send", errno)),
            },
            Bulk::Document => self.receive(name)?,
        };
        let Some(count) = moved else {
            self.sockets[name].ready = false;
            return Ok(());
        };
        self.progress = Instant::now();
        recorder.bytes(count);
        if self.bulk == Bulk::Document {
            self.check_document(name, count)?;
        }
        let mover = &mut self.sockets[name];
        mover.rest += count;
        recorder.moved((mover.rest / PIECE_BYTES) as u64);
        mover.rest %= PIECE_BYTES;
        Ok(())
    }

    /// Checks the last `count` bytes of the scratch, and asks for the next document at the end of one.
    fn check_document(&mut self, name: usize, count: usize) -> Result<(), Fault> {
        let due = self.sockets[name].due;
        if count > due {
            return Err(Fault::Surplus { connection: name, count: count - due });
        }
        let position = DOCUMENT_BYTES - due;
        let expected = &self.bytes[position % 256..][..count];
        if let Some(at) = first_difference(&self.scratch[..count], expected) {
            let (got, expected) = (self.scratch[at], expected[at]);
            return Err(Fault::WrongByte { connection: name, position: position + at, got, expected });
        }
        self.sockets[name].due -= count;
        if self.sockets[name].due == 0 { self.begin(name) } else { Ok(()) }
    }

    /// The neighbour has its last answer. What moves, moves on until then.
    fn drain(&mut self, recorder: &mut Recorder<'_>) -> Result<(), Fault> {
        while self.waits.is_some() {
            let reads = self.bulk == Bulk::Document && self.sockets.iter().any(|mover| mover.ready);
            self.turn(if reads { Duration::ZERO } else { SILENCE }, recorder)?;
            if reads {
                (1..self.sockets.len()).try_for_each(|name| self.move_some(name, recorder))?;
            }
        }
        Ok(())
    }
}
