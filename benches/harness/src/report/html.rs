//! The report for people: one file, no script, nothing to fetch.

use super::charts::{self, Bar, Line, Stack};
use super::format::{self, bytes, count, digits, median, range, ratio, time};
use super::overview::overview;
use crate::results::{CaseResult, Counting, Outcome, Results};
use maud::{DOCTYPE, Markup, PreEscaped, html};

/// The whole page.
pub fn html(results: &Results) -> String {
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { "Benchmarks, " (results.started) }
                style { (PreEscaped(include_str!("style.css"))) }
            }
            body {
                header {
                    h1 { "Which server does how much" }
                    p.lead { "Measured " (results.started) " on " (format::machine(&results.machine)) "." }
                    p { code { (results.command) } }
                }
                main {
                    (failures(results))
                    (overview(results))
                    (how_to_read(results))
                    @for case in &results.cases { (case_section(results, case)) }
                    (about(results))
                }
            }
        }
    };
    page.into_string()
}

fn failures(results: &Results) -> Markup {
    html! {
        @if results.failures().next().is_some() {
            section.failures #failures {
                h2 { "Failures" }
                @for (case, server, reason) in results.failures() {
                    p { strong { (server) } " in " (case.name) }
                    pre { (reason) }
                }
            }
        }
    }
}

fn how_to_read(results: &Results) -> Markup {
    html! {
        details #reading {
            summary { "How to read this" }
            ul {
                li { strong { "Method: " } (format::settings(&results.settings)) ". The servers take turns, round by round, so that what changes in the course of time meets all alike. Ratios are taken round by round." }
                li { strong { "Bars" } " are medians of the rounds; the thin line goes from the slowest round to the fastest. Where lines overlap, do not believe in a difference." }
                li { strong { "Latency: " } "what most messages see is on the left, the rare slow ones are on the right; each step to the right is ten times rarer. In a closed loop a slow server is asked less often, so its rare pauses look rarer. With a fixed rate the time counts from the moment at which a message was due, whatever the server did then." }
                li { strong { "CPU time" } " is that of the server's processes: the strong part in the program, the pale one in the kernel on its behalf. On loopback that includes most of the work of delivering to the client." }
                li { strong { "Not shown: " } "a network. Client and servers share the CPUs of one machine, and talk over loopback." }
            }
        }
    }
}

fn case_section(results: &Results, case: &CaseResult) -> Markup {
    let measured = || {
        case.entries.iter().filter_map(|entry| {
            let number = results.present().position(|server| server == entry.server)?;
            Some((entry.server.as_str(), number, entry.measured()?))
        })
    };
    let bars: Vec<Bar<'_>> = measured()
        .map(|(server, colour, measured)| Bar {
            server,
            colour,
            value: measured.summary.per_second,
            ratio: measured.summary.ratio.map(|ratio| ratio.median),
            warned: !measured.warnings.is_empty(),
        })
        .collect();
    let lines: Vec<Line<'_>> =
        measured().map(|(server, colour, measured)| Line { server, colour, curve: &measured.curve }).collect();
    let stacks: Vec<Stack<'_>> = measured()
        .filter_map(|(server, colour, measured)| {
            let user = measured.summary.cpu_user?;
            let system = measured.summary.cpu?.median - user;
            Some(Stack { server, colour, user, system })
        })
        .collect();
    html! {
        section.case id=(case.name) {
            h2 { (case.title) " " a.anchor href=(format!("#{}", case.name)) { code { (case.name) } } }
            @if let Some(rate) = case.rate {
                p { (count(rate)) " " (case.unit) " per second were sent, whatever the server did. Compare the latencies." }
            }
            // At a fixed rate all do the same, or the notes say so.
            @if !bars.is_empty() && case.rate.is_none() {
                (figure("Throughput", &format!("{} per second", case.unit), &charts::throughput(&bars, &case.unit)))
            }
            @if !lines.is_empty() {
                (figure("Latency", "percentiles, both axes logarithmic; lower is better", &charts::latency(&lines)))
            }
            @if !stacks.is_empty() {
                (figure("CPU time", "microseconds of the server for each, user and system (pale); less is better",
                    &charts::cpu(&stacks, &case.unit)))
            }
            (notes(results, case))
            (table(case))
        }
    }
}

fn figure(title: &str, what: &str, chart: &Markup) -> Markup {
    html! {
        figure {
            figcaption { strong { (title) } " " span.quiet { (what) } }
            div.scroll { (chart) }
        }
    }
}

fn notes(results: &Results, case: &CaseResult) -> Markup {
    let warnings = || {
        case.entries.iter().filter_map(|entry| Some((entry, entry.measured()?))).flat_map(|(entry, measured)| {
            measured.warnings.iter().map(|warning| (entry.server.as_str(), warning.as_str()))
        })
    };
    html! {
        @if results.settings.pinned && case.generator_cpu.is_none() {
            p.quiet { "Load generator and servers shared all CPUs: with one for the load alone, the servers would have \
                had fewer than contexts." }
        }
        @if warnings().next().is_some() {
            ul.warnings { @for (server, warning) in warnings() { li { "⚠ " strong { (server) } ": " (warning) } } }
        }
        @for entry in &case.entries {
            @match &entry.outcome {
                // Those who are in no case have been named at the top.
                Outcome::Unavailable(why) => @if results.takes_part(&entry.server) {
                    p.quiet { strong { (entry.server) } " is not available: " (why) }
                },
                Outcome::Failed(why) => { p.bad { strong { (entry.server) } " failed:" } pre { (why) } },
                Outcome::Measured(measured) => @if let Some(again) = measured.summary.retransmitted_per_million {
                    p { strong { (entry.server) } ": " (digits(again)) " datagrams in a million were sent again" }
                },
            }
        }
    }
}

fn table(case: &CaseResult) -> Markup {
    html! {
        details {
            summary { "All figures" }
            div.scroll { table {
                thead { tr {
                    @for title in ["server", "per second", "range", "× baseline", "range", "MB/s", "p50", "p99", "p99.9",
                        "CPU µs each", "of it user", "syscalls each", "memory per connection", "generator CPUs", "other CPUs"] {
                        th scope="col" { (title) }
                    }
                } }
                tbody {
                    @for (entry, measured) in case.entries.iter().filter_map(|entry| Some((entry, entry.measured()?))) {
                        @let summary = &measured.summary;
                        @let mean = |part: fn(&crate::results::Round) -> f64| {
                            digits(measured.rounds.iter().map(part).sum::<f64>() / measured.rounds.len() as f64)
                        };
                        tr {
                            th scope="row" { (entry.server) }
                            td { (count(summary.per_second.median)) }
                            td { (range(&summary.per_second, count)) }
                            td { (median(summary.ratio.as_ref(), ratio)) }
                            td { (summary.ratio.map(|spread| range(&spread, ratio)).unwrap_or_default()) }
                            td { (digits(summary.megabytes_per_second.median)) }
                            td { (median(summary.p50.as_ref(), time)) }
                            td { (median(summary.p99.as_ref(), time)) }
                            td { (median(summary.p999.as_ref(), time)) }
                            td { (median(summary.cpu.as_ref(), digits)) }
                            td { (summary.cpu_user.map_or_else(|| String::from("–"), digits)) }
                            td { (summary.syscalls.map_or_else(|| String::from("–"), digits)) }
                            td { (median(summary.memory_per_connection.as_ref(), bytes)) }
                            td { (mean(|round| round.generator_cpus)) }
                            td { (mean(|round| round.other_cpus)) }
                        }
                    }
                }
            } }
        }
    }
}

fn about(results: &Results) -> Markup {
    let machine = &results.machine;
    html! {
        section #about {
            h2 { "What was measured, and where" }
            div.scroll { table.facts {
                tbody {
                    @for server in &results.servers {
                        tr {
                            th scope="row" { (server.name) }
                            td { (server.version.as_deref().unwrap_or("did not run")) @if !server.description.is_empty() { br; span.quiet { (server.description) } } }
                        }
                    }
                    tr { th scope="row" { "machine" } td { (format::machine(machine)) } }
                    tr { th scope="row" { "load before" } td { (digits(machine.load)) } }
                    tr { th scope="row" { "system calls" } td { @match &results.settings.syscalls {
                        Counting::CountedBy(tool) => { "counted by " (tool) },
                        Counting::NotCounted(why) => { "not counted: " (why) },
                    } } }
                    @if let Some(commit) = &machine.commit { tr { th scope="row" { "commit" } td { (commit) } } }
                    @for (name, state) in &machine.mitigations { tr { th scope="row" { (name) } td { (state) } } }
                }
            } }
            details { summary { "Flags of the CPU" } p.quiet { (machine.cpu_flags.join(" ")) } }
        }
    }
}
