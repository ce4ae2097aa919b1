//! The top of the page: every case and every server at a glance.

use super::charts::colour;
use super::format::{count, median, ratio, time};
use crate::results::{CaseResult, Entry, Measured, Outcome, Results};
use maud::{Markup, html};

/// One row for each case, one column for each server.
pub(super) fn overview(results: &Results) -> Markup {
    let baseline = results.settings.baseline.as_str();
    let throughput = || results.cases.iter().filter(|case| case.rate.is_none());
    let latency = || results.cases.iter().filter(|case| case.rate.is_some());
    html! {
        section #overview {
            h2 { "Overview" }
            p {
                span.good { "Green" } " is better than " strong { (baseline) } ", " span.bad { "red" } " is worse. \
                ⚠: something else than the server had a part in the figure; the case says what."
            }
            @if throughput().next().is_some() {
                h3 { "Throughput" }
                p { "As multiples of " (baseline) ", whose own column says how many per second." }
                (overview_table(results, throughput(), &|_, entry, measured| {
                    let figure = count(measured.summary.per_second.median) + "/s";
                    match measured.summary.ratio {
                        Some(times) if entry.server != baseline => (ratio(times.median), Some(times.median), figure),
                        _ => (figure.clone(), None, figure),
                    }
                }))
            }
            @if latency().next().is_some() {
                h3 { "Latency at a fixed rate" }
                p { "What one message in a hundred exceeds, when each server is sent as many." }
                (overview_table(results, latency(), &|case, entry, measured| {
                    let p99 = |server: &str| Some(case.measured(server)?.summary.p99?.median);
                    let times = p99(baseline).zip(p99(&entry.server)).map(|(base, this)| base / this);
                    let rate = format!("{} per second", count(measured.summary.per_second.median));
                    (median(measured.summary.p99.as_ref(), time), times.filter(|_| entry.server != baseline), rate)
                }))
            }
            (absent(results))
        }
    }
}

fn absent(results: &Results) -> Markup {
    html! {
        @if !results.absent().is_empty() {
            h3 { "Not available here" }
            ul { @for (why, servers) in results.absent() { li { strong { (servers.join(", ")) } ": " (why) } } }
        }
    }
}

/// The text of a cell, how many times better than the baseline that is, and what a tooltip says.
type Cell = (String, Option<f64>, String);

fn overview_table<'a>(
    results: &Results,
    cases: impl Iterator<Item = &'a CaseResult>,
    cell: &dyn Fn(&CaseResult, &Entry, &Measured) -> Cell,
) -> Markup {
    html! {
        div.scroll {
            table.overview {
                thead { tr {
                    th scope="col" { "case" }
                    @for (at, server) in results.present().enumerate() {
                        th scope="col" { span.swatch style=(colour(at)) {} " " (server) }
                    }
                } }
                tbody {
                    @for case in cases {
                        tr {
                            th scope="row" { a href=(format!("#{}", case.name)) title=(case.title) { (case.name) } }
                            @for entry in case.entries.iter().filter(|entry| results.takes_part(&entry.server)) {
                                (overview_cell(case, entry, cell))
                            }
                        }
                    }
                }
            }
        }
    }
}

fn overview_cell(case: &CaseResult, entry: &Entry, cell: &dyn Fn(&CaseResult, &Entry, &Measured) -> Cell) -> Markup {
    match &entry.outcome {
        Outcome::Unavailable(why) => html! { td.none title=(why) { "n/a" } },
        Outcome::Failed(why) => html! { td.failed title=(why) { "failed" } },
        Outcome::Measured(measured) => {
            let warned = if measured.warnings.is_empty() { "" } else { " ⚠" };
            let (text, times, title) = cell(case, entry, measured);
            let (class, strength) = times.map_or(("", 0.0), tint);
            let style = format!("--strength:{strength:.0}%");
            html! { td class=(class) style=(style) title=(title) { (text) (warned) } }
        }
    }
}

/// The colour of a ratio, and how strong: twice and half as much are equally strong.
fn tint(ratio: f64) -> (&'static str, f64) {
    let doublings = ratio.max(1e-6).log2();
    let class = if doublings >= 0.0 { "tint more" } else { "tint less" };
    (class, (doublings.abs() * 22.0).min(55.0))
}
