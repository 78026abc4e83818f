"""``python nested.py COMMAND …``: run a command as root that may not make user namespaces, as in most containers.

That is the root of a user namespace in which every uid is itself, and whose limit of further namespaces is 0. Nothing
of the machine is changed. Needs root; exits with 97 where that cannot be had.
"""

import ctypes
import os
import sys
from pathlib import Path

CLONE_NEWUSER = 0x10000000
CANNOT = 97


def main() -> None:
    """Be the parent that maps the uids, and the child that becomes the command."""
    told, tell = os.pipe()
    mapped, go_on = os.pipe()
    child = os.fork()
    if child == 0:
        if ctypes.CDLL(None).unshare(CLONE_NEWUSER):
            os._exit(CANNOT)
        os.write(tell, b"x")
        os.read(mapped, 1)
        os.setresgid(0, 0, 0)
        os.setresuid(0, 0, 0)
        Path("/proc/sys/user/max_user_namespaces").write_text("0")
        os.execvp(sys.argv[1], sys.argv[1:])
    os.close(tell)
    if os.read(told, 1):
        for name in ("uid_map", "gid_map"):
            Path(f"/proc/{child}/{name}").write_text("0 0 65536")
        os.write(go_on, b"x")
    _, status = os.waitpid(child, 0)
    sys.exit(os.waitstatus_to_exitcode(status))


if __name__ == "__main__":
    main()
