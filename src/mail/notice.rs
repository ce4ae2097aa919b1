//! A log record.

#![forbid(unsafe_code)]

/// A log record on its way to Erlang's `logger`.
#[derive(Clone, Debug)]
pub struct Notice {
    /// One of `logger`'s.
    pub level: &'static str,
    /// The text.
    pub message: String,
    /// Metadata.
    pub meta: Vec<(&'static str, String)>,
    /// The connection's descriptor, if it is about one.
    pub fd: Option<i32>,
}
