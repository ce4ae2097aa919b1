//! Which CPU a thread runs on.

use std::io;

/// Keeps the calling thread on one CPU, and the threads that it starts from now on.
///
/// # Errors
/// There is no such CPU, or this process may not use it.
pub fn stay_on(cpu: usize) -> io::Result<()> {
    if cpu >= libc::CPU_SETSIZE as usize {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    // SAFETY: I10: all zeroes are an empty set, and the number is below the size of one; the call reads the set, which lives
    // through it.
    let failed = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(cpu, &mut set);
        libc::sched_setaffinity(0, size_of_val(&set), &raw const set)
    };
    if failed < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
