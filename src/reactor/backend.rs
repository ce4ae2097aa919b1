//! Which driver a reactor gets.

#![forbid(unsafe_code)]

use crate::base::config::Backend;
use crate::buffer::Pool;
use crate::driver::Driver;
use crate::fallback::Epoll;
use crate::mail::mailbox::Mailbox;
use crate::mail::notice::Notice;
use crate::uring::{self, Features, Refusal, Uring};
use std::io;

/// Why there is no driver.
pub enum NoDriver {
    /// The one asked for cannot be used.
    Backend(String),
    /// Memory or descriptors were refused.
    Resources(io::Error),
}

/// The driver to use.
///
/// # Errors
/// There is none.
pub fn choose(backend: Backend, mailbox: &Mailbox, pool: &mut Pool) -> Result<Box<dyn Driver>, NoDriver> {
    let waiter = || mailbox.inbox.waiter().map_err(NoDriver::Resources);
    let mut note = String::new();
    if backend != Backend::Epoll {
        let wake_fd = waiter()?;
        let proven = uring::probe(&Features::ALL).and_then(|proven| match backend {
            Backend::Auto if !proven.features.defer_taskrun => Err(Refusal::Slower),
            _ => Ok(proven),
        });
        match proven.and_then(|proven| Uring::new(proven, wake_fd, pool)) {
            Ok(driver) => {
                let _ = mailbox.backend.set(("uring", note));
                return Ok(Box::new(driver));
            }
            Err(refusal) if backend == Backend::Uring => return Err(NoDriver::Backend(refusal.to_string())),
            Err(refusal) => note = refusal.to_string(),
        }
        mailbox.notify(Notice {
            level: "notice",
            message: format!("epoll is used instead of io_uring: {note}"),
            meta: Vec::new(),
            fd: None,
        });
    }
    let driver = Epoll::new(waiter()?).map_err(NoDriver::Resources)?;
    let _ = mailbox.backend.set(("epoll", note));
    Ok(Box::new(driver))
}
