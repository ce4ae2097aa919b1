//! Counting a server's system calls: in a round of its own, since counting slows the server down.
//!
//! `perf stat` counts almost for free; where it may not, `strace -c` counts at a high price, but counts too. While
//! either attaches or detaches, no load is made, so that what it counts belongs to the messages of the window.

use crate::load::Observer;
use crate::usage::Tree;
use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const EVENT: &str = "raw_syscalls:sys_enter";
/// For the counter to attach. `perf` does not say when it has.
const ATTACH: Duration = Duration::from_millis(200);
const ATTACH_MAX: Duration = Duration::from_secs(10);

/// What can count here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tool {
    /// `perf stat`.
    Perf,
    /// `strace -c -f`.
    Strace,
}

impl Tool {
    /// The best that works on this machine, or why none does.
    pub fn find() -> Result<Tool, String> {
        let mut reasons = Vec::new();
        for tool in [Tool::Perf, Tool::Strace] {
            match tool.try_out() {
                Ok(()) => return Ok(tool),
                Err(error) => reasons.push(format!("{}: {error:#}", tool.name())),
            }
        }
        Err(reasons.join("; "))
    }

    /// Of the command.
    pub fn name(self) -> &'static str {
        match self {
            Tool::Perf => "perf",
            Tool::Strace => "strace",
        }
    }

    /// Counts a process that makes a few calls.
    fn try_out(self) -> Result<()> {
        let mut busy = Command::new("sh")
            .args(["-c", "while read -r line; do echo \"$line\"; done"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()?;
        let dir = std::env::temp_dir();
        let counted = Tree::of(busy.id() as i32).and_then(|tree| {
            let mut counter = Counter::new(self, tree, &dir);
            counter.begin()?;
            let said = busy.stdin.as_mut().map(|stdin| std::io::Write::write_all(stdin, b"one\ntwo\n"));
            said.context("no standard input")??;
            std::thread::sleep(Duration::from_millis(50));
            counter.end()?;
            counter.calls.context("it counted nothing")
        });
        // It may have ended already.
        let _ = busy.kill();
        busy.wait()?;
        ensure!(counted? > 0, "it counted nothing");
        Ok(())
    }
}

/// Counts the calls of a server between the beginning and the end of a window.
pub struct Counter {
    tool: Tool,
    tree: Tree,
    output: PathBuf,
    attached: Option<Child>,
    /// After the window: how many calls.
    pub calls: Option<u64>,
}

impl Counter {
    /// For the processes of `tree`; writes a file into `dir`.
    pub fn new(tool: Tool, tree: Tree, dir: &Path) -> Counter {
        let output = dir.join(format!("syscalls-{}-{}.txt", std::process::id(), tree.pids()[0]));
        Counter { tool, tree, output, attached: None, calls: None }
    }

    fn command(&self) -> Command {
        let pids: Vec<String> = self.tree.pids().iter().map(i32::to_string).collect();
        let mut command = Command::new(self.tool.name());
        match self.tool {
            Tool::Perf => command.args(["stat", "-x", ",", "-e", EVENT, "-p", &pids.join(","), "-o"]),
            Tool::Strace => {
                command.args(["-c", "-f", "-U", "name,calls"]);
                command.args(pids.iter().flat_map(|pid| ["-p", pid])).arg("-o")
            }
        };
        command.arg(&self.output);
        command
    }

    fn read(&self) -> Result<u64> {
        let text = fs::read_to_string(&self.output).context("it wrote nothing")?;
        match self.tool {
            Tool::Perf => count_of_perf(&text),
            Tool::Strace => count_of_strace(&text),
        }
    }
}

impl Observer for Counter {
    fn begin(&mut self) -> Result<()> {
        let mut command = self.command();
        let log = self.output.with_extension("log");
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(fs::File::create(&log)?).spawn();
        let mut child = child.with_context(|| format!("cannot run {}", self.tool.name()))?;
        let since = Instant::now();
        std::thread::sleep(ATTACH);
        // strace says so, for each thread.
        while self.tool == Tool::Strace && !fs::read_to_string(&log)?.contains("attached") {
            ensure!(since.elapsed() < ATTACH_MAX, "it does not attach");
            if child.try_wait()?.is_some() {
                break;
            }
            std::thread::sleep(ATTACH / 10);
        }
        if let Some(status) = child.try_wait()? {
            let said = fs::read_to_string(&log).unwrap_or_default();
            bail!("{status}: {}", said.lines().next().unwrap_or("not permitted"));
        }
        self.attached = Some(child);
        Ok(())
    }

    fn end(&mut self) -> Result<()> {
        let mut child = self.attached.take().context("it is not attached")?;
        if let Some(pid) = Pid::from_raw(child.id() as i32) {
            kill_process(pid, Signal::INT)?;
        }
        child.wait()?;
        self.calls = Some(self.read()?);
        Ok(())
    }
}

impl Drop for Counter {
    fn drop(&mut self) {
        if let Some(mut child) = self.attached.take() {
            // Nothing to do if it has ended.
            let _ = child.kill().and_then(|()| child.wait());
        }
        for file in [self.output.clone(), self.output.with_extension("log")] {
            // It may never have been written.
            let _ = fs::remove_file(file);
        }
    }
}

/// `672922,,raw_syscalls:sys_enter,…`
fn count_of_perf(text: &str) -> Result<u64> {
    let line = text.lines().find(|line| line.contains(EVENT)).context("perf counted nothing")?;
    let count = line.split(',').next().unwrap_or_default();
    count.parse().with_context(|| format!("perf says {count}"))
}

/// The sum of the calls in the table, whose columns are name and calls.
fn count_of_strace(text: &str) -> Result<u64> {
    let counts = text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let (name, calls) = (words.next()?, words.next()?.parse::<u64>().ok()?);
        (name != "total").then_some(calls)
    });
    Ok(counts.sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_perf_writes() {
        let text = "# started on Sun Nov 22\n\n672922,,raw_syscalls:sys_enter,1234,100.00,,\n";
        assert_eq!(count_of_perf(text).unwrap(), 672_922);
        assert!(count_of_perf("<not counted>,,raw_syscalls:sys_enter,0,100.00,,").is_err());
        assert!(count_of_perf("").is_err());
    }

    #[test]
    fn what_strace_writes() {
        let text = "syscall               calls\n---------------- ---------\nread                   1200\n\
                    restart_syscall           1\n---------------- ---------\ntotal                  1201\n";
        assert_eq!(count_of_strace(text).unwrap(), 1201);
        assert_eq!(count_of_strace("").unwrap(), 0);
    }

    #[test]
    fn a_tool_that_works_counts_and_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        for tool in [Tool::Perf, Tool::Strace] {
            if tool.try_out().is_err() {
                continue;
            }
            let mut sleeper = Command::new("sleep").arg("1000").spawn().unwrap();
            let mut counter = Counter::new(tool, Tree::of(sleeper.id() as i32).unwrap(), dir.path());
            counter.begin().unwrap();
            drop(counter);
            assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
            sleeper.kill().unwrap();
            sleeper.wait().unwrap();
        }
    }
}
