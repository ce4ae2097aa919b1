//! What a stream has received and nobody has read yet, and what a read takes of it.

use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyTuple};

/// Memory of so many bytes is kept while nothing is there.
const KEPT: usize = 64 * 1024;

/// Received bytes: one object as it came, as long as it is the only one, or a run of them.
#[derive(Default)]
pub struct Input {
    whole: Option<Py<PyBytes>>,
    bytes: Vec<u8>,
    /// Of `bytes`, so many are read.
    start: usize,
}

impl Input {
    /// What is there.
    pub fn as_slice<'a>(&'a self, py: Python<'a>) -> &'a [u8] {
        match &self.whole {
            Some(whole) => whole.as_bytes(py),
            None => &self.bytes[self.start..],
        }
    }

    /// How much that is.
    pub fn len(&self, py: Python<'_>) -> usize {
        self.as_slice(py).len()
    }

    /// Whether nothing is there.
    pub fn is_empty(&self, py: Python<'_>) -> bool {
        self.len(py) == 0
    }

    /// An object that arrived: it is kept as it is, if it is the first.
    pub fn push_whole(&mut self, data: &Bound<'_, PyBytes>) {
        if self.is_empty(data.py()) {
            self.whole = Some(data.clone().unbind());
        } else {
            self.push(data.py(), data.as_bytes());
        }
    }

    /// Bytes that arrived.
    pub fn push(&mut self, py: Python<'_>, data: &[u8]) {
        if let Some(whole) = self.whole.take() {
            self.bytes.extend_from_slice(whole.as_bytes(py));
        }
        if self.start > self.bytes.len() / 2 {
            self.bytes.drain(..self.start);
            self.start = 0;
        }
        self.bytes.extend_from_slice(data);
    }

    /// Takes the first `len` bytes, which are there.
    pub fn take<'py>(&mut self, py: Python<'py>, len: usize) -> Bound<'py, PyBytes> {
        if let Some(whole) = self.whole.take() {
            let whole = whole.into_bound(py);
            if whole.as_bytes().len() == len {
                return whole;
            }
            self.bytes.extend_from_slice(whole.as_bytes());
        }
        let taken = PyBytes::new(py, &self.bytes[self.start..][..len]);
        self.skip(len);
        taken
    }

    /// Forgets the first `len` bytes, which are there and are not one object.
    fn skip(&mut self, len: usize) {
        self.start += len;
        if self.start == self.bytes.len() {
            self.start = 0;
            self.bytes.clear();
            self.bytes.shrink_to(KEPT);
        }
    }

    /// Takes everything.
    pub fn take_all<'py>(&mut self, py: Python<'py>) -> Bound<'py, PyBytes> {
        self.take(py, self.len(py))
    }
}

/// What ends a piece: bytes, or the one that ends first of several.
pub struct Separators(Vec<Vec<u8>>);

impl Separators {
    /// The end of a line.
    pub fn newline() -> Self {
        Separators(vec![b"\n".to_vec()])
    }

    /// As it was given: bytes, or a tuple of such.
    ///
    /// # Errors
    /// It is empty, or no bytes.
    pub fn of(given: &Bound<'_, PyAny>) -> PyResult<Self> {
        let bytes = |one: &Bound<'_, PyAny>| {
            let wrong = |_| PyTypeError::new_err("a separator is bytes, or a tuple of them");
            crate::python::bytes_like::with_bytes(one, |bytes| Ok(bytes.to_vec())).map_err(wrong)
        };
        let mut all = match given.cast::<PyTuple>() {
            Ok(several) => several.iter().map(|one| bytes(&one)).collect::<PyResult<Vec<_>>>()?,
            Err(_) => vec![bytes(given)?],
        };
        all.sort_by_key(Vec::len);
        match all.first() {
            None => Err(PyValueError::new_err("Separator should contain at least one element")),
            Some(first) if first.is_empty() => {
                Err(PyValueError::new_err("Separator should be at least one-byte string"))
            }
            Some(_) => Ok(Separators(all)),
        }
    }

    fn longest(&self) -> usize {
        self.0.last().map_or(1, Vec::len)
    }
}

/// Where a piece ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// The separator begins and ends there.
    Found { start: usize, end: usize },
    /// There is none before this place.
    NotBefore(usize),
}

fn find(bytes: &[u8], from: usize, what: &[u8]) -> Option<usize> {
    let rest = bytes.get(from..)?;
    // SAFETY: I10: two runs of bytes, and their lengths.
    let found = unsafe { libc::memmem(rest.as_ptr().cast(), rest.len(), what.as_ptr().cast(), what.len()) };
    (!found.is_null()).then(|| found as usize - bytes.as_ptr() as usize)
}

/// Looks for the first that ends, from `from` on, before which none begins; of several that end there, the shortest.
pub fn find_end(bytes: &[u8], from: usize, separators: &Separators) -> End {
    let ends = separators.0.iter().filter_map(|one| find(bytes, from, one).map(|start| (start + one.len(), start)));
    match ends.min_by_key(|(end, _)| *end) {
        Some((end, start)) => End::Found { start, end },
        None => End::NotBefore(from.max((bytes.len() + 1).saturating_sub(separators.longest()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn several(all: &[&[u8]]) -> Separators {
        Separators(all.iter().map(|one| one.to_vec()).collect())
    }

    #[test]
    fn the_separator_that_ends_first_is_found() {
        let newline = Separators::newline();
        assert_eq!(find_end(b"ab\ncd\n", 0, &newline), End::Found { start: 2, end: 3 });
        assert_eq!(find_end(b"ab\ncd\n", 3, &newline), End::Found { start: 5, end: 6 });
        assert_eq!(find_end(b"abcd", 0, &newline), End::NotBefore(4));
        assert_eq!(find_end(b"", 0, &newline), End::NotBefore(0));
        let two = several(&[b"\r", b"\r\n\r\n"]);
        assert_eq!(find_end(b"x\r\n\r\n", 0, &two), End::Found { start: 1, end: 2 });
    }

    #[test]
    fn of_separators_that_end_at_one_place_the_shortest_is_found() {
        let two = several(&[b"\n", b"\r\n"]);
        assert_eq!(find_end(b"x\r\n", 0, &two), End::Found { start: 2, end: 3 });
    }

    #[test]
    fn one_that_is_cut_is_looked_for_again() {
        let two = several(&[b"----"]);
        assert_eq!(find_end(b"abc--", 0, &two), End::NotBefore(2));
        assert_eq!(find_end(b"abc----", 2, &two), End::Found { start: 3, end: 7 });
        assert_eq!(find_end(b"a", 0, &two), End::NotBefore(0));
    }
}
