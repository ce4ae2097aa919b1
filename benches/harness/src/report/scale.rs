//! From figures to places in a chart, and where the ticks are.

/// A linear scale from 0.
pub(super) struct Linear {
    max: f64,
    /// The ticks, 0 included.
    pub(super) ticks: Vec<f64>,
}

impl Linear {
    /// Up to the first round number that is not below `max`.
    pub(super) fn to(max: f64) -> Linear {
        let step = step(max / 5.0);
        let count = (max / step).ceil().max(1.0);
        Linear { max: count * step, ticks: (0..=count as u32).map(|tick| f64::from(tick) * step).collect() }
    }

    /// From 0 to 1.
    pub(super) fn place(&self, value: f64) -> f64 {
        value / self.max
    }
}

/// 1, 2 or 5 times a power of ten, not below `value`.
fn step(value: f64) -> f64 {
    let power = 10_f64.powf(value.max(1e-9).log10().floor());
    [1.0, 2.0, 5.0, 10.0].map(|factor| factor * power).into_iter().find(|step| *step >= value * 0.999).unwrap_or(power)
}

/// A logarithmic scale.
pub(super) struct Log {
    low: f64,
    high: f64,
    /// The ticks: 1, 2 and 5 times powers of ten, or powers of ten alone if that would be many.
    pub(super) ticks: Vec<f64>,
}

impl Log {
    /// For values from `min` to `max`.
    pub(super) fn between(min: f64, max: f64) -> Log {
        let (low, high) = ((min * 0.9).log10(), (max * 1.1).log10());
        let factors: &[f64] = if high - low > 3.0 { &[1.0] } else { &[1.0, 2.0, 5.0] };
        let powers = low.floor() as i32..=high.ceil() as i32;
        let ticks = powers.flat_map(|power| factors.iter().map(move |factor| factor * 10_f64.powi(power)));
        let inside = |tick: &f64| (low..=high).contains(&tick.log10());
        Log { low, high, ticks: ticks.filter(inside).collect() }
    }

    /// From 0 to 1.
    pub(super) fn place(&self, value: f64) -> f64 {
        (value.log10() - self.low) / (self.high - self.low)
    }
}

/// Percentiles, stretched so that 90, 99, 99.9, ... are as far apart as 0 and 90.
pub(super) fn nines(percentile: f64) -> f64 {
    -(1.0 - percentile / 100.0).log10()
}

/// Moves places apart until each is `gap` behind the one before, and none lies beyond `end`. Keeps their order.
pub(super) fn spread_out(places: &mut [f64], gap: f64, end: f64) {
    for at in 1..places.len() {
        places[at] = places[at].max(places[at - 1] + gap);
    }
    let mut limit = end;
    for place in places.iter_mut().rev() {
        *place = place.min(limit);
        limit = *place - gap;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn linear_ticks_are_round() {
        let scale = Linear::to(98_000.0);
        assert_eq!(scale.ticks, [0.0, 20_000.0, 40_000.0, 60_000.0, 80_000.0, 100_000.0]);
        assert_eq!(scale.place(50_000.0), 0.5);
        assert_eq!(Linear::to(0.0).ticks.len(), 2);
    }

    #[test]
    fn log_ticks_lie_inside() {
        let scale = Log::between(30.0, 3000.0);
        assert_eq!(scale.ticks, [50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0]);
        assert!(scale.place(30.0) > 0.0 && scale.place(3000.0) < 1.0);
        assert_eq!(Log::between(10.0, 1e6).ticks.len(), 6);
    }

    #[test]
    fn each_nine_is_as_far_again() {
        assert!((nines(99.0) - 2.0 * nines(90.0)).abs() < 1e-9);
        assert!((nines(99.9) - 3.0 * nines(90.0)).abs() < 1e-9);
    }

    #[test]
    fn labels_keep_their_distance_and_their_order() {
        let mut places = [10.0, 11.0, 12.0, 95.0, 99.0];
        spread_out(&mut places, 10.0, 100.0);
        assert_eq!(places, [10.0, 20.0, 30.0, 90.0, 100.0]);
    }
}
