//! Latencies: a histogram of fixed size, percentiles, and the curve of a plot.

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use std::time::Duration;

const LOWEST_NS: u64 = 100;
const HIGHEST_NS: u64 = 100_000_000_000;
const DIGITS: u8 = 3;

/// With fewer samples the last percentile would be the opinion of a single one.
const SAMPLES_BEHIND_P999: u64 = 10;

/// The percentiles of the curve: what lies between them is a straight line to the eye.
const CURVE: [f64; 19] = [
    0.0, 10.0, 25.0, 50.0, 60.0, 70.0, 80.0, 90.0, 95.0, 97.5, 99.0, 99.5, 99.75, 99.9, 99.95, 99.99, 99.995, 99.999,
    99.9999,
];

/// Latencies of messages, to three digits.
#[derive(Clone)]
pub struct Latencies {
    histogram: Histogram<u64>,
}

/// Latencies in microseconds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Percentiles {
    /// The median.
    pub p50: f64,
    /// One message in a hundred took longer.
    pub p99: f64,
    /// One message in a thousand took longer; nothing if there were too few messages to tell.
    pub p999: Option<f64>,
    /// The slowest.
    pub max: f64,
    /// How many were measured.
    pub samples: u64,
}

/// A point of the plot: so many percent of the messages took at most so many microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct CurvePoint {
    /// From 0 to below 100.
    pub percentile: f64,
    /// Microseconds.
    pub us: f64,
}

impl Default for Latencies {
    fn default() -> Self {
        // The bounds are constants that the histogram accepts; the tests would not start otherwise.
        let histogram = Histogram::new_with_bounds(LOWEST_NS, HIGHEST_NS, DIGITS);
        Latencies { histogram: histogram.unwrap_or_else(|error| unreachable!("bounds of the histogram: {error}")) }
    }
}

impl Latencies {
    /// One message.
    #[inline]
    pub fn record(&mut self, latency: Duration) {
        self.histogram.saturating_record(latency.as_nanos() as u64);
    }

    /// What another round measured, too.
    pub fn add(&mut self, other: &Latencies) {
        self.histogram += &other.histogram;
    }

    /// How many there are.
    pub fn samples(&self) -> u64 {
        self.histogram.len()
    }

    /// What the tables show; nothing if nothing was measured.
    pub fn percentiles(&self) -> Option<Percentiles> {
        let samples = self.samples();
        (samples > 0).then(|| Percentiles {
            p50: self.at(50.0),
            p99: self.at(99.0),
            p999: (samples >= 1000 * SAMPLES_BEHIND_P999).then(|| self.at(99.9)),
            max: self.histogram.max() as f64 / 1e3,
            samples,
        })
    }

    /// What the plot shows, as far as there are samples behind it.
    pub fn curve(&self) -> Vec<CurvePoint> {
        // One sample behind it, give or take how floating point rounds.
        let enough = |percentile: &f64| self.samples() as f64 * (100.0 - percentile) > 99.999;
        CURVE.into_iter().filter(enough).map(|percentile| CurvePoint { percentile, us: self.at(percentile) }).collect()
    }

    fn at(&self, percentile: f64) -> f64 {
        self.histogram.value_at_percentile(percentile) as f64 / 1e3
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(samples: u64) -> Latencies {
        let mut latencies = Latencies::default();
        (1..=samples).for_each(|n| latencies.record(Duration::from_micros(n)));
        latencies
    }

    fn close(value: f64, expected: f64) -> bool {
        (value / expected - 1.0).abs() < 0.002
    }

    #[test]
    fn percentiles_of_a_known_distribution() {
        let percentiles = filled(100_000).percentiles().unwrap();
        assert!(close(percentiles.p50, 50_000.0), "{percentiles:?}");
        assert!(close(percentiles.p99, 99_000.0), "{percentiles:?}");
        assert!(close(percentiles.p999.unwrap(), 99_900.0), "{percentiles:?}");
        assert!(close(percentiles.max, 100_000.0), "{percentiles:?}");
        assert_eq!(percentiles.samples, 100_000);
    }

    #[test]
    fn few_samples_have_no_last_percentile() {
        assert_eq!(filled(9_999).percentiles().unwrap().p999, None);
        assert!(filled(10_000).percentiles().unwrap().p999.is_some());
        assert_eq!(Latencies::default().percentiles(), None);
    }

    #[test]
    fn the_curve_rises_and_ends_where_the_samples_end() {
        let curve = filled(1000).curve();
        assert!(curve.windows(2).all(|pair| pair[0].us <= pair[1].us && pair[0].percentile < pair[1].percentile));
        assert_eq!(curve.last().unwrap().percentile, 99.9);
        assert_eq!(Latencies::default().curve(), []);
    }

    #[test]
    fn rounds_add_up_and_outliers_do_not_break_it() {
        let mut all = filled(10);
        all.add(&filled(10));
        all.record(Duration::from_secs(1_000_000));
        assert_eq!(all.samples(), 21);
        assert!(all.percentiles().unwrap().max > 99e6);
    }
}
