//! A run: for each case its servers are started, take turns for all rounds, and are stopped.
//!
//! They are started anew for each case, all at the same time: each case finds servers that have done nothing before,
//! and those that wait for their turn sleep. What else uses the CPUs during a window is measured and told.

use crate::budget::Budget;
use crate::cases::{Case, Loop};
use crate::cli::Cli;
use crate::latency::Latencies;
use crate::limits::{check_open_files, raise_open_files};
use crate::load::{Fault, Generator, Observer, Window};
use crate::machine::Machine;
use crate::observe::Usage;
use crate::pin::Placement;
use crate::progress::Progress;
use crate::report;
use crate::results::{
    CaseResult, Counting, Entry, FORMAT, Measured, Outcome, Results, Round, ServerInfo, Settings, Summary, warnings,
};
use crate::server::{self, Contender, Server, Started};
use crate::syscalls::{Counter, Tool};
use anyhow::{Result, bail};
use std::time::{Duration, Instant};

const ROUNDS: u32 = 5;
const ROUNDS_QUICK: u32 = 3;
const SECONDS: f64 = 2.0;
/// How long the round in which system calls are counted is.
const COUNTING: Duration = Duration::from_millis(500);
/// How long it is measured what a server can do, before a fixed rate is chosen.
const CALIBRATING: Duration = Duration::from_millis(700);
/// A server has settled when it has used no CPU for so long.
const SETTLED: Duration = Duration::from_millis(30);
const SETTLE_MAX: Duration = Duration::from_secs(3);

/// Measures what the command line asks for. Results are written after every case, so that an end before the end costs
/// one case at most.
pub fn run(cli: &Cli) -> Result<Results> {
    let cases = cli.cases()?;
    let contenders = cli.contenders(server::list(&cli.servers)?)?;
    if contenders.is_empty() {
        bail!("{} knows no servers, and no --peer is given", cli.servers.display());
    }
    raise_open_files()?;
    check_open_files(cases.iter().map(|case| case.open_connections()).max().unwrap_or(0))?;
    let mut run = Run::new(cli, contenders)?;
    let measurements = cases.len() as u64 * run.contenders.len() as u64 * u64::from(run.results.settings.rounds);
    let progress = Progress::new(measurements);
    for (at, case) in cases.iter().enumerate() {
        let result = run.case(case, cases.len() - at - 1, &progress)?;
        run.results.cases.push(result);
        report::write(&run.results, &cli.out)?;
    }
    progress.finish();
    Ok(run.results)
}

struct Run<'a> {
    cli: &'a Cli,
    contenders: Vec<Contender>,
    budget: Budget,
    placement: Placement,
    tool: Option<Tool>,
    generator: Generator,
    /// Since when nothing has been measured.
    idle_since: Instant,
    results: Results,
}

/// A server of the case that is being measured.
struct Runner {
    server: Server,
    rounds: Vec<Round>,
    latencies: Latencies,
    syscalls: Option<f64>,
    failed: Option<String>,
}

impl<'a> Run<'a> {
    fn new(cli: &'a Cli, contenders: Vec<Contender>) -> Result<Self> {
        let seconds = cli.seconds.or((!cli.quick).then_some(SECONDS));
        let budget = seconds.map_or_else(Budget::quick, |seconds| Budget::Fixed(Duration::from_secs_f64(seconds)));
        let placement = Placement::new(!cli.no_pin)?;
        let tool = if cli.quick { Err(String::from("not with --quick")) } else { Tool::find() };
        let baseline = baseline(cli, &contenders)?;
        let info = |contender: &Contender| {
            let description = match contender {
                Contender::Own { description, .. } => description.clone(),
                Contender::Peer { address, .. } => format!("at {address}"),
            };
            ServerInfo { name: contender.name().to_owned(), description, version: None }
        };
        let results = Results {
            format: FORMAT,
            started: jiff::Timestamp::now().strftime("%Y-%m-%d %H:%M UTC").to_string(),
            command: command(),
            machine: Machine::here(),
            settings: Settings {
                rounds: cli.rounds.unwrap_or(if cli.quick { ROUNDS_QUICK } else { ROUNDS }),
                seconds,
                baseline,
                pinned: !cli.no_pin,
                syscalls: match &tool {
                    Ok(tool) => Counting::CountedBy(tool.name().to_owned()),
                    Err(why) => Counting::NotCounted(why.clone()),
                },
            },
            servers: contenders.iter().map(info).collect(),
            cases: Vec::new(),
        };
        Ok(Run {
            cli,
            contenders,
            budget,
            placement,
            tool: tool.ok(),
            generator: Generator::default(),
            idle_since: Instant::now(),
            results,
        })
    }

    fn case(&mut self, case: &Case, cases_behind: usize, progress: &Progress) -> Result<CaseResult> {
        progress.now(&format!("{}: starting", case.name));
        let (mut runners, entries) = self.start(case, progress)?;
        self.budget.between_cases(self.idle_since.elapsed());
        let rate = self.rate(case, &mut runners);
        let rounds = self.results.settings.rounds;
        let window = self.budget.window(Instant::now(), runners.len() * rounds as usize, cases_behind);
        progress.done(u64::from(rounds) * (self.contenders.len() - runners.len()) as u64);
        for (round, at) in turns(rounds, runners.len()) {
            let runner = &mut runners[at];
            // One round there is in any case.
            let late = round > 0 && self.budget.is_over(Instant::now());
            if runner.failed.is_none() && !late {
                progress.now(&format!("{} round {}: {}", case.name, round + 1, runner.server.name));
                let since = Instant::now();
                self.measure(case, rate, window, runner);
                self.budget.measured(window, since.elapsed());
            }
            progress.done(1);
        }
        self.idle_since = Instant::now();
        if let Some(tool) = self.tool.filter(|_| case.pace == Loop::Closed) {
            for runner in runners.iter_mut().filter(|runner| runner.failed.is_none()) {
                progress.now(&format!("{} system calls: {}", case.name, runner.server.name));
                self.count_syscalls(case, tool, runner);
            }
        }
        let mut result = CaseResult {
            name: case.name.to_owned(),
            title: case.title.to_owned(),
            unit: case.unit().to_owned(),
            rate,
            seconds: window.length.as_secs_f64(),
            generator_cpu: self.placement.own_cpu(case.contexts),
            entries: self.finish(case, rate, runners, entries),
        };
        result.compare_with(&self.results.settings.baseline);
        for entry in &result.entries {
            if let Outcome::Failed(reason) = &entry.outcome {
                progress.say(&format!("FAILED: {} in {}: {reason}", entry.server, case.name));
            }
        }
        progress.say(&format!("{}: {}", case.name, case.title));
        Ok(result)
    }

    /// Starts everybody at the same time; those who cannot serve get their entry at once.
    fn start(&mut self, case: &Case, progress: &Progress) -> Result<(Vec<Runner>, Vec<Entry>)> {
        self.placement.as_server(case.contexts)?;
        let logs = self.cli.out.join("servers");
        let start = |contender| server::start(&self.cli.servers, contender, case, &logs);
        let starting: Vec<_> = self.contenders.iter().map(start).collect();
        self.placement.as_generator(case.contexts)?;
        let (mut runners, mut entries) = (Vec::new(), Vec::new());
        for (at, starting) in starting.into_iter().enumerate() {
            let name = self.contenders[at].name().to_owned();
            progress.now(&format!("{}: waiting for {name}", case.name));
            let outcome = match starting.wait() {
                Started::Ready(server) => {
                    self.results.servers[at].version = Some(server.version.clone());
                    let latencies = Latencies::default();
                    runners.push(Runner { server, rounds: Vec::new(), latencies, syscalls: None, failed: None });
                    continue;
                }
                Started::Unavailable(reason) => Outcome::Unavailable(reason),
                Started::Failed(reason) => Outcome::Failed(reason),
            };
            entries.push(Entry { server: name, outcome });
        }
        self.choose_baseline(&runners);
        Ok((runners, entries))
    }

    /// Where the baseline is not there and the user has not named it, the first that is there takes its place.
    fn choose_baseline(&mut self, runners: &[Runner]) {
        let baseline = &mut self.results.settings.baseline;
        let first = self.results.cases.is_empty() && self.cli.baseline.is_none();
        if first
            && runners.iter().all(|runner| runner.server.name != *baseline)
            && let Some(runner) = runners.first()
        {
            baseline.clone_from(&runner.server.name);
        }
    }

    /// The rate of an open loop: as the user said, or half of what the baseline can do, to two digits.
    fn rate(&mut self, case: &Case, runners: &mut [Runner]) -> Option<f64> {
        if case.pace == Loop::Closed || self.cli.rate.is_some() {
            return self.cli.rate.filter(|_| case.pace == Loop::Open);
        }
        let baseline = &self.results.settings.baseline;
        let at = runners.iter().position(|runner| runner.server.name == *baseline).unwrap_or(0);
        let runner = runners.get_mut(at)?;
        let window = Window { warm_up: CALIBRATING / 2, length: CALIBRATING };
        let closed = Case { pace: Loop::Closed, ..case.clone() };
        match self.generator.run(&closed, runner.server.address, None, window, &mut Nobody) {
            Ok(load) => {
                settle(&runner.server);
                Some(two_digits(load.messages as f64 / load.elapsed.as_secs_f64() / 2.0))
            }
            Err(fault) => {
                runner.failed = Some(format!("{fault}{}", runner.server.state()));
                runners.iter().position(|runner| runner.failed.is_none()).and_then(|_| self.rate(case, runners))
            }
        }
    }

    fn measure(&mut self, case: &Case, rate: Option<f64>, window: Window, runner: &mut Runner) {
        let measured = Usage::of(&runner.server).map_err(Fault::Observer).and_then(|mut usage| {
            let load = self.generator.run(case, runner.server.address, rate, window, &mut usage)?;
            Ok((usage, load))
        });
        match measured {
            Ok((usage, load)) => {
                runner.latencies.add(&load.latencies);
                runner.rounds.push(usage.round(&load));
                settle(&runner.server);
            }
            Err(fault) => runner.failed = Some(format!("{fault}{}", runner.server.state())),
        }
    }

    fn count_syscalls(&mut self, case: &Case, tool: Tool, runner: &mut Runner) {
        let Ok(Some(tree)) = runner.server.tree() else { return };
        let mut counter = Counter::new(tool, tree, &self.cli.out);
        let window = Window { warm_up: COUNTING / 5, length: COUNTING };
        match self.generator.run(case, runner.server.address, None, window, &mut counter) {
            Ok(load) => {
                runner.syscalls = counter.calls.map(|calls| calls as f64 / load.messages.max(1) as f64);
                settle(&runner.server);
            }
            // It counts for what it is: a figure less. The server has been measured.
            Err(Fault::Observer(_)) => {}
            Err(fault) => runner.failed = Some(format!("{fault}{}", runner.server.state())),
        }
    }

    /// Stops the servers, and puts the entries into the order of the contenders.
    fn finish(&self, case: &Case, rate: Option<f64>, runners: Vec<Runner>, mut entries: Vec<Entry>) -> Vec<Entry> {
        let mut runners = runners;
        runners.iter_mut().for_each(|runner| runner.server.ask_to_end());
        for runner in runners {
            let name = runner.server.name.clone();
            runner.server.stop();
            let outcome = match (runner.failed, Summary::of(&runner.rounds, case.open_connections())) {
                (Some(reason), _) => Outcome::Failed(reason),
                (None, None) => Outcome::Failed(String::from("no round was measured")),
                (None, Some(summary)) => Outcome::Measured(Box::new(Measured {
                    summary: Summary { syscalls: runner.syscalls, ..summary },
                    curve: runner.latencies.curve(),
                    warnings: warnings(&runner.rounds, rate),
                    rounds: runner.rounds,
                })),
            };
            entries.push(Entry { server: name, outcome });
        }
        entries.sort_by_key(|entry| self.contenders.iter().position(|contender| contender.name() == entry.server));
        entries
    }
}

/// Who is measured when: A B C A B C. What changes in the course of time meets all alike.
fn turns(rounds: u32, servers: usize) -> impl Iterator<Item = (u32, usize)> {
    (0..rounds).flat_map(move |round| (0..servers).map(move |server| (round, server)))
}

fn baseline(cli: &Cli, contenders: &[Contender]) -> Result<String> {
    let has = |name: &str| contenders.iter().any(|contender| contender.name() == name);
    match &cli.baseline {
        Some(name) if has(name) => Ok(name.clone()),
        Some(name) => bail!("--baseline {name} is not among the servers of this run"),
        None if has("uvloop") => Ok(String::from("uvloop")),
        None => Ok(contenders[0].name().to_owned()),
    }
}

fn command() -> String {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.join(" ") {
        none if none.is_empty() => String::from("make bench"),
        args => format!("make bench ARGS=\"{args}\""),
    }
}

fn two_digits(value: f64) -> f64 {
    let unit = 10_f64.powf(value.max(10.0).log10().floor() - 1.0);
    (value / unit).round().max(1.0) * unit
}

/// Waits until a server has cleaned up behind closed connections, so that it does not disturb the next one.
fn settle(server: &Server) {
    let Ok(Some(tree)) = server.tree() else { return };
    let since = Instant::now();
    let mut before = tree.cpu();
    while since.elapsed() < SETTLE_MAX {
        std::thread::sleep(SETTLED);
        let now = tree.cpu();
        match (&before, &now) {
            (Ok(before), Ok(now)) if before != now => {}
            _ => return,
        }
        before = now;
    }
}

/// For loads during which nothing is looked at.
struct Nobody;

impl Observer for Nobody {
    fn begin(&mut self) -> Result<()> {
        Ok(())
    }

    fn end(&mut self) -> Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_take_turns() {
        let order: Vec<_> = turns(3, 2).collect();
        assert_eq!(order, [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1)]);
    }

    #[test]
    fn rates_are_round() {
        for (value, rounded) in [(12_345.6, 12_000.0), (98_765.0, 99_000.0), (99.6, 100.0), (7.4, 7.0), (0.0, 1.0)] {
            assert!((two_digits(value) - rounded).abs() < 1e-6, "{value}: {}", two_digits(value));
        }
    }
}
