//! What the figures were measured on.

use procfs::{CpuInfo, Current};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::process::Command;

/// The machine, its kernel, and the revision of this repository.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Machine {
    /// The model of the CPU.
    pub cpu: String,
    /// How many CPUs there are.
    pub cpus: usize,
    /// What they can do, as the kernel lists it.
    pub cpu_flags: Vec<String>,
    /// The frequency governor; nothing where the kernel has none, as in most virtual machines.
    pub governor: Option<String>,
    /// Whether this is a virtual machine.
    pub virtual_machine: bool,
    /// Bytes.
    pub memory_bytes: u64,
    /// `uname -sr`.
    pub kernel: String,
    /// How TCP avoids congestion; some ways pace what is sent even over loopback.
    pub tcp_congestion_control: Option<String>,
    /// The kernel's defences against leaks of the CPU: they make system calls dearer.
    pub mitigations: BTreeMap<String, String>,
    /// The load average of the last minute, before the start.
    pub load: f64,
    /// The commit that was measured, with `+` if the tree had changes; nothing outside a clone.
    pub commit: Option<String>,
}

impl Machine {
    /// This one. What cannot be found out stays empty.
    pub fn here() -> Machine {
        let cpu = CpuInfo::current().ok();
        let flags: Vec<String> =
            cpu.as_ref().and_then(|cpu| cpu.flags(0)).unwrap_or_default().into_iter().map(String::from).collect();
        let uname = rustix::system::uname();
        Machine {
            cpu: cpu.as_ref().and_then(|cpu| cpu.model_name(0)).unwrap_or("unknown").to_owned(),
            cpus: cpu.as_ref().map_or(0, CpuInfo::num_cores),
            governor: read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
            virtual_machine: flags.iter().any(|flag| flag == "hypervisor"),
            cpu_flags: flags,
            memory_bytes: procfs::Meminfo::current().map_or(0, |memory| memory.mem_total),
            kernel: format!("{} {}", uname.sysname().to_string_lossy(), uname.release().to_string_lossy()),
            tcp_congestion_control: read("/proc/sys/net/ipv4/tcp_congestion_control"),
            mitigations: mitigations(),
            load: procfs::LoadAverage::current().map_or(0.0, |load| f64::from(load.one)),
            commit: commit(),
        }
    }
}

fn read(path: &str) -> Option<String> {
    fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

/// Those that the kernel applies, or lacks.
fn mitigations() -> BTreeMap<String, String> {
    let entries = fs::read_dir("/sys/devices/system/cpu/vulnerabilities").into_iter().flatten().flatten();
    let named = entries.filter_map(|entry| {
        let text = read(entry.path().to_str()?)?;
        Some((entry.file_name().into_string().ok()?, text))
    });
    named.filter(|(_, text)| text != "Not affected").collect()
}

fn commit() -> Option<String> {
    let git = |args: &[&str]| {
        let output = Command::new("git").args(args).output().ok().filter(|output| output.status.success())?;
        Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let changed = !git(&["status", "--porcelain", "--untracked-files=no"])?.is_empty();
    git(&["rev-parse", "--short=12", "HEAD"]).map(|commit| commit + if changed { "+" } else { "" })
}
