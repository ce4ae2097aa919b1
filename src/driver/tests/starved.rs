//! B4: what happens when there are not enough buffers.

use super::*;
use std::io::PipeWriter;

impl Bench {
    /// Receives until no buffer is left, and holds them all.
    fn take_all_buffers(&mut self) -> Vec<u16> {
        let count = self.pool.usage().0 as u32;
        let take = |index| {
            let (ours, theirs) = UnixStream::pair().unwrap();
            self.receive(1000 + index, socket(&ours));
            (&theirs).write_all(b"x").unwrap();
            let Outcome::Received { buffer, more, .. } = self.outcome(1000 + index) else { panic!("no data") };
            if more {
                self.driver.cancel_receive(id(1000 + index));
                assert_eq!(self.outcome(1000 + index), Outcome::ReceiveFailed(libc::ECANCELED));
            }
            buffer
        };
        (0..count).map(take).collect()
    }

    /// Time for what was begun to find no buffer.
    fn turns(&mut self) {
        for _ in 0..3 {
            self.driver.wait(Some(Duration::ZERO), &mut self.pool, &mut self.events).unwrap();
        }
        assert!(self.events.is_empty(), "no buffer is left: {:?}", self.events);
    }
}

fn pipe_with_data() -> (Target, (std::io::PipeReader, PipeWriter)) {
    let (reader, mut writer) = std::io::pipe().unwrap();
    writer.write_all(b"x").unwrap();
    (file(&reader), (reader, writer))
}

on_every_driver! {
    /// B4: no receive stalls, whoever holds the buffers.
    fn starved_receives_go_on_when_a_buffer_comes_back(bench, buffers: 4) {
        let pairs: Vec<_> = (0..40).map(|_| UnixStream::pair().unwrap()).collect();
        for (index, (ours, theirs)) in pairs.iter().enumerate() {
            bench.receive(index as u32, socket(ours));
            (&*theirs).write_all(&[index as u8; 10]).unwrap();
        }
        let mut seen = std::collections::HashSet::new();
        while seen.len() < pairs.len() {
            // Hold each buffer until no other is left, then give it back.
            let (index, buffer) = bench.until(|event| match event.outcome {
                Outcome::Received { buffer, len: 10, .. } => Some((event.id.index, buffer)),
                _ => None,
            });
            assert!(seen.insert(index), "twice the same data");
            bench.pool.release(buffer);
        }
    }

    /// B4: a buffer that another thread returns wakes the reactor.
    fn a_return_from_another_thread_feeds_the_starved(bench, buffers: 4) {
        let pairs: Vec<_> = (0..5).map(|_| UnixStream::pair().unwrap()).collect();
        let mut held = Vec::new();
        for (index, (ours, theirs)) in pairs.iter().enumerate() {
            bench.receive(index as u32, socket(ours));
            (&*theirs).write_all(b"x").unwrap();
            if index < 4 {
                let slot = bench.until(|event| match event.outcome {
                    Outcome::Received { buffer, .. } => Some(buffer),
                    _ => None,
                });
                bench.pool.lend(slot, 0);
                held.push(slot);
            }
        }
        bench.turns();
        let key = bench.pool.key() as usize;
        std::thread::spawn(move || {
            for slot in held {
                // SAFETY: I10: lent above, returned once.
                unsafe { crate::buffer::return_from_any_thread(key as *const _, slot) };
            }
        });
        bench.until(|event| (event.outcome == Outcome::Woken).then_some(()));
        assert_eq!(bench.data(4), b"x");
        bench.wake.clear();
    }

    fn a_starved_receive_can_be_cancelled(bench, buffers: 1) {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let (other, mut hog) = UnixStream::pair().unwrap();
        bench.receive(1, socket(&other));
        hog.write_all(b"hog").unwrap();
        let Outcome::Received { buffer, .. } = bench.outcome(1) else { panic!("no data") };
        theirs.write_all(b"x").unwrap();
        bench.receive(0, socket(&ours));
        let mut events = Vec::new();
        bench.driver.wait(Some(Duration::ZERO), &mut bench.pool, &mut events).unwrap();
        assert!(events.is_empty());
        bench.driver.cancel_receive(id(0));
        assert_eq!(bench.outcome(0), Outcome::ReceiveFailed(libc::ECANCELED));
        bench.pool.release(buffer);
    }

    /// Whoever asked first may have nothing to receive, and wake nobody.
    fn who_has_something_to_receive_does_not_wait_behind_those_who_have_nothing(bench, buffers: 4) {
        let held = bench.take_all_buffers();
        let pairs: Vec<_> = (0..40).map(|_| UnixStream::pair().unwrap()).collect();
        for (index, (ours, _)) in pairs.iter().enumerate() {
            bench.receive(index as u32, socket(ours));
        }
        (&pairs[39].1).write_all(b"x").unwrap();
        bench.turns();
        held.into_iter().for_each(|slot| bench.pool.release(slot));
        assert_eq!(bench.data(39), b"x");
    }

    /// The same where receives are calls: somebody else has read it meanwhile.
    fn who_can_read_a_pipe_does_not_wait_behind_those_who_cannot(bench, buffers: 4) {
        let held = bench.take_all_buffers();
        let pipes: Vec<_> = (0..40).map(|_| pipe_with_data()).collect();
        for (index, (target, _)) in pipes.iter().enumerate() {
            bench.receive(index as u32, *target);
        }
        bench.turns();
        for (_, (reader, _)) in &pipes[..39] {
            assert_eq!((&*reader).read(&mut [0; 8]).unwrap(), 1);
        }
        held.into_iter().for_each(|slot| bench.pool.release(slot));
        assert_eq!(bench.data(39), b"x");
    }
}
