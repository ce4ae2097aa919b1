//! How many connections a context may have.

#![forbid(unsafe_code)]

use crate::mail::stats::Stats;
use std::sync::Arc;

/// A place among the `max_connections` of a context; free again when dropped.
pub struct Place(Arc<Stats>);

impl Place {
    /// Takes a place, if there is one among `max`.
    pub fn take(stats: &Arc<Stats>, max: usize) -> Option<Self> {
        stats.connections.reserve(max as u64).then(|| Place(Arc::clone(stats)))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.connections.release();
    }
}

/// Says that `max` connections are open.
pub fn no_place(max: usize) -> String {
    format!("{max} are open (max_connections)")
}
