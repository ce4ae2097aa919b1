//! What processes use, from /proc: CPU time of a server's process tree and of the whole machine, and memory.

use anyhow::{Context, Result};
use procfs::process::{Process, all_processes};
use procfs::{CurrentSI, KernelStats};
use std::collections::HashMap;
use std::time::Duration;

/// CPU time. The kernel counts it in ticks, of 10 ms as a rule.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuTime {
    /// In the program.
    pub user: Duration,
    /// In the kernel, for the program.
    pub system: Duration,
}

impl CpuTime {
    /// Both together.
    pub fn total(self) -> Duration {
        self.user + self.system
    }

    /// What was used since `earlier`.
    pub fn since(self, earlier: CpuTime) -> CpuTime {
        CpuTime { user: self.user.saturating_sub(earlier.user), system: self.system.saturating_sub(earlier.system) }
    }
}

/// A process and all its descendants, as they were when it was made.
#[derive(Clone, Debug)]
pub struct Tree {
    pids: Vec<i32>,
}

impl Tree {
    /// The tree below `root`.
    pub fn of(root: i32) -> Result<Tree> {
        let mut children: HashMap<i32, Vec<i32>> = HashMap::new();
        // Processes that end while we look are left out.
        for stat in all_processes()?.flatten().filter_map(|process| process.stat().ok()) {
            children.entry(stat.ppid).or_default().push(stat.pid);
        }
        let mut pids = vec![root];
        let mut at = 0;
        while at < pids.len() {
            pids.extend(children.remove(&pids[at]).unwrap_or_default());
            at += 1;
        }
        Ok(Tree { pids })
    }

    /// Its processes.
    pub fn pids(&self) -> &[i32] {
        &self.pids
    }

    /// CPU time of all of them so far.
    pub fn cpu(&self) -> Result<CpuTime> {
        let root = self.pids[0];
        stat(root).with_context(|| format!("process {root} of the server is gone"))?;
        let all = self.pids.iter().filter_map(|pid| stat(*pid).ok());
        Ok(all.fold(CpuTime::default(), |sum, stat| CpuTime {
            user: sum.user + ticks(stat.utime),
            system: sum.system + ticks(stat.stime),
        }))
    }

    /// Memory of all of them, in bytes. What processes share counts once for each.
    pub fn resident_bytes(&self) -> u64 {
        let pages: u64 = self.pids.iter().filter_map(|pid| stat(*pid).ok()).map(|stat| stat.rss).sum();
        pages * procfs::page_size()
    }
}

fn stat(pid: i32) -> procfs::ProcResult<procfs::process::Stat> {
    Process::new(pid)?.stat()
}

fn ticks(ticks: u64) -> Duration {
    Duration::from_secs_f64(ticks as f64 / procfs::ticks_per_second() as f64)
}

/// What the CPUs of the machine have done so far, all together.
#[derive(Clone, Copy, Debug)]
pub struct MachineTime {
    /// Worked, for whomever.
    pub busy: Duration,
    /// Were taken by other virtual machines.
    pub stolen: Duration,
}

impl MachineTime {
    /// Until now.
    pub fn now() -> Result<MachineTime> {
        let total = KernelStats::current()?.total;
        let irq = total.irq.unwrap_or(0) + total.softirq.unwrap_or(0);
        let busy = total.user + total.nice + total.system + irq;
        Ok(MachineTime { busy: ticks(busy), stolen: ticks(total.steal.unwrap_or(0)) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;
    use std::time::Instant;

    #[test]
    fn a_tree_has_its_grandchildren_and_nobody_elses() {
        let mut child = Command::new("bash").args(["-c", "bash -c 'sleep 100 & wait' & wait"]).spawn().unwrap();
        let names = |tree: &Tree| -> Vec<String> {
            tree.pids().iter().filter_map(|pid| stat(*pid).ok()).map(|stat| stat.comm).collect()
        };
        let deadline = Instant::now() + Duration::from_secs(60);
        let mut tree = Tree::of(child.id() as i32).unwrap();
        while names(&tree) != ["bash", "bash", "sleep"] && Instant::now() < deadline {
            tree = Tree::of(child.id() as i32).unwrap();
        }
        assert_eq!(names(&tree), ["bash", "bash", "sleep"]);
        for pid in tree.pids() {
            let pid = rustix::process::Pid::from_raw(*pid).unwrap();
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        }
        child.wait().unwrap();
        assert!(tree.cpu().is_err());
    }

    #[test]
    fn work_is_counted() {
        let tree = Tree { pids: vec![std::process::id() as i32] };
        let (before, machine) = (tree.cpu().unwrap(), MachineTime::now().unwrap());
        let deadline = Instant::now() + Duration::from_secs(60);
        let spent = || tree.cpu().unwrap().since(before).total();
        while spent() < Duration::from_millis(200) && Instant::now() < deadline {}
        assert!(spent() >= Duration::from_millis(200));
        assert!(MachineTime::now().unwrap().busy - machine.busy >= Duration::from_millis(100));
        assert!(tree.resident_bytes() > 1 << 20);
    }
}
