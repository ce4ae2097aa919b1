//! The charts, as inline SVG. Colours come from the style sheet, so that they follow light and dark.

use super::format::{count, digits, ratio, tick as short, time};
use super::scale::{Linear, Log, nines, spread_out};
use crate::latency::CurvePoint;
use crate::stats::Spread;
use maud::{Markup, html};

const WIDTH: f64 = 800.0;
/// For the names of the servers.
const LEFT: f64 = 175.0;
/// For the figures behind the bars.
const RIGHT: f64 = 170.0;
const ROW: f64 = 24.0;
const BAR: f64 = 15.0;
const AXIS: f64 = 26.0;
const PLOT: f64 = WIDTH - LEFT - RIGHT;

/// How many colours the style sheet has.
const COLOURS: usize = 12;

/// A bar of the throughput chart.
pub(super) struct Bar<'a> {
    pub(super) server: &'a str,
    pub(super) colour: usize,
    pub(super) value: Spread,
    pub(super) ratio: Option<f64>,
    pub(super) warned: bool,
}

/// Throughput, with the range over the rounds.
pub(super) fn throughput(bars: &[Bar<'_>], unit: &str) -> Markup {
    let scale = Linear::to(bars.iter().map(|bar| bar.value.max).fold(0.0, f64::max));
    let x = |value: f64| LEFT + PLOT * scale.place(value);
    let rows = html! {
        @for (at, bar) in bars.iter().enumerate() {
            @let middle = row_middle(at);
            g.series style=(colour(bar.colour)) {
                title { (bar.server) ": " (count(bar.value.median)) " " (unit) "/s, " (count(bar.value.min)) " to " (count(bar.value.max)) }
                text.name x=(LEFT - 8.0) y=(middle) { (bar.server) }
                rect.bar x=(LEFT) y=(middle - BAR / 2.0) width=(x(bar.value.median) - LEFT) height=(BAR) rx="2" {}
                path.whisker d=(whisker(x(bar.value.min), x(bar.value.max), middle)) {}
                text.figure x=(x(bar.value.max) + 8.0) y=(middle) {
                    (count(bar.value.median)) "/s"
                    @if let Some(times) = bar.ratio { tspan.strong { "  " (ratio(times)) } }
                    @if bar.warned { "  ⚠" }
                }
            }
        }
    };
    rows_chart(&format!("{unit} per second"), bars.len(), &scale, count, &rows)
}

/// A bar of the CPU chart: microseconds per message.
pub(super) struct Stack<'a> {
    pub(super) server: &'a str,
    pub(super) colour: usize,
    pub(super) user: f64,
    pub(super) system: f64,
}

/// CPU time per message: in the program, and in the kernel for it.
pub(super) fn cpu(stacks: &[Stack<'_>], unit: &str) -> Markup {
    let scale = Linear::to(stacks.iter().map(|stack| stack.user + stack.system).fold(0.0, f64::max));
    let width = |value: f64| PLOT * scale.place(value);
    let rows = html! {
        @for (at, stack) in stacks.iter().enumerate() {
            @let (middle, total) = (row_middle(at), stack.user + stack.system);
            g.series style=(colour(stack.colour)) {
                title { (stack.server) ": " (digits(stack.user)) " µs user, " (digits(stack.system)) " µs system" }
                text.name x=(LEFT - 8.0) y=(middle) { (stack.server) }
                rect.bar x=(LEFT) y=(middle - BAR / 2.0) width=(width(stack.user)) height=(BAR) {}
                rect.pale x=(LEFT + width(stack.user)) y=(middle - BAR / 2.0) width=(width(stack.system)) height=(BAR) {}
                text.figure x=(LEFT + width(total) + 8.0) y=(middle) {
                    tspan.strong { (digits(total)) " µs" }
                    "  " (digits(stack.user)) " + " (digits(stack.system))
                }
            }
        }
    };
    rows_chart(&format!("CPU time of the server per {}", singular(unit)), stacks.len(), &scale, digits, &rows)
}

/// The frame of a chart with one row for each server.
fn rows_chart(label: &str, rows: usize, scale: &Linear, format: fn(f64) -> String, content: &Markup) -> Markup {
    let bottom = rows as f64 * ROW + 4.0;
    let height = bottom + AXIS;
    html! {
        svg viewBox=(format!("0 0 {WIDTH} {height}")) role="img" aria-label=(label) {
            @for tick in &scale.ticks {
                @let x = LEFT + PLOT * scale.place(*tick);
                path.grid d=(format!("M{x} 0V{bottom}")) {}
                text.tick x=(x) y=(bottom + 14.0) { (short(format(*tick))) }
            }
            (content)
        }
    }
}

/// A line of the latency plot.
pub(super) struct Line<'a> {
    pub(super) server: &'a str,
    pub(super) colour: usize,
    pub(super) curve: &'a [CurvePoint],
}

const LATENCY_LEFT: f64 = 70.0;
const LATENCY_RIGHT: f64 = 175.0;
const LATENCY_HEIGHT: f64 = 300.0;
const LATENCY_TOP: f64 = 8.0;
const LABEL_GAP: f64 = 15.0;
const PERCENTILES: [f64; 6] = [50.0, 90.0, 99.0, 99.9, 99.99, 99.999];

/// Latency over percentiles, both logarithmic: what most messages see is left, the rare slow ones are right.
pub(super) fn latency(lines: &[Line<'_>]) -> Markup {
    let points = || lines.iter().flat_map(|line| line.curve);
    let extreme = |pick: fn(f64, f64) -> f64, of: fn(&CurvePoint) -> f64| points().map(of).reduce(pick);
    let (Some(min), Some(max), Some(last)) = (
        extreme(f64::min, |point| point.us),
        extreme(f64::max, |point| point.us),
        extreme(f64::max, |point| point.percentile),
    ) else {
        return html! {};
    };
    let scale = Log::between(min.max(0.1), max);
    let width = WIDTH - LATENCY_LEFT - LATENCY_RIGHT;
    let x = |percentile: f64| LATENCY_LEFT + width * nines(percentile) / nines(last).max(1.0);
    let y = |us: f64| LATENCY_TOP + LATENCY_HEIGHT * (1.0 - scale.place(us.max(0.1)));
    let bottom = LATENCY_TOP + LATENCY_HEIGHT;
    let labels = line_labels(lines, y, bottom);
    html! {
        svg viewBox=(format!("0 0 {WIDTH} {}", bottom + AXIS)) role="img" aria-label="latency over percentiles" {
            @for tick in &scale.ticks {
                path.grid d=(format!("M{LATENCY_LEFT} {}H{}", y(*tick), LATENCY_LEFT + width)) {}
                text.name.tick-left x=(LATENCY_LEFT - 8.0) y=(y(*tick)) { (short(time(*tick))) }
            }
            @for percentile in PERCENTILES.into_iter().filter(|percentile| *percentile <= last) {
                path.grid d=(format!("M{} {LATENCY_TOP}V{bottom}", x(percentile))) {}
                text.tick x=(x(percentile)) y=(bottom + 16.0) { (percentile) " %" }
            }
            @for (line, label) in lines.iter().zip(labels) {
                g.series style=(colour(line.colour)) {
                    title { (line.server) }
                    path.line d=(path(line.curve, x, y)) {}
                    @if let (Some(end), Some(label)) = (line.curve.last(), label) {
                        path.leader d=(format!("M{} {}L{} {label}", x(end.percentile), y(end.us), LATENCY_LEFT + width + 12.0)) {}
                        text.label x=(LATENCY_LEFT + width + 16.0) y=(label) { (line.server) }
                    }
                }
            }
        }
    }
}

/// Where the name of each line stands: at its end, but not on another name.
fn line_labels(lines: &[Line<'_>], y: impl Fn(f64) -> f64, bottom: f64) -> Vec<Option<f64>> {
    let ends = lines.iter().enumerate().filter_map(|(at, line)| Some((at, y(line.curve.last()?.us))));
    let mut order: Vec<(usize, f64)> = ends.collect();
    order.sort_by(|(_, one), (_, other)| one.total_cmp(other));
    let mut places: Vec<f64> = order.iter().map(|(_, place)| *place).collect();
    spread_out(&mut places, LABEL_GAP, bottom);
    let mut labels = vec![None; lines.len()];
    order.iter().zip(places).for_each(|((at, _), place)| labels[*at] = Some(place));
    labels
}

fn path(curve: &[CurvePoint], x: impl Fn(f64) -> f64, y: impl Fn(f64) -> f64) -> String {
    let points = curve.iter().map(|point| format!("{:.1} {:.1}", x(point.percentile), y(point.us)));
    format!("M{}", points.collect::<Vec<_>>().join("L"))
}

fn whisker(from: f64, to: f64, middle: f64) -> String {
    let (top, bottom) = (middle - 4.0, middle + 4.0);
    format!("M{from:.1} {top}V{bottom}M{from:.1} {middle}H{to:.1}M{to:.1} {top}V{bottom}")
}

fn row_middle(at: usize) -> f64 {
    at as f64 * ROW + ROW / 2.0 + 2.0
}

/// The colour of a server, on every chart. When there are no more colours, lines are dashed.
pub(super) fn colour(number: usize) -> String {
    let dashes = if number < COLOURS { "none" } else { "7 4" };
    format!("--c:var(--s{});--dashes:{dashes}", number % COLOURS)
}

fn singular(unit: &str) -> &str {
    unit.strip_suffix('s').unwrap_or(unit)
}
