"""How workers and host talk: one JSON object a line over a unix socket, a call and its answer in turn."""

from __future__ import annotations

import json
from typing import Any, Protocol

from pytest_lakebranch.errors import BY_NAME, HostError, LakebranchError
from pytest_lakebranch.model import (
    Built,
    Endpoint,
    Grant,
    KeptBranch,
    Lease,
    LeaseEnd,
    ProviderFacts,
    Summary,
)


class Writer(Protocol):
    """What a message can be written to."""

    def write(self, data: bytes, /) -> object:
        """Write all of ``data``."""

    def flush(self) -> object:
        """Pass it on."""


class Reader(Protocol):
    """What a message can be read from."""

    def readline(self) -> bytes:
        """A line with its end, or what was left."""


def send(stream: Writer, message: dict[str, Any]) -> None:
    """Write one message."""
    stream.write(json.dumps(message).encode() + b"\n")
    stream.flush()


def receive(stream: Reader) -> dict[str, Any] | None:
    """Read one message; None when the other side is gone, also in the middle of a line."""
    line = stream.readline()
    if not line.endswith(b"\n"):
        return None
    message = json.loads(line)
    return message if isinstance(message, dict) else None


def failure(error: LakebranchError) -> dict[str, Any]:
    """An error as an answer."""
    return {"error": type(error).__name__, "message": str(error)}


def value(answer: dict[str, Any]) -> Any:
    """The value of an answer; raises the error that it carries, in its own class."""
    if "error" in answer:
        raise BY_NAME.get(answer["error"], HostError)(answer["message"])
    return answer.get("value")


def grant(stored: dict[str, Any]) -> Grant:
    """A grant from its JSON object."""
    return Grant(**{**stored, "endpoint": Endpoint(**stored["endpoint"])})


def summary(stored: dict[str, Any]) -> Summary:
    """A summary from its JSON object."""
    return Summary(
        ProviderFacts(**stored["facts"]),
        tuple(_lease(lease) for lease in stored["leases"]),
        tuple(Built(**{**base, "steps": tuple(base["steps"])}) for base in stored["bases"]),
        stored["began"],
        stored["ended"],
        tuple(stored["left_behind"]),
        tuple(KeptBranch(**kept) for kept in stored["kept"]),
        tuple(stored["remarks"]),
    )


def _lease(stored: dict[str, Any]) -> Lease:
    end = stored["end"]
    return Lease(**{**stored, "end": LeaseEnd(**end) if end else None})
