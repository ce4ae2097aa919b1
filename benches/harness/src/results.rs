//! What comes out of a run. `results.json` is this, and every report is made of it alone.

use crate::latency::{CurvePoint, Percentiles};
use crate::machine::Machine;
use crate::stats::{Spread, ratio};
use serde::{Deserialize, Serialize};

/// Counts up when older files can no longer be read.
pub const FORMAT: u32 = 1;

/// CPUs that something else may use before it is worth a warning.
const OTHERS_MAX: f64 = 0.15;
/// The share of one CPU from which the load generator counts as the bottleneck.
pub const GENERATOR_MAX: f64 = 0.9;
/// The part of a fixed rate that a server must reach.
const RATE_MIN: f64 = 0.98;

/// A run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Results {
    /// [`FORMAT`].
    pub format: u32,
    /// When it was started, in UTC.
    pub started: String,
    /// How it was started.
    pub command: String,
    /// On what.
    pub machine: Machine,
    /// How.
    pub settings: Settings,
    /// The servers, in the order in which they take turns.
    pub servers: Vec<ServerInfo>,
    /// The cases, in order.
    pub cases: Vec<CaseResult>,
}

/// How it was measured.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Settings {
    /// Rounds of each case.
    pub rounds: u32,
    /// Length of a window; nothing where it followed from the time that there was.
    pub seconds: Option<f64>,
    /// What the ratios are ratios to.
    pub baseline: String,
    /// Whether the load generator had a CPU for itself where that was possible.
    pub pinned: bool,
    /// What counted system calls, or why nothing did.
    pub syscalls: Counting,
}

/// Whether system calls were counted.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Counting {
    /// By this tool.
    CountedBy(String),
    /// For this reason they were not.
    NotCounted(String),
}

/// A server.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ServerInfo {
    /// Its name.
    pub name: String,
    /// One line.
    pub description: String,
    /// What it said of itself, when it last served.
    pub version: Option<String>,
}

/// What a case brought.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CaseResult {
    /// Of the command line.
    pub name: String,
    /// For people.
    pub title: String,
    /// What is counted, in the plural.
    pub unit: String,
    /// In an open loop: how many were to be sent per second.
    pub rate: Option<f64>,
    /// Length of each window.
    pub seconds: f64,
    /// The CPU that the load generator had for itself, if it had one.
    pub generator_cpu: Option<usize>,
    /// One entry for each server.
    pub entries: Vec<Entry>,
}

/// What a server did in a case.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Entry {
    /// Its name.
    pub server: String,
    /// What came of it.
    pub outcome: Outcome,
}

/// What came of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It was measured.
    Measured(Box<Measured>),
    /// It cannot serve this here.
    Unavailable(String),
    /// It did something wrong.
    Failed(String),
}

/// All rounds of a server in a case.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Measured {
    /// Over the rounds.
    pub summary: Summary,
    /// Latencies of all rounds together.
    pub curve: Vec<CurvePoint>,
    /// Why there may be more behind the figures than the server.
    pub warnings: Vec<String>,
    /// One by one.
    pub rounds: Vec<Round>,
}

/// One window.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Round {
    /// Its length.
    pub seconds: f64,
    /// Messages, requests, connections or datagrams.
    pub messages: u64,
    /// The same per second.
    pub per_second: f64,
    /// 10^6 bytes per second that the server sent back.
    pub megabytes_per_second: f64,
    /// Of single messages; nothing if none began and ended.
    pub latency_us: Option<Percentiles>,
    /// CPU time of the server's processes; nothing of a server that is not ours.
    pub cpu_us: Option<CpuPerMessage>,
    /// Memory that the server's processes have taken since they started; nothing of a server that is not ours.
    pub grown_bytes: Option<u64>,
    /// CPUs that the load generator used.
    pub generator_cpus: f64,
    /// CPUs that neither it nor the server used.
    pub other_cpus: f64,
    /// CPUs that other virtual machines took from this one.
    pub stolen_cpus: f64,
    /// Datagrams that were sent again.
    pub retransmissions: u64,
}

/// Microseconds of CPU time for each message.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct CpuPerMessage {
    /// In the program.
    pub user: f64,
    /// In the kernel, for the program.
    pub system: f64,
}

/// Medians and ranges over the rounds. Times in microseconds.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Summary {
    /// Messages per second.
    pub per_second: Spread,
    /// How many times the baseline's, round by round.
    pub ratio: Option<Spread>,
    /// 10^6 bytes per second.
    pub megabytes_per_second: Spread,
    /// Median latency.
    pub p50: Option<Spread>,
    /// One in a hundred took longer.
    pub p99: Option<Spread>,
    /// One in a thousand took longer.
    pub p999: Option<Spread>,
    /// CPU time per message.
    pub cpu: Option<Spread>,
    /// The part of its median that was spent in the program; the rest was spent in the kernel. The kernel tells them
    /// apart by samples: all rounds together have the most.
    pub cpu_user: Option<f64>,
    /// System calls of the server per message.
    pub syscalls: Option<f64>,
    /// Bytes of memory per open connection.
    pub memory_per_connection: Option<Spread>,
    /// Datagrams that were sent again, per million.
    pub retransmitted_per_million: Option<f64>,
}

/// Too few connections to tell their memory from that of everything else.
const CONNECTIONS_MIN_FOR_MEMORY: usize = 1000;

impl Summary {
    /// Of these rounds. `connections` were open at the same time.
    pub fn of(rounds: &[Round], connections: usize) -> Option<Summary> {
        // All rounds or none: the rounds that have too few messages for a percentile are the slow ones.
        let latency = |part: fn(&Percentiles) -> Option<f64>| {
            let values = rounds.iter().map(|round| round.latency_us.as_ref().and_then(part));
            values.collect::<Option<Vec<f64>>>().and_then(Spread::of)
        };
        let cpu = Spread::of_some(rounds.iter().map(|round| round.cpu_us.map(|cpu| cpu.user + cpu.system)));
        let memory = rounds.iter().map(|round| Some(round.grown_bytes? as f64 / connections as f64));
        let (sent, again) =
            rounds.iter().fold((0, 0), |(sent, again), round| (sent + round.messages, again + round.retransmissions));
        Some(Summary {
            per_second: Spread::of(rounds.iter().map(|round| round.per_second))?,
            ratio: None,
            megabytes_per_second: Spread::of(rounds.iter().map(|round| round.megabytes_per_second))?,
            p50: latency(|latency| Some(latency.p50)),
            p99: latency(|latency| Some(latency.p99)),
            p999: latency(|latency| latency.p999),
            cpu,
            cpu_user: cpu.and_then(|cpu| Some(cpu.median * user_share(rounds)?)),
            syscalls: None,
            memory_per_connection: if connections >= CONNECTIONS_MIN_FOR_MEMORY {
                Spread::of_some(memory)
            } else {
                None
            },
            retransmitted_per_million: (again > 0).then(|| again as f64 * 1e6 / sent.max(1) as f64),
        })
    }
}

fn user_share(rounds: &[Round]) -> Option<f64> {
    let spent = rounds.iter().filter_map(|round| Some((round.messages as f64, round.cpu_us?)));
    let (user, all) = spent.fold((0.0, 0.0), |(user, all), (messages, cpu)| {
        (user + messages * cpu.user, all + messages * (cpu.user + cpu.system))
    });
    (all > 0.0).then(|| user / all)
}

/// What a reader should know before believing these rounds.
pub fn warnings(rounds: &[Round], rate: Option<f64>) -> Vec<String> {
    let median = |part: fn(&Round) -> f64| Spread::of(rounds.iter().map(part)).map_or(0.0, |spread| spread.median);
    let mut warnings = Vec::new();
    let generator = median(|round| round.generator_cpus);
    if generator > GENERATOR_MAX {
        warnings.push(format!(
            "the load generator was the bottleneck: it used {:.0} % of a CPU, and the server can do more \
             (its CPU time per message compares all the same)",
            generator * 100.0
        ));
    }
    let others = median(|round| round.other_cpus);
    if others > OTHERS_MAX {
        warnings.push(format!("other programs used {:.0} % of a CPU meanwhile", others * 100.0));
    }
    let stolen = median(|round| round.stolen_cpus);
    if stolen > OTHERS_MAX / 3.0 {
        warnings.push(format!("other virtual machines took {:.0} % of a CPU meanwhile", stolen * 100.0));
    }
    let per_second = median(|round| round.per_second);
    if let Some(rate) = rate.filter(|rate| per_second < rate * RATE_MIN) {
        warnings.push(format!("it did not keep up: {per_second:.0} of {rate:.0} per second"));
    }
    warnings
}

impl CaseResult {
    /// What was measured of a server.
    pub fn measured(&self, server: &str) -> Option<&Measured> {
        self.entries.iter().find(|entry| entry.server == server).and_then(Entry::measured)
    }

    /// Fills in how many times the baseline each server does.
    pub fn compare_with(&mut self, baseline: &str) {
        let per_second = |measured: &Measured| measured.rounds.iter().map(|round| round.per_second).collect::<Vec<_>>();
        let Some(of_baseline) = self.measured(baseline).map(per_second) else { return };
        for entry in &mut self.entries {
            if let Outcome::Measured(measured) = &mut entry.outcome {
                measured.summary.ratio = ratio(&per_second(measured), &of_baseline);
            }
        }
    }
}

impl Entry {
    /// What was measured, if it was.
    pub fn measured(&self) -> Option<&Measured> {
        match &self.outcome {
            Outcome::Measured(measured) => Some(measured),
            Outcome::Unavailable(_) | Outcome::Failed(_) => None,
        }
    }
}

impl Results {
    /// Case, server and reason of everything that failed.
    pub fn failures(&self) -> impl Iterator<Item = (&CaseResult, &str, &str)> {
        self.cases.iter().flat_map(|case| {
            case.entries.iter().filter_map(move |entry| match &entry.outcome {
                Outcome::Failed(reason) => Some((case, entry.server.as_str(), reason.as_str())),
                Outcome::Measured(_) | Outcome::Unavailable(_) => None,
            })
        })
    }
}

impl Results {
    /// Servers that are in no case: for each reason, whom it concerns.
    pub fn absent(&self) -> Vec<(&str, Vec<&str>)> {
        let mut absent: Vec<(&str, Vec<&str>)> = Vec::new();
        for server in &self.servers {
            let Some(why) = self.reason_of_absence(&server.name) else { continue };
            match absent.iter_mut().find(|(reason, _)| *reason == why) {
                Some((_, servers)) => servers.push(&server.name),
                None => absent.push((why, vec![&server.name])),
            }
        }
        absent
    }

    /// The other servers.
    pub fn present(&self) -> impl Iterator<Item = &str> {
        self.servers.iter().map(|server| server.name.as_str()).filter(|name| self.takes_part(name))
    }

    /// Whether a server could do anything at all.
    pub fn takes_part(&self, server: &str) -> bool {
        self.reason_of_absence(server).is_none()
    }

    fn reason_of_absence(&self, server: &str) -> Option<&str> {
        let entries = self.cases.iter().flat_map(|case| &case.entries).filter(|entry| entry.server == server);
        let reasons: Option<Vec<&str>> = entries
            .map(|entry| match &entry.outcome {
                Outcome::Unavailable(why) => Some(why.as_str()),
                Outcome::Measured(_) | Outcome::Failed(_) => None,
            })
            .collect();
        reasons?.first().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round(per_second: f64) -> Round {
        Round {
            seconds: 1.0,
            messages: per_second as u64,
            per_second,
            megabytes_per_second: per_second * 64e-6,
            latency_us: None,
            cpu_us: Some(CpuPerMessage { user: 3.0, system: 5.0 }),
            grown_bytes: Some(4_000_000),
            generator_cpus: 0.5,
            other_cpus: 0.0,
            stolen_cpus: 0.0,
            retransmissions: 0,
        }
    }

    fn entry(server: &str, rates: &[f64]) -> Entry {
        let rounds: Vec<Round> = rates.iter().copied().map(round).collect();
        let summary = Summary::of(&rounds, 1000).unwrap();
        let measured = Measured { summary, curve: vec![], warnings: vec![], rounds };
        Entry { server: server.into(), outcome: Outcome::Measured(Box::new(measured)) }
    }

    #[test]
    fn a_summary_of_rounds() {
        let Outcome::Measured(measured) = entry("a", &[10.0, 30.0, 20.0]).outcome else { unreachable!() };
        let summary = measured.summary;
        assert_eq!(summary.per_second, Spread { median: 20.0, min: 10.0, max: 30.0 });
        assert_eq!((summary.cpu.unwrap().median, summary.cpu_user), (8.0, Some(3.0)));
        assert_eq!(summary.memory_per_connection.unwrap().median, 4000.0);
        assert_eq!(summary.p50, None);
        assert_eq!(Summary::of(&[round(1.0)], 64).unwrap().memory_per_connection, None);
        assert!(Summary::of(&[], 1).is_none());
    }

    #[test]
    fn a_percentile_that_a_slow_round_lacks_is_missing() {
        let with = |p999| Round {
            latency_us: Some(Percentiles { p50: 1.0, p99: 2.0, p999, max: 4.0, samples: 1 }),
            ..round(1.0)
        };
        let p999 = |rounds: &[Round]| Summary::of(rounds, 1).unwrap().p999;
        assert_eq!(p999(&[with(Some(3.0)), with(Some(5.0))]).unwrap().median, 4.0);
        assert_eq!(p999(&[with(Some(3.0)), with(None)]), None);
    }

    #[test]
    fn ratios_to_the_baseline() {
        let entries = vec![entry("base", &[100.0, 10.0]), entry("fast", &[300.0, 30.0])];
        let mut case = CaseResult {
            name: "c".into(),
            title: "C".into(),
            unit: "messages".into(),
            rate: None,
            seconds: 1.0,
            generator_cpu: None,
            entries,
        };
        case.compare_with("nobody");
        assert_eq!(case.measured("fast").unwrap().summary.ratio, None);
        case.compare_with("base");
        assert_eq!(case.measured("fast").unwrap().summary.ratio.unwrap().median, 3.0);
        assert_eq!(case.measured("base").unwrap().summary.ratio.unwrap().median, 1.0);
    }

    #[test]
    fn warnings_name_what_is_behind_the_figures() {
        let quiet = round(100.0);
        assert_eq!(warnings(std::slice::from_ref(&quiet), Some(101.0)), [""; 0]);
        let has = |round: Round, rate, part: &str| {
            let warnings = warnings(&[round], rate);
            assert!(warnings.len() == 1 && warnings[0].contains(part), "{warnings:?}");
        };
        has(Round { generator_cpus: 0.91, ..quiet.clone() }, None, "bottleneck: it used 91 %");
        has(Round { other_cpus: 0.4, ..quiet.clone() }, None, "other programs used 40 %");
        has(Round { stolen_cpus: 0.1, ..quiet.clone() }, None, "virtual machines took 10 %");
        has(quiet, Some(200.0), "did not keep up: 100 of 200");
    }

    #[test]
    fn what_is_written_can_be_read() {
        let results = Results {
            format: FORMAT,
            started: "2026-01-01T00:00:00Z".into(),
            command: "bench".into(),
            machine: Machine::here(),
            settings: Settings {
                rounds: 2,
                seconds: None,
                baseline: "base".into(),
                pinned: true,
                syscalls: Counting::NotCounted("not permitted".into()),
            },
            servers: vec![],
            cases: vec![CaseResult {
                name: "c".into(),
                title: "C".into(),
                unit: "messages".into(),
                rate: Some(5.0),
                seconds: 1.0,
                generator_cpu: Some(1),
                entries: vec![
                    entry("a", &[1.0]),
                    Entry { server: "b".into(), outcome: Outcome::Unavailable("why".into()) },
                    Entry { server: "c".into(), outcome: Outcome::Failed("wrong byte".into()) },
                ],
            }],
        };
        let json = serde_json::to_string(&results).unwrap();
        let read: Results = serde_json::from_str(&json).unwrap();
        assert_eq!(serde_json::to_string(&read).unwrap(), json);
        let failures: Vec<_> =
            read.failures().map(|(case, server, reason)| (case.name.as_str(), server, reason)).collect();
        assert_eq!(failures, [("c", "c", "wrong byte")]);
    }
}
