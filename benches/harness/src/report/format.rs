//! Numbers for people: three digits, the unit that fits.

use crate::machine::Machine;
use crate::results::Settings;
use crate::stats::Spread;

/// Three significant digits.
pub(super) fn digits(value: f64) -> String {
    match value.abs() {
        0.0 => String::from("0"),
        size if size >= 99.95 => format!("{value:.0}"),
        size if size >= 9.995 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// A figure on an axis: as short as it can be.
pub(super) fn tick(text: String) -> String {
    let (figure, unit) = text.split_once(' ').unwrap_or((&text, ""));
    let short = if figure.contains('.') { figure.trim_end_matches('0').trim_end_matches('.') } else { figure };
    format!("{short} {unit}").trim_end().to_owned()
}

/// A rate: `98.4 k`, `1.23 M`.
pub(super) fn count(value: f64) -> String {
    match value.abs() {
        size if size >= 999_500.0 => format!("{} M", digits(value / 1e6)),
        size if size >= 9_995.0 => format!("{} k", digits(value / 1e3)),
        _ => format!("{value:.0}"),
    }
}

/// A time that is given in microseconds.
pub(super) fn time(us: f64) -> String {
    match us {
        us if us >= 999_500.0 => format!("{} s", digits(us / 1e6)),
        us if us >= 999.5 => format!("{} ms", digits(us / 1e3)),
        us => format!("{} µs", digits(us)),
    }
}

/// `2.31×`
pub(super) fn ratio(value: f64) -> String {
    format!("{}×", digits(value))
}

/// Bytes.
pub(super) fn bytes(value: f64) -> String {
    match value {
        value if value >= 1024.0 * 1024.0 * 1024.0 => format!("{} GiB", digits(value / 1024.0 / 1024.0 / 1024.0)),
        value if value >= 1024.0 * 1024.0 => format!("{} MiB", digits(value / 1024.0 / 1024.0)),
        value if value >= 1024.0 => format!("{} KiB", digits(value / 1024.0)),
        value => format!("{value:.0} B"),
    }
}

/// The range of a spread; nothing where it is a single value.
pub(super) fn range(spread: &Spread, format: fn(f64) -> String) -> String {
    if spread.min == spread.max { String::new() } else { format!("{}–{}", format(spread.min), format(spread.max)) }
}

/// The median, or a dash.
pub(super) fn median(spread: Option<&Spread>, format: fn(f64) -> String) -> String {
    spread.map_or_else(|| String::from("–"), |spread| format(spread.median))
}

/// One line about the machine.
pub(super) fn machine(machine: &Machine) -> String {
    let kind = if machine.virtual_machine { ", a virtual machine" } else { "" };
    let governor = machine.governor.as_ref().map(|governor| format!(", governor {governor}")).unwrap_or_default();
    let tcp = machine.tcp_congestion_control.as_ref().map(|name| format!(", TCP {name}")).unwrap_or_default();
    format!(
        "{} CPUs, {}{kind}{governor}, {} of memory, {}{tcp}",
        machine.cpus,
        machine.cpu,
        bytes(machine.memory_bytes as f64),
        machine.kernel
    )
}

/// One line about the method.
pub(super) fn settings(settings: &Settings) -> String {
    let seconds = match settings.seconds {
        Some(seconds) => format!("of {} s", digits(seconds)),
        None => String::from("as long as two minutes allow"),
    };
    let pinned = if settings.pinned {
        "a CPU for the load generator alone where the servers keep one for each context"
    } else {
        "load generator and servers on any CPU"
    };
    format!("{} rounds {seconds}, interleaved; medians; {pinned}; baseline {}", settings.rounds, settings.baseline)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_digits_and_a_unit() {
        assert_eq!([1.2345, 12.345, 123.45, 0.0, 9.999].map(digits), ["1.23", "12.3", "123", "0", "10.0"]);
        assert_eq!(
            [950.0, 9_994.0, 98_432.0, 999_499.0, 999_500.0].map(count),
            ["950", "9994", "98.4 k", "999 k", "1.00 M"]
        );
        assert_eq!([0.5, 999.4, 12_300.0, 2_500_000.0].map(time), ["0.50 µs", "999 µs", "12.3 ms", "2.50 s"]);
        assert_eq!([100.0, 2048.0, 3.0 * 1048576.0].map(bytes), ["100 B", "2.00 KiB", "3.00 MiB"]);
    }

    #[test]
    fn ticks_are_short() {
        let ticks = ["20.0 k", "1.00 ms", "0", "100 µs", "0.50"].map(|text| tick(text.into()));
        assert_eq!(ticks, ["20 k", "1 ms", "0", "100 µs", "0.5"]);
    }

    #[test]
    fn ranges_and_gaps() {
        assert_eq!(range(&Spread { median: 2.0, min: 1.0, max: 3.0 }, digits), "1.00–3.00");
        assert_eq!(range(&Spread { median: 2.0, min: 2.0, max: 2.0 }, digits), "");
        assert_eq!(median(None, digits), "–");
    }
}
