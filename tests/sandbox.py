"""``python sandbox.py WHAT[,WHAT] COMMAND …``: run a command to which system calls are refused.

``namespaces``: no user namespaces, the way of Docker's default profile (clone3 is unknown, so that clone is asked for).
``pidfd``: as on Linux 5.2, or in gVisor. ``pidfd-denied``: as a profile that is older than the call.
The filter (seccomp(2)) holds for the command and all that it starts. Exits with 97 where it cannot be set up.
"""

import ctypes
import errno
import os
import platform
import struct
import sys

CANNOT = 97
CLONE_NEWUSER = 0x10000000
PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
LOAD, JUMP_IF_EQUAL, JUMP_IF_SET, RETURN = 0x20, 0x15, 0x45, 0x06
"""Operations of the classic BPF (linux/bpf_common.h): load a word, compare, test bits, return."""
NUMBER, FIRST_ARGUMENT = 0, 16
"""Where struct seccomp_data (linux/seccomp.h) has the number of the call, and the low half of its first argument."""
ALLOW, REFUSE = 0x7FFF0000, 0x00050000
CALLS = {
    "x86_64": {"clone": 56, "unshare": 272, "pidfd_send_signal": 424, "pidfd_open": 434, "clone3": 435},
    "aarch64": {"clone": 220, "unshare": 97, "pidfd_send_signal": 424, "pidfd_open": 434, "clone3": 435},
}


def operation(code: int, value: int, yes: int = 0, no: int = 0) -> bytes:
    """One struct sock_filter."""
    return struct.pack("=HBBI", code, yes, no, value)


def refusal(number: int, error: int, bits: int = 0) -> bytes:
    """Refuse a call, or only one with these ``bits`` in its first argument."""
    refuse = operation(RETURN, REFUSE | error)
    if not bits:
        return operation(JUMP_IF_EQUAL, number, 0, 1) + refuse
    look = operation(LOAD, FIRST_ARGUMENT) + operation(JUMP_IF_SET, bits, 0, 1) + refuse + operation(LOAD, NUMBER)
    return operation(JUMP_IF_EQUAL, number, 0, 4) + look


def refusals(what: str, calls: dict[str, int]) -> bytes:
    """What a word of the command line refuses."""
    if what == "namespaces":
        made = [refusal(calls[name], errno.EPERM, CLONE_NEWUSER) for name in ("clone", "unshare")]
        return b"".join(made) + refusal(calls["clone3"], errno.ENOSYS)
    error = {"pidfd": errno.ENOSYS, "pidfd-denied": errno.EPERM}[what]
    return b"".join(refusal(calls[name], error) for name in ("pidfd_open", "pidfd_send_signal"))


def enter(program: bytes) -> bool:
    """Have the filter hold from here on; False where that is not possible."""

    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))

    libc = ctypes.CDLL(None, use_errno=True)
    made = Program(len(program) // 8, program)
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        return False
    return not libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(made), 0, 0)


def main() -> None:
    """Set up the filter and become the command."""
    what, *command = sys.argv[1:]
    calls = CALLS.get(platform.machine())
    if calls is None:
        sys.exit(CANNOT)
    parts = [refusals(word, calls) for word in what.split(",")]
    if not enter(b"".join([operation(LOAD, NUMBER), *parts, operation(RETURN, ALLOW)])):
        sys.exit(CANNOT)
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
