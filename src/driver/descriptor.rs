//! A descriptor that a reactor serves: the checks before it is ours, and what is done with it by its number.

use crate::driver::address::Address;
use crate::driver::epoll::Set;
use crate::driver::registry::{
    Abilities, Holder, Identity, duplicate, identity, is_new, names, registry, status, take_duplicate,
};
use crate::driver::syscalls::{errno_of, no_delay};
use crate::driver::{Io, Target};
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

/// Why a descriptor cannot be served.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unfit {
    /// It is not open.
    Bad,
    /// A reactor serves it already.
    Served,
    /// It is not something a protocol can be served on: what it is.
    Kind(&'static str),
    /// It could not be duplicated, or looked at: the `errno`.
    NoRoom(i32),
}

/// Whether the reactor takes the very number, or a duplicate of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, rustler::NifUnitEnum)]
pub enum How {
    /// The number itself if it came from `dup_fd`, otherwise a duplicate.
    Auto,
    /// The number itself, which came from `dup_fd`; it is closed even when it is refused.
    Adopt,
}

/// An option of type int at the socket level; 0 where there is none.
fn socket_option(fd: RawFd, option: i32) -> i32 {
    let mut value = 0i32;
    let mut len = size_of::<i32>() as libc::socklen_t;
    // SAFETY: I10: reads an int into a local of that size.
    unsafe { libc::getsockopt(fd, libc::SOL_SOCKET, option, (&raw mut value).cast(), &raw mut len) };
    value
}

fn abilities(fd: RawFd, stat: &libc::stat) -> Result<Abilities, Unfit> {
    let io = match stat.st_mode & libc::S_IFMT {
        libc::S_IFSOCK if socket_option(fd, libc::SO_ACCEPTCONN) != 0 => return Err(Unfit::Kind("listening_socket")),
        libc::S_IFSOCK => match socket_option(fd, libc::SO_TYPE) {
            libc::SOCK_STREAM => Io::Socket,
            libc::SOCK_DGRAM => Io::Datagram,
            _ => return Err(Unfit::Kind("socket_of_another_type")),
        },
        libc::S_IFIFO => Io::File,
        libc::S_IFCHR if can_be_waited_for(fd).map_err(Unfit::NoRoom)? => Io::File,
        libc::S_IFCHR => return Err(Unfit::Kind("character_device")),
        libc::S_IFREG => return Err(Unfit::Kind("regular_file")),
        libc::S_IFDIR => return Err(Unfit::Kind("directory")),
        libc::S_IFBLK => return Err(Unfit::Kind("block_device")),
        _ => return Err(Unfit::Kind("unknown")),
    };
    // SAFETY: I10: no pointers.
    let mode = unsafe { libc::fcntl(fd, libc::F_GETFL) } & libc::O_ACCMODE;
    Ok(Abilities { io, readable: mode != libc::O_WRONLY, writable: mode != libc::O_RDONLY })
}

/// Whether the kernel can tell when `fd` is ready. Terminals can be waited for, `/dev/null` and its like cannot.
///
/// # Errors
/// There is no room to find that out: the `errno`.
fn can_be_waited_for(fd: RawFd) -> Result<bool, i32> {
    match Set::new().and_then(|mut set| set.watch(fd)) {
        Ok(()) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => Ok(false),
        Err(error) => Err(errno_of(&error)),
    }
}

/// A descriptor that is ours alone. Dropping it closes it; once it was to be served, it also shuts the socket down, so
/// that the peer sees the end even where somebody else still holds a copy. One that is lent is somebody else's, who closes
/// it once it is dropped.
#[derive(Debug)]
pub struct Descriptor {
    fd: ManuallyDrop<OwnedFd>,
    abilities: Abilities,
    identity: Identity,
    /// Nobody else may serve the same.
    is_exclusive: bool,
    /// Somebody else has closed the number, which may be a stranger's by now.
    robbed: bool,
    /// It was found to be ours a moment ago.
    found: bool,
    /// We send no more.
    finished: bool,
    /// Its options are set.
    prepared: bool,
    /// It has been promised to somebody: its end is the connection's end.
    promised: bool,
    /// Somebody else owns it.
    lent: bool,
    /// It is counted among the files that were made non-blocking.
    unblocked: bool,
    /// Of its [`Holder`]; 0: it has none.
    holder: u64,
}

impl Descriptor {
    /// Makes `fd` ours and then checks it: what a number names may change from one call to the next. A number from `dup_fd`
    /// is closed when it is refused.
    ///
    /// # Errors
    /// Why it cannot be served.
    pub fn claim(fd: RawFd, how: How) -> Result<Self, Unfit> {
        let ours = match (take_duplicate(fd), how) {
            (Some(made), _) => made,
            (None, How::Adopt) => return Err(Unfit::Bad),
            (None, How::Auto) => duplicate(fd).map_err(|error| match error.raw_os_error() {
                Some(libc::EBADF) => Unfit::Bad,
                errno => Unfit::NoRoom(errno.unwrap_or(libc::EMFILE)),
            })?,
        };
        let stat = status(ours.as_raw_fd()).map_err(|_| Unfit::Bad)?;
        let abilities = abilities(ours.as_raw_fd(), &stat)?;
        // The ends of a pipe have one inode, and are told apart by what they can do; openings of a terminal cannot be.
        let is_terminal = stat.st_mode & libc::S_IFMT == libc::S_IFCHR;
        if !is_terminal && !registry().served.insert((identity(&stat), abilities)) {
            return Err(Unfit::Served);
        }
        Ok(Self::new(ours, abilities, identity(&stat), !is_terminal))
    }

    fn new(fd: OwnedFd, abilities: Abilities, identity: Identity, is_exclusive: bool) -> Self {
        Descriptor {
            fd: ManuallyDrop::new(fd),
            abilities,
            identity,
            is_exclusive,
            robbed: false,
            found: false,
            finished: false,
            prepared: false,
            promised: false,
            lent: false,
            unblocked: false,
            holder: 0,
        }
    }

    /// A TCP connection that was just accepted from a listener of ours, whose options it has: nobody else has its number, so there
    /// is nothing to check.
    ///
    /// # Errors
    /// The kernel does not say which socket it is.
    pub fn accepted(fd: OwnedFd) -> io::Result<Self> {
        let identity = identity(&status(fd.as_raw_fd())?);
        is_new(fd.as_raw_fd());
        let abilities = Abilities { io: Io::Socket, readable: true, writable: true };
        registry().served.insert((identity, abilities));
        let mut accepted = Self::new(fd, abilities, identity, true);
        accepted.prepared = true;
        Ok(accepted)
    }

    /// A connected stream socket of somebody who goes on owning it, and does not close it before this is dropped.
    ///
    /// # Errors
    /// It is none, or served already.
    pub fn lent(fd: RawFd) -> Result<Self, Unfit> {
        let stat = status(fd).map_err(|_| Unfit::Bad)?;
        let abilities = abilities(fd, &stat)?;
        if abilities.io != Io::Socket {
            return Err(Unfit::Kind("not_a_stream"));
        }
        if registry().holders.get(&fd).is_some_and(|holder| holder.identity == identity(&stat)) {
            return Err(Unfit::Served);
        }
        is_new(fd);
        // SAFETY: I4: it is kept from being closed by `lent`.
        let ours = unsafe { OwnedFd::from_raw_fd(fd) };
        let mut lent = Self::new(ours, abilities, identity(&stat), false);
        lent.lent = true;
        Ok(lent)
    }

    /// The same of one that was just accepted, non-blocking, by a socket whose options it has: there is nothing to check.
    ///
    /// # Errors
    /// The kernel does not say which socket it is.
    pub fn lent_by_acceptor(fd: RawFd) -> io::Result<Self> {
        let identity = identity(&status(fd)?);
        is_new(fd);
        let abilities = Abilities { io: Io::Socket, readable: true, writable: true };
        // SAFETY: I4: it is kept from being closed by `lent`.
        let mut lent = Self::new(unsafe { OwnedFd::from_raw_fd(fd) }, abilities, identity, false);
        lent.lent = true;
        lent.prepared = true;
        Ok(lent)
    }

    /// Whether somebody else has been found to have closed it.
    pub fn was_robbed(&self) -> bool {
        self.robbed
    }

    /// Whether somebody else owns it.
    pub fn is_lent(&self) -> bool {
        self.lent
    }

    /// The number.
    pub fn number(&self) -> RawFd {
        self.fd.as_raw_fd()
    }

    /// What it can do.
    pub fn abilities(&self) -> Abilities {
        self.abilities
    }

    /// What the drivers need to know of it.
    pub fn target(&self) -> Target {
        Target { fd: self.number(), io: self.abilities.io }
    }

    /// Whether the number is still ours: a program that wraps it in an object of its own closes it with that. Answers true
    /// once, when it has been lost; from then on nothing is done by the number.
    pub fn is_robbed(&mut self) -> bool {
        !self.robbed && {
            self.robbed = !names(self.number(), self.identity);
            self.robbed
        }
    }

    /// From now on its end is the connection's end, for its peer too.
    pub fn promise(&mut self) {
        self.promised = true;
    }

    /// Makes it ready to be served.
    pub fn prepare(&mut self) {
        match self.abilities.io {
            Io::Socket if self.prepared => {}
            Io::Socket => no_delay(self.number()),
            Io::Datagram => {}
            // `read` and `write` have no flag to keep them from blocking the thread.
            Io::File => {
                self.unblocked = true;
                registry().unblock(self.number(), (self.identity, self.abilities));
            }
        }
    }

    /// Does this when the number comes up again although it is ours: when somebody else has closed it.
    pub fn if_robbed(&mut self, robbed: impl FnOnce() + Send + 'static) {
        let mut registry = registry();
        registry.holders_ever += 1;
        self.holder = registry.holders_ever;
        let holder = Holder { serial: self.holder, identity: self.identity, robbed: Box::new(robbed) };
        let before = registry.holders.insert(self.number(), holder);
        drop(registry);
        drop(before);
    }

    /// Whether the socket has one peer, to whom `write` goes.
    pub fn is_connected(&self) -> bool {
        self.peer().is_some()
    }

    /// The address of that peer.
    pub fn peer(&self) -> Option<Address> {
        Address::of_peer(self.number())
    }

    /// Whether its addresses are IPv6.
    pub fn is_v6(&self) -> bool {
        socket_option(self.number(), libc::SO_DOMAIN) == libc::AF_INET6
    }

    /// A number that changes when the peer takes output, although no send ends: what a TCP peer has acknowledged, else what
    /// the kernel still holds (coarser: a queue that is refilled between two looks seems not to move).
    pub fn progress(&self) -> u64 {
        if self.robbed {
            return 0;
        }
        // SAFETY: I10: all-zero is a valid `tcp_info`.
        let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
        let mut len = size_of::<libc::tcp_info>() as libc::socklen_t;
        // SAFETY: I10: the call fills in at most `len` bytes of a struct of our own.
        let code = unsafe {
            libc::getsockopt(self.number(), libc::IPPROTO_TCP, libc::TCP_INFO, (&raw mut info).cast(), &raw mut len)
        };
        if code == 0 {
            return info.tcpi_bytes_acked;
        }
        let mut bytes: i32 = 0;
        // SAFETY: I10: the call fills in an int.
        unsafe { libc::ioctl(self.number(), libc::TIOCOUTQ, &raw mut bytes) };
        u64::from(bytes.unsigned_abs())
    }

    /// Shuts the socket down, one way or both (`libc::SHUT_WR`, `libc::SHUT_RDWR`), if it is still there.
    pub fn shut_down(&mut self, how: i32) {
        if self.robbed || !names(self.number(), self.identity) {
            return;
        }
        self.finished = true;
        // SAFETY: I10: no pointers. An error means that the peer is gone already.
        unsafe { libc::shutdown(self.number(), how) };
    }

    /// It is about to be dropped, and was just asked whether it [`is_robbed`](Self::is_robbed): neither that nor, where the peer
    /// sends no more either, the end has to be seen to once more.
    pub fn is_about_to_go(&mut self, peer_has_ended: bool) {
        self.found = !self.robbed;
        self.promised &= !(self.finished && peer_has_ended);
    }
}

impl Drop for Descriptor {
    fn drop(&mut self) {
        let is_ours = !self.lent && !self.robbed && (self.found || names(self.number(), self.identity));
        let mut registry = registry();
        let held = registry.holders.get(&self.number()).is_some_and(|holder| holder.serial == self.holder);
        let holder = if held { registry.holders.remove(&self.number()) } else { None };
        if self.is_exclusive {
            registry.served.remove(&(self.identity, self.abilities));
        }
        if self.unblocked {
            registry.block_again(is_ours.then(|| self.number()), (self.identity, self.abilities));
        }
        drop(registry);
        drop(holder);
        if !is_ours {
            return;
        }
        if self.promised {
            // SAFETY: I10: no pointers. An error means that the peer is gone already.
            unsafe { libc::shutdown(self.number(), libc::SHUT_RDWR) };
        }
        // SAFETY: I4: it is dropped here only, and not used any more.
        unsafe { ManuallyDrop::drop(&mut self.fd) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::registry::duplicate_for_user;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    #[test]
    fn a_duplicate_for_the_user_is_adopted_as_it_is() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let copy = duplicate_for_user(ours.as_raw_fd()).unwrap();
        assert_eq!(Descriptor::claim(copy, How::Auto).unwrap().number(), copy);
    }

    #[test]
    fn any_other_number_is_duplicated() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let claimed = Descriptor::claim(ours.as_raw_fd(), How::Auto).unwrap();
        assert_ne!(claimed.number(), ours.as_raw_fd());
    }

    #[test]
    fn a_number_that_was_reused_is_not_adopted() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let (other, _peer) = UnixStream::pair().unwrap();
        let copy = duplicate_for_user(ours.as_raw_fd()).unwrap();
        // SAFETY: puts another socket at the same number, as closing and reusing it would.
        unsafe { libc::dup2(other.as_raw_fd(), copy) };
        let claimed = Descriptor::claim(copy, How::Auto).unwrap();
        assert_ne!(claimed.number(), copy);
        drop(claimed);
        // SAFETY: the number is this test's.
        drop(unsafe { OwnedFd::from_raw_fd(copy) });
    }

    #[test]
    fn a_socket_is_served_once_at_a_time() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let first = Descriptor::claim(ours.as_raw_fd(), How::Auto).unwrap();
        assert_eq!(Descriptor::claim(ours.as_raw_fd(), How::Auto).unwrap_err(), Unfit::Served);
        drop(first);
        assert!(Descriptor::claim(ours.as_raw_fd(), How::Auto).is_ok());
    }

    #[test]
    fn an_end_of_a_pipe_is_served_once_at_a_time() {
        let (reader, writer) = std::io::pipe().unwrap();
        let first = Descriptor::claim(reader.as_raw_fd(), How::Auto).unwrap();
        let _other_end = Descriptor::claim(writer.as_raw_fd(), How::Auto).unwrap();
        assert_eq!(Descriptor::claim(reader.as_raw_fd(), How::Auto).unwrap_err(), Unfit::Served);
        drop(first);
        assert!(Descriptor::claim(reader.as_raw_fd(), How::Auto).is_ok());
    }

    #[test]
    fn what_cannot_be_served_is_named() {
        assert_eq!(Descriptor::claim(-1, How::Auto).unwrap_err(), Unfit::Bad);
        let file = std::fs::File::open("Cargo.toml").unwrap();
        assert_eq!(Descriptor::claim(file.as_raw_fd(), How::Auto).unwrap_err(), Unfit::Kind("regular_file"));
        let null = std::fs::File::open("/dev/null").unwrap();
        assert_eq!(Descriptor::claim(null.as_raw_fd(), How::Auto).unwrap_err(), Unfit::Kind("character_device"));
        let terminal = std::fs::File::open("/dev/ptmx").unwrap();
        crate::driver::epoll::full::set(true);
        assert_eq!(Descriptor::claim(terminal.as_raw_fd(), How::Auto).unwrap_err(), Unfit::NoRoom(libc::ENOSPC));
        crate::driver::epoll::full::set(false);
        assert!(Descriptor::claim(terminal.as_raw_fd(), How::Auto).is_ok());
        let (pair, _other) = seqpacket_pair();
        let unfit = Descriptor::claim(pair.as_raw_fd(), How::Auto).unwrap_err();
        assert_eq!(unfit, Unfit::Kind("socket_of_another_type"));
    }

    fn seqpacket_pair() -> (OwnedFd, OwnedFd) {
        let mut fds = [-1; 2];
        // SAFETY: the call fills in two numbers, which are ours alone.
        unsafe {
            assert_eq!(libc::socketpair(libc::AF_UNIX, libc::SOCK_SEQPACKET, 0, fds.as_mut_ptr()), 0);
            (OwnedFd::from_raw_fd(fds[0]), OwnedFd::from_raw_fd(fds[1]))
        }
    }

    #[test]
    fn the_peer_sees_the_end_although_a_copy_stays_open() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut served = Descriptor::claim(ours.as_raw_fd(), How::Auto).unwrap();
        served.promise();
        drop(served);
        assert_eq!(theirs.read(&mut [0]).unwrap(), 0);
        drop(ours);
    }

    /// As `socket.socket(fileno=...)` in a protocol does; `other` gets the number.
    fn rob(descriptor: &Descriptor, other: &UnixStream) -> OwnedFd {
        // SAFETY: puts another socket at the number, as closing and reusing it would; the test owns it from here on.
        unsafe {
            libc::dup2(other.as_raw_fd(), descriptor.number());
            OwnedFd::from_raw_fd(descriptor.number())
        }
    }

    #[test]
    fn a_number_that_names_a_stranger_is_neither_shut_down_nor_closed() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let (stranger, mut peer) = UnixStream::pair().unwrap();
        let mut served = Descriptor::claim(ours.as_raw_fd(), How::Auto).unwrap();
        served.promise();
        assert!(!served.is_robbed());
        let number = rob(&served, &stranger);
        drop(stranger);
        served.shut_down(libc::SHUT_RDWR);
        assert!(served.is_robbed());
        assert!(!served.is_robbed(), "once");
        drop(served);
        let mut stranger = UnixStream::from(number);
        stranger.write_all(b"x").unwrap();
        assert_eq!(peer.read(&mut [0]).unwrap(), 1);
        assert!(Descriptor::claim(ours.as_raw_fd(), How::Auto).is_ok(), "what was served may be served again");
    }

    #[test]
    fn a_number_that_is_not_open_is_not_closed_again() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let served = Descriptor::claim(ours.as_raw_fd(), How::Auto).unwrap();
        // SAFETY: as if by mistake; whatever gets the number from here on is left alone.
        unsafe { libc::close(served.number()) };
        drop(served);
    }

    #[test]
    fn only_what_was_made_for_it_is_adopted() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        assert_eq!(Descriptor::claim(ours.as_raw_fd(), How::Adopt).unwrap_err(), Unfit::Bad);
    }

    #[test]
    fn a_refusal_leaves_the_callers_socket_alone() {
        let (mut ours, mut theirs) = UnixStream::pair().unwrap();
        drop(Descriptor::claim(ours.as_raw_fd(), How::Auto).unwrap());
        ours.write_all(b"x").unwrap();
        assert_eq!(theirs.read(&mut [0]).unwrap(), 1);
    }

    #[test]
    fn the_last_file_puts_the_flags_back() {
        // SAFETY: no pointers; the number is new and ours.
        let terminal = unsafe { OwnedFd::from_raw_fd(libc::posix_openpt(libc::O_RDWR | libc::O_NOCTTY)) };
        // SAFETY: no pointers.
        let flags = || unsafe { libc::fcntl(terminal.as_raw_fd(), libc::F_GETFL) } & libc::O_NONBLOCK;
        let mut one = Descriptor::claim(terminal.as_raw_fd(), How::Auto).unwrap();
        let mut two = Descriptor::claim(terminal.as_raw_fd(), How::Auto).unwrap();
        one.prepare();
        two.prepare();
        drop(one);
        assert_ne!(flags(), 0, "the other one must not block");
        drop(two);
        assert_eq!(flags(), 0);
    }
}
