//! Atoms by names that come from Python. Erlang never forgets an atom, so new ones are counted (I9).

use rustler::{Env, Term};
use std::sync::atomic::{AtomicUsize, Ordering};

/// So many new atoms may be made.
pub struct Budget {
    made: AtomicUsize,
    max: usize,
}

/// Why a name is not an atom.
#[derive(PartialEq, Eq, Debug)]
pub enum NoAtom {
    /// It has more than 255 characters.
    TooLong,
    /// So many have been made.
    TooMany(usize),
}

impl Budget {
    /// Nothing of it is spent.
    pub const fn new(max: usize) -> Self {
        Budget { made: AtomicUsize::new(0), max }
    }

    /// The atom of that name; if the VM does not have it, a new one, which is counted.
    ///
    /// # Errors
    /// No atom can have that name, or it would be one too many.
    pub fn atom<'a>(&self, env: Env<'a>, name: &str) -> Result<Term<'a>, NoAtom> {
        if let Some(atom) = existing(env, name) {
            return Ok(atom);
        }
        let external = external(name).ok_or(NoAtom::TooLong)?;
        if self.made.fetch_add(1, Ordering::Relaxed) >= self.max {
            self.made.fetch_sub(1, Ordering::Relaxed);
            return Err(NoAtom::TooMany(self.max));
        }
        // SAFETY: I10: the bytes are an atom in the external format, by construction.
        let made = unsafe { env.binary_to_term_trusted(&external) };
        made.map(|(atom, _)| atom).ok_or(NoAtom::TooLong)
    }
}

/// The atom, if the VM has it: names that nobody knows must not fill its table.
pub fn existing<'a>(env: Env<'a>, name: &str) -> Option<Term<'a>> {
    env.binary_to_term(&external(name)?).map(|(atom, _)| atom)
}

/// An atom in the external format: version, tag, length in two bytes, UTF-8.
fn external(name: &str) -> Option<Vec<u8>> {
    if name.chars().count() > 255 {
        return None;
    }
    let len = u16::try_from(name.len()).ok()?.to_be_bytes();
    Some([&[131, 118], &len, name.as_bytes()].concat())
}
