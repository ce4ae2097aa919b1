//! What a server and the machine use while a window is open.

use crate::load::{Observer, Outcome};
use crate::results::{CpuPerMessage, Round};
use crate::server::Server;
use crate::usage::{CpuTime, MachineTime, Tree};
use anyhow::Result;
use std::time::Duration;

/// What a server and the machine use in a window.
pub struct Usage {
    tree: Option<Tree>,
    resident_bytes_at_start: u64,
    server: CpuTime,
    machine: Option<MachineTime>,
    busy: Duration,
    stolen: Duration,
    resident_bytes: u64,
}

impl Usage {
    /// Of `server`, whose processes are looked for now.
    pub fn of(server: &Server) -> Result<Usage> {
        Ok(Usage {
            tree: server.tree()?,
            resident_bytes_at_start: server.resident_bytes_at_start(),
            server: CpuTime::default(),
            machine: None,
            busy: Duration::ZERO,
            stolen: Duration::ZERO,
            resident_bytes: 0,
        })
    }

    /// After the window: what the load and the usage say together.
    pub fn round(&self, load: &Outcome) -> Round {
        let seconds = load.elapsed.as_secs_f64();
        let per_message = |time: Duration| time.as_secs_f64() * 1e6 / load.messages.max(1) as f64;
        let others = self.busy.saturating_sub(self.server.total()).saturating_sub(load.own_cpu);
        Round {
            seconds,
            messages: load.messages,
            per_second: load.messages as f64 / seconds,
            megabytes_per_second: load.bytes as f64 / 1e6 / seconds,
            latency_us: load.latencies.percentiles(),
            cpu_us: self.tree.as_ref().map(|_| CpuPerMessage {
                user: per_message(self.server.user),
                system: per_message(self.server.system),
            }),
            grown_bytes: self.tree.as_ref().map(|_| self.resident_bytes.saturating_sub(self.resident_bytes_at_start)),
            generator_cpus: load.own_cpu.saturating_sub(load.own_waiting).as_secs_f64() / seconds,
            other_cpus: others.as_secs_f64() / seconds,
            stolen_cpus: self.stolen.as_secs_f64() / seconds,
            retransmissions: load.retransmissions,
        }
    }
}

impl Observer for Usage {
    fn begin(&mut self) -> Result<()> {
        self.machine = Some(MachineTime::now()?);
        if let Some(tree) = &self.tree {
            self.server = tree.cpu()?;
        }
        Ok(())
    }

    fn end(&mut self) -> Result<()> {
        if let Some(tree) = &self.tree {
            self.server = tree.cpu()?.since(self.server);
            self.resident_bytes = tree.resident_bytes();
        }
        if let (Some(before), now) = (self.machine, MachineTime::now()?) {
            self.busy = now.busy.saturating_sub(before.busy);
            self.stolen = now.stolen.saturating_sub(before.stolen);
        }
        Ok(())
    }
}
