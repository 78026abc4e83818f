"""A program that a command stands for while it runs: Ctrl-C is for the program, and its exit code is the command's."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Mapping, Sequence

BY_SIGNAL = 128
"""What shells add to the number of the signal that ended a program."""


def exit_code(words: Sequence[str], environ: Mapping[str, str]) -> int:
    """Run a program to its end; its exit code, as a shell tells it. Raises OSError when there is no such program.

    Should we be told to end, so is the program.
    """
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        process = subprocess.Popen(words, env=environ, preexec_fn=_interruptible)  # noqa: PLW1509
        try:
            code = process.wait()
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()
    finally:
        signal.signal(signal.SIGINT, before)
    return code if code >= 0 else BY_SIGNAL - code


def _interruptible() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
