"""Faults on purpose: what goes wrong with which calls, and how often."""

from __future__ import annotations

import random
import re
import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from pytest_lakebranch.emulator.fields import inside, integer, number, one_of, text
from pytest_lakebranch.emulator.refusals import ApiError, conflicting, invalid, reconciling

KINDS = ("status", "drop", "half", "late", "operation", "reconciliation", "conflict")
FAULT = {
    "route": text,
    "path": text,
    "kind": one_of(*KINDS),
    "status": integer,
    "error_code": text,
    "message": text,
    "retry_after": text,
    "times": integer,
    "after": integer,
    "share": number,
    "seconds": number,
}
CODES = {
    400: "BAD_REQUEST",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    409: "RESOURCE_CONFLICT",
    429: "REQUEST_LIMIT_EXCEEDED",
    500: "INTERNAL_ERROR",
    501: "NOT_IMPLEMENTED",
    503: "TEMPORARILY_UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}


@dataclass(slots=True)
class Fault:
    """One kind of trouble, for calls of ``route`` (a method of the SDK, ``*`` for all) whose path fits ``path``.

    The first ``after`` such calls are spared, then ``times`` of them meet it (None: all), each with chance ``share``.

    ``status`` answers with that status; ``drop`` hangs up without an answer, and does nothing; ``half`` does what was
    asked and hangs up within the answer; ``late`` answers with the status at once, and does what was asked
    ``seconds`` later; ``operation`` has the operation that is begun end with an error.
    """

    kind: str
    route: str = "*"
    path: str = ""
    status: int = 503
    error_code: str | None = None
    message: str | None = None
    retry_after: str | None = None
    times: int | None = 1
    after: int = 0
    share: float = 1.0
    seconds: float = 0.0
    met: int = 0

    def fits(self, route: str, path: str) -> bool:
        """Whether this is for such a call."""
        return self.route in ("*", route) and re.search(self.path, path) is not None

    def error(self) -> ApiError:
        """What the call is answered."""
        if self.kind == "reconciliation":
            return reconciling("the resource")
        if self.kind == "conflict":
            return conflicting()
        headers = {} if self.retry_after is None else {"Retry-After": self.retry_after}
        code, message = self.failure
        return ApiError(self.status, code, message, headers=headers)

    @property
    def failure(self) -> tuple[str, str]:
        """Error code and message."""
        code = self.error_code if self.error_code is not None else CODES.get(self.status, "")
        return code, self.message if self.message is not None else f"injected: {self.kind} {self.status}"


@dataclass
class Faults:
    """The faults that are to come, in the order in which they are tried."""

    routes: frozenset[str]
    chance: random.Random = field(default_factory=random.Random)
    _all: list[Fault] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, written: Any) -> None:
        """Add those that JSON describes: one object, or a list; raises ApiError, and adds nothing then."""
        made = [self._read(each) for each in (written if isinstance(written, list) else [written])]
        with self._lock:
            self._all += made

    def _read(self, written: Any) -> Fault:
        given = inside(FAULT)("", written)
        if written.get("times", 1) is None:
            given["times"] = None
        if "kind" not in given:
            raise invalid(f"A fault needs a 'kind': one of {', '.join(KINDS)}.")
        fault = Fault(**given)
        if fault.route != "*" and fault.route not in self.routes:
            raise invalid(f"There is no route '{fault.route}'. Known are {', '.join(sorted(self.routes))}.")
        if not (100 <= fault.status <= 599 and 0 <= fault.share <= 1 and fault.after >= 0 and fault.seconds >= 0):
            raise invalid("A fault's status is one of HTTP's, its share between 0 and 1, after and seconds positive.")
        try:
            re.compile(fault.path)
        except re.error as error:
            raise invalid(f"Field 'path' is no regular expression: {error}.") from None
        return fault

    def clear(self) -> None:
        """No more faults."""
        with self._lock:
            self._all.clear()

    def listed(self) -> Sequence[Mapping[str, Any]]:
        """Those that are to come, and how often each was met."""
        with self._lock:
            return [asdict(each) for each in self._all]

    def meet(self, route: str, path: str) -> Fault | None:
        """The fault that a call meets, if any."""
        with self._lock:
            for fault in self._all:
                if fault.fits(route, path) and self._strikes(fault):
                    return fault
        return None

    def _strikes(self, fault: Fault) -> bool:
        if fault.after > 0:
            fault.after -= 1
            return False
        if fault.times is not None and fault.met >= fault.times:
            return False
        if self.chance.random() >= fault.share:
            return False
        fault.met += 1
        return True
