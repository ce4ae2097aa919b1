//! What is due when. Whoever has a deadline has one entry, at its earliest; one that turns out to be early is put back. So
//! what moves costs nothing while it moves. Pure.

#![forbid(unsafe_code)]

use crate::base::numbers::NumberMap;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::hash::Hash;
use std::time::Instant;

/// The queue of deadlines, by who has them.
pub struct Deadlines<K> {
    /// Who is due when. Connections are many, and the times at which they are looked at few: those of one time stand in any order.
    queue: BTreeMap<Instant, Vec<K>>,
    /// When somebody is due, and their place among those who are due then.
    entries: NumberMap<K, (Instant, usize)>,
}

impl<K> Default for Deadlines<K> {
    fn default() -> Self {
        Deadlines { queue: BTreeMap::new(), entries: NumberMap::default() }
    }
}

impl<K: Copy + Eq + Hash> Deadlines<K> {
    /// `key` is due at `at`, or earlier if it was before.
    pub fn ask(&mut self, key: K, at: Instant) {
        if self.entries.get(&key).is_some_and(|(before, _)| *before <= at) {
            return;
        }
        self.forget(key);
        let due = self.queue.entry(at).or_default();
        self.entries.insert(key, (at, due.len()));
        due.push(key);
    }

    /// `key` is not due any more.
    pub fn forget(&mut self, key: K) {
        if let Some((at, place)) = self.entries.remove(&key)
            && let Entry::Occupied(mut due) = self.queue.entry(at)
        {
            due.get_mut().swap_remove(place);
            match due.get().get(place) {
                Some(moved) => _ = self.entries.insert(*moved, (at, place)),
                None if due.get().is_empty() => _ = due.remove(),
                None => {}
            }
        }
    }

    /// When somebody is due next.
    pub fn next(&self) -> Option<Instant> {
        self.queue.first_key_value().map(|(at, _)| *at)
    }

    /// Takes who has been due longest, if anybody is by `now`.
    pub fn pop(&mut self, now: Instant) -> Option<K> {
        let (_, due) = self.queue.first_key_value().filter(|(at, _)| **at <= now)?;
        let key = *due.last()?;
        self.forget(key);
        Some(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::Duration;

    #[derive(Clone, Debug)]
    enum Step {
        Ask(u8, u8),
        Forget(u8),
        Pop(u8),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0u8..6, any::<u8>()).prop_map(|(key, at)| Step::Ask(key, at)),
            1 => (0u8..6).prop_map(Step::Forget),
            3 => any::<u8>().prop_map(Step::Pop),
        ]
    }

    proptest! {
        /// The model is a list that is searched.
        #[test]
        fn everybody_is_due_once_at_the_earliest(steps in prop::collection::vec(step(), 1..80)) {
            let start = Instant::now();
            let after = |millis: u8| start + Duration::from_millis(u64::from(millis));
            let mut deadlines = Deadlines::default();
            let mut model: Vec<(Instant, u8)> = Vec::new();
            for step in steps {
                match step {
                    Step::Ask(key, at) => {
                        deadlines.ask(key, after(at));
                        let before = model.iter().position(|(_, other)| *other == key).map(|place| model.remove(place));
                        model.push((before.map_or(after(at), |(before, _)| before.min(after(at))), key));
                    }
                    Step::Forget(key) => {
                        deadlines.forget(key);
                        model.retain(|(_, other)| *other != key);
                    }
                    Step::Pop(now) => {
                        let due = model.iter().map(|(at, _)| *at).min().filter(|at| *at <= after(now));
                        let popped = deadlines.pop(after(now));
                        let place = model.iter().position(|(at, key)| Some(*at) == due && Some(*key) == popped);
                        prop_assert_eq!(place.is_some(), due.is_some());
                        prop_assert_eq!(popped.is_some(), due.is_some());
                        place.map(|place| model.remove(place));
                    }
                }
                prop_assert_eq!(deadlines.next(), model.iter().map(|(at, _)| *at).min());
                prop_assert_eq!(deadlines.queue.values().map(Vec::len).sum::<usize>(), deadlines.entries.len());
                prop_assert!(deadlines.queue.values().all(|due| !due.is_empty()));
            }
        }
    }
}
