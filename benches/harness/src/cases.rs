//! What is measured. The names are those of the command line.

const KIB: usize = 1024;

/// What a server must do: the second argument of `benches/servers/run`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    /// Sends every byte back.
    Echo,
    /// Answers every HTTP request with the same page.
    Http,
    /// Sends every datagram back.
    Udp,
    /// Sends 64-byte messages back, after 50 µs of Python each.
    Cpu,
    /// Sends 64-byte messages back, and takes whatever else a connection sends, without an answer.
    Sink,
    /// Sends 64-byte messages back, and answers longer ones with [`DOCUMENT_BYTES`] bytes.
    Document,
    /// Sends every byte back, over asyncio's streams.
    Streams,
    /// What [`Service::Http`] does, as an ASGI application on uvicorn.
    Uvicorn,
    /// Answers every HTTP request with the same JSON, by FastAPI on uvicorn.
    Fastapi,
}

impl Service {
    /// As the servers call it.
    pub fn name(self) -> &'static str {
        match self {
            Service::Echo => "echo",
            Service::Http => "http",
            Service::Udp => "udp",
            Service::Cpu => "cpu",
            Service::Sink => "sink",
            Service::Document => "document",
            Service::Streams => "streams",
            Service::Uvicorn => "uvicorn",
            Service::Fastapi => "fastapi",
        }
    }
}

/// What goes over a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Traffic {
    /// `depth` messages of `size` bytes at once; the next ones when all are back.
    Echo {
        /// Bytes of a message.
        size: usize,
        /// Messages at once.
        depth: usize,
    },
    /// One HTTP request after the other.
    Http,
    /// The same, whose answer is JSON.
    Json,
    /// Connect, one message of so many bytes, close; again and again.
    Connect {
        /// Bytes of the message.
        size: usize,
    },
    /// One datagram of so many bytes at a time, sent again if no answer comes.
    Datagrams {
        /// Bytes of a datagram.
        size: usize,
    },
    /// One connection says a message of 64 bytes after the other; the others move as much as they can.
    Beside(Bulk),
}

/// What moves beside the messages of a neighbour. It is what counts; the latencies are the neighbour's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bulk {
    /// They send.
    Flood,
    /// Each asks for a document after the other.
    Document,
}

/// As much is counted as one, of what moves in bulk.
pub const PIECE_BYTES: usize = 64 * KIB;

/// How long a document is: all byte values, again and again.
pub const DOCUMENT_BYTES: usize = 50 * KIB * KIB;

/// When the next message is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loop {
    /// As soon as the answer is there: how much can it do?
    Closed,
    /// At fixed times, whatever the server does: how long do clients wait at this load?
    Open,
}

/// One case.
#[derive(Clone, Debug)]
pub struct Case {
    /// Of the command line.
    pub name: &'static str,
    /// For people.
    pub title: &'static str,
    /// What the server does.
    pub service: Service,
    /// Contexts that the server may use.
    pub contexts: u32,
    /// Connections that send.
    pub connections: usize,
    /// Connections that are open and silent.
    pub idle: usize,
    /// What they send.
    pub traffic: Traffic,
    /// When they send.
    pub pace: Loop,
    /// Part of `--quick`.
    pub quick: bool,
}

impl Case {
    /// Connections that are open at the same time.
    pub fn open_connections(&self) -> usize {
        self.connections + self.idle
    }

    /// What is counted, in the plural.
    pub fn unit(&self) -> &'static str {
        match self.traffic {
            Traffic::Echo { .. } => "messages",
            Traffic::Http | Traffic::Json => "requests",
            Traffic::Connect { .. } => "connections",
            Traffic::Datagrams { .. } => "datagrams",
            Traffic::Beside(_) => "pieces",
        }
    }
}

const fn echo(name: &'static str, title: &'static str, connections: usize, size: usize) -> Case {
    let traffic = Traffic::Echo { size, depth: 1 };
    Case {
        name,
        title,
        service: Service::Echo,
        contexts: 1,
        connections,
        idle: 0,
        traffic,
        pace: Loop::Closed,
        quick: false,
    }
}

const fn quick(case: Case) -> Case {
    Case { quick: true, ..case }
}

const fn open(case: Case) -> Case {
    Case { pace: Loop::Open, ..case }
}

/// Every case, in the order in which they are run and shown.
pub const CASES: [Case; 24] = [
    echo("echo-1", "Echo, 1 connection, 64 B", 1, 64),
    quick(echo("echo-64", "Echo, 64 connections, 64 B", 64, 64)),
    quick(echo("echo-1000", "Echo, 1000 connections, 64 B", 1000, 64)),
    echo("echo-10000", "Echo, 10 000 connections, 64 B", 10_000, 64),
    echo("echo-64-1k", "Echo, 64 connections, 1 KiB", 64, KIB),
    quick(echo("echo-64-16k", "Echo, 64 connections, 16 KiB", 64, 16 * KIB)),
    echo("echo-8-1m", "Echo, 8 connections, 1 MiB", 8, 1024 * KIB),
    Case {
        traffic: Traffic::Echo { size: 64, depth: 16 },
        ..echo("pipelined", "Echo, 64 connections, 16 messages of 64 B at once", 64, 64)
    },
    quick(Case {
        traffic: Traffic::Connect { size: 64 },
        ..echo("connect", "Connect, one message of 64 B, close; 32 at a time", 32, 64)
    }),
    Case { idle: 10_000, ..echo("idle-10000", "Echo, 100 busy connections among 10 000 idle ones, 64 B", 100, 64) },
    quick(Case {
        service: Service::Http,
        traffic: Traffic::Http,
        ..echo("http", "HTTP/1.1 keep-alive, 64 connections", 64, 64)
    }),
    Case {
        service: Service::Streams,
        ..echo("streams-echo", "Echo over asyncio's streams, 64 connections, 64 B", 64, 64)
    },
    Case {
        service: Service::Uvicorn,
        traffic: Traffic::Http,
        ..echo("uvicorn-hello", "An ASGI application on uvicorn, 64 connections", 64, 64)
    },
    Case {
        service: Service::Fastapi,
        traffic: Traffic::Json,
        ..echo("uvicorn-fastapi", "JSON by FastAPI on uvicorn, 64 connections", 64, 64)
    },
    Case {
        service: Service::Udp,
        traffic: Traffic::Datagrams { size: 64 },
        ..echo("udp", "UDP echo, 64 sockets, 64 B", 64, 64)
    },
    Case { service: Service::Cpu, ..echo("cpu-1", "50 µs of Python per message, 1 context, 32 connections", 32, 64) },
    Case {
        service: Service::Cpu,
        contexts: 2,
        ..echo("cpu-2", "50 µs of Python per message, 2 contexts, 32 connections", 32, 64)
    },
    Case {
        service: Service::Sink,
        traffic: Traffic::Beside(Bulk::Flood),
        ..echo("ping-under-flood", "Pings of 64 B beside 4 connections that send all they can; pieces of 64 KiB", 5, 64)
    },
    Case {
        service: Service::Document,
        traffic: Traffic::Beside(Bulk::Document),
        ..echo("large-document", "Pings of 64 B beside documents of 50 MiB; pieces of 64 KiB", 2, 64)
    },
    open(echo("open-1", "Fixed rate, 1 connection, 64 B", 1, 64)),
    quick(open(echo("open-64", "Fixed rate, 64 connections, 64 B", 64, 64))),
    open(echo("open-1000", "Fixed rate, 1000 connections, 64 B", 1000, 64)),
    open(Case {
        service: Service::Http,
        traffic: Traffic::Http,
        ..echo("open-http", "Fixed rate, HTTP/1.1 keep-alive, 64 connections", 64, 64)
    }),
    open(Case {
        idle: 10_000,
        ..echo("open-idle-10000", "Fixed rate, 100 busy connections among 10 000 idle ones, 64 B", 100, 64)
    }),
];

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn names_are_unique_and_fit_a_command_line() {
        let names: HashSet<&str> = CASES.iter().map(|case| case.name).collect();
        assert_eq!(names.len(), CASES.len());
        let fits = |name: &str| name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
        assert!(names.iter().all(|name| fits(name)));
    }

    #[test]
    fn only_streams_have_an_open_loop() {
        let streams = |case: &Case| matches!(case.traffic, Traffic::Echo { .. } | Traffic::Http | Traffic::Json);
        assert!(CASES.iter().filter(|case| case.pace == Loop::Open).all(streams));
    }
}
