//! The command line.

use crate::cases::{CASES, Case};
use crate::server::Contender;
use anyhow::{Result, ensure};
use clap::Parser;
use globset::Glob;
use std::path::PathBuf;

/// Compares servers on this machine: py_reactor, asyncio, uvloop, Erlang's gen_tcp and socket, and servers without
/// Python as a floor. Each is a process of its own; they take turns (A B C A B C ...), and every byte that comes back
/// is checked.
///
/// Writes results.json, report.md and report.html. Exits with 1 if a server did something wrong, with 2 if
/// nothing could be measured.
#[derive(Debug, Parser)]
#[command(name = "bench", version)]
pub struct Cli {
    /// Cases to run: names and globs ('echo-*'); '!' leaves some out. --list shows all
    #[arg(long, value_delimiter = ',', value_name = "CASES")]
    pub case: Vec<String>,
    /// Servers to compare: names and globs ('reactor-*,uvloop'); '!' leaves some out. --list shows all
    #[arg(long, value_delimiter = ',', value_name = "SERVERS")]
    pub server: Vec<String>,
    /// A server that runs already: NAME=HOST:PORT if it echoes, NAME=http://HOST:PORT or NAME=udp://HOST:PORT. It has
    /// no CPU and memory figures
    #[arg(long, value_name = "PEER")]
    pub peer: Vec<String>,
    /// The server that the others are compared with [default: uvloop, or else the first that runs]
    #[arg(long, value_name = "SERVER")]
    pub baseline: Option<String>,
    /// Rounds of each case [default: 5, with --quick 3]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub rounds: Option<u32>,
    /// Length of each measurement, in seconds [default: 2; --quick takes what fits]
    #[arg(long, value_parser = positive, allow_negative_numbers = true)]
    pub seconds: Option<f64>,
    /// Messages per second in the cases with a fixed rate [default: half of what the baseline can do]
    #[arg(long, value_parser = positive, allow_negative_numbers = true, value_name = "PER_SECOND")]
    pub rate: Option<f64>,
    /// A few cases in two minutes, without counting system calls (`make bench` builds the library, the harness and the
    /// servers first, which takes longer than that the first time)
    #[arg(long, conflicts_with = "seconds")]
    pub quick: bool,
    /// Let the kernel choose the CPUs. Otherwise the load generator has one for itself where the servers keep one for
    /// each of their contexts
    #[arg(long)]
    pub no_pin: bool,
    /// List cases and servers
    #[arg(long)]
    pub list: bool,
    /// Where the results go
    #[arg(long, default_value = "target/bench", value_name = "DIR")]
    pub out: PathBuf,
    /// The program that starts a server
    #[arg(long, default_value = "benches/servers/run", value_name = "FILE")]
    pub servers: PathBuf,
    /// Measure nothing: write the reports of an earlier results.json again
    #[arg(long, value_name = "FILE")]
    pub from: Option<PathBuf>,
}

fn positive(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(value) if value > 0.0 && value < 1e6 => Ok(value),
        _ => Err(String::from("a number above 0 is wanted")),
    }
}

impl Cli {
    /// The cases that are wanted, in the order of the table.
    pub fn cases(&self) -> Result<Vec<&'static Case>> {
        if self.case.is_empty() {
            return Ok(CASES.iter().filter(|case| case.quick || !self.quick).collect());
        }
        let names: Vec<&str> = CASES.iter().map(|case| case.name).collect();
        let chosen = choose(&self.case, &names, "case")?;
        Ok(CASES.iter().filter(|case| chosen.contains(&case.name)).collect())
    }

    /// Those of `own` that are wanted, and the peers.
    pub fn contenders(&self, own: Vec<Contender>) -> Result<Vec<Contender>> {
        let names: Vec<&str> = own.iter().map(Contender::name).collect();
        let chosen: Vec<String> = choose(&self.server, &names, "server")?.into_iter().map(String::from).collect();
        let peers = self.peer.iter().map(|peer| Contender::peer(peer)).collect::<Result<Vec<_>>>()?;
        let own = own.into_iter().filter(|contender| chosen.iter().any(|name| name == contender.name()));
        let contenders: Vec<Contender> = own.chain(peers).collect();
        for (at, contender) in contenders.iter().enumerate() {
            let name = contender.name();
            ensure!(contenders[..at].iter().all(|other| other.name() != name), "two servers are called {name}");
        }
        Ok(contenders)
    }
}

/// The names that a list of globs chooses. A glob that fits nothing is a mistake.
fn choose<'a>(globs: &[String], names: &[&'a str], kind: &str) -> Result<Vec<&'a str>> {
    let mut chosen: Vec<&str> =
        if globs.iter().all(|glob| glob.starts_with('!')) { names.to_vec() } else { Vec::new() };
    for glob in globs {
        let matcher = Glob::new(glob.trim_start_matches('!'))?.compile_matcher();
        let fitting: Vec<&str> = names.iter().copied().filter(|name| matcher.is_match(name)).collect();
        ensure!(!fitting.is_empty(), "no {kind} is called {glob}; there are {}", names.join(", "));
        if glob.starts_with('!') {
            chosen.retain(|name| !fitting.contains(name));
        } else {
            chosen.extend(fitting);
        }
    }
    Ok(names.iter().copied().filter(|name| chosen.contains(name)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn cases(args: &[&str]) -> Result<Vec<&'static str>> {
        let cli = Cli::parse_from([&["bench"], args].concat());
        cli.cases().map(|cases| cases.iter().map(|case| case.name).collect())
    }

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn cases_by_name_glob_and_exclusion() {
        assert_eq!(cases(&[]).unwrap().len(), CASES.len());
        assert_eq!(cases(&["--case", "http,echo-1"]).unwrap(), ["echo-1", "http"]);
        assert_eq!(cases(&["--case", "cpu-*"]).unwrap(), ["cpu-1", "cpu-2"]);
        assert_eq!(cases(&["--case", "cpu-*,!cpu-1"]).unwrap(), ["cpu-2"]);
        assert_eq!(cases(&["--case", "!*10000"]).unwrap().len(), CASES.len() - 3);
        assert!(cases(&["--quick"]).unwrap().len() < CASES.len());
        assert_eq!(cases(&["--quick", "--case", "udp"]).unwrap(), ["udp"]);
        assert!(cases(&["--case", "htpp"]).unwrap_err().to_string().contains("echo-64"));
    }

    #[test]
    fn names_of_servers_are_unique() {
        let own = || vec![Contender::Own { name: "a".into(), description: String::new() }];
        let with_peer = |peer| Cli::parse_from(["bench", "--peer", peer]).contenders(own());
        assert_eq!(with_peer("b=127.0.0.1:1").unwrap().len(), 2);
        assert!(with_peer("a=127.0.0.1:1").is_err());
    }
}
