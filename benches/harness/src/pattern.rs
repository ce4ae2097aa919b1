//! The bytes that are sent, so that a wrong, lost, doubled or swapped byte shows when they come back.

/// A prime, so that no buffer size of a server divides it: blocks in the wrong order do not look right.
const PERIOD: usize = 65_521;
/// How far apart the starts of neighbouring connections lie.
const STRIDE: u64 = 7_919;

/// Pseudo-random bytes. Which of them a message consists of depends on its connection and its place in the stream.
pub struct Pattern {
    bytes: Vec<u8>,
}

impl Pattern {
    /// For messages of up to `longest` bytes.
    pub fn new(longest: usize) -> Self {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut next = move || {
            // xorshift64: any generator would do whose bytes do not repeat soon.
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as u8
        };
        Pattern { bytes: (0..PERIOD + longest).map(|_| next()).collect() }
    }

    /// The `length` bytes at `position` of the stream of `connection`.
    pub fn slice(&self, connection: usize, position: u64, length: usize) -> &[u8] {
        let start = ((connection as u64).wrapping_mul(STRIDE).wrapping_add(position) % PERIOD as u64) as usize;
        &self.bytes[start..start + length]
    }
}

/// The first difference between what came and what should have come. Fast where there is none.
pub fn first_difference(got: &[u8], expected: &[u8]) -> Option<usize> {
    if got == expected {
        return None;
    }
    let common = got.iter().zip(expected).take_while(|(got, expected)| got == expected).count();
    Some(common)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbouring_messages_and_connections_differ() {
        let pattern = Pattern::new(1024);
        let first = pattern.slice(0, 0, 64);
        assert_ne!(first, pattern.slice(0, 64, 64));
        assert_ne!(first, pattern.slice(1, 0, 64));
        assert_eq!(first, pattern.slice(0, 0, 64));
    }

    #[test]
    fn blocks_in_the_wrong_order_are_seen() {
        let pattern = Pattern::new(1 << 20);
        let sent = pattern.slice(3, 0, 1 << 20);
        for block in [64, 1024, 4096, 16_384, 65_536, 1 << 19] {
            let mut swapped = sent.to_vec();
            let (one, other) = swapped.split_at_mut(block);
            one.swap_with_slice(&mut other[..block]);
            assert!(first_difference(&swapped, sent).is_some(), "swapped blocks of {block}");
        }
    }

    #[test]
    fn the_first_wrong_byte_is_named() {
        let pattern = Pattern::new(100);
        let sent = pattern.slice(0, 0, 100);
        assert_eq!(first_difference(sent, sent), None);
        let mut wrong = sent.to_vec();
        wrong[77] ^= 1;
        assert_eq!(first_difference(&wrong, sent), Some(77));
    }

    #[test]
    fn every_position_of_a_long_stream_has_bytes() {
        let pattern = Pattern::new(1000);
        for position in [0, 65_520, 65_521, u64::from(u32::MAX), u64::MAX] {
            assert_eq!(pattern.slice(usize::MAX, position, 1000).len(), 1000);
        }
    }
}
