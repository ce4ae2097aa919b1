//! The report as Markdown: for the terminal, for issues, for `docs/benchmarks.md`.

use super::format::{self, bytes, count, digits, median, range, ratio, time};
use crate::results::{CaseResult, Entry, Measured, Outcome, Results};
use std::fmt::Write;

/// The whole report.
pub fn markdown(results: &Results) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = write_all(&mut text, results);
    text
}

fn write_all(text: &mut String, results: &Results) -> std::fmt::Result {
    writeln!(text, "Measured {} by `{}`.\n", results.started, results.command)?;
    writeln!(text, "- Machine: {}", format::machine(&results.machine))?;
    if !results.machine.mitigations.is_empty() {
        let listed: Vec<String> =
            results.machine.mitigations.iter().map(|(name, what)| format!("{name}: {what}")).collect();
        writeln!(text, "- Mitigations: {}", listed.join("; "))?;
    }
    writeln!(text, "- Method: {}", format::settings(&results.settings))?;
    if let Some(commit) = &results.machine.commit {
        writeln!(text, "- Commit: {commit}")?;
    }
    for server in &results.servers {
        if let Some(version) = &server.version {
            writeln!(text, "- {}: {version}", server.name)?;
        }
    }
    for (why, servers) in results.absent() {
        writeln!(text, "- {}: not available: {why}", servers.join(", "))?;
    }
    writeln!(text)?;
    overview(text, results)?;
    results.cases.iter().try_for_each(|case| details(text, results, case))
}

/// Case by case: throughput, or the latency at a fixed rate.
fn overview(text: &mut String, results: &Results) -> std::fmt::Result {
    let baseline = &results.settings.baseline;
    let (closed, open): (Vec<_>, Vec<_>) = results.cases.iter().partition(|case| case.rate.is_none());
    if !closed.is_empty() {
        writeln!(text, "Throughput; {baseline} per second, the others as multiples of it:\n")?;
        overview_table(text, results, &closed, |entry, measured| match measured.summary.ratio {
            Some(times) if entry.server != *baseline => ratio(times.median),
            _ => count(measured.summary.per_second.median),
        })?;
    }
    if !open.is_empty() {
        writeln!(text, "Latency at a fixed rate, 99th percentile:\n")?;
        overview_table(text, results, &open, |_, measured| median(measured.summary.p99.as_ref(), time))?;
    }
    Ok(())
}

fn overview_table(
    text: &mut String,
    results: &Results,
    cases: &[&CaseResult],
    figure: impl Fn(&Entry, &Measured) -> String,
) -> std::fmt::Result {
    let names: Vec<&str> = results.present().collect();
    writeln!(text, "| case | {} |", names.join(" | "))?;
    writeln!(text, "|---|{}", "--:|".repeat(names.len()))?;
    let cell = |entry: &Entry| match &entry.outcome {
        Outcome::Unavailable(_) => String::from("n/a"),
        Outcome::Failed(_) => String::from("FAILED"),
        Outcome::Measured(measured) => figure(entry, measured) + if measured.warnings.is_empty() { "" } else { " ⚠" },
    };
    for case in cases {
        let entries = case.entries.iter().filter(|entry| results.takes_part(&entry.server));
        let cells: Vec<String> = entries.map(cell).collect();
        writeln!(text, "| {} | {} |", case.name, cells.join(" | "))?;
    }
    writeln!(text)
}

fn details(text: &mut String, results: &Results, case: &CaseResult) -> std::fmt::Result {
    let rate = case.rate.map(|rate| format!(" ({} {} per second)", count(rate), case.unit)).unwrap_or_default();
    writeln!(text, "### {}\n", case.title.clone() + &rate)?;
    writeln!(
        text,
        "| `{}` | {}/s (range) | × baseline | MB/s | p50 | p99 | p99.9 | CPU µs each (user + system) | syscalls each | \
         memory per connection |",
        case.name, case.unit
    )?;
    writeln!(text, "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|")?;
    for entry in case.entries.iter().filter(|entry| results.takes_part(&entry.server)) {
        match &entry.outcome {
            Outcome::Measured(measured) => details_row(text, &entry.server, measured)?,
            Outcome::Unavailable(why) => writeln!(text, "| {} | not available: {} |", entry.server, cell(why))?,
            Outcome::Failed(why) => writeln!(text, "| {} | FAILED: {} |", entry.server, cell(why))?,
        }
    }
    writeln!(text)?;
    let notes: Vec<String> = case.entries.iter().flat_map(notes).collect();
    if !notes.is_empty() {
        writeln!(text, "{}\n", notes.join("\n"))?;
    }
    Ok(())
}

fn details_row(text: &mut String, server: &str, measured: &Measured) -> std::fmt::Result {
    let summary = &measured.summary;
    let parts = match (&summary.cpu, summary.cpu_user) {
        (Some(cpu), Some(user)) => in_brackets(format!("{} + {}", digits(user), digits(cpu.median - user))),
        _ => String::new(),
    };
    writeln!(
        text,
        "| {server} | {}{} | {} | {} | {} | {} | {} | {}{parts} | {} | {} |",
        count(summary.per_second.median),
        in_brackets(range(&summary.per_second, count)),
        median(summary.ratio.as_ref(), ratio),
        digits(summary.megabytes_per_second.median),
        median(summary.p50.as_ref(), time),
        median(summary.p99.as_ref(), time),
        median(summary.p999.as_ref(), time),
        median(summary.cpu.as_ref(), digits),
        summary.syscalls.map_or_else(|| String::from("–"), digits),
        median(summary.memory_per_connection.as_ref(), bytes),
    )
}

fn in_brackets(text: String) -> String {
    if text.is_empty() { text } else { format!(" ({text})") }
}

fn notes(entry: &Entry) -> Vec<String> {
    let Some(measured) = entry.measured() else { return Vec::new() };
    let again = measured.summary.retransmitted_per_million;
    let again =
        again.map(|again| format!("- {}: {} datagrams in a million were sent again", entry.server, digits(again)));
    let warnings = measured.warnings.iter().map(|warning| format!("- ⚠ {}: {warning}", entry.server));
    warnings.chain(again).collect()
}

/// A text that fits into a table.
fn cell(text: &str) -> String {
    text.lines().next().unwrap_or_default().replace('|', "\\|")
}
