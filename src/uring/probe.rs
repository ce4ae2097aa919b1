//! Finds out, by trying, whether this process may use io_uring and what its kernel offers.
//!
//! Set-up alone proves nothing (a filter may refuse only `io_uring_enter`), so a ring counts as usable only after bytes
//! went through it on a socket pair: receive with a provided buffer, send, end of file. And a kernel that tells a multishot
//! receive of data, and not of the end that came with it, is asked for one completion per receive.

use super::buffer_ring::BufferRing;
use crate::buffer::Pool;
use io_uring::types::{Fd, SubmitArgs, Timespec};
use io_uring::{IoUring, cqueue, opcode, squeue};
use std::fmt;
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// What the kernel offered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Features {
    /// Completions are made only when the reactor asks (6.1): io_uring gains nothing over epoll without it.
    pub defer_taskrun: bool,
    /// One thread submits, and says so (6.0).
    pub single_issuer: bool,
    /// One receive yields many completions (6.0).
    pub multishot: bool,
}

impl Features {
    /// What the newest kernels have.
    pub const ALL: Features = Features { defer_taskrun: true, single_issuer: true, multishot: true };
}

/// A ring that works.
pub struct Proven {
    pub(super) ring: IoUring,
    /// What it can do.
    pub features: Features,
}

/// Why io_uring is not used.
#[derive(Debug)]
pub enum Refusal {
    /// It does not work.
    Failed {
        /// What was tried.
        step: &'static str,
        /// What became of it.
        error: io::Error,
    },
    /// It works, and epoll is faster.
    Slower,
}

impl Refusal {
    pub(super) fn new(step: &'static str, error: io::Error) -> Self {
        Refusal::Failed { step, error }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Refusal::Failed { step, error } = self else {
            return f.write_str("io_uring of this kernel has no DEFER_TASKRUN (6.1), without which epoll is faster");
        };
        let hint = match error.raw_os_error() {
            Some(libc::ENOSYS) => "this kernel or sandbox has no io_uring",
            Some(libc::EPERM) => "a seccomp profile or the sysctl kernel.io_uring_disabled forbids it",
            Some(libc::EACCES) => "a security module forbids it",
            Some(libc::ENOMEM) => "the limit on locked memory is too low (ulimit -l)",
            Some(libc::EINVAL) => "the kernel is too old (5.19 is needed)",
            _ => "it does not work here",
        };
        write!(f, "io_uring: {step}: {error} ({hint})")
    }
}

/// Submission and completion queue lengths to try, largest first: they are charged to the locked-memory limit.
#[cfg(not(feature = "faults"))]
const SIZES: [(u32, u32); 3] = [(1024, 8192), (512, 2048), (256, 1024)];
/// Always too short.
#[cfg(feature = "faults")]
const SIZES: [(u32, u32); 1] = [(2, 4)];

/// Makes the best ring that this kernel allows, with nothing that `wanted` has not, and proves that it works.
///
/// # Errors
/// Why this process cannot use io_uring.
pub fn probe(wanted: &Features) -> Result<Proven, Refusal> {
    let mut last = None;
    // Without multishot receive (before 6.0), or with one that loses the end, the ring still works, one completion per receive.
    for multishot in [true, false].into_iter().filter(|multishot| wanted.multishot >= *multishot) {
        let (ring, mut features) = set_up(wanted)?;
        features.multishot = multishot;
        match self_test(ring, multishot) {
            Ok(ring) => return Ok(Proven { ring, features }),
            Err(refusal) => last = Some(refusal),
        }
    }
    Err(last.unwrap_or_else(|| Refusal::new("self-test", io::Error::from_raw_os_error(libc::EINVAL))))
}

fn set_up(wanted: &Features) -> Result<(IoUring, Features), Refusal> {
    let tiers = [
        Features { defer_taskrun: true, single_issuer: true, multishot: false },
        Features { defer_taskrun: false, single_issuer: true, multishot: false },
        Features::default(),
    ];
    let mut last = io::Error::from_raw_os_error(libc::EINVAL);
    let may_be =
        |tier: &Features| wanted.defer_taskrun >= tier.defer_taskrun && wanted.single_issuer >= tier.single_issuer;
    for features in tiers.into_iter().filter(may_be) {
        for no_sqarray in [true, false] {
            for (entries, completions) in SIZES {
                let mut builder = IoUring::builder();
                builder.dontfork().setup_clamp().setup_submit_all().setup_cqsize(completions);
                if features.single_issuer {
                    builder.setup_single_issuer();
                }
                if features.defer_taskrun {
                    builder.setup_defer_taskrun();
                } else {
                    builder.setup_coop_taskrun();
                }
                if no_sqarray {
                    builder.setup_no_sqarray();
                }
                match builder.build(entries) {
                    Ok(ring) => return Ok((ring, features)),
                    Err(error) => last = error,
                }
                if last.raw_os_error() != Some(libc::ENOMEM) {
                    break;
                }
            }
            if last.raw_os_error() != Some(libc::EINVAL) {
                return Err(Refusal::new("set up", last));
            }
        }
    }
    Err(Refusal::new("set up", last))
}

/// In the tests all that is waited for has happened: what is not told by then never is.
const PATIENCE: Duration = Duration::from_millis(10);

/// Buffers for the tests: a receive takes one for what arrives, and one to look for more.
const BUFFERS: u16 = 16;

const RECEIVE: u64 = 1;

/// Not the group that is served from: Linux 6.1 forgets to set the place from which it takes buffers back when a group is
/// registered once more, and would begin behind the first of them.
const BUFFER_GROUP: u16 = super::buffer_ring::BUFFER_GROUP + 1;

/// Passes one byte and an end of file through the ring, in several ways. It goes if that fails.
fn self_test(mut ring: IoUring, multishot: bool) -> Result<IoUring, Refusal> {
    let fail = |step| move |error| Refusal::new(step, error);
    let mut pool = Pool::new(BUFFERS, 64, || ()).map_err(fail("map buffers"))?;
    let mut buffers = BufferRing::new(&ring, BUFFER_GROUP, usize::from(BUFFERS)).map_err(fail("register buffers"))?;
    buffers.refill(&mut pool);

    let mut passed = exchange(&mut ring, multishot).map_err(fail("self-test"));
    for before in [false, true] {
        passed = passed.and_then(|()| hear_end(&mut ring, multishot, before).map_err(fail("hear the end of a peer")));
    }
    let passed =
        passed.and_then(|()| ring.submitter().unregister_buf_ring(BUFFER_GROUP).map_err(fail("unregister buffers")));
    match passed {
        Ok(()) => Ok(ring),
        Err(refusal) => {
            // I2: the receive may still run, and the kernel ends a closed ring's operations when it gets to it.
            std::mem::forget((pool, buffers));
            Err(refusal)
        }
    }
}

fn receive(on: &UnixStream, multishot: bool) -> squeue::Entry {
    let receive = opcode::Recv::new(Fd(on.as_raw_fd()), std::ptr::null_mut(), 0).buf_group(BUFFER_GROUP);
    let receive = receive.ioprio(if multishot { super::receives::RECV_MULTISHOT } else { 0 }).build();
    receive.flags(squeue::Flags::BUFFER_SELECT).user_data(RECEIVE)
}

fn exchange(ring: &mut IoUring, multishot: bool) -> io::Result<()> {
    static BYTE: u8 = 0;
    let (ours, theirs) = UnixStream::pair()?;
    let receive = receive(&ours, multishot);
    let send = opcode::Send::new(Fd(theirs.as_raw_fd()), &raw const BYTE, 1).build().user_data(2);
    submit(ring, &receive)?;
    submit(ring, &send)?;
    let (mut received, mut sent, mut more) = (false, false, false);
    while !(received && sent) {
        let entry = reap(ring)?;
        if entry.user_data() == RECEIVE {
            expect(entry.result(), 1)?;
            received = true;
            more = cqueue::more(entry.flags());
        } else {
            expect(entry.result(), 1)?;
            sent = true;
        }
    }
    if more != multishot {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    drop(theirs);
    if !more {
        submit(ring, &receive)?;
    }
    let end = reap(ring)?;
    expect(end.result(), 0)
}

/// A byte, `before` the receive is there or after, and the end, all of it before anybody looks.
fn hear_end(ring: &mut IoUring, multishot: bool, before: bool) -> io::Result<()> {
    let (ours, mut theirs) = UnixStream::pair()?;
    let receive = receive(&ours, multishot);
    if before {
        theirs.write_all(b"x")?;
    }
    submit(ring, &receive)?;
    if !before {
        theirs.write_all(b"x")?;
    }
    drop(theirs);
    let mut told = Vec::new();
    loop {
        match judge(&told).map_err(io::Error::from_raw_os_error)? {
            Verdict::Wait => {}
            Verdict::Receive => submit(ring, &receive)?,
            Verdict::Heard => return Ok(()),
        }
        let entry = reap(ring)?;
        told.push((entry.result(), cqueue::more(entry.flags())));
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Verdict {
    /// The kernel has to say more.
    Wait,
    /// It has, and another receive is needed for that.
    Receive,
    /// Byte and end were told.
    Heard,
}

/// What completions, each a result and whether more follow, say of a peer that has sent one byte and is gone; or an `errno`.
fn judge(told: &[(i32, bool)]) -> Result<Verdict, i32> {
    match *told {
        [] | [(1, true)] => Ok(Verdict::Wait),
        [(1, false)] => Ok(Verdict::Receive),
        [(1, _), (0, false)] => Ok(Verdict::Heard),
        [.., (result, _)] if result < 0 => Err(-result),
        _ => Err(libc::EPROTO),
    }
}

fn submit(ring: &mut IoUring, entry: &squeue::Entry) -> io::Result<()> {
    // SAFETY: I2: the byte is static; the receive writes into the pool alone, which `self_test` leaks if it may still run.
    unsafe { ring.submission().push(entry) }.map_err(|_| io::Error::from_raw_os_error(libc::EBUSY))?;
    ring.submit().map(drop)
}

fn reap(ring: &mut IoUring) -> io::Result<cqueue::Entry> {
    let patience = Timespec::from(PATIENCE);
    loop {
        if let Some(entry) = ring.completion().next() {
            return Ok(entry);
        }
        match ring.submitter().submit_with_args(1, &SubmitArgs::new().timespec(&patience)) {
            Err(error) if error.raw_os_error() == Some(libc::ETIME) => {
                // This thread may have been kept waiting, too.
                return ring.completion().next().ok_or(error);
            }
            Err(error) if error.raw_os_error() != Some(libc::EINTR) => return Err(error),
            _ => {}
        }
    }
}

fn expect(result: i32, wanted: i32) -> io::Result<()> {
    match result {
        _ if result == wanted => Ok(()),
        0.. => Err(io::Error::from_raw_os_error(libc::EPROTO)),
        errno => Err(io::Error::from_raw_os_error(-errno)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_heard_after_the_byte_or_it_is_lost() {
        for (told, verdict) in [
            (&[][..], Ok(Verdict::Wait)),
            // The kernel that loses it stays here.
            (&[(1, true)], Ok(Verdict::Wait)),
            (&[(1, true), (0, false)], Ok(Verdict::Heard)),
            (&[(1, false)], Ok(Verdict::Receive)),
            (&[(1, false), (0, false)], Ok(Verdict::Heard)),
            (&[(0, false)], Err(libc::EPROTO)),
            (&[(1, true), (0, true)], Err(libc::EPROTO)),
            (&[(1, true), (1, true)], Err(libc::EPROTO)),
            (&[(-libc::ENOBUFS, false)], Err(libc::ENOBUFS)),
            (&[(1, true), (-libc::ECONNRESET, false)], Err(libc::ECONNRESET)),
        ] {
            assert_eq!(judge(told), verdict, "{told:?}");
        }
    }

    #[test]
    fn who_waits_for_what_is_never_told_is_answered() {
        let (mut ring, _) = set_up(&Features::ALL).unwrap_or_else(|refusal| panic!("{refusal}"));
        assert_eq!(reap(&mut ring).unwrap_err().raw_os_error(), Some(libc::ETIME));
    }

    /// Both ways to receive prove themselves, on a kernel that loses nothing.
    #[test]
    fn ends_are_heard_with_multishot_and_without() {
        for multishot in [true, false] {
            let proven = probe(&Features { multishot, ..Features::ALL }).unwrap_or_else(|refusal| panic!("{refusal}"));
            assert_eq!(proven.features.multishot, multishot);
        }
    }
}
