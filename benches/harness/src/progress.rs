//! What a person sees meanwhile: a bar with the remaining time, or lines where there is no terminal.

use indicatif::{HumanDuration, ProgressBar, ProgressStyle};
use std::time::Instant;

/// Progress, in measurements.
pub struct Progress {
    bar: ProgressBar,
    since: Instant,
}

impl Progress {
    /// Of `total` measurements.
    pub fn new(total: u64) -> Progress {
        let bar = ProgressBar::new(total);
        // The template is a constant; with a broken one the bar would only look different.
        let style = ProgressStyle::with_template("{elapsed_precise} [{bar:24}] {pos}/{len}, {eta} left  {wide_msg}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> "));
        Progress { bar, since: Instant::now() }
    }

    /// What is being done now. Draws; nothing is drawn while a window is open.
    pub fn now(&self, what: &str) {
        self.bar.set_message(what.to_owned());
        self.bar.tick();
    }

    /// So many more measurements are over, or will not be needed.
    pub fn done(&self, measurements: u64) {
        self.bar.inc(measurements);
    }

    /// A line that stays.
    pub fn say(&self, line: &str) {
        if self.bar.is_hidden() {
            let left = self.bar.eta().as_secs();
            let position = format!("{}/{}", self.bar.position(), self.bar.length().unwrap_or(0));
            eprintln!("[{:>5.0} s, {position}, about {left} s left] {line}", self.since.elapsed().as_secs_f64());
        } else {
            self.bar.println(line);
        }
    }

    /// The end.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
        eprintln!("measured for {}", HumanDuration(self.since.elapsed()));
    }
}
