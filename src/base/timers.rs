//! What an event loop has to run: at once, in order, and at a time. Pure.
//!
//! What is ready is run in batches: a batch is what was ready when it began, so whoever asks for more while it runs waits for
//! the next one. A timer that is cancelled stays where it is until its turn comes, or until more than half are such.

#![forbid(unsafe_code)]

use std::cmp::Ordering;
use std::collections::{BinaryHeap, VecDeque};

/// Something to run.
pub trait Task {
    /// Whether it is to be run no more.
    fn is_cancelled(&self) -> bool;

    /// It is among the timers no more.
    fn left_timers(&self) {}
}

/// So many cancelled timers are never worth looking for.
const CANCELLED_MIN: usize = 64;

struct Timer<T> {
    at: f64,
    /// Of those with the same time, who came first is first.
    nth: u64,
    task: T,
}

impl<T> Ord for Timer<T> {
    /// The earliest is the greatest: the heap has that on top.
    fn cmp(&self, other: &Self) -> Ordering {
        other.at.total_cmp(&self.at).then_with(|| other.nth.cmp(&self.nth))
    }
}

impl<T> PartialOrd for Timer<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> PartialEq for Timer<T> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl<T> Eq for Timer<T> {}

/// What there is to run.
pub struct Schedule<T> {
    ready: VecDeque<T>,
    /// What is left of the batch.
    left: usize,
    timers: BinaryHeap<Timer<T>>,
    cancelled: usize,
    nth: u64,
}

impl<T> Default for Schedule<T> {
    fn default() -> Self {
        Schedule { ready: VecDeque::new(), left: 0, timers: BinaryHeap::new(), cancelled: 0, nth: 0 }
    }
}

impl<T: Task> Schedule<T> {
    /// To be run at once, after all that is.
    #[inline]
    pub fn soon(&mut self, task: T) {
        self.ready.push_back(task);
    }

    /// To be run at `at`; never, if that is no number.
    #[inline]
    pub fn at(&mut self, at: f64, task: T) {
        self.nth += 1;
        let at = if at.is_nan() { f64::INFINITY } else { at };
        self.timers.push(Timer { at, nth: self.nth, task });
    }

    /// One of the timers has been cancelled. Answers those that are thrown away now.
    #[inline]
    pub fn cancelled(&mut self) -> Vec<T> {
        self.cancelled += 1;
        if self.cancelled <= CANCELLED_MIN || self.cancelled * 2 <= self.timers.len() {
            return Vec::new();
        }
        self.cancelled = 0;
        let timers = std::mem::take(&mut self.timers).into_vec();
        let (dead, alive): (Vec<_>, Vec<_>) = timers.into_iter().partition(|timer| timer.task.is_cancelled());
        self.timers = BinaryHeap::from(alive);
        dead.into_iter().map(|timer| timer.task).inspect(Task::left_timers).collect()
    }

    /// Makes ready what is due by `now`, in the order of its times; what is cancelled, too. `late` is told by how much each
    /// of the others is late.
    pub fn make_due_ready(&mut self, now: f64, mut late: impl FnMut(f64)) {
        while self.timers.peek().is_some_and(|timer| timer.at <= now) {
            if let Some(timer) = self.timers.pop() {
                if timer.task.is_cancelled() {
                    self.cancelled = self.cancelled.saturating_sub(1);
                } else {
                    late(now - timer.at);
                }
                timer.task.left_timers();
                self.ready.push_back(timer.task);
            }
        }
    }

    /// When the next timer is due that is not cancelled. Those before it are put into `dead`.
    pub fn next_at(&mut self, dead: &mut Vec<T>) -> Option<f64> {
        while self.timers.peek().is_some_and(|timer| timer.task.is_cancelled()) {
            self.cancelled = self.cancelled.saturating_sub(1);
            dead.extend(self.timers.pop().map(|timer| timer.task).inspect(Task::left_timers));
        }
        self.timers.peek().map(|timer| timer.at)
    }

    /// Begins a batch, unless one is under way. Answers whether there is anything in it.
    #[inline]
    pub fn begin_batch(&mut self) -> bool {
        if self.left == 0 {
            self.left = self.ready.len();
        }
        self.left > 0
    }

    /// Takes the next of the batch.
    #[inline]
    pub fn take(&mut self) -> Option<T> {
        if self.left == 0 {
            return None;
        }
        self.left -= 1;
        self.ready.pop_front()
    }

    /// How many are ready.
    pub fn ready(&self) -> usize {
        self.ready.len()
    }

    /// How many timers there are, cancelled ones included.
    pub fn timers(&self) -> usize {
        self.timers.len()
    }

    /// How many timers are to be run some time.
    pub fn pending(&self) -> usize {
        self.timers.len().saturating_sub(self.cancelled)
    }

    /// What is ready, in order.
    pub fn iter_ready(&self) -> impl Iterator<Item = &T> {
        self.ready.iter()
    }

    /// The timers, in no order.
    pub fn iter_timers(&self) -> impl Iterator<Item = &T> {
        self.timers.iter().map(|timer| &timer.task)
    }

    /// Takes everything out, in no order.
    pub fn clear(&mut self) -> Vec<T> {
        let Schedule { ready, timers, .. } = std::mem::take(self);
        ready.into_iter().chain(timers.into_iter().map(|timer| timer.task)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::cell::Cell;
    use std::rc::Rc;

    #[derive(Clone, Debug)]
    struct Named(usize, Rc<Cell<bool>>);

    impl Task for Named {
        fn is_cancelled(&self) -> bool {
            self.1.get()
        }
    }

    #[derive(Clone, Debug)]
    enum Step {
        Soon,
        At(u8),
        Cancel(prop::sample::Index),
        Due(u8),
        Next,
        Run(u8),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            2 => Just(Step::Soon),
            6 => (0u8..40).prop_map(Step::At),
            4 => any::<prop::sample::Index>().prop_map(Step::Cancel),
            1 => (0u8..40).prop_map(Step::Due),
            1 => Just(Step::Next),
            1 => (0u8..5).prop_map(Step::Run),
        ]
    }

    #[test]
    fn what_is_due_at_no_time_keeps_nobody_waiting() {
        let mut schedule = Schedule::default();
        for (name, at) in [-f64::NAN, f64::NAN, 1.0].into_iter().enumerate() {
            schedule.at(at, Named(name, Rc::default()));
        }
        assert_eq!(schedule.next_at(&mut Vec::new()), Some(1.0));
        let mut late = Vec::new();
        schedule.make_due_ready(2.0, |by| late.push(by));
        assert_eq!(late, [1.0]);
        assert_eq!((schedule.ready(), schedule.timers()), (1, 2));
        schedule.make_due_ready(2.0, |_| ());
        assert_eq!(schedule.next_at(&mut Vec::new()), Some(f64::INFINITY));
    }

    proptest! {
        /// The model keeps a list of timers that is sorted each time, and two queues: of the batch, and of what came later.
        #[test]
        fn everybody_runs_once_in_order_and_never_early(steps in prop::collection::vec(step(), 1..600)) {
            let mut schedule = Schedule::default();
            let mut all: Vec<Named> = Vec::new();
            let mut timers: Vec<(u8, usize)> = Vec::new();
            let (mut batch, mut later) = (VecDeque::new(), VecDeque::new());
            for step in steps {
                match step {
                    Step::Soon | Step::At(_) => {
                        let task = Named(all.len(), Rc::default());
                        all.push(task.clone());
                        if let Step::At(at) = step {
                            timers.push((at, task.0));
                            schedule.at(f64::from(at), task);
                        } else {
                            later.push_back(task.0);
                            schedule.soon(task);
                        }
                    }
                    Step::Cancel(index) if !timers.is_empty() => {
                        let (_, name) = *index.get(&timers);
                        if !all[name].1.replace(true) {
                            for dead in schedule.cancelled() {
                                prop_assert!(dead.is_cancelled());
                                timers.retain(|(_, name)| *name != dead.0);
                            }
                        }
                    }
                    Step::Due(now) => {
                        timers.sort();
                        let due = timers.iter().take_while(|(at, _)| *at <= now).count();
                        later.extend(timers.drain(..due).map(|(_, name)| name));
                        schedule.make_due_ready(f64::from(now), |by| assert!(by >= 0.0));
                    }
                    Step::Next => {
                        let mut dead = Vec::new();
                        let next = schedule.next_at(&mut dead);
                        for dead in dead {
                            prop_assert!(dead.is_cancelled());
                            timers.retain(|(_, name)| *name != dead.0);
                        }
                        let alive = timers.iter().filter(|(_, name)| !all[*name].is_cancelled());
                        prop_assert_eq!(next, alive.map(|(at, _)| f64::from(*at)).min_by(f64::total_cmp));
                    }
                    Step::Run(count) => {
                        if batch.is_empty() {
                            batch = std::mem::take(&mut later);
                        }
                        prop_assert_eq!(schedule.begin_batch(), !batch.is_empty());
                        for _ in 0..count {
                            prop_assert_eq!(schedule.take().map(|task| task.0), batch.pop_front());
                        }
                    }
                    Step::Cancel(_) => {}
                }
                prop_assert_eq!(schedule.ready(), batch.len() + later.len());
                prop_assert_eq!(schedule.timers(), timers.len());
                let cancelled = timers.iter().filter(|(_, name)| all[*name].is_cancelled()).count();
                prop_assert_eq!(schedule.cancelled, cancelled);
                prop_assert_eq!(schedule.pending(), timers.len() - cancelled);
                prop_assert!(cancelled <= CANCELLED_MIN.max(timers.len() / 2 + 1));
            }
        }
    }
}
