//! Input that is left where it is until somebody takes it.

use super::*;
use std::mem::MaybeUninit;

impl Bench {
    fn told(&mut self, of: u32) {
        assert_eq!(self.outcome(of), Outcome::Readable);
    }

    fn take(&mut self, of: u32, room: usize) -> Result<Vec<u8>, Outcome> {
        let mut bytes = vec![MaybeUninit::uninit(); room];
        let len = self.driver.receive_into(id(of), &mut bytes)?;
        // SAFETY: I10: so many were written.
        Ok(bytes[..len].iter().map(|byte| unsafe { byte.assume_init() }).collect())
    }

    /// What buffers get, which are given back, and what else is told.
    fn take_buffers(&mut self, of: u32) -> (Vec<u8>, Vec<Outcome>) {
        let (mut events, mut bytes, mut others) = (Vec::new(), Vec::new(), Vec::new());
        self.driver.receive_left(id(of), &mut self.pool, &mut events);
        for event in events {
            match event.outcome {
                Outcome::Received { buffer, len, more } => {
                    assert!(more, "it goes on");
                    // SAFETY: I10: the event gave the buffer to us, with `len` bytes in it.
                    bytes.extend(unsafe { std::slice::from_raw_parts(self.pool.data(buffer), len as usize) });
                    self.pool.release(buffer);
                }
                other => others.push(other),
            }
        }
        (bytes, others)
    }

    /// A connection whose input is left, with some.
    fn left(&mut self, of: u32) -> (UnixStream, UnixStream) {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        self.receive(of, socket(&ours));
        theirs.write_all(b"in a buffer").unwrap();
        assert_eq!(self.data_of_len(of, 11), b"in a buffer");
        self.driver.leave_input(id(of), true);
        // The receive that runs ends, and begins anew.
        for _ in 0..3 {
            self.driver.wait(Some(Duration::ZERO), &mut self.pool, &mut self.events).unwrap();
        }
        theirs.write_all(b"some of it").unwrap();
        self.told(of);
        assert_eq!(self.take(of, 7).unwrap(), b"some of");
        self.told(of);
        assert_eq!(self.take(of, 7).unwrap(), b" it");
        assert_eq!(self.take(of, 7), Ok(Vec::new()), "nothing is there, and it goes on");
        theirs.write_all(b"more").unwrap();
        self.told(of);
        (ours, theirs)
    }
}

on_every_driver! {
    fn it_is_told_of_until_it_is_taken(bench, buffers: 4) {
        let (_ours, theirs) = bench.left(0);
        assert_eq!(bench.take(0, 3).unwrap(), b"mor");
        bench.told(0);
        assert_eq!(bench.take(0, 3).unwrap(), b"e");
        drop(theirs);
        bench.told(0);
        assert_eq!(bench.take(0, 3), Err(Outcome::EndOfFile));
        assert_eq!(bench.take(0, 3), Ok(Vec::new()), "it has ended");
    }

    fn its_receive_may_be_cancelled(bench, buffers: 4) {
        let (ours, _theirs) = bench.left(0);
        bench.driver.cancel_receive(id(0));
        assert_eq!(bench.take(0, 9), Ok(Vec::new()), "cancelled, it takes nothing");
        assert_eq!(bench.outcome(0), Outcome::ReceiveFailed(libc::ECANCELED));
        bench.receive(0, socket(&ours));
        bench.told(0);
        assert_eq!(bench.take(0, 9).unwrap(), b"more");
        // While it waits, too.
        bench.driver.cancel_receive(id(0));
        assert_eq!(bench.outcome(0), Outcome::ReceiveFailed(libc::ECANCELED));
    }

    fn it_goes_into_buffers_again(bench, buffers: 4) {
        let (_ours, mut theirs) = bench.left(0);
        // Nobody has taken what was told of.
        bench.driver.leave_input(id(0), false);
        theirs.write_all(b" and more").unwrap();
        assert_eq!(bench.data_of_len(0, 13), b"more and more");
        bench.driver.cancel_receive(id(0));
        assert_eq!(bench.outcome(0), Outcome::ReceiveFailed(libc::ECANCELED));
    }

    fn it_goes_into_a_few_buffers_when_it_is_taken(bench, buffers: 8) {
        let (_ours, mut theirs) = bench.left(0);
        assert_eq!(bench.take_buffers(0), (b"more".to_vec(), vec![]));
        assert_eq!(bench.take_buffers(0), (Vec::new(), vec![]), "nothing is there, or nothing was told of");
        let much: Vec<u8> = (0..2500).map(|nth| (nth % 251) as u8).collect();
        theirs.write_all(&much).unwrap();
        drop(theirs);
        let mut all = Vec::new();
        loop {
            bench.told(0);
            match bench.take_buffers(0) {
                (bytes, ended) if ended.is_empty() => all.extend(bytes),
                (bytes, ended) => break assert_eq!((bytes, ended), (Vec::new(), vec![Outcome::EndOfFile])),
            }
        }
        assert_eq!(all, much);
        assert_eq!(bench.take_buffers(0), (Vec::new(), vec![]), "it has ended");
    }

    fn what_is_taken_into_buffers_may_be_cancelled(bench, buffers: 4) {
        let (_ours, _theirs) = bench.left(0);
        bench.driver.cancel_receive(id(0));
        assert_eq!(bench.take_buffers(0), (Vec::new(), vec![]), "cancelled, it takes nothing");
        assert_eq!(bench.outcome(0), Outcome::ReceiveFailed(libc::ECANCELED));
    }
}
