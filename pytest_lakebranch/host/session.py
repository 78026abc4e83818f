"""What one connected worker may ask of the host: each call is a method, its arguments those of the message."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from pytest_lakebranch.branches.base import Plan
from pytest_lakebranch.branches.engine import Engine
from pytest_lakebranch.branches.lease import Request


class Session:
    """One worker's side of the engine."""

    CALLS = (
        "base",
        "stepped",
        "incoming",
        "replaced",
        "built",
        "died",
        "failed",
        "returned",
        "lease",
        "release",
        "reset",
        "death",
        "disconnect",
        "begin",
        "end",
    )

    def __init__(self, engine: Engine, *, programs: str) -> None:
        self._engine = engine
        self._programs = programs

    def answer(self, call: str, arguments: dict[str, Any]) -> Any:
        """Carry out one call and return its value, ready for JSON; raises LakebranchError."""
        return getattr(self, f"_{call}")(**arguments)

    def _base(self, worker: str, fingerprints: list[str], labels: list[str]) -> dict[str, Any]:
        plan = Plan(tuple(fingerprints), tuple(labels))
        ticket = self._engine.bases.request(worker, plan)
        key = self._engine.bases.key(plan)
        return {"key": key, "ticket": asdict(ticket) if ticket else None, "programs": self._programs}

    def _stepped(self, ticket: str, done: int, seconds: float, *, keep: bool) -> dict[str, Any]:
        return asdict(self._engine.bases.stepped(ticket, done, seconds, keep=keep))

    def _incoming(self, ticket: str) -> str | None:
        directory = self._engine.bases.incoming(ticket)
        return None if directory is None else str(directory)

    def _replaced(self, ticket: str, database: str) -> None:
        self._engine.bases.replaced(ticket, database)

    def _built(self, ticket: str) -> None:
        self._engine.bases.finish(ticket)

    def _died(self, ticket: str) -> str | None:
        return self._engine.bases.died(ticket)

    def _failed(self, ticket: str, message: str) -> None:
        self._engine.bases.fail(ticket, message)

    def _returned(self, ticket: str) -> None:
        self._engine.bases.give_back(ticket)

    def _lease(self, **request: Any) -> dict[str, Any]:
        return asdict(self._engine.lease(Request(**request)))

    def _release(self, lease: str, failed: str = "") -> dict[str, Any]:
        return asdict(self._engine.release(lease, failed=failed))

    def _death(self, lease: str, seen: str) -> str | None:
        return self._engine.death(lease, seen=seen)

    def _disconnect(self, lease: str, but: list[int]) -> int:
        return self._engine.disconnect(lease, but)

    def _begin(self, key: str, worker: str) -> bool | None:
        return self._engine.once.begin(key, worker)

    def _end(self, key: str, done: bool) -> None:
        self._engine.once.end(key, done=done)

    def _reset(self, lease: str) -> dict[str, Any]:
        return asdict(self._engine.reset(lease))
