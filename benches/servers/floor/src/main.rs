//! Echo servers without Python or Erlang, as good as they can be made: what they cost is what the kernel costs. The
//! benchmark compares the other servers with them.
//!
//! `floor epoll|uring echo|udp THREADS`: each thread has a socket of its own on one port (`SO_REUSEPORT`) and shares
//! nothing. Ends at the end of standard input, which every thread waits for like for any other descriptor, so that a
//! server of one thread is one: a process with two pays for the table of descriptors that they share.

mod epoll;
mod epoll_udp;
mod ring;
mod sockets;
mod uring;
mod uring_udp;

use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::process::ExitCode;

const USAGE: &str = "usage: floor epoll|uring echo|udp THREADS";

type Open = fn(u16) -> io::Result<(OwnedFd, u16)>;
type Serve = fn(OwnedFd) -> io::Result<()>;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        [backend, case, threads] => match run(backend, case, threads) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("floor: {error}");
                ExitCode::FAILURE
            }
        },
        _ => {
            eprintln!("{USAGE}");
            ExitCode::FAILURE
        }
    }
}

fn run(backend: &str, case: &str, threads: &str) -> io::Result<()> {
    let wrong = |what: &str| io::Error::other(format!("{what}\n{USAGE}"));
    let threads: u16 = threads.parse().map_err(|_| wrong("THREADS must be a number"))?;
    let (open, serve): (Open, Serve) = match (backend, case) {
        ("epoll", "echo") => (sockets::listen, epoll::serve),
        ("epoll", "udp") => (sockets::bind_udp, epoll_udp::serve),
        ("uring", "echo") => (sockets::listen, uring::serve),
        ("uring", "udp") => (sockets::bind_udp, uring_udp::serve),
        _ => return Err(wrong("no such server")),
    };
    if backend == "uring"
        && let Err(error) = ring::Ring::new(1, 4096)
    {
        println!(r#"{{"unavailable": "io_uring: {error}"}}"#);
        return Ok(());
    }
    let (first, port) = open(0)?;
    let others = (1..threads).map(|_| Ok(open(port)?.0)).collect::<io::Result<Vec<_>>>()?;
    let pid = std::process::id();
    let version = concat!("floor ", env!("CARGO_PKG_VERSION"));
    println!(r#"{{"port": {port}, "pid": {pid}, "version": "{version}, {backend}"}}"#);
    io::stdout().flush()?;
    for socket in others {
        std::thread::spawn(move || {
            if let Err(error) = serve(socket) {
                eprintln!("floor: {error}");
                std::process::exit(1);
            }
            // The end of standard input, which concerns everybody.
            std::process::exit(0);
        });
    }
    serve(first)
}
