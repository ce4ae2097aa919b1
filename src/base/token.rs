//! The 64 bits that travel with every operation and come back with its completion (I6).
//!
//! `kind (8) | generation (24) | index (32)`: the index finds the slot, the generation tells whether the slot still
//! belongs to the connection that submitted the operation. Pure: no system call, no Python.

#![forbid(unsafe_code)]

/// Names one connection for as long as it lives; never equal to the name of a later one in the same slot
/// (until 2^24 connections have passed through that slot).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ConnId {
    /// The slot in the connection table.
    pub index: u32,
    /// How often the slot was used before, modulo 2^24.
    pub generation: u32,
}

impl ConnId {
    /// In the lower 56 bits of a number.
    pub fn bits(self) -> u64 {
        debug_assert!(self.generation <= GENERATION_MASK);
        u64::from(self.generation) << 32 | u64::from(self.index)
    }

    /// Back from [`ConnId::bits`], whatever the other 8 bits are.
    pub fn from_bits(bits: u64) -> Self {
        ConnId { index: bits as u32, generation: (bits >> 32) as u32 & GENERATION_MASK }
    }
}

/// Generations wrap here: they have 24 bits.
pub const GENERATION_MASK: u32 = (1 << 24) - 1;

/// What an operation was for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Kind {
    /// The receive of a connection.
    Receive = 1,
    /// The send of a connection.
    Send = 2,
    /// An attempt to cancel the receive of a connection.
    CancelReceive = 3,
    /// An attempt to cancel the send of a connection.
    CancelSend = 4,
    /// The read of the wake-up eventfd.
    Wake = 5,
    /// A wait for readiness, before the receive is tried again.
    PollReceive = 6,
    /// A wait for readiness, before the send is tried again.
    PollSend = 7,
    /// A wait for what the ears hear.
    Ears = 8,
    /// A wait for somebody who connects, or for the end of a connect.
    Opening = 9,
    /// An attempt to cancel that, or a [`Kind::Watch`].
    CancelOpening = 10,
    /// A wait for readiness of what is watched for an event loop.
    Watch = 11,
}

/// `user_data` of an operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Token(pub u64);

impl Token {
    /// The token of an operation of `kind` on connection `id`.
    pub fn new(kind: Kind, id: ConnId) -> Self {
        Token((kind as u64) << 56 | id.bits())
    }

    /// The token of the wake-up read, which belongs to no connection.
    pub const WAKE: Token = Token((Kind::Wake as u64) << 56);

    /// The token of the wait for the ears, which belong to many.
    pub const EARS: Token = Token((Kind::Ears as u64) << 56);

    /// The kind, or `None` if these bits were never made by [`Token::new`].
    pub fn kind(self) -> Option<Kind> {
        Some(match (self.0 >> 56) as u8 {
            1 => Kind::Receive,
            2 => Kind::Send,
            3 => Kind::CancelReceive,
            4 => Kind::CancelSend,
            5 => Kind::Wake,
            6 => Kind::PollReceive,
            7 => Kind::PollSend,
            8 => Kind::Ears,
            9 => Kind::Opening,
            10 => Kind::CancelOpening,
            11 => Kind::Watch,
            _ => return None,
        })
    }

    /// The connection.
    pub fn id(self) -> ConnId {
        ConnId::from_bits(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_part_comes_back(index: u32, generation in 0..=GENERATION_MASK, kind in 1u8..=11) {
            let kind = Token(u64::from(kind) << 56).kind().unwrap();
            let id = ConnId { index, generation };
            let token = Token::new(kind, id);
            prop_assert_eq!(token.kind(), Some(kind));
            prop_assert_eq!(token.id(), id);
        }
    }

    #[test]
    fn bits_of_no_kind_are_refused() {
        assert_eq!(Token(0).kind(), None);
        assert_eq!(Token(12 << 56).kind(), None);
        assert_eq!(Token::WAKE.kind(), Some(Kind::Wake));
    }
}
