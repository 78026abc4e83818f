"""The API over HTTP: routes, authentication, JSON, errors and faults. A WSGI application."""

from __future__ import annotations

import json
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from werkzeug.exceptions import HTTPException
from werkzeug.routing import Map, Rule
from werkzeug.wrappers import Request, Response

from pytest_lakebranch.emulator.faults import Fault
from pytest_lakebranch.emulator.identities import check_manages
from pytest_lakebranch.emulator.refusals import ApiError, malformed, no_resource
from pytest_lakebranch.emulator.resources import uid
from pytest_lakebranch.emulator.world import Call, View
from pytest_lakebranch.errors import LakebranchError

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

    from pytest_lakebranch.emulator.emulator import Emulator

ROOT = "/api/2.0/postgres"
CONTROL = "/_emulator/"
ROUTE = "lakebranch.route"
"""Where the name of the route is kept while a request is answered."""
LARGEST_BODY = 1 << 20
REMEMBERED = 10_000
Handler = Callable[..., View]


@dataclass(frozen=True, slots=True)
class Route:
    """One call: its name is that of the SDK's method. ``changes`` needs CAN MANAGE.

    ``locks`` says that the handler takes the lock itself.
    """

    name: str
    method: str
    path: str
    handler: Handler
    changes: bool = False
    locks: bool = False

    @property
    def begins(self) -> bool:
        """Whether it begins an operation, which then takes the time of the call."""
        return self.name.startswith(("create_", "update_", "delete_", "undelete_"))


@dataclass(frozen=True, slots=True)
class Page:
    """A call beside the API; one without a name is spared from faults and latencies. ``refuse`` says an error."""

    answer: Callable[[Request], Response]
    name: str = ""
    refuse: Callable[[ApiError], Response] | None = None


@dataclass(frozen=True, slots=True)
class Served:
    """A request that was answered: for tests that count calls. ``status`` is 0 for an answer that was dropped."""

    route: str
    method: str
    path: str
    status: int
    seconds: float
    agent: str


@dataclass
class Application:
    """The WSGI application."""

    emulator: Emulator
    routes: tuple[Route, ...]
    pages: Mapping[str, Page]
    served: deque[Served] = field(default_factory=lambda: deque(maxlen=REMEMBERED))

    def __post_init__(self) -> None:
        self._by_name = {route.name: route for route in self.routes}
        rules = [
            Rule(ROOT + route.path, methods=[route.method], endpoint=route.name, merge_slashes=False)
            for route in self.routes
        ]
        self._map = Map(rules, strict_slashes=True)

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request."""
        request = Request(environ)
        request.max_content_length = LARGEST_BODY
        began = time.perf_counter()
        status = 0
        try:
            response = self._response(request)
            status = response.status_code
            response.headers["x-request-id"] = uid()
            response.headers["x-databricks-org-id"] = str(self.emulator.workspace_id)
            return response(environ, start_response)
        finally:
            if not request.path.startswith(CONTROL):
                seconds, agent = time.perf_counter() - began, request.headers.get("User-Agent", "")
                name = request.environ.get(ROUTE, "unknown")
                self.served.append(Served(name, request.method, request.path, status, seconds, agent))

    def _response(self, request: Request) -> Response:
        page = self.pages.get(f"{request.method} {request.path}")
        if page is not None:
            return self._page(request, page)
        if request.path.startswith(CONTROL):
            known = ", ".join(key for key in self.pages if CONTROL in key)
            return error_response(ApiError(404, "NOT_FOUND", f"no such control route; known are {known}"))
        return self._api(request)

    def _page(self, request: Request, page: Page) -> Response:
        if not page.name:
            return page.answer(request)
        request.environ[ROUTE] = page.name
        request.get_data(parse_form_data=True)  # while the client is there: it may be answered late
        try:
            self._pass_time(page.name)
            return self._answer(self._met(page.name, request.path), lambda: page.answer(request))
        except ApiError as error:
            return (page.refuse or error_response)(error)

    def _api(self, request: Request) -> Response:
        try:
            name, arguments = self._map.bind("emulator").match(request.path, method=request.method)
            request.environ[ROUTE] = name
            return self._answered(request, self._by_name[name], arguments)
        except HTTPException:
            return error_response(no_resource())
        except ApiError as error:
            return error_response(error)
        except LakebranchError as error:
            return error_response(ApiError(500, "INTERNAL_ERROR", str(error)))
        except ConnectionError:  # dropped on purpose
            raise
        except Exception as error:  # noqa: BLE001  (a defect of ours: printed here, and said to the client)
            traceback.print_exc()
            return error_response(ApiError(500, "INTERNAL_ERROR", f"{type(error).__name__}: {error}"))

    def _answered(self, request: Request, route: Route, arguments: Mapping[str, Any]) -> Response:
        self._pass_time("" if route.begins else route.name)
        identity = self.emulator.world.tokens.authenticated(request.headers.get("Authorization"))
        fault = self._met(route.name, request.path)
        if route.changes:
            check_manages(identity, request.path.removeprefix(ROOT).lstrip("/"))
        call = Call(route.name, identity, request.args, body(request), _failure(fault))
        return self._answer(fault, lambda: json_response(self._handled(route, call, arguments)))

    def _pass_time(self, name: str) -> None:
        """What every request takes, and a call of this name, if given."""
        world = self.emulator.world
        world.time.wait(world.latencies.draw("request") + world.latencies.draw(name))

    def _met(self, name: str, path: str) -> Fault | None:
        """The fault that a call meets and that does not keep it from being done; one that does is raised."""
        fault = self.emulator.faults.meet(name, path)
        if fault is not None and fault.kind == "drop":
            raise ConnectionResetError("injected: the connection was dropped")  # in process, the caller sees this
        if fault is not None and fault.kind in ("status", "reconciliation", "conflict"):
            raise fault.error()
        return fault

    def _answer(self, fault: Fault | None, answer: Callable[[], Response]) -> Response:
        if fault is not None and fault.kind == "late":
            self._later(fault, answer)
            raise fault.error()
        return _halved(answer()) if fault is not None and fault.kind == "half" else answer()

    def _handled(self, route: Route, call: Call, arguments: Mapping[str, Any]) -> View:
        if route.locks:
            return route.handler(call, **arguments)
        with self.emulator.world.lock:
            return route.handler(call, **arguments)

    def _later(self, fault: Fault, answer: Callable[[], Response]) -> None:
        def land() -> None:
            self.emulator.world.time.wait(fault.seconds)
            if self.emulator.is_over:
                return
            try:
                answer()
            except (ApiError, LakebranchError) as error:
                self.emulator.late_failures.append(str(error))

        threading.Thread(target=land, name="lakebranch-late", daemon=True).start()


def body(request: Request) -> Any:
    """The JSON object of a request; an absent one is empty. Raises ApiError."""
    if request.method not in ("POST", "PATCH", "PUT"):
        return {}
    try:
        data = request.get_data()
        found = json.loads(data) if data else {}
    except HTTPException as error:
        raise malformed(f"The request body is too large: {error.description}") from None
    except (ValueError, RecursionError) as error:
        raise malformed(f"The request body is not valid JSON: {error}") from None
    if not isinstance(found, dict | list):
        raise malformed("The request body must be a JSON object.")
    return found


def _failure(fault: Fault | None) -> tuple[str, str] | None:
    return fault.failure if fault is not None and fault.kind == "operation" else None


def json_response(view: Any, status: int = 200) -> Response:
    """An answer with a JSON body."""
    return Response(json.dumps(view), status=status, content_type="application/json")


def error_response(error: ApiError) -> Response:
    """The answer of a refusal."""
    response = json_response(error.body(uid()), error.status)
    response.headers.update(error.headers)
    return response


def _halved(response: Response) -> Response:
    """An answer that breaks off in the middle: its announced length is not reached."""
    whole = response.get_data()
    response.set_data(whole[: len(whole) // 2])
    response.headers["Content-Length"] = str(len(whole))
    response.headers["Connection"] = "close"
    return response
