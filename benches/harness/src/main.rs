//! `make bench`.

use anyhow::{Context, Result, ensure};
use clap::Parser;
use py_reactor_bench::cases::CASES;
use py_reactor_bench::cli::Cli;
use py_reactor_bench::results::{FORMAT, Results};
use py_reactor_bench::{report, run, server};
use std::fs;
use std::path::Path;
use std::process::ExitCode;

/// 0 if all is well, 1 if a server did something wrong, 2 if nothing could be measured.
fn main() -> ExitCode {
    bench(&Cli::parse()).unwrap_or_else(|error| {
        eprintln!("bench: {error:#}");
        ExitCode::from(2)
    })
}

fn bench(cli: &Cli) -> Result<ExitCode> {
    if cli.list {
        list(cli)?;
        return Ok(ExitCode::SUCCESS);
    }
    let results = match &cli.from {
        Some(file) => read(file)?,
        None => run::run(cli)?,
    };
    report::write(&results, &cli.out)?;
    println!("{}", report::markdown(&results));
    eprintln!("{} is for people, results.json beside it for programs", cli.out.join("report.html").display());
    let failures: Vec<String> =
        results.failures().map(|(case, server, reason)| format!("{server} in {}: {reason}", case.name)).collect();
    if failures.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    eprintln!("FAILED:\n{}", failures.join("\n"));
    Ok(ExitCode::FAILURE)
}

fn read(file: &Path) -> Result<Results> {
    let text = fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let results: Results =
        serde_json::from_str(&text).with_context(|| format!("{} is no results.json", file.display()))?;
    ensure!(results.format == FORMAT, "{} is of format {}, not {FORMAT}", file.display(), results.format);
    Ok(results)
}

fn list(cli: &Cli) -> Result<()> {
    println!("cases (* with --quick):");
    for case in &CASES {
        println!("  {:<16} {} {}", case.name, if case.quick { '*' } else { ' ' }, case.title);
    }
    println!("servers:");
    for contender in server::list(&cli.servers)? {
        if let server::Contender::Own { name, description } = contender {
            println!("  {name:<18} {description}");
        }
    }
    Ok(())
}
