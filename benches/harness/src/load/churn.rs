//! Connect, one exchange, close: again and again.
//!
//! The client says that it is done, and the server has to close too before the next connection is made: a server cannot
//! look fast by leaving closed connections behind. The latency ends with the answer.

use super::connect::{self, Sources};
use super::poll::Poll;
use super::recorder::{Next, Recorder};
use super::script::{Script, check};
use super::{Fault, Outcome, SILENCE};
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, Shutdown, recv, send, shutdown};
use std::net::SocketAddr;
use std::time::Instant;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Connecting,
    Exchanging { received: usize },
    Closing,
}

struct Visit {
    socket: OwnedFd,
    stage: Stage,
    since: Instant,
    number: u64,
}

struct Churn<'a> {
    target: SocketAddr,
    sources: &'a mut Sources,
    script: &'a Script,
    scratch: &'a mut [u8],
    poll: Poll,
    visits: Vec<Option<Visit>>,
    made: u64,
}

/// `slots` connections at a time.
pub(super) fn run(
    target: SocketAddr,
    slots: usize,
    script: &Script,
    sources: &mut Sources,
    scratch: &mut [u8],
    mut recorder: Recorder<'_>,
) -> Result<Outcome, Fault> {
    let poll = Poll::new().map_err(|errno| Fault::failed(0, "epoll_create", errno))?;
    let visits = (0..slots).map(|_| None).collect();
    let mut churn = Churn { target, sources, script, scratch, poll, visits, made: 0 };
    recorder.start();
    for slot in 0..slots {
        churn.connect(slot)?;
    }
    let mut progress = Instant::now();
    let mut draining = false;
    while churn.visits.iter().any(Option::is_some) {
        draining |= recorder.next(Instant::now())? == Next::Drain;
        let timeout = recorder.until_next(Instant::now());
        let events = churn.poll.wait(timeout).map_err(|errno| Fault::failed(0, "epoll_wait", errno))?;
        for at in 0..events {
            let (slot, _) = churn.poll.event(at);
            if churn.advance(slot, &mut recorder)? && !draining {
                churn.connect(slot)?;
            }
        }
        if events > 0 {
            progress = Instant::now();
        } else if progress.elapsed() >= SILENCE {
            let waiting = churn.visits.iter().flatten().count();
            return Err(Fault::Silent { doing: "connect and close", waiting, connections: slots });
        }
    }
    Ok(recorder.finish())
}

impl Churn<'_> {
    fn connect(&mut self, slot: usize) -> Result<(), Fault> {
        let since = Instant::now();
        let socket =
            connect::begin(self.target, self.sources).map_err(|(doing, errno)| Fault::failed(slot, doing, errno))?;
        self.poll.add(&socket, slot).map_err(|errno| Fault::failed(slot, "epoll_ctl", errno))?;
        self.visits[slot] = Some(Visit { socket, stage: Stage::Connecting, since, number: self.made });
        self.made += 1;
        Ok(())
    }

    /// Goes on where an event allows it. Says whether the slot is free.
    fn advance(&mut self, slot: usize, recorder: &mut Recorder<'_>) -> Result<bool, Fault> {
        let Some(visit) = &mut self.visits[slot] else { return Ok(false) };
        if visit.stage == Stage::Connecting {
            connect::result(&visit.socket).map_err(|errno| Fault::failed(slot, "connect", errno))?;
            // A new connection has room for one small message.
            let request = self.script.request(slot, visit.number);
            match send(&visit.socket, request, SendFlags::NOSIGNAL) {
                Ok(count) if count == request.len() => visit.stage = Stage::Exchanging { received: 0 },
                Ok(_) => return Err(Fault::failed(slot, "send on a new connection", Errno::NOBUFS)),
                Err(errno) => return Err(Fault::failed(slot, "send", errno)),
            }
        }
        loop {
            let count = match recv(&visit.socket, &mut *self.scratch, RecvFlags::empty()) {
                Ok((count, _)) => count,
                Err(Errno::AGAIN) => return Ok(false),
                Err(Errno::INTR) => continue,
                Err(errno) => return Err(Fault::failed(slot, "recv", errno)),
            };
            match visit.stage {
                Stage::Exchanging { .. } if count == 0 => return Err(Fault::Ended { connection: slot }),
                Stage::Exchanging { received } => {
                    let answer = self.script.answer(slot, visit.number);
                    check(slot, &self.scratch[..count], answer, received)?;
                    recorder.bytes(count);
                    visit.stage = Stage::Exchanging { received: received + count };
                    if received + count == answer.len() {
                        recorder.message(visit.since, Instant::now());
                        shutdown(&visit.socket, Shutdown::Write)
                            .map_err(|errno| Fault::failed(slot, "shutdown", errno))?;
                        visit.stage = Stage::Closing;
                    }
                }
                Stage::Closing if count == 0 => {
                    self.visits[slot] = None;
                    return Ok(true);
                }
                Stage::Closing => return Err(Fault::Surplus { connection: slot, count }),
                Stage::Connecting => return Ok(false),
            }
        }
    }
}
