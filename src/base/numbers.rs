//! Maps by numbers that nobody outside chooses: of descriptors, connections, inodes. One multiplication is hash enough for them.

#![forbid(unsafe_code)]

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};

/// A map by such numbers.
pub type NumberMap<K, V> = HashMap<K, V, BuildHasherDefault<NumberHasher>>;

/// A set of such numbers.
pub type NumberSet<K> = HashSet<K, BuildHasherDefault<NumberHasher>>;

/// Any odd number whose bits are mixed: 2^64 divided by the golden ratio.
const FACTOR: u64 = 0x9E37_79B9_7F4A_7C15;

/// Mixes numbers.
#[derive(Clone, Copy, Default)]
pub struct NumberHasher(u64);

impl NumberHasher {
    #[inline]
    fn mix(&mut self, number: u64) {
        self.0 = (self.0.rotate_left(5) ^ number).wrapping_mul(FACTOR);
    }
}

impl Hasher for NumberHasher {
    #[inline]
    fn finish(&self) -> u64 {
        // Maps look at both ends, and a product mixes its upper half only.
        self.0 ^ (self.0 >> 32)
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.mix(u64::from(*byte)));
    }

    #[inline]
    fn write_u8(&mut self, number: u8) {
        self.mix(u64::from(number));
    }

    #[inline]
    fn write_i32(&mut self, number: i32) {
        self.mix(u64::from(number.cast_unsigned()));
    }

    #[inline]
    fn write_u32(&mut self, number: u32) {
        self.mix(u64::from(number));
    }

    #[inline]
    fn write_u64(&mut self, number: u64) {
        self.mix(number);
    }

    #[inline]
    fn write_isize(&mut self, number: isize) {
        self.mix(number.cast_unsigned() as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::hash::BuildHasher;

    #[test]
    fn numbers_that_follow_each_other_are_spread() {
        let hash = BuildHasherDefault::<NumberHasher>::default();
        let (mut low, mut high) = (HashSet::new(), HashSet::new());
        for number in 0..128i32 {
            low.insert(hash.hash_one(number) % 128);
            high.insert(hash.hash_one(number) >> 57);
        }
        assert!(low.len() > 64 && high.len() > 64, "{} and {}", low.len(), high.len());
        let pairs: HashSet<_> = (0..64u64).flat_map(|a| (0..64u64).map(move |b| (a, b))).collect();
        let hashes: HashSet<_> = pairs.iter().map(|pair| hash.hash_one(pair)).collect();
        assert_eq!(hashes.len(), pairs.len());
    }
}
