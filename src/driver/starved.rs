//! Receives that wait for a buffer (B4): first come, first fed. Pure.

#![forbid(unsafe_code)]

use crate::base::token::ConnId;
use std::collections::BTreeMap;

/// A place in the queue.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Place(u64);

/// The queue.
#[derive(Default)]
pub struct Starved {
    waiting: BTreeMap<Place, ConnId>,
    last: u64,
}

impl Starved {
    /// Queues `id`, at its `old` place if it was fed and got nothing.
    pub fn join(&mut self, id: ConnId, old: Option<Place>) -> Place {
        let place = old.unwrap_or_else(|| {
            self.last += 1;
            Place(self.last)
        });
        self.waiting.insert(place, id);
        place
    }

    /// Takes out whoever has this place.
    pub fn leave(&mut self, place: Place) {
        self.waiting.remove(&place);
    }

    /// Takes out whoever waits longest.
    pub fn next(&mut self) -> Option<(Place, ConnId)> {
        self.waiting.pop_first()
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(index: u32) -> ConnId {
        ConnId { index, generation: 0 }
    }

    #[test]
    fn who_was_fed_and_got_nothing_keeps_its_place() {
        let mut starved = Starved::default();
        let places = [0, 1, 2].map(|index| starved.join(id(index), None));
        starved.leave(places[1]);
        assert_eq!(starved.next(), Some((places[0], id(0))));
        starved.join(id(0), Some(places[0]));
        starved.join(id(1), None);
        let order: Vec<_> = std::iter::from_fn(|| starved.next()).map(|(_, id)| id.index).collect();
        assert_eq!(order, [0, 2, 1]);
        assert!(starved.is_empty());
    }
}
