//! How a datagram lies in a slot: the kernel's header, the sender's address, the payload.
//!
//! It is what io_uring's multishot `RECVMSG` writes (`io_uring_recvmsg_out` of `linux/io_uring.h`); the epoll driver writes
//! the same. The header and the address take more room than the head of a Python object, so that head can be written
//! over them, right in front of the payload, once the address was read.

use crate::driver::address::Address;

/// Bytes of the header: four `u32`, the lengths of address, control data and payload, and the flags.
pub const HEADER_BYTES: usize = 16;

/// Bytes that are kept for the address.
pub const NAME_BYTES: usize = size_of::<libc::sockaddr_storage>();

/// Where the payload begins, from the beginning of the data.
pub const PAYLOAD_OFFSET: usize = HEADER_BYTES + NAME_BYTES;

/// What was read of a slot.
pub struct Parsed {
    /// Who sent it.
    pub from: Address,
    /// Bytes of the payload in the slot.
    pub len: usize,
    /// Whether the datagram was longer than the room for it.
    pub truncated: bool,
}

/// Writes the header.
///
/// # Safety
/// `data` is the beginning of a slot's data, which is ours.
pub unsafe fn write_header(data: *mut u8, name: u32, payload: u32, flags: u32) {
    // SAFETY: I2: the caller's promise; data of a slot begins at a multiple of 16.
    unsafe { data.cast::<[u32; 4]>().write([name, 0, payload, flags]) };
}

/// Reads header and address of a slot with room for `capacity` bytes.
///
/// # Safety
/// `data` is the beginning of a slot's data, which is ours, and a driver has filled it with a datagram.
pub unsafe fn parse(data: *const u8, capacity: usize) -> Parsed {
    // SAFETY: I2: the caller's promise; data of a slot begins at a multiple of 16.
    unsafe {
        let [name, _, payload, flags] = data.cast::<[u32; 4]>().read();
        let name = std::slice::from_raw_parts(data.add(HEADER_BYTES), (name as usize).min(NAME_BYTES));
        Parsed {
            from: Address::from_bytes(name),
            len: (payload as usize).min(capacity - PAYLOAD_OFFSET),
            truncated: flags & libc::MSG_TRUNC as u32 != 0,
        }
    }
}
