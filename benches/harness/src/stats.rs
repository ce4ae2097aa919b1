//! What several rounds say together.

use serde::{Deserialize, Serialize};

/// Median and range over the rounds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// The middle one; between the two middle ones if there is an even number.
    pub median: f64,
    /// The smallest.
    pub min: f64,
    /// The largest.
    pub max: f64,
}

impl Spread {
    /// Of all values; nothing of none.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Spread> {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let (min, max) = (*values.first()?, *values.last()?);
        let (low, high) = (values[(values.len() - 1) / 2], values[values.len() / 2]);
        Some(Spread { median: f64::midpoint(low, high), min, max })
    }

    /// Of the values that are there.
    pub fn of_some(values: impl IntoIterator<Item = Option<f64>>) -> Option<Spread> {
        Spread::of(values.into_iter().flatten())
    }
}

/// How many times the baseline, round by round: what slowed a whole round down cancels out.
pub fn ratio(values: &[f64], baseline: &[f64]) -> Option<Spread> {
    let pairs = values.iter().zip(baseline).filter(|(_, baseline)| **baseline > 0.0);
    Spread::of(pairs.map(|(value, baseline)| value / baseline))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_of_odd_and_even() {
        assert_eq!(Spread::of([3.0, 1.0, 2.0]), Some(Spread { median: 2.0, min: 1.0, max: 3.0 }));
        assert_eq!(Spread::of([4.0, 1.0, 2.0, 3.0]), Some(Spread { median: 2.5, min: 1.0, max: 4.0 }));
        assert_eq!(Spread::of([7.0]), Some(Spread { median: 7.0, min: 7.0, max: 7.0 }));
        assert_eq!(Spread::of([]), None);
    }

    #[test]
    fn missing_values_are_left_out() {
        assert_eq!(Spread::of_some([None, Some(2.0), None]).unwrap().median, 2.0);
        assert_eq!(Spread::of_some([None, None]), None);
    }

    #[test]
    fn a_slow_round_cancels_out() {
        let spread = ratio(&[200.0, 20.0, 200.0], &[100.0, 10.0, 100.0]).unwrap();
        assert_eq!(spread, Spread { median: 2.0, min: 2.0, max: 2.0 });
    }

    #[test]
    fn a_round_without_baseline_has_no_ratio() {
        assert_eq!(ratio(&[1.0, 2.0], &[1.0]).unwrap().median, 1.0);
        assert_eq!(ratio(&[1.0], &[0.0]), None);
    }
}
