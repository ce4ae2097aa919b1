//! Times what is repeated: says the median of many samples, and between which bounds four fifths of them lie.
//!
//! Two runs do not compare, since the machine is another one each time: what is to be compared runs in turns.

use std::hint::black_box;
use std::time::{Duration, Instant};

const SAMPLES: usize = 100;
/// Long enough that reading the clock is nothing.
const SAMPLE: Duration = Duration::from_millis(20);

/// What the command line asks for: cases whose names contain one of the words, all without any; each once with `--test`.
pub struct Bench {
    words: Vec<String>,
    once: bool,
}

impl Bench {
    pub fn of_arguments() -> Self {
        let (options, words) = std::env::args().skip(1).partition::<Vec<_>, _>(|argument| argument.starts_with("--"));
        Bench { words, once: options.iter().any(|option| option == "--test") }
    }

    pub fn group(&self, name: &'static str) -> Group<'_> {
        Group { bench: self, name, elements: 1 }
    }
}

/// Cases of one part.
pub struct Group<'a> {
    bench: &'a Bench,
    name: &'static str,
    elements: u64,
}

impl Group<'_> {
    /// A turn of the cases that follow is that many of what counts.
    pub fn elements(&mut self, elements: u64) {
        self.elements = elements;
    }

    /// `run` says how long that many turns took.
    pub fn case(&self, name: &str, mut run: impl FnMut(u64) -> Duration) {
        let name = format!("{}/{name}", self.name);
        let Bench { words, once } = self.bench;
        if !words.is_empty() && !words.iter().any(|word| name.contains(word.as_str())) {
            return;
        }
        if *once {
            run(1);
            println!("{name}: works");
            return;
        }
        let mut turns = 1;
        while run(turns) < SAMPLE {
            turns *= 2;
        }
        let count = (turns * self.elements) as f64;
        let mut samples: Vec<f64> = (0..SAMPLES).map(|_| run(turns).as_nanos() as f64 / count).collect();
        samples.sort_by(f64::total_cmp);
        let at = |percent: usize| samples[SAMPLES * percent / 100];
        println!("{name}: {:.1} ns ({:.1} to {:.1})", at(50), at(10), at(90));
    }
}

/// Times turns one after the other.
pub fn each<R>(mut turn: impl FnMut() -> R) -> impl FnMut(u64) -> Duration {
    move |turns| {
        let began = Instant::now();
        for _ in 0..turns {
            black_box(turn());
        }
        began.elapsed()
    }
}

/// Times turns each of which has something new of its own, which is made beforehand for so many at a time.
pub fn each_with<T, R>(mut make: impl FnMut() -> T, mut turn: impl FnMut(&mut T) -> R) -> impl FnMut(u64) -> Duration {
    const AT_A_TIME: u64 = 1000;
    move |turns| {
        let mut time = Duration::ZERO;
        for done in (0..turns).step_by(AT_A_TIME as usize) {
            let mut made: Vec<T> = (0..AT_A_TIME.min(turns - done)).map(|_| make()).collect();
            let began = Instant::now();
            for one in &mut made {
                black_box(turn(one));
            }
            time += began.elapsed();
        }
        time
    }
}
