//! A table whose entries are named by slot and generation: a name is valid until its entry is removed, and never again
//! (I6). Pure: what the entries are, is nothing to it.

#![forbid(unsafe_code)]

use crate::base::token::{ConnId, GENERATION_MASK};
use slab::Slab;

/// Entries by name. A slot's generation changes whenever it is freed.
pub struct Table<T> {
    slots: Slab<T>,
    generations: Vec<u32>,
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Table { slots: Slab::new(), generations: Vec::new() }
    }
}

impl<T> Table<T> {
    /// Adds an entry.
    pub fn insert(&mut self, entry: T) -> ConnId {
        let index = self.slots.insert(entry);
        if index == self.generations.len() {
            self.generations.push(0);
        }
        ConnId { index: index as u32, generation: self.generations[index] }
    }

    /// The entry that `id` names, unless it is gone.
    #[inline]
    pub fn get(&mut self, id: ConnId) -> Option<&mut T> {
        let index = id.index as usize;
        if self.generations.get(index) != Some(&id.generation) {
            return None;
        }
        self.slots.get_mut(index)
    }

    /// Takes an entry out; its name is never valid again.
    pub fn remove(&mut self, id: ConnId) -> Option<T> {
        self.get(id)?;
        let index = id.index as usize;
        self.generations[index] = (id.generation + 1) & GENERATION_MASK;
        self.slots.try_remove(index)
    }

    /// The names of all entries.
    pub fn ids(&self) -> Vec<ConnId> {
        let name = |(index, _)| ConnId { index: index as u32, generation: self.generations[index] };
        self.slots.iter().map(name).collect()
    }

    /// All entries.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.slots.iter().map(|(_, entry)| entry)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.slots.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_name_reaches_nobody() {
        let mut table = Table::default();
        let first = table.insert("first");
        assert_eq!(table.remove(first), Some("first"));
        let second = table.insert("second");
        assert_eq!(first.index, second.index, "the slot is used again");
        assert_eq!(table.get(first), None);
        assert_eq!(table.remove(first), None);
        assert_eq!(table.get(second), Some(&mut "second"));
    }
}
