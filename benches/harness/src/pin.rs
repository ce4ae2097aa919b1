//! Which CPUs the load generator and the servers run on.

use anyhow::{Result, ensure};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// The generator's CPU and those of the servers.
#[derive(Clone, Debug)]
pub struct Pinning {
    generator: CpuSet,
    servers: CpuSet,
    /// The CPU that the generator has for itself.
    pub cpu: usize,
}

impl Pinning {
    /// The last CPU that we may use for the generator, the others for the servers.
    pub fn new() -> Result<Pinning> {
        let allowed = sched_getaffinity(None)?;
        ensure!(allowed.count() >= 2, "--pin needs two CPUs, and this process may use {} only", allowed.count());
        let cpu = (0..CpuSet::MAX_CPU).rfind(|cpu| allowed.is_set(*cpu)).unwrap_or(0);
        let (mut generator, mut servers) = (CpuSet::new(), allowed);
        generator.set(cpu);
        servers.unset(cpu);
        Ok(Pinning { generator, servers, cpu })
    }

    /// This thread, and what it starts from now on, runs where the servers do.
    pub fn as_server(&self) -> Result<()> {
        Ok(sched_setaffinity(None, &self.servers)?)
    }

    /// This thread has its CPU for itself.
    pub fn as_generator(&self) -> Result<()> {
        Ok(sched_setaffinity(None, &self.generator)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generator_and_servers_share_no_cpu() {
        // On one CPU there is nothing to pin.
        let Ok(pinning) = Pinning::new() else { return };
        let shared = (0..CpuSet::MAX_CPU).filter(|cpu| pinning.generator.is_set(*cpu) && pinning.servers.is_set(*cpu));
        assert_eq!(shared.count(), 0);
        std::thread::spawn(move || {
            pinning.as_server().unwrap();
            assert!(!sched_getaffinity(None).unwrap().is_set(pinning.cpu));
            pinning.as_generator().unwrap();
            assert_eq!(sched_getaffinity(None).unwrap().count(), 1);
        })
        .join()
        .unwrap();
    }
}
