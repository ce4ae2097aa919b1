"""Runs a command under a seccomp filter that refuses one of io_uring's system calls, as container runtimes do.

    refuse_io_uring.py setup|enter|register ERRNO COMMAND [ARGUMENT ...]
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import sys

# The same on every architecture that got io_uring at its birth (x86-64, arm64 and the other 64-bit ones).
NUMBERS = {"setup": 425, "enter": 426, "register": 427}

PR_SET_NO_NEW_PRIVS = 38
PR_SET_SECCOMP = 22
SECCOMP_MODE_FILTER = 2
SECCOMP_RET_ALLOW = 0x7FFF0000
SECCOMP_RET_ERRNO = 0x00050000

BPF_LD_W_ABS = 0x20
BPF_JMP_JEQ_K = 0x15
BPF_RET_K = 0x06


class Program(ctypes.Structure):
    _fields_ = [("len", ctypes.c_ushort), ("filter", ctypes.c_char_p)]


def refuse(number: int, error: int) -> None:
    """From here on, in this process and what it becomes, the system call answers the error."""
    instructions = [
        (BPF_LD_W_ABS, 0, 0, 0),  # the number of the system call
        (BPF_JMP_JEQ_K, 0, 1, number),
        (BPF_RET_K, 0, 0, SECCOMP_RET_ERRNO | error),
        (BPF_RET_K, 0, 0, SECCOMP_RET_ALLOW),
    ]
    code = b"".join(struct.pack("HBBI", *instruction) for instruction in instructions)
    program = Program(len(instructions), code)
    libc = ctypes.CDLL(None, use_errno=True)
    for arguments in (
        (PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
        (PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0),
    ):
        if libc.prctl(*arguments) != 0:
            raise OSError(ctypes.get_errno(), "prctl")


if __name__ == "__main__":
    refuse(NUMBERS[sys.argv[1]], getattr(errno, sys.argv[2]))
    os.execvp(sys.argv[3], sys.argv[3:])
