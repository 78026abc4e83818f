"""The calls of the Lakebase API that we make: ``/api/2.0/postgres`` and who we are."""

from __future__ import annotations

import itertools
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from pytest_lakebranch.errors import BranchError, CloudError
from pytest_lakebranch.providers._rest import Client, Request, failed
from pytest_lakebranch.providers.lakebase.names import Guard
from pytest_lakebranch.waiting import Deadline

ROOT = "/api/2.0/postgres"
ME = "/api/2.0/preview/scim/v2/Me"
PAGE = "100"
CREDENTIAL_SECONDS = 3600
READ_WRITE = "ENDPOINT_TYPE_READ_WRITE"
NO_ENDPOINT = "it has no endpoint"
AWAKE = ("ACTIVE", "IDLE")
SMALLEST_CU = 0.5
SUSPEND_SECONDS = 60
"""The shortest time after which an idle compute may be suspended."""
SMALLEST = {
    "autoscaling_limit_min_cu": SMALLEST_CU,
    "autoscaling_limit_max_cu": SMALLEST_CU,
    "suspend_timeout_duration": f"{SUSPEND_SECONDS}s",
}
TTL_CAP = "exceeds the maximum expiration time"
FIRST_LOOK, LONGEST_LOOK = 0.15, 1.0
"""Seconds between looks at what is on its way."""
CHILDREN_PAUSE = 0.5
MISHAPS = frozenset(
    {
        "INTERNAL_ERROR",
        "TEMPORARILY_UNAVAILABLE",
        "ABORTED",
        "DEADLINE_EXCEEDED",
        "UNKNOWN",
        "RESOURCE_CONFLICT",
        "PROJECTS_OPERATION_TIMEOUT",
    }
)
"""Codes with which an operation ends that may succeed when it is begun again."""
ATTEMPTS = 3
"""How often an operation is begun that ends so."""
MISHAP_PAUSE = 0.5
LATER = "The service is slow: try again later."
View = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Host:
    """An endpoint of a branch that can be dialled."""

    endpoint: str
    host: str
    is_small: bool


@dataclass(slots=True)
class Api:
    """One project. ``patience`` is how long a call may take in all, in seconds, where no deadline is given."""

    client: Client
    project: str
    patience: float
    guard: Guard
    now: Callable[[], float] = field(default=time.time)

    def _call(self, method: str, path: str, doing: str, deadline: Deadline | None = None, **more: Any) -> View:
        request = Request(method, f"{ROOT}/{quote(path, safe='/=')}", doing, **more)
        return self.client.call(request, deadline or Deadline(self.patience, self.client.clock))

    # -- reading

    def get_project(self, deadline: Deadline) -> View:
        """The project's status."""
        found = self._call("GET", self.project, f"reading {self.project}", deadline)
        return dict(found.get("status") or found.get("spec") or {})

    def branches(self, deadline: Deadline | None = None) -> Iterator[View]:
        """All branches, deleted ones excepted."""
        doing = f"listing branches of {self.project}"
        query = {"page_size": PAGE}
        while True:
            answer = self._call("GET", f"{self.project}/branches", doing, deadline, query=query)
            yield from answer.get("branches") or []
            token = answer.get("next_page_token")
            if not token:
                return
            query = {"page_size": PAGE, "page_token": str(token)}

    def branch(self, path: str, deadline: Deadline) -> View:
        """One branch."""
        return self._call("GET", path, f"reading {path}", deadline)

    def is_done(self, operation: str, doing: str, deadline: Deadline) -> bool:
        """Whether an operation has ended; raises CloudError if it has failed."""
        return _is_done(self._call("GET", operation, "awaiting an operation", deadline), doing)

    def finish(self, begin: Callable[[], View], doing: str, deadline: Deadline, *, first_look: float = 0.0) -> int:
        """Begin an operation and wait until it has ended; how many looks that took. One that ends with a mishap is
        begun again. Raises CloudError or BranchError.
        """
        for attempt in itertools.count(1):
            try:
                return self._await(begin(), doing, deadline, first_look)
            except CloudError as error:
                if not is_mishap(error) or attempt == ATTEMPTS or deadline.left <= MISHAP_PAUSE:
                    raise
            self.client.clock.sleep(MISHAP_PAUSE)
        raise AssertionError  # it is counted without end

    def _await(self, began: View, doing: str, deadline: Deadline, first_look: float) -> int:
        """One without a name has ended: what it was about is gone."""
        operation, pause, looks = str(began.get("name", "")), FIRST_LOOK, 0
        if not operation or _is_done(began, doing):
            return looks
        self.client.clock.sleep(min(first_look, deadline.left))
        while looks := looks + 1:
            if self.is_done(operation, doing, deadline):
                break
            if deadline.passed:
                raise BranchError(f"{doing}: not done after {deadline.seconds:.0f} s. {LATER}")
            self.client.clock.sleep(pause)
            pause = min(pause * 1.3, LONGEST_LOOK)
        return looks

    def host_of(self, path: str, deadline: Deadline) -> Host | None:
        """The branch's endpoint for reading and writing; None while it is on its way."""
        found = self.look(path, deadline)
        return found if isinstance(found, Host) else None

    def look(self, path: str, deadline: Deadline) -> Host | str:
        """The branch's endpoint for reading and writing; while it is on its way, how far it is."""
        try:
            answer = self._call("GET", f"{path}/endpoints", f"reading the endpoints of {path}", deadline)
        except CloudError as error:
            if error.status == 404:
                return "it does not exist"
            raise
        for endpoint in answer.get("endpoints") or []:
            status = endpoint.get("status") or {}
            if status.get("endpoint_type") == READ_WRITE:
                return _host(str(endpoint["name"]), status)
        return NO_ENDPOINT

    def credential(self, endpoint: str, deadline: Deadline) -> str:
        """A token with which to log in at an endpoint, good for ``CREDENTIAL_SECONDS``."""
        body = {"endpoint": endpoint, "ttl": f"{CREDENTIAL_SECONDS}s"}
        found = self._call("POST", "credentials", f"fetching a credential for {endpoint}", deadline, body=body)
        if not found.get("token"):
            raise CloudError("the answer has no token", hint="Is DATABRICKS_HOST a Databricks workspace?")
        return str(found["token"])

    # -- changing, and only what is ours

    def create(self, branch_id: str, spec: Mapping[str, Any], deadline: Deadline) -> str:
        """Create a branch; the name of its operation, empty for one that a former attempt of ours had created.

        An attempt that failed on our side may have landed: the name is ours alone, so what has it is what was asked.
        """
        self._check(f"{self.project}/branches/{branch_id}")
        doing = f"creating branch {branch_id}"
        more: dict[str, Any] = {"query": {"branch_id": branch_id}, "body": {"spec": dict(spec)}}
        try:
            answer = self._call("POST", f"{self.project}/branches", doing, deadline, **more)
        except CloudError as error:
            if error.status == 409 and error.unsure:
                return ""
            if error.status == 409:
                error.hint = "The name is taken by a branch that this run did not make. Start the run again."
            raise
        return str(answer.get("name", ""))

    def set_expiration(self, path: str, expiration: Mapping[str, Any], deadline: Deadline) -> None:
        """Give a branch another end: ``ttl`` or ``no_expiry``; returns when it has it.

        Raises CloudError or BranchError. One whose children are being deleted is tried again.
        """
        self._check(path)
        doing = f"changing the expiration of {path}"
        more: dict[str, Any] = {"query": {"update_mask": "spec.expiration"}, "body": {"spec": dict(expiration)}}

        def call() -> View:
            return self._call("PATCH", path, doing, deadline, **more)

        self.finish(lambda: self._despite_children(call, deadline), doing, deadline)

    def _despite_children(self, call: Callable[[], View], deadline: Deadline) -> View:
        while True:
            try:
                return call()
            except CloudError as error:
                if "children" not in error.message or deadline.left <= CHILDREN_PAUSE:
                    raise
            self.client.clock.sleep(CHILDREN_PAUSE)

    def create_endpoint(self, path: str, deadline: Deadline) -> None:
        """Begin to make an endpoint for reading and writing, where a branch has none; it may have got one meanwhile."""
        self._check(path)
        body = {"spec": {"endpoint_type": READ_WRITE, **SMALLEST}}
        more: dict[str, Any] = {"query": {"endpoint_id": "primary"}, "body": body}
        try:
            self._call("POST", f"{path}/endpoints", f"making an endpoint of {path}", deadline, **more)
        except CloudError as error:
            if error.status != 409:
                raise

    def make_small(self, endpoint: str, deadline: Deadline) -> None:
        """The smallest compute, suspended as early as may be; returns when it is. Raises CloudError or BranchError."""
        self._check(endpoint.partition("/endpoints/")[0])
        doing = f"resizing {endpoint}"
        mask = "spec.autoscaling_limit_min_cu,spec.autoscaling_limit_max_cu,spec.suspension"
        more: dict[str, Any] = {"query": {"update_mask": mask}, "body": {"spec": SMALLEST}}
        self.finish(lambda: self._call("PATCH", endpoint, doing, deadline, **more), doing, deadline)

    def delete(
        self,
        path: str,
        deadline: Deadline,
        *,
        status: Mapping[str, Any] | None = None,
        children_go: bool = True,
        first_look: float = 0.0,
    ) -> int:
        """Delete a branch for good; returns when it is gone, and how many looks that took. One that was gone is fine.

        ``children_go``: its children are being deleted, so that it is tried again where it is refused because of them.
        Raises CloudError or BranchError.
        """
        self._check(path, status)
        doing = f"deleting {path}"

        def call() -> View:
            return self._call("DELETE", path, doing, deadline, query={"purge": "true"})

        def begin() -> View:
            return self._despite_children(call, deadline) if children_go else call()

        try:
            return self.finish(begin, doing, deadline, first_look=first_look)
        except CloudError as error:
            if error.status != 404:
                raise
            return 0

    def _check(self, path: str, status: Mapping[str, Any] | None = None) -> None:
        self.guard.check(path, status, now=self.now())


def _host(name: str, status: Mapping[str, Any]) -> Host | str:
    host, state = (status.get("hosts") or {}).get("host"), status.get("current_state")
    if host and state in AWAKE:
        return Host(name, str(host), _is_small(status))
    return f"its endpoint is {state or 'in no state'}{'' if host else ' and has no host'}"


def _is_small(status: Mapping[str, Any]) -> bool:
    suspend = re.fullmatch(r"(\d+)(?:\.0*)?s", str(status.get("suspend_timeout_duration", "")))
    largest = status.get("autoscaling_limit_max_cu")
    small = largest is not None and float(largest) <= SMALLEST_CU
    return small and suspend is not None and int(suspend[1]) <= SUSPEND_SECONDS


def _is_done(operation: View, doing: str) -> bool:
    error = operation.get("error")
    if error:
        failure = failed(error, MISHAPS)
        failure.doing = doing
        raise failure
    return bool(operation.get("done"))


def is_mishap(error: CloudError) -> bool:
    """Whether an operation ended with an error that may not come again."""
    return not error.status and error.code in MISHAPS


def identity(client: Client, deadline: Deadline) -> str:
    """The user name, or for a service principal its application id: also the name of its PostgreSQL role."""
    found = client.call(Request("GET", ME, "asking who we are"), deadline)
    if not found.get("userName"):
        raise CloudError("the answer has no userName", hint="Is DATABRICKS_HOST a Databricks workspace?")
    return str(found["userName"])
