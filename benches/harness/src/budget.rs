//! How long each measurement may take.

use crate::load::Window;
use std::time::{Duration, Instant};

/// `--quick` ends within this.
pub const QUICK: Duration = Duration::from_secs(120);
/// Of `QUICK`, for what comes behind the last measurement.
const QUICK_RESERVE: Duration = Duration::from_secs(4);
/// What a measurement takes besides its window, before the first has told.
const FIRST_GUESS: Duration = Duration::from_millis(200);
/// The part of the window that the warm-up before it takes.
const WARM_UP_PART: f64 = 0.2;
const WINDOW_MIN: Duration = Duration::from_millis(100);
const WINDOW_MAX: Duration = Duration::from_secs(2);

/// The time of a run.
pub enum Budget {
    /// Windows of this length.
    Fixed(Duration),
    /// Windows as long as the time allows.
    Until {
        /// When the last one must be over.
        deadline: Instant,
        /// What a measurement has taken besides its window.
        besides: Duration,
        /// What it has taken from one case to the next, to stop and to start servers.
        between: Duration,
    },
}

impl Budget {
    /// The time of `--quick` begins now.
    pub fn quick() -> Budget {
        let deadline = Instant::now() + QUICK - QUICK_RESERVE;
        Budget::Until { deadline, besides: FIRST_GUESS, between: Duration::ZERO }
    }

    /// The window of each of `measurements`, when `cases_behind` more cases of the same size will follow.
    pub fn window(&self, now: Instant, measurements: usize, cases_behind: usize) -> Window {
        let length = match self {
            Budget::Fixed(length) => *length,
            Budget::Until { deadline, besides, between } => {
                let left = deadline.saturating_duration_since(now).saturating_sub(*between * cases_behind as u32);
                let each = left / (measurements.max(1) * (cases_behind + 1)) as u32;
                let length = each.saturating_sub(*besides).div_f64(1.0 + WARM_UP_PART);
                length.clamp(WINDOW_MIN, WINDOW_MAX)
            }
        };
        Window { warm_up: length.mul_f64(WARM_UP_PART).min(Duration::from_secs(1)), length }
    }

    /// A measurement with this window took so long.
    pub fn measured(&mut self, window: Window, took: Duration) {
        if let Budget::Until { besides, .. } = self {
            let now = took.saturating_sub(window.warm_up + window.length);
            *besides = (*besides * 3 + now) / 4;
        }
    }

    /// From one case to the next it took so long.
    pub fn between_cases(&mut self, took: Duration) {
        if let Budget::Until { between, .. } = self {
            *between = took;
        }
    }

    /// Whether what is left undone should stay so.
    pub fn is_over(&self, now: Instant) -> bool {
        matches!(self, Budget::Until { deadline, .. } if now >= *deadline)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fixed_window_stays() {
        let window = Budget::Fixed(Duration::from_secs(3)).window(Instant::now(), 1000, 1000);
        assert_eq!((window.length, window.warm_up), (Duration::from_secs(3), Duration::from_millis(600)));
    }

    #[test]
    fn quick_ends_in_time_with_windows_alike_whatever_there_is_to_measure() {
        let ms = Duration::from_millis;
        let cases = 5;
        for (measurements, overhead, start) in
            [(30, ms(150), ms(3000)), (6, ms(40), ms(500)), (30, ms(90), ms(9000)), (30, ms(400), ms(1000))]
        {
            let begin = Instant::now();
            let (mut now, mut lengths) = (begin, Vec::new());
            let mut budget = Budget::Until {
                deadline: begin + QUICK - QUICK_RESERVE,
                besides: FIRST_GUESS,
                between: Duration::ZERO,
            };
            for case in 0..cases {
                now += start;
                budget.between_cases(start);
                let window = budget.window(now, measurements, cases - case - 1);
                lengths.push(window.length);
                for _ in 0..measurements {
                    let took = window.warm_up + window.length + overhead;
                    budget.measured(window, took);
                    now += took;
                }
            }
            let took = now - begin;
            assert!(took < QUICK, "{measurements}, {overhead:?}, {start:?}: {took:?}");
            assert!(lengths.iter().all(|length| *length >= WINDOW_MIN));
            // The first cannot know what the others will have learned.
            assert!(
                lengths[1..].iter().max().unwrap().div_f64(1.2) < *lengths[1..].iter().min().unwrap(),
                "{lengths:?}"
            );
        }
    }

    #[test]
    fn too_slow_a_machine_runs_out_of_time() {
        let now = Instant::now();
        assert!(!Budget::quick().is_over(now));
        assert!(Budget::quick().is_over(now + QUICK));
        assert!(!Budget::Fixed(Duration::from_secs(1)).is_over(now + QUICK * 100));
    }
}
