//! What is said on a connection, and what the answer must be.

use crate::cases::Traffic;
use crate::pattern::{Pattern, first_difference};

use super::Fault;

const HTTP_REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n";
/// What `benches/servers/` must answer, to the byte.
const HTTP_RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 13\r\n\r\nHello, world!";
const JSON_RESPONSE: &[u8] =
    b"HTTP/1.1 200 OK\r\ncontent-length: 27\r\ncontent-type: application/json\r\n\r\n{\"message\":\"Hello, world!\"}";

/// A dialogue: exchange after exchange, each a request and its answer.
pub(super) enum Script {
    Echo {
        pattern: Pattern,
        size: usize,
        depth: usize,
    },
    /// With the answer that each request has.
    Http(&'static [u8]),
}

impl Script {
    pub(super) fn new(traffic: Traffic) -> Script {
        let (size, depth) = match traffic {
            Traffic::Echo { size, depth } => (size, depth),
            Traffic::Connect { size } | Traffic::Datagrams { size } => (size, 1),
            Traffic::Beside(_) => (64, 1),
            Traffic::Http => return Script::Http(HTTP_RESPONSE),
            Traffic::Json => return Script::Http(JSON_RESPONSE),
        };
        Script::Echo { pattern: Pattern::new(size * depth), size, depth }
    }

    pub(super) fn request(&self, connection: usize, exchange: u64) -> &[u8] {
        match self {
            Script::Echo { pattern, size, depth } => {
                let length = size * depth;
                pattern.slice(connection, exchange.wrapping_mul(length as u64), length)
            }
            Script::Http(_) => HTTP_REQUEST,
        }
    }

    pub(super) fn answer(&self, connection: usize, exchange: u64) -> &[u8] {
        match self {
            Script::Echo { .. } => self.request(connection, exchange),
            Script::Http(answer) => answer,
        }
    }

    /// Messages of one exchange.
    pub(super) fn depth(&self) -> usize {
        match self {
            Script::Echo { depth, .. } => *depth,
            Script::Http(_) => 1,
        }
    }

    /// Complete messages among the first `received` bytes of an answer.
    pub(super) fn complete(&self, received: usize) -> usize {
        match self {
            Script::Echo { size, .. } => received / size,
            Script::Http(answer) => received / answer.len(),
        }
    }
}

/// Checks what came when `received` bytes of `answer` were there already.
pub(super) fn check(connection: usize, got: &[u8], answer: &[u8], received: usize) -> Result<(), Fault> {
    let rest = &answer[received..];
    let expected = &rest[..got.len().min(rest.len())];
    if let Some(at) = first_difference(&got[..expected.len()], expected) {
        return Err(Fault::WrongByte { connection, position: received + at, got: got[at], expected: expected[at] });
    }
    match got.len() - expected.len() {
        0 => Ok(()),
        count => Err(Fault::Surplus { connection, count }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_checked_wherever_they_are_cut() {
        let script = Script::new(Traffic::Echo { size: 100, depth: 2 });
        let answer = script.answer(5, 9);
        for cut in 0..=200 {
            assert!(check(5, &answer[..cut], answer, 0).is_ok());
            assert!(check(5, &answer[cut..], answer, cut).is_ok());
        }
        let mut wrong = answer.to_vec();
        wrong[150] ^= 0x80;
        assert!(matches!(check(5, &wrong[100..], answer, 100), Err(Fault::WrongByte { position: 150, .. })));
        let long = [answer, &[0; 3]].concat();
        assert!(matches!(check(5, &long, answer, 0), Err(Fault::Surplus { connection: 5, count: 3 })));
    }

    #[test]
    fn messages_of_an_answer_are_counted_one_by_one() {
        let script = Script::new(Traffic::Echo { size: 64, depth: 16 });
        assert_eq!((script.complete(63), script.complete(64), script.complete(1024)), (0, 1, 16));
        for (traffic, answer) in [(Traffic::Http, HTTP_RESPONSE), (Traffic::Json, JSON_RESPONSE)] {
            let script = Script::new(traffic);
            assert_eq!((script.complete(answer.len() - 1), script.complete(answer.len())), (0, 1));
        }
    }
}
