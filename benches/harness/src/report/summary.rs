//! The chart for a README: every case of throughput and every server, as multiples of the baseline, in one SVG that stands
//! alone, in light and in dark.

use super::format::{count, ratio};
use super::scale::Linear;
use crate::results::{CaseResult, Results};
use maud::{Markup, PreEscaped, html};

const WIDTH: f64 = 840.0;
/// For the titles of the cases.
const LEFT: f64 = 250.0;
/// For the figures behind the bars.
const RIGHT: f64 = 60.0;
const PLOT: f64 = WIDTH - LEFT - RIGHT;
const BAR: f64 = 9.0;
/// Between the bars of a case, and between cases.
const GAP: f64 = 2.0;
const CASE_GAP: f64 = 16.0;
const LEGEND_ROW: f64 = 20.0;
const LEGEND_COLUMNS: usize = 4;
const AXIS: f64 = 44.0;
/// A title is cut into lines of so many characters, so far apart.
const TITLE_CHARS: usize = 36;
const LINE: f64 = 14.0;

const STYLE: &str = include_str!("summary.css");

/// A bar: a server in a case.
struct Bar<'a> {
    server: &'a str,
    colour: usize,
    times: f64,
    per_second: f64,
}

/// One case: what it is, and who took part.
struct Row<'a> {
    title: &'a str,
    top: f64,
    bars: Vec<Bar<'a>>,
}

/// The chart; nothing where no case has a throughput to compare.
pub fn summary(results: &Results) -> Option<String> {
    let servers: Vec<&str> = results.present().collect();
    let legend = servers.len().div_ceil(LEGEND_COLUMNS) as f64 * LEGEND_ROW + 14.0;
    let mut top = legend;
    let mut rows = Vec::new();
    for case in results.cases.iter().filter(|case| case.rate.is_none()) {
        let bars = bars(case, &servers);
        if bars.iter().any(|bar| bar.server != results.settings.baseline) {
            let height = bars.len() as f64 * (BAR + GAP);
            rows.push(Row { title: &case.title, top, bars });
            top += height + CASE_GAP;
        }
    }
    let most = rows.iter().flat_map(|row| &row.bars).map(|bar| bar.times).reduce(f64::max)?;
    let scale = Linear::to(most.max(1.0));
    let bottom = top - CASE_GAP + 6.0;
    let height = bottom + AXIS;
    let x = |times: f64| LEFT + PLOT * scale.place(times);
    let chart = html! {
        svg xmlns="http://www.w3.org/2000/svg" viewBox=(format!("0 0 {WIDTH} {height}")) width=(WIDTH) height=(height)
            role="img" aria-label=(format!("throughput as multiples of {}", results.settings.baseline)) {
            style { (PreEscaped(STYLE)) }
            (legend_of(&servers))
            @for tick in &scale.ticks {
                path.grid d=(format!("M{:.1} {legend}V{bottom}", x(*tick))) {}
                text.tick x=(format!("{:.1}", x(*tick))) y=(bottom + 14.0) { (ratio(*tick)) }
            }
            @for row in &rows { (case(row, &x)) }
            path.baseline d=(format!("M{:.1} {legend}V{bottom}", x(1.0))) {}
            text.note x=(LEFT) y=(bottom + 34.0) {
                "messages per second, as multiples of " (results.settings.baseline) "; " (results.started) ", "
                (results.machine.cpus) " CPUs"
            }
        }
    };
    Some(chart.into_string())
}

fn bars<'a>(case: &'a CaseResult, servers: &[&str]) -> Vec<Bar<'a>> {
    let bar = |(colour, server): (usize, &&str)| {
        let entry = case.entries.iter().find(|entry| entry.server == **server)?;
        let summary = &entry.measured()?.summary;
        let times = summary.ratio?.median;
        Some(Bar { server: &entry.server, colour, times, per_second: summary.per_second.median })
    };
    servers.iter().enumerate().filter_map(bar).collect()
}

fn legend_of(servers: &[&str]) -> Markup {
    let column = WIDTH / LEGEND_COLUMNS as f64;
    html! {
        @for (at, server) in servers.iter().enumerate() {
            @let (x, y) = ((at % LEGEND_COLUMNS) as f64 * column, (at / LEGEND_COLUMNS) as f64 * LEGEND_ROW + 4.0);
            rect.(class(at)) x=(x) y=(y) width="12" height="12" rx="2" {}
            text.key x=(x + 18.0) y=(y + 6.0) { (server) }
        }
    }
}

fn case(row: &Row<'_>, x: &impl Fn(f64) -> f64) -> Markup {
    let middle = row.top + row.bars.len() as f64 * (BAR + GAP) / 2.0;
    let lines = wrapped(row.title);
    let first = middle - (lines.len() - 1) as f64 * LINE / 2.0;
    html! {
        @for (at, line) in lines.iter().enumerate() {
            text.case x=(LEFT - 12.0) y=(first + at as f64 * LINE) { (line) }
        }
        @for (at, bar) in row.bars.iter().enumerate() {
            @let y = row.top + at as f64 * (BAR + GAP);
            rect.(class(bar.colour)) x=(LEFT) y=(y) width=(format!("{:.1}", x(bar.times) - LEFT)) height=(BAR) rx="1.5" {
                title { (bar.server) ": " (count(bar.per_second)) "/s" }
            }
            text.figure x=(format!("{:.1}", x(bar.times) + 5.0)) y=(y + BAR / 2.0) { (ratio(bar.times)) }
        }
    }
}

/// In lines that fit beside the bars.
fn wrapped(title: &str) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in title.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.is_empty() || line.len() + 1 + word.len() <= TITLE_CHARS => {
                line.push_str(if line.is_empty() { "" } else { " " });
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

fn class(colour: usize) -> String {
    format!("s{}", colour % 12)
}

#[cfg(test)]
mod tests {
    use super::wrapped;

    #[test]
    fn titles_are_wrapped_between_words() {
        assert_eq!(wrapped("Echo, 64 connections"), ["Echo, 64 connections"]);
        let long = "Connect, send one message of 64 B, close; 32 at a time";
        assert_eq!(wrapped(long), ["Connect, send one message of 64 B,", "close; 32 at a time"]);
        assert_eq!(wrapped(long).join(" "), long);
    }
}
