//! Server processes: started through `benches/servers/run`, told to end by the end of their standard input.

use crate::cases::{Case, Service};
use crate::usage::Tree;
use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde::Deserialize;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

/// For a server to say that it listens.
const START_MAX: Duration = Duration::from_secs(60);
/// For a server to end by itself.
const STOP_MAX: Duration = Duration::from_secs(10);
/// For a server that has closed its connections to be gone, if that is why.
const GONE_MAX: Duration = Duration::from_millis(300);
const LOG_LINES: usize = 15;

/// What can be started, or reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Contender {
    /// A server of `benches/servers/run`.
    Own {
        /// As the command line and the reports call it.
        name: String,
        /// One line.
        description: String,
    },
    /// A server that runs already.
    Peer {
        /// As the user called it.
        name: String,
        /// What it serves.
        service: Service,
        /// Where.
        address: SocketAddr,
    },
}

impl Contender {
    /// Its name.
    pub fn name(&self) -> &str {
        match self {
            Contender::Own { name, .. } | Contender::Peer { name, .. } => name,
        }
    }

    /// What `NAME=HOST:PORT`, `NAME=http://HOST:PORT` or `NAME=udp://HOST:PORT` names.
    pub fn peer(text: &str) -> Result<Contender> {
        let (name, place) = text.split_once('=').with_context(|| format!("--peer {text}: NAME=HOST:PORT is wanted"))?;
        let (service, place) = match place.split_once("://") {
            None => (Service::Echo, place),
            Some(("http", place)) => (Service::Http, place),
            Some(("udp", place)) => (Service::Udp, place),
            Some((scheme, _)) => bail!("--peer {text}: {scheme} is not known; http and udp are"),
        };
        let mut addresses = place.to_socket_addrs().with_context(|| format!("--peer {text}: cannot find {place}"))?;
        let address = addresses.next().with_context(|| format!("--peer {text}: {place} has no address"))?;
        Ok(Contender::Peer { name: name.to_owned(), service, address })
    }
}

/// The servers that `run` knows.
pub fn list(run: &Path) -> Result<Vec<Contender>> {
    let output = Command::new(run)
        .arg("--list")
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run {} --list; --servers says where it is", run.display()))?;
    ensure!(
        output.status.success(),
        "{} --list: {}\n{}",
        run.display(),
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    let text = String::from_utf8_lossy(&output.stdout);
    let own = |line: &str| {
        let (name, description) = line.split_once('\t').unwrap_or((line, ""));
        Contender::Own { name: name.to_owned(), description: description.to_owned() }
    };
    Ok(text.lines().filter(|line| !line.is_empty()).map(own).collect())
}

/// A server that listens.
pub struct Server {
    /// Its name.
    pub name: String,
    /// Where it listens.
    pub address: SocketAddr,
    /// What it says of itself.
    pub version: String,
    own: Option<Own>,
}

struct Own {
    child: Child,
    pid: i32,
    resident_bytes_at_start: u64,
    log: PathBuf,
}

/// Whether a server can be measured.
pub enum Started {
    /// It listens.
    Ready(Server),
    /// It cannot serve here, for this reason.
    Unavailable(String),
    /// It should have, but failed.
    Failed(String),
}

/// A server that has been started and has not said anything yet.
pub struct Starting {
    name: String,
    since: Instant,
    state: State,
}

enum State {
    Over(Started),
    Spawned { child: Child, first_line: Receiver<String>, log: PathBuf },
}

/// The line that a server prints.
#[derive(Deserialize)]
#[serde(untagged)]
enum Line {
    Listening { port: u16, pid: i32, version: String },
    Unavailable { unavailable: String },
}

/// Starts `contender` for `case`, with its log in `logs`. Does not wait: several start at the same time.
pub fn start(run: &Path, contender: &Contender, case: &Case, logs: &Path) -> Starting {
    let name = contender.name().to_owned();
    let state = match contender {
        Contender::Peer { service, address, .. } if *service == case.service => {
            let version = format!("already running at {address}");
            State::Over(Started::Ready(Server { name: name.clone(), address: *address, version, own: None }))
        }
        Contender::Peer { .. } => {
            State::Over(Started::Unavailable(format!("does not serve {}, by its --peer", case.service.name())))
        }
        Contender::Own { .. } => spawn(run, &name, case, logs)
            .unwrap_or_else(|error| State::Over(Started::Failed(format!("cannot be started: {error:#}")))),
    };
    Starting { name, since: Instant::now(), state }
}

fn spawn(run: &Path, name: &str, case: &Case, logs: &Path) -> Result<State> {
    fs::create_dir_all(logs)?;
    let log = logs.join(format!("{name}.{}.log", case.name));
    let mut child = Command::new(run)
        .args([name, case.service.name()])
        .env("CONTEXTS", case.contexts.to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(File::create(&log)?)
        .spawn()?;
    let stdout = child.stdout.take().context("no standard output")?;
    Ok(State::Spawned { child, first_line: first_line_of(stdout), log })
}

/// Reads to the end, so that the server never waits for us; only the first line matters.
fn first_line_of(stdout: ChildStdout) -> Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            // After the first nobody listens.
            let _ = sender.send(line);
        }
    });
    receiver
}

impl Starting {
    /// Waits until the server has said what it has to say.
    pub fn wait(self) -> Started {
        let (mut child, first_line, log) = match self.state {
            State::Over(started) => return started,
            State::Spawned { child, first_line, log } => (child, first_line, log),
        };
        let line = first_line.recv_timeout(START_MAX.saturating_sub(self.since.elapsed()));
        let line = match line {
            Ok(line) => line,
            Err(mpsc::RecvTimeoutError::Timeout) => {
                kill(&mut child);
                return failed(format!("said nothing for {} s", START_MAX.as_secs()), &log);
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => {
                let status = end(&mut child);
                return failed(format!("ended without saying where it listens ({status})"), &log);
            }
        };
        match serde_json::from_str(&line) {
            Ok(Line::Listening { port, pid, version }) => {
                let resident_bytes_at_start = Tree::of(pid).map_or(0, |tree| tree.resident_bytes());
                let address = SocketAddr::from(([127, 0, 0, 1], port));
                let own = Some(Own { child, pid, resident_bytes_at_start, log });
                Started::Ready(Server { name: self.name, address, version, own })
            }
            Ok(Line::Unavailable { unavailable }) => {
                end(&mut child);
                Started::Unavailable(unavailable)
            }
            Err(error) => {
                kill(&mut child);
                failed(format!("said {line:?}, and not where it listens: {error}"), &log)
            }
        }
    }
}

fn failed(what: String, log: &Path) -> Started {
    Started::Failed(format!("{what}{}", tail(log)))
}

fn tail(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    match lines[lines.len().saturating_sub(LOG_LINES)..].join("\n") {
        empty if empty.is_empty() => String::from("; its standard error is empty"),
        end => format!("; its standard error ends with:\n{end}"),
    }
}

impl Server {
    /// Its processes; nothing of a peer.
    pub fn tree(&self) -> Result<Option<Tree>> {
        self.own.as_ref().map(|own| Tree::of(own.pid)).transpose()
    }

    /// What its processes had taken before the first connection, in bytes.
    pub fn resident_bytes_at_start(&self) -> u64 {
        self.own.as_ref().map_or(0, |own| own.resident_bytes_at_start)
    }

    /// What it says about a failure: whether it still runs, and the end of its log.
    pub fn state(&mut self) -> String {
        let Some(own) = &mut self.own else { return String::new() };
        match wait(&mut own.child, GONE_MAX) {
            Some(status) => format!("; the server has ended ({status}){}", tail(&own.log)),
            _ if fs::metadata(&own.log).is_ok_and(|log| log.len() > 0) => tail(&own.log),
            _ => String::new(),
        }
    }

    /// Closes its standard input, so that it ends when it likes.
    pub fn ask_to_end(&mut self) {
        if let Some(own) = &mut self.own {
            drop(own.child.stdin.take());
        }
    }

    /// Ends it.
    pub fn stop(mut self) {
        if let Some(own) = &mut self.own {
            end(&mut own.child);
        }
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            kill(&mut self.child);
        }
    }
}

/// Closes its standard input and waits; kills it if that does not help.
fn end(child: &mut Child) -> String {
    drop(child.stdin.take());
    match wait(child, STOP_MAX) {
        Some(status) => status.to_string(),
        None => {
            kill(child);
            format!("killed: it did not end within {} s of the end of its input", STOP_MAX.as_secs())
        }
    }
}

fn wait(child: &mut Child, limit: Duration) -> Option<ExitStatus> {
    let since = Instant::now();
    while since.elapsed() < limit {
        if let Ok(Some(status)) = child.try_wait() {
            return Some(status);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    None
}

/// Kills the process and everything below it.
fn kill(child: &mut Child) {
    let tree = Tree::of(child.id() as i32);
    let pids = tree.iter().flat_map(|tree| tree.pids()).filter_map(|pid| Pid::from_raw(*pid));
    for pid in pids {
        // What has ended by itself meanwhile needs no signal.
        let _ = kill_process(pid, Signal::KILL);
    }
    // Its status has nothing to tell.
    let _ = child.wait();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cases::CASES;
    use std::os::unix::fs::PermissionsExt;

    /// A `run` that does what `script` says.
    fn started(script: &str) -> (tempfile::TempDir, Started) {
        let dir = tempfile::tempdir().unwrap();
        let run = dir.path().join("run");
        fs::write(&run, format!("#!/bin/bash\n{script}\n")).unwrap();
        fs::set_permissions(&run, fs::Permissions::from_mode(0o755)).unwrap();
        let contender = Contender::Own { name: "it".into(), description: String::new() };
        let started = start(&run, &contender, &CASES[0], dir.path()).wait();
        (dir, started)
    }

    #[test]
    fn a_server_tells_where_it_listens_and_ends_with_its_input() {
        let script = r#"echo "{\"port\": 1, \"pid\": $$, \"version\": \"$1 $2 $CONTEXTS\"}"; cat; echo >"$0.ended""#;
        let (dir, started) = started(script);
        let Started::Ready(server) = started else { panic!("it is not ready") };
        assert_eq!(server.version, "it echo 1");
        assert_eq!(server.address.port(), 1);
        let tree = server.tree().unwrap().unwrap();
        assert!(server.resident_bytes_at_start() > 0);
        server.stop();
        assert!(tree.cpu().is_err());
        assert!(dir.path().join("run.ended").exists(), "it was killed");
    }

    #[test]
    fn a_server_that_does_not_listen_to_its_input_is_killed() {
        let (_dir, started) = started(r#"echo "{\"port\": 1, \"pid\": $$, \"version\": \"\"}"; exec sleep 1000"#);
        let Started::Ready(server) = started else { panic!("it is not ready") };
        let tree = server.tree().unwrap().unwrap();
        drop(server);
        assert!(tree.cpu().is_err());
    }

    #[test]
    fn a_server_may_be_unavailable() {
        let (_dir, started) = started(r#"echo '{"unavailable": "no such module"}'"#);
        assert!(matches!(started, Started::Unavailable(reason) if reason == "no such module"));
    }

    #[test]
    fn a_failure_shows_the_end_of_the_log() {
        for (script, part) in [
            ("echo why >&2; exit 3", "exit status: 3"),
            ("echo why >&2; exit 3", "why"),
            ("echo nonsense", "nonsense"),
            ("true", "standard error is empty"),
        ] {
            let (_dir, started) = started(script);
            let Started::Failed(reason) = started else { panic!("{script} did not fail") };
            assert!(reason.contains(part), "{reason}");
        }
    }

    #[test]
    fn peers() {
        let address = SocketAddr::from(([127, 0, 0, 1], 80));
        let peer = |text, service| {
            let expected = Contender::Peer { name: "p".into(), service, address };
            assert_eq!(Contender::peer(text).unwrap(), expected);
        };
        peer("p=127.0.0.1:80", Service::Echo);
        peer("p=http://127.0.0.1:80", Service::Http);
        peer("p=udp://127.0.0.1:80", Service::Udp);
        for wrong in ["127.0.0.1:80", "p=127.0.0.1", "p=ftp://127.0.0.1:80"] {
            assert!(Contender::peer(wrong).is_err(), "{wrong}");
        }
    }
}
