//! Which CPUs the load generator and the servers run on.
//!
//! The generator has a CPU for itself. Where the kernel is free to choose, it puts generator and server on one CPU now
//! and on two a moment later, and few connections are then served ten times as fast or as slowly, whatever the server.

use anyhow::Result;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// Who may run where.
#[derive(Clone, Debug)]
pub struct Placement {
    allowed: CpuSet,
    own: Option<usize>,
}

impl Placement {
    /// The last CPU that we may use for the generator, if it shall have one and there are two.
    pub fn new(pin: bool) -> Result<Placement> {
        let allowed = sched_getaffinity(None)?;
        let last = (0..CpuSet::MAX_CPU).rfind(|cpu| allowed.is_set(*cpu));
        Ok(Placement { allowed, own: last.filter(|_| pin && allowed.count() >= 2) })
    }

    /// The CPU that the generator has for itself, while the servers have a CPU for each of their `contexts` at least.
    /// Where they would not, there is none.
    pub fn own_cpu(&self, contexts: u32) -> Option<usize> {
        self.own.filter(|_| self.allowed.count() > contexts)
    }

    /// This thread, and what it starts from now on, runs where the servers do.
    pub fn as_server(&self, contexts: u32) -> Result<()> {
        let mut cpus = self.allowed;
        if let Some(own) = self.own_cpu(contexts) {
            cpus.unset(own);
        }
        Ok(sched_setaffinity(None, &cpus)?)
    }

    /// This thread runs where the generator does.
    pub fn as_generator(&self, contexts: u32) -> Result<()> {
        let mut cpus = self.allowed;
        if let Some(own) = self.own_cpu(contexts) {
            cpus.clear();
            cpus.set(own);
        }
        Ok(sched_setaffinity(None, &cpus)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn here() -> Vec<usize> {
        let cpus = sched_getaffinity(None).unwrap();
        (0..CpuSet::MAX_CPU).filter(|cpu| cpus.is_set(*cpu)).collect()
    }

    #[test]
    fn generator_and_servers_share_no_cpu_unless_there_are_too_few() {
        let all = here();
        // In a thread of its own, since it is the thread that is moved.
        let moved = move || {
            let placement = Placement::new(true).unwrap();
            let most = all.len() as u32;
            for contexts in [1, most.saturating_sub(1), most] {
                placement.as_server(contexts).unwrap();
                let servers = here();
                placement.as_generator(contexts).unwrap();
                let generator = here();
                if all.len() > contexts as usize && all.len() > 1 {
                    assert_eq!(generator, [placement.own_cpu(contexts).unwrap()]);
                    assert!(!servers.contains(&generator[0]) && servers.len() >= contexts as usize);
                } else {
                    assert_eq!((servers, generator), (all.clone(), all.clone()));
                }
            }
            assert_eq!(Placement::new(false).unwrap().own_cpu(1), None);
        };
        std::thread::spawn(moved).join().unwrap();
    }
}
