//! Datagrams, one at a time on each socket. One that gets no answer is sent again, and that is counted.

use super::connect::new_socket;
use super::poll::Poll;
use super::recorder::{Next, Recorder};
use super::script::{Script, check};
use super::{Fault, Outcome, SILENCE};
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, SocketType, connect, recv, send};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// After this time a datagram counts as lost. Loopback loses them only where a buffer is full.
const LOST_AFTER: Duration = Duration::from_millis(200);
/// An answer to one of so many exchanges ago may still come, if it was asked for twice.
const LATE_MAX: u64 = 4;

struct Peer {
    socket: OwnedFd,
    exchange: u64,
    since: Instant,
    sent_at: Instant,
    retransmitted: bool,
    busy: bool,
}

struct Peers<'a> {
    peers: Vec<Peer>,
    script: &'a Script,
    scratch: &'a mut [u8],
    poll: Poll,
}

/// `count` sockets.
pub(super) fn run(
    target: SocketAddr,
    count: usize,
    script: &Script,
    scratch: &mut [u8],
    mut recorder: Recorder<'_>,
) -> Result<Outcome, Fault> {
    let mut peers = Peers::new(target, count, script, scratch)?;
    recorder.start();
    for name in 0..count {
        peers.start(name, Instant::now())?;
    }
    let mut looked = Instant::now();
    let mut draining = false;
    while peers.peers.iter().any(|peer| peer.busy) {
        draining |= recorder.next(Instant::now())? == Next::Drain;
        let timeout = recorder.until_next(Instant::now()).min(LOST_AFTER / 4);
        let events = peers.poll.wait(timeout).map_err(|errno| Fault::failed(0, "epoll_wait", errno))?;
        for at in 0..events {
            let (name, _) = peers.poll.event(at);
            // What may lie behind the answer is late, and is found when the next one comes.
            if let Some(now) = peers.receive(name, &mut recorder)?
                && !draining
            {
                peers.start(name, now)?;
            }
        }
        if looked.elapsed() >= LOST_AFTER / 4 {
            looked = Instant::now();
            peers.send_lost_again(looked, &mut recorder)?;
        }
    }
    Ok(recorder.finish())
}

impl<'a> Peers<'a> {
    fn new(target: SocketAddr, count: usize, script: &'a Script, scratch: &'a mut [u8]) -> Result<Self, Fault> {
        let poll = Poll::new().map_err(|errno| Fault::failed(0, "epoll_create", errno))?;
        let mut peers = Vec::with_capacity(count);
        for name in 0..count {
            let failed = |doing| move |errno| Fault::failed(name, doing, errno);
            let socket = new_socket(target, SocketType::DGRAM).map_err(failed("socket"))?;
            connect(&socket, &target).map_err(failed("connect"))?;
            poll.add_input(&socket, name).map_err(failed("epoll_ctl"))?;
            let now = Instant::now();
            peers.push(Peer { socket, exchange: 0, since: now, sent_at: now, retransmitted: false, busy: false });
        }
        Ok(Peers { peers, script, scratch, poll })
    }

    fn start(&mut self, name: usize, now: Instant) -> Result<(), Fault> {
        let peer = &mut self.peers[name];
        (peer.since, peer.busy) = (now, true);
        self.send(name, now)
    }

    fn send(&mut self, name: usize, now: Instant) -> Result<(), Fault> {
        let peer = &mut self.peers[name];
        peer.sent_at = now;
        match send(&peer.socket, self.script.request(name, peer.exchange), SendFlags::empty()) {
            // Where there is no room it is lost, and will be sent again.
            Ok(_) | Err(Errno::AGAIN | Errno::NOBUFS | Errno::INTR) => Ok(()),
            Err(errno) => Err(Fault::failed(name, "send", errno)),
        }
    }

    /// Takes and checks datagrams until one answers what was asked. Says when it came.
    fn receive(&mut self, name: usize, recorder: &mut Recorder<'_>) -> Result<Option<Instant>, Fault> {
        loop {
            let peer = &mut self.peers[name];
            let count = match recv(&peer.socket, &mut *self.scratch, RecvFlags::empty()) {
                Ok((count, _)) => count,
                Err(Errno::AGAIN) => return Ok(None),
                Err(Errno::INTR) => continue,
                Err(errno) => return Err(Fault::failed(name, "recv", errno)),
            };
            let now = Instant::now();
            if peer.retransmitted && self.is_late(name, count) {
                continue;
            }
            let peer = &mut self.peers[name];
            let answer = self.script.answer(name, peer.exchange);
            if !peer.busy || count != answer.len() {
                return Err(Fault::Length { connection: name, got: count, expected: answer.len() });
            }
            check(name, &self.scratch[..count], answer, 0)?;
            recorder.bytes(count);
            recorder.message(peer.since, now);
            peer.exchange += 1;
            peer.busy = false;
            return Ok(Some(now));
        }
    }

    /// Whether the datagram answers an exchange that is over.
    fn is_late(&self, name: usize, count: usize) -> bool {
        let current = self.peers[name].exchange;
        let late = current.saturating_sub(LATE_MAX)..current;
        late.into_iter().any(|exchange| self.script.answer(name, exchange) == &self.scratch[..count])
    }

    fn send_lost_again(&mut self, now: Instant, recorder: &mut Recorder<'_>) -> Result<(), Fault> {
        for name in 0..self.peers.len() {
            let peer = &mut self.peers[name];
            if !peer.busy || now.saturating_duration_since(peer.sent_at) < LOST_AFTER {
                continue;
            }
            if now.saturating_duration_since(peer.since) >= SILENCE {
                let waiting = self.peers.iter().filter(|peer| peer.busy).count();
                return Err(Fault::Silent { doing: "datagrams", waiting, connections: self.peers.len() });
            }
            peer.retransmitted = true;
            recorder.retransmission();
            self.send(name, now)?;
        }
        Ok(())
    }
}
