//! How much stack the calling thread has left. Python code may start threads with as little as 32 KiB.

use std::cell::Cell;

/// Where the stack of a thread is said to end if the system does not tell: everything is below, so nothing is left.
const UNKNOWN: usize = usize::MAX;

thread_local! {
    /// The lowest address of this thread's stack; 0 until it has been asked for.
    static END: Cell<usize> = const { Cell::new(0) };
}

/// The bytes that the calling thread may still put on its stack, about.
#[inline]
pub fn left() -> usize {
    let here = 0_u8;
    let end = match END.get() {
        0 => ask(),
        end => end,
    };
    (&raw const here).addr().saturating_sub(end)
}

#[cold]
fn ask() -> usize {
    // SAFETY: I10: the attributes are initialised by the first call if it answers 0, and destroyed then; the others get
    // valid pointers to locals.
    let end = unsafe {
        let mut attributes = std::mem::zeroed();
        let (mut lowest, mut size, mut guard) = (std::ptr::null_mut(), 0, 0);
        match libc::pthread_getattr_np(libc::pthread_self(), &raw mut attributes) {
            0 => {
                libc::pthread_attr_getstack(&raw const attributes, &raw mut lowest, &raw mut size);
                libc::pthread_attr_getguardsize(&raw const attributes, &raw mut guard);
                libc::pthread_attr_destroy(&raw mut attributes);
                // Whether the guard is a part of the stack depends on the C library.
                lowest.addr() + guard
            }
            _ => UNKNOWN,
        }
    };
    END.set(end);
    end
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_less_than_the_stack_and_shrinks() {
        fn deeper() -> usize {
            let space = std::hint::black_box([0_u8; 8192]);
            left() + usize::from(space[0])
        }
        let look = || (left(), deeper());
        let (above, below) = std::thread::Builder::new().stack_size(128 * 1024).spawn(look).unwrap().join().unwrap();
        assert!(above < 128 * 1024 && above > 64 * 1024, "{above}");
        assert!(above - below > 8192, "{above} {below}");
    }
}
