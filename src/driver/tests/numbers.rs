//! A number that was closed by its owner and is another's by now: whoever had it takes nothing from whoever has it (I4).

use super::*;
use crate::base::ear::{Ear, Heard};
use crate::driver::{Opening, Queue, openings};
use std::net::TcpListener;

/// Has what `of` is take the place of `fd`, which is closed by that.
fn put_at(fd: &impl AsRawFd, of: UnixStream) {
    // SAFETY: I10: no pointers; both are open.
    assert_eq!(unsafe { libc::dup3(of.as_raw_fd(), fd.as_raw_fd(), libc::O_CLOEXEC) }, fd.as_raw_fd());
}

impl Bench {
    /// What was asked for reaches the kernel.
    fn turn(&mut self) {
        self.driver.wait(Some(Duration::ZERO), &mut self.pool, &mut self.events).unwrap();
    }
}

on_every_driver! {
    fn who_receives_goes_on_when_another_is_cancelled(bench, buffers: 8) {
        let ((ours, _theirs), (other, mut others)) = (UnixStream::pair().unwrap(), UnixStream::pair().unwrap());
        bench.receive(0, socket(&ours));
        bench.turn();
        put_at(&ours, other);
        bench.receive(1, socket(&ours));
        bench.turn();
        bench.driver.cancel_receive(id(0));
        assert_eq!(bench.outcome(0), Outcome::ReceiveFailed(libc::ECANCELED));
        others.write_all(b"hello").unwrap();
        assert_eq!(bench.data(1), b"hello");
    }

    fn who_listens_hears_although_another_stops(bench, buffers: 8) {
        let ((ours, _theirs), (other, others)) = (UnixStream::pair().unwrap(), UnixStream::pair().unwrap());
        bench.driver.listen(id(0), socket(&ours), Ear::Input);
        bench.turn();
        put_at(&ours, other);
        bench.driver.listen(id(1), socket(&ours), Ear::Input);
        bench.turn();
        bench.driver.listen(id(0), socket(&ours), Ear::Off);
        bench.turn();
        drop(others);
        assert_eq!(bench.outcome(1), Outcome::Heard(Heard::HungUp));
    }

    fn who_receives_goes_on_when_a_listener_is_left(bench, buffers: 8) {
        let (listening, (other, mut others)) = (TcpListener::bind("127.0.0.1:0").unwrap(), UnixStream::pair().unwrap());
        listening.set_nonblocking(true).unwrap();
        let accepts = openings::new_id();
        bench.driver.open(accepts, listening.as_raw_fd(), Opening::Accept { most: 1, queue: Queue::Last });
        bench.turn();
        put_at(&listening, other);
        bench.receive(1, socket(&listening));
        bench.turn();
        bench.driver.stop_opening(accepts);
        others.write_all(b"hello").unwrap();
        assert_eq!(bench.data(1), b"hello");
    }
}
