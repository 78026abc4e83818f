"""Control of the emulator itself, by routes that the service does not have: faults, clock, limits, latencies.

They need the token of an identity that manages, and are spared from faults and latencies.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any

from werkzeug.wrappers import Request, Response

from pytest_lakebranch.emulator.clock import timestamp
from pytest_lakebranch.emulator.fields import inside, number, seconds, text
from pytest_lakebranch.emulator.http import CONTROL as PREFIX, Page, body, error_response, json_response
from pytest_lakebranch.emulator.identities import check_manages
from pytest_lakebranch.emulator.limits import Limits
from pytest_lakebranch.emulator.refusals import ApiError, invalid, no_resource, required
from pytest_lakebranch.emulator.resources import Branch
from pytest_lakebranch.errors import ConfigError, LakebranchError

if TYPE_CHECKING:
    from pytest_lakebranch.emulator.emulator import Emulator

LONGEST_ADVANCE = 10 * 365 * 86400.0
Action = Callable[[Request], Any]


class Control:
    """The control routes: ``pages`` by method and path."""

    def __init__(self, emulator: Emulator) -> None:
        self._emulator = emulator
        actions: dict[str, Action] = {
            "GET state": self.state,
            "GET faults": lambda _: {"faults": emulator.faults.listed()},
            "POST faults": self.add_faults,
            "DELETE faults": self.clear_faults,
            "PATCH latencies": self.set_latencies,
            "PATCH limits": self.set_limits,
            "POST clock": self.advance,
            "POST logins": self.refuse_logins,
            "POST suspend": self.suspend,
            "POST remember": self.remember,
            "GET requests": lambda _: {"requests": [asdict(each) for each in emulator.application.served]},
            "DELETE requests": self.forget_requests,
        }
        self.pages = {key.replace(" ", f" {PREFIX}"): Page(self._guarded(action)) for key, action in actions.items()}

    def _guarded(self, action: Action) -> Callable[[Request], Response]:
        def page(request: Request) -> Response:
            try:
                authorization = request.headers.get("Authorization")
                check_manages(self._emulator.world.tokens.authenticated(authorization), "the emulator")
                return json_response(action(request))
            except ApiError as error:
                return error_response(error)
            except ConfigError as error:
                return error_response(invalid(str(error)))
            except LakebranchError as error:
                return error_response(ApiError(500, "INTERNAL_ERROR", str(error)))

        return page

    def state(self, _: Request) -> Any:
        """What holds now."""
        emulator = self._emulator
        return {
            "now": timestamp(emulator.world.time.now()),
            "limits": asdict(emulator.world.limits),
            "latencies": {name: each.text for name, each in emulator.world.latencies.of.items()},
            "latency_names": sorted(emulator.world.latencies.known),
            "routes": sorted(emulator.faults.routes),
            "late_failures": list(emulator.late_failures),
        }

    def add_faults(self, request: Request) -> Any:
        """One fault, or a list of them."""
        self._emulator.faults.add(body(request))
        return {"faults": self._emulator.faults.listed()}

    def clear_faults(self, _: Request) -> Any:
        """No more faults."""
        self._emulator.faults.clear()
        return {"faults": []}

    def set_latencies(self, request: Request) -> Any:
        """Distributions by name; ``0`` for none."""
        given = body(request)
        if not isinstance(given, dict):
            raise invalid("The body must be an object of latencies by name.")
        self._emulator.world.latencies.set({name: text(name, value) for name, value in given.items()})
        return self.state(request)

    def set_limits(self, request: Request) -> Any:
        """Limits by name; null for none where that is possible."""
        given = body(request)
        known = {each.name for each in fields(Limits)}
        limits = self._emulator.world.limits
        inside(dict.fromkeys(known, number))("", given)
        for name, value in given.items():
            if value is None and name != "unarchived_branches":
                raise invalid(f"Field '{name}' must be a number.")
            if value is not None and value < 0:
                raise invalid(f"Field '{name}' must not be negative.")
        for name, value in given.items():
            setattr(limits, name, value)
        return self.state(request)

    def advance(self, request: Request) -> Any:
        """Move the clock on; what is due by then has been done when this answers."""
        given = inside({"advance": seconds})("", body(request))
        if not 0 <= given.get("advance", -1.0) <= LONGEST_ADVANCE:
            raise invalid("Field 'advance' must be a duration that is not negative, such as 3600s.")
        self._emulator.advance(given["advance"])
        return self.state(request)

    def refuse_logins(self, request: Request) -> Any:
        """Refuse logins to a branch, or to all, for a while."""
        given = inside({"branch": text, "refuse": seconds})("", body(request))
        if "refuse" not in given:
            raise required("refuse")
        world = self._emulator.world
        with world.lock:
            everywhere = [each for project in world.projects.values() for each in project.branches.values()]
            for branch in [self._branch(given["branch"])] if "branch" in given else everywhere:
                branch.logins_from = world.time.now() + given["refuse"]
        return self.state(request)

    def suspend(self, request: Request) -> Any:
        """Suspend the computes of a branch at once, whoever is connected."""
        given = inside({"branch": text})("", body(request))
        self._emulator.suspend(self._branch(given.get("branch", "")))
        return self.state(request)

    def remember(self, request: Request) -> Any:
        """Keep the present state of a branch, so that it can be forked from later."""
        given = inside({"branch": text})("", body(request))
        branch, now = self._branch(given.get("branch", "")), self._emulator.world.time.now()
        found = branch.store.present(now)
        return {"branch": branch.name, "time": timestamp(found.until), "lsn": found.last_lsn}

    def forget_requests(self, _: Request) -> Any:
        """Begin to count anew."""
        self._emulator.application.served.clear()
        return {"requests": []}

    def _branch(self, path: str) -> Branch:
        words = path.split("/")
        if len(words) != 4 or (words[0], words[2]) != ("projects", "branches"):
            raise no_resource()
        return self._emulator.world.branch(words[1], words[3])
