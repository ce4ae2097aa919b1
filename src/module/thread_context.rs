//! Which context hears of what happens in an interpreter on a thread of the user's own.

#![forbid(unsafe_code)]

use crate::base::gil::current_id;
use crate::base::sync::lock;
use crate::connection::context;
use crate::mail::mailbox::Mailbox;
use pyo3::prelude::*;
use std::cell::RefCell;
use std::sync::{Arc, Mutex};

/// Interpreters and their contexts, the oldest first.
static HOMES: Mutex<Vec<(i64, Arc<Mailbox>)>> = Mutex::new(Vec::new());

thread_local! {
    /// The context whose thread this is, while its last words are said as well; and its interpreter.
    static OWN: RefCell<Option<(i64, Arc<Mailbox>)>> = const { RefCell::new(None) };
}

/// The context, whose thread this is, lives in its interpreter.
pub fn add(py: Python<'_>, mailbox: &Arc<Mailbox>) {
    lock(&HOMES).push((current_id(py), Arc::clone(mailbox)));
    OWN.replace(Some((current_id(py), Arc::clone(mailbox))));
}

/// It is about to end, and says nothing any more.
pub fn remove(mailbox: &Mailbox) {
    OWN.take();
    lock(&HOMES).retain(|(_, other)| !std::ptr::eq(&**other, mailbox));
}

/// The context of the calling thread or, if that is the user's own, the oldest in its interpreter.
pub fn current(py: Python<'_>) -> Option<Arc<Mailbox>> {
    if let Some(context) = context::current(py) {
        return Some(Arc::clone(&context.mailbox));
    }
    let here = current_id(py);
    let own = OWN.with_borrow(|own| own.as_ref().filter(|(of, _)| *of == here).map(|(_, mailbox)| Arc::clone(mailbox)));
    if own.is_some() {
        return own;
    }
    lock(&HOMES).iter().find(|(interpreter, _)| *interpreter == here).map(|(_, mailbox)| Arc::clone(mailbox))
}
