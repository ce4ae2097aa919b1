use super::*;
use crate::base::ear::{Ear, Heard};
use std::net::{TcpListener, TcpStream};

fn tcp() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let theirs = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (listener.accept().unwrap().0, theirs)
}

fn reset(stream: TcpStream) {
    let at_once = libc::linger { l_onoff: 1, l_linger: 0 };
    let len = size_of::<libc::linger>() as libc::socklen_t;
    // SAFETY: I10: passes a struct of that size.
    unsafe {
        libc::setsockopt(stream.as_raw_fd(), libc::SOL_SOCKET, libc::SO_LINGER, (&raw const at_once).cast(), len)
    };
}

impl Bench {
    fn nothing_comes(&mut self) {
        for _ in 0..3 {
            self.driver.wait(Some(Duration::ZERO), &mut self.pool, &mut self.events).unwrap();
        }
        assert!(self.events.is_empty(), "{:?}", self.events);
    }

    /// Stops listening, and takes in what was heard before.
    fn deafen(&mut self, of: u32, target: Target) {
        self.driver.listen(id(of), target, Ear::Off);
    }
}

on_every_driver! {
    fn a_half_close_and_then_a_reset(bench, buffers: 8) {
        let (ours, theirs) = tcp();
        bench.driver.listen(id(0), socket(&ours), Ear::Input);
        bench.nothing_comes();
        (&theirs).write_all(b"unread").unwrap();
        bench.nothing_comes();
        theirs.shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(bench.outcome(0), Outcome::Heard(Heard::InputEnds));
        bench.nothing_comes();
        bench.driver.listen(id(0), socket(&ours), Ear::Gone);
        bench.nothing_comes();
        reset(theirs);
        assert_eq!(bench.outcome(0), Outcome::Heard(Heard::Failed));
        bench.nothing_comes();
        bench.deafen(0, socket(&ours));
    }

    /// Somebody closes the number while a copy of the socket is open elsewhere: the kernel goes on telling of it.
    fn what_cannot_be_taken_out_is_not_told_for_ever(bench, buffers: 8) {
        let (kept, theirs) = UnixStream::pair().unwrap();
        let ours = kept.try_clone().unwrap();
        let target = socket(&ours);
        bench.driver.listen(id(0), target, Ear::Input);
        bench.nothing_comes();
        drop(ours);
        bench.driver.listen(id(0), target, Ear::Off);
        drop(theirs);
        bench.nothing_comes();
        let before = Instant::now();
        let pause = Duration::from_millis(20);
        for _ in 0..3 {
            bench.driver.wait(Some(pause), &mut bench.pool, &mut bench.events).unwrap();
        }
        assert!(before.elapsed() >= 2 * pause, "it spins");
        // Others are heard as before.
        let (ours, theirs) = UnixStream::pair().unwrap();
        bench.driver.listen(id(1), socket(&ours), Ear::Input);
        drop(theirs);
        assert_eq!(bench.outcome(1), Outcome::Heard(Heard::HungUp));
        bench.deafen(1, socket(&ours));
    }

    /// A receive that was stopped goes on after the end was heard, with the data before it.
    fn what_came_before_the_end_is_received_after_it_was_heard(bench, buffers: 8) {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        bench.driver.listen(id(0), socket(&ours), Ear::Input);
        theirs.write_all(b"last").unwrap();
        drop(theirs);
        assert_eq!(bench.outcome(0), Outcome::Heard(Heard::HungUp));
        bench.deafen(0, socket(&ours));
        bench.receive(0, socket(&ours));
        assert_eq!(bench.data(0), b"last");
        assert_eq!(bench.outcome(0), Outcome::EndOfFile);
    }

    fn a_pipe_whose_reader_closes(bench, buffers: 8) {
        let (reader, writer) = std::io::pipe().unwrap();
        bench.driver.listen(id(0), file(&writer), Ear::Gone);
        bench.nothing_comes();
        drop(reader);
        assert_eq!(bench.outcome(0), Outcome::Heard(Heard::Failed));
        bench.deafen(0, file(&writer));
    }

    /// A terminal that is hung up forgets what was unread; what was printed on one that its users closed can be read.
    fn a_terminal_whose_other_side_closes(bench, buffers: 8) {
        for (of, closes_master) in [(0, true), (1, false)] {
            let (master, slave) = terminal();
            let (ours, theirs) = if closes_master { (slave, master) } else { (master, slave) };
            bench.driver.listen(id(of), file(&ours), Ear::Input);
            bench.nothing_comes();
            drop(theirs);
            let heard = if closes_master { Heard::Failed } else { Heard::HungUp };
            assert_eq!(bench.outcome(of), Outcome::Heard(heard));
            bench.deafen(of, file(&ours));
        }
    }

    fn who_stops_listening_hears_nothing(bench, buffers: 8) {
        let (ours, theirs) = tcp();
        bench.driver.listen(id(0), socket(&ours), Ear::Input);
        bench.nothing_comes();
        bench.deafen(0, socket(&ours));
        reset(theirs);
        bench.nothing_comes();
    }

    /// More at once than one wait of the set tells of.
    fn many_go_at_once(bench, buffers: 8) {
        let pairs: Vec<_> = (0..100).map(|_| UnixStream::pair().unwrap()).collect();
        for (index, (ours, _)) in pairs.iter().enumerate() {
            bench.driver.listen(id(index as u32), socket(ours), Ear::Gone);
        }
        let ours: Vec<_> = pairs.into_iter().map(|(ours, _)| ours).collect();
        for (index, ours) in ours.iter().enumerate() {
            assert_eq!(bench.outcome(index as u32), Outcome::Heard(Heard::HungUp));
            bench.deafen(index as u32, socket(ours));
        }
        bench.nothing_comes();
    }

    /// One descriptor is listened to and sent to at once.
    fn a_send_and_an_ear_end_each_by_itself(bench, buffers: 8) {
        static BYTES: [u8; 3_000_000] = [9; 3_000_000];
        let (ours, theirs) = UnixStream::pair().unwrap();
        bench.driver.listen(id(0), socket(&ours), Ear::Input);
        let mut sent = 0;
        while sent < BYTES.len() {
            // SAFETY: I10: static.
            unsafe { bench.send_payload(0, socket(&ours), Payload::Bytes(BYTES[sent..].as_ptr(), BYTES.len() - sent)) };
            bench.driver.wait(Some(Duration::ZERO), &mut bench.pool, &mut bench.events).unwrap();
            match bench.events.pop().map(|event| event.outcome) {
                Some(Outcome::Sent(bytes)) => sent += bytes as usize,
                None => break,
                Some(other) => panic!("{other:?}"),
            }
        }
        assert!(sent < BYTES.len(), "nothing is left to be sent");
        // Unread, what was sent makes the close a reset.
        drop(theirs);
        bench.until(|event| (event.outcome == Outcome::Heard(Heard::Failed)).then_some(()));
        bench.until(|event| matches!(event.outcome, Outcome::SendFailed(_) | Outcome::Sent(_)).then_some(()));
        bench.deafen(0, socket(&ours));
    }

    fn what_is_watched_is_told_of_while_it_has_input(bench, buffers: 1) {
        let (mut ours, mut theirs) = UnixStream::pair().unwrap();
        bench.driver.watch(Some(ours.as_raw_fd()));
        theirs.write_all(b"xy").unwrap();
        for _ in 0..3 {
            bench.until(|event| (event.outcome == Outcome::Watched).then_some(()));
        }
        ours.read_exact(&mut [0; 2]).unwrap();
        let waits = |bench: &mut Bench| {
            let mut events = Vec::new();
            for _ in 0..3 {
                events.clear();
                bench.driver.wait(Some(Duration::ZERO), &mut bench.pool, &mut events).unwrap();
            }
            assert!(events.is_empty(), "nothing is there: {events:?}");
        };
        waits(&mut bench);
        theirs.write_all(b"x").unwrap();
        bench.until(|event| (event.outcome == Outcome::Watched).then_some(()));
        bench.driver.watch(None);
        waits(&mut bench);
    }
}
