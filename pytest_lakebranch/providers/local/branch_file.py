"""What a branch's directory says of it, for whoever looks from outside: ``lakebranch ls`` and ``lakebranch open``."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path

NAME = "branch.json"


@dataclass(frozen=True, slots=True)
class BranchFile:
    """A branch that was started: its name within the run, the layer or frozen present it was made from (``origin`` and
    its directory ``sealed``), where its server listens, and the server's process id.
    """

    name: str
    origin: str
    sealed: str
    rung: str
    sockets: str
    pid: int
    made: float


def write(directory: Path, **facts: str | int) -> None:
    """Describe the branch in ``directory``, made now; replaces what an earlier branch in the same place left."""
    (directory / NAME).write_text(json.dumps({**facts, "made": round(time.time(), 3)}))


def read(directory: Path) -> BranchFile | None:
    """The branch in ``directory``; None while it is being made, or when the file is damaged."""
    try:
        with open(f"{directory}/{NAME}") as file:  # noqa: PTH123  (there may be hundreds)
            return BranchFile(**json.load(file))
    except (OSError, ValueError, TypeError):
        return None
