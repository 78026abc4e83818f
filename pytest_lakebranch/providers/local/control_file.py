"""What pg_control says about a stopped data directory (src/include/catalog/pg_control.h; these fields never moved)."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

SHUT_DOWN = 1
"""DB_SHUTDOWNED: stopped cleanly; everything is in the data files."""
SEGMENT = 1 << 20
"""Bytes of a log segment: initdb is told so."""


@dataclass(frozen=True, slots=True)
class Control:
    """The state of a cluster and the place of its last checkpoint in the log."""

    state: int
    checkpoint: int

    @property
    def segment(self) -> str:
        """The last sixteen digits of the name of the segment that holds the last checkpoint."""
        return segment_suffix(self.checkpoint)


def read(data: Path) -> Control:
    """Read ``data``/global/pg_control."""
    content = (data / "global" / "pg_control").read_bytes()
    state, checkpoint = struct.unpack_from("=16xI12xQ", content)
    return Control(state, checkpoint)


def segment_suffix(position: int) -> str:
    """The last sixteen digits of the name of the log segment with ``position``; eight for its timeline precede."""
    per_file = (1 << 32) // SEGMENT
    high, low = divmod(position // SEGMENT, per_file)
    return f"{high:08X}{low:08X}"


def position(text: str) -> int:
    """A log position from PostgreSQL's spelling, such as ``0/1A2B3C``."""
    high, low = text.split("/")
    return (int(high, 16) << 32) + int(low, 16)
