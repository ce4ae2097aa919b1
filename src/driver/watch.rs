//! Who waits until which descriptor is ready: of each at most one for its input and one for its room, told again and again as
//! long as it is ready.
//!
//! An epoll set of its own, which a driver watches: what is waited for is changed by any thread, also while no driver runs, and
//! nothing keeps a descriptor open that its owner closes (I4).

use crate::base::ear::Ear;
use crate::base::numbers::NumberMap;
use crate::base::token::{ConnId, GENERATION_MASK};
use crate::driver::epoll::{Interest, Set};
use crate::driver::syscalls::is_short;
use std::collections::hash_map::Entry as Place;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::time::Duration;

/// Descriptors looked at in one turn. The others come in the next one.
const AT_ONCE: usize = 256;

/// What is waited for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    /// Input, the end of it, or an error.
    Input,
    /// Room for output, or an error.
    Output,
}

struct Entry<T> {
    input: Option<T>,
    output: Option<T>,
    /// What the set holds.
    held: Interest,
    /// Which of those that had the number.
    generation: u32,
}

impl<T> Entry<T> {
    fn side(&mut self, side: Side) -> &mut Option<T> {
        match side {
            Side::Input => &mut self.input,
            Side::Output => &mut self.output,
        }
    }

    /// Not if its owner has closed it meanwhile.
    fn is_held(&self) -> bool {
        self.held != Interest::default()
    }

    fn wanted(&self) -> Interest {
        Interest { read: self.input.is_some(), write: self.output.is_some(), ear: Ear::Off }
    }
}

/// Those who wait.
pub struct Watch<T> {
    set: Set,
    /// The one before: a driver may know it by its number, which nobody else is to have until the driver knows the new one.
    before: Option<Set>,
    entries: NumberMap<RawFd, Entry<T>>,
    /// How often a descriptor was taken in, modulo 2^24.
    generations: u32,
}

impl<T: Copy> Watch<T> {
    /// Nobody waits.
    ///
    /// # Errors
    /// No descriptor was left.
    pub fn new() -> io::Result<Self> {
        Ok(Watch { set: Set::with_room(AT_ONCE)?, before: None, entries: NumberMap::default(), generations: 0 })
    }

    /// From now on `who` waits for `side` of `fd`. Answers those who do no more: whoever did before, and those whose descriptor
    /// had that number and is closed.
    ///
    /// # Errors
    /// The kernel refuses: it is not open (`EBADF`), or nothing that can be waited for (`EPERM`). Nobody waits for that side then.
    pub fn add(&mut self, fd: RawFd, side: Side, who: T) -> io::Result<[Option<T>; 2]> {
        let before = match self.entries.entry(fd) {
            Place::Occupied(mut place) => {
                let entry = place.get_mut();
                let mut wanted = entry.wanted();
                *(if side == Side::Input { &mut wanted.read } else { &mut wanted.write }) = true;
                let changed = match entry.is_held() {
                    true => self.set.modify(fd, id(fd, entry.generation), wanted),
                    false => Err(io::Error::from_raw_os_error(libc::ENOENT)),
                };
                match changed {
                    Ok(()) => {
                        entry.held = wanted;
                        return Ok([entry.side(side).replace(who), None]);
                    }
                    // The number names something else by now.
                    Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {
                        entry.held = Interest::default();
                        [entry.input, entry.output]
                    }
                    Err(error) => return Err(error),
                }
            }
            Place::Vacant(_) => [None, None],
        };
        let mut entry = Entry { input: None, output: None, held: Interest::default(), generation: self.generations };
        *entry.side(side) = Some(who);
        entry.held = entry.wanted();
        self.take_in(fd, &entry)?;
        self.generations = (self.generations + 1) & GENERATION_MASK;
        self.entries.insert(fd, entry);
        Ok(before)
    }

    fn take_in(&mut self, fd: RawFd, entry: &Entry<T>) -> io::Result<()> {
        let id = id(fd, entry.generation);
        match self.set.change(fd, id, Interest::default(), entry.held) {
            // It was closed while it was waited for, and is back under its number.
            Err(error) if error.raw_os_error() == Some(libc::EEXIST) => self.set.take_over(fd, id, entry.held),
            taken => taken,
        }
    }

    /// Nobody waits for `side` of `fd` any more. Answers who did.
    pub fn remove(&mut self, fd: RawFd, side: Side) -> Option<T> {
        let entry = self.entries.get_mut(&fd)?;
        let before = entry.side(side).take()?;
        let wanted = entry.wanted();
        if entry.is_held() {
            let changed = self.set.change(fd, id(fd, entry.generation), entry.held, wanted);
            // Refused: its owner has closed it.
            entry.held = if changed.is_ok() { wanted } else { Interest::default() };
        }
        if wanted == Interest::default() {
            self.entries.remove(&fd);
        }
        Some(before)
    }

    /// Tells of each who waits for something that is there, in one turn at most once of each. Answers whether the descriptor
    /// of the set is another one now.
    ///
    /// # Errors
    /// The set can no longer be used.
    pub fn poll(&mut self, mut tell: impl FnMut(RawFd, Side, T)) -> io::Result<bool> {
        let ready = self.set.wait(Some(Duration::ZERO))?;
        let mut strays = false;
        for nth in 0..ready {
            let Some((id, readiness)) = self.set.ready(nth) else { continue };
            let fd = id.index as RawFd;
            let entry = self.entries.get(&fd);
            let Some(entry) = entry.filter(|entry| entry.generation == id.generation && entry.is_held()) else {
                strays = true;
                continue;
            };
            if let (true, Some(who)) = (readiness.read, entry.input) {
                tell(fd, Side::Input, who);
            }
            if let (true, Some(who)) = (readiness.write, entry.output) {
                tell(fd, Side::Output, who);
            }
        }
        // Where nothing is left for another set, the strays are told of until there is one.
        Ok(strays && self.renew().is_ok())
    }

    /// A set without what cannot be taken out of the old one: whose number was closed while what it named is open elsewhere, in
    /// a child process perhaps. It would be ready for ever.
    fn renew(&mut self) -> io::Result<()> {
        let mut set = Set::with_room(AT_ONCE)?;
        for (fd, entry) in self.entries.iter_mut().filter(|(_, entry)| entry.is_held()) {
            if let Err(error) = set.change(*fd, id(*fd, entry.generation), Interest::default(), entry.held) {
                if is_short(&error) {
                    return Err(error);
                }
                entry.held = Interest::default();
            }
        }
        self.before = Some(std::mem::replace(&mut self.set, set));
        Ok(())
    }

    /// Whether somebody waits for input of `fd`, and for room.
    pub fn waiting_for(&self, fd: RawFd) -> (bool, bool) {
        self.entries.get(&fd).map_or((false, false), |entry| (entry.input.is_some(), entry.output.is_some()))
    }

    /// The number that somebody waits for of whom this is true.
    pub fn find(&self, is: impl Fn(T) -> bool) -> Option<RawFd> {
        let of = |entry: &Entry<T>| [entry.input, entry.output].into_iter().flatten().any(&is);
        self.entries.iter().find(|(_, entry)| of(entry)).map(|(fd, _)| *fd)
    }

    /// All who wait.
    pub fn iter(&self) -> impl Iterator<Item = T> {
        self.entries.values().flat_map(|entry| [entry.input, entry.output]).flatten()
    }
}

fn id(fd: RawFd, generation: u32) -> ConnId {
    ConnId { index: fd as u32, generation }
}

impl<T> AsRawFd for Watch<T> {
    fn as_raw_fd(&self) -> RawFd {
        self.set.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::Side::{Input, Output};
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    fn ready(watch: &mut Watch<u32>) -> Vec<(Side, u32)> {
        let mut told = Vec::new();
        watch.poll(|_, side, who| told.push((side, who))).unwrap();
        told
    }

    /// Puts a copy of `of` where `fd` is, which is closed by that.
    fn put_at(fd: RawFd, of: &impl AsRawFd) {
        // SAFETY: I10: no pointers; both are open.
        assert_eq!(unsafe { libc::dup3(of.as_raw_fd(), fd, libc::O_CLOEXEC) }, fd);
    }

    #[test]
    fn each_side_is_told_as_long_as_it_is_ready() {
        let (mut ours, mut theirs) = UnixStream::pair().unwrap();
        let fd = ours.as_raw_fd();
        let mut watch = Watch::new().unwrap();
        assert_eq!(watch.add(fd, Input, 1).unwrap(), [None, None]);
        assert_eq!(ready(&mut watch), []);
        theirs.write_all(b"x").unwrap();
        assert_eq!(watch.add(fd, Output, 2).unwrap(), [None, None]);
        for _ in 0..2 {
            assert_eq!(ready(&mut watch), [(Input, 1), (Output, 2)]);
        }
        assert_eq!(watch.add(fd, Input, 3).unwrap(), [Some(1), None], "the one before is replaced");
        assert_eq!(watch.remove(fd, Output), Some(2));
        assert_eq!(watch.remove(fd, Output), None);
        assert_eq!(ready(&mut watch), [(Input, 3)]);
        ours.read_exact(&mut [0]).unwrap();
        assert_eq!(ready(&mut watch), []);
        assert_eq!(watch.remove(fd, Input), Some(3));
        assert_eq!(watch.remove(fd, Input), None);
    }

    #[test]
    fn an_end_wakes_both_sides() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let mut watch = Watch::new().unwrap();
        // Full, so that there is no room but for an error.
        ours.set_nonblocking(true).unwrap();
        while (&ours).write(&[0; 4096]).is_ok() {}
        watch.add(ours.as_raw_fd(), Input, 1).unwrap();
        watch.add(ours.as_raw_fd(), Output, 2).unwrap();
        assert_eq!(ready(&mut watch), []);
        drop(theirs);
        assert_eq!(ready(&mut watch), [(Input, 1), (Output, 2)]);
    }

    #[test]
    fn what_cannot_be_waited_for_is_refused() {
        let mut watch = Watch::new().unwrap();
        let file = std::fs::File::open("/proc/self/exe").unwrap();
        let refused = watch.add(file.as_raw_fd(), Input, 1).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::EPERM));
        assert_eq!(watch.remove(file.as_raw_fd(), Input), None);
        assert_eq!(watch.add(i32::MAX, Input, 1).unwrap_err().raw_os_error(), Some(libc::EBADF));
        assert_eq!(watch.iter().count(), 0);
    }

    #[test]
    fn a_number_that_was_closed_and_is_used_again_is_another_descriptors() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let (other, mut others) = UnixStream::pair().unwrap();
        let mut watch = Watch::new().unwrap();
        let fd = ours.as_raw_fd();
        watch.add(fd, Input, 1).unwrap();
        watch.add(fd, Output, 2).unwrap();
        put_at(fd, &other);
        others.write_all(b"x").unwrap();
        assert_eq!(ready(&mut watch), [], "who waited for the old one hears nothing of the new one");
        assert_eq!(watch.add(fd, Input, 3).unwrap(), [Some(1), Some(2)]);
        assert_eq!(ready(&mut watch), [(Input, 3)]);
        assert_eq!(watch.remove(fd, Output), None);
        assert_eq!(watch.remove(fd, Input), Some(3));
    }

    #[test]
    fn who_waits_for_what_is_closed_can_be_taken_back() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let mut watch = Watch::new().unwrap();
        let fd = ours.as_raw_fd();
        watch.add(fd, Input, 1).unwrap();
        watch.add(fd, Output, 2).unwrap();
        drop(ours);
        assert_eq!(watch.remove(fd, Input), Some(1));
        assert_eq!(watch.remove(fd, Output), Some(2));
    }

    #[test]
    fn what_is_open_elsewhere_after_its_number_was_closed_is_forgotten() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let elsewhere = ours.try_clone().unwrap();
        let (other, mut others) = UnixStream::pair().unwrap();
        let mut watch = Watch::new().unwrap();
        let fd = ours.as_raw_fd();
        watch.add(fd, Input, 1).unwrap();
        put_at(fd, &other);
        assert_eq!(watch.add(fd, Input, 2).unwrap(), [Some(1), None]);
        theirs.write_all(b"x").unwrap();
        let before = watch.as_raw_fd();
        let mut told = Vec::<u32>::new();
        assert!(watch.poll(|_, _, who| told.push(who)).unwrap(), "the set holds a stray");
        assert!(told.is_empty());
        assert_ne!(watch.as_raw_fd(), before);
        // SAFETY: I10: no pointers.
        let flags = unsafe { libc::fcntl(before, libc::F_GETFD) };
        assert_ne!(flags, -1, "nobody has its number while a driver watches that");
        assert!(!watch.poll(|_, _, who| told.push(who)).unwrap());
        others.write_all(b"x").unwrap();
        assert_eq!(ready(&mut watch), [(Input, 2)]);
        drop(elsewhere);
    }

    #[test]
    fn what_is_back_under_its_number_is_waited_for() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let (elsewhere, other) = (ours.try_clone().unwrap(), UnixStream::pair().unwrap());
        let mut watch = Watch::new().unwrap();
        let fd = ours.as_raw_fd();
        watch.add(fd, Input, 1).unwrap();
        put_at(fd, &other.0);
        assert_eq!(watch.remove(fd, Input), Some(1));
        put_at(fd, &elsewhere);
        assert_eq!(watch.add(fd, Input, 2).unwrap(), [None, None]);
        theirs.write_all(b"x").unwrap();
        assert_eq!(ready(&mut watch), [(Input, 2)]);
    }
    #[test]
    fn where_the_kernel_watches_nothing_more_nobody_loses_what_they_have() {
        use crate::driver::epoll::full;
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let (stray, mut strays) = UnixStream::pair().unwrap();
        let _elsewhere = stray.try_clone().unwrap();
        let mut watch = Watch::new().unwrap();
        watch.add(ours.as_raw_fd(), Input, 1).unwrap();
        watch.add(stray.as_raw_fd(), Input, 2).unwrap();
        full::set(true);
        let refused = watch.add(theirs.as_raw_fd(), Input, 3).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::ENOSPC));
        assert_eq!(watch.waiting_for(theirs.as_raw_fd()), (false, false));
        assert_eq!(watch.add(ours.as_raw_fd(), Output, 4).unwrap(), [None, None], "it is watched already");
        // There is no room for a set without the stray.
        let fd = stray.as_raw_fd();
        drop(stray);
        assert_eq!(watch.remove(fd, Input), Some(2));
        strays.write_all(b"x").unwrap();
        theirs.write_all(b"x").unwrap();
        for _ in 0..2 {
            assert_eq!(ready(&mut watch), [(Input, 1), (Output, 4)]);
        }
        full::set(false);
        let before = watch.as_raw_fd();
        assert_eq!(ready(&mut watch), [(Input, 1), (Output, 4)]);
        assert_ne!(watch.as_raw_fd(), before);
        assert_eq!(ready(&mut watch), [(Input, 1), (Output, 4)]);
    }
}
