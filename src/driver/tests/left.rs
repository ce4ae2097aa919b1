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
}
