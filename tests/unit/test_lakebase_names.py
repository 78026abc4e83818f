"""Names of cloud branches, and the guard: nothing but ours can be deleted or changed, whatever we are asked."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from pytest_lakebranch.errors import BranchError
from pytest_lakebranch.providers._rate import Rate
from pytest_lakebranch.providers._rest import Client
from pytest_lakebranch.providers.lakebase.api import Api
from pytest_lakebranch.providers.lakebase.names import GRACE, Guard, Name, is_past, is_same, owner_of, parse

NOW = 1_795_000_000.0
OURS = owner_of("ada@example.com")
OTHERS = owner_of("grace@example.com")
PROJECT = "projects/shop"
BRANCH_ID = re.compile(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?")
names = st.builds(
    Name,
    st.sampled_from([OURS, OTHERS, owner_of("ada@example.com", "pr-17"), "x", owner_of("")]),
    st.from_regex(r"[0-9a-f]{8}", fullmatch=True),
    st.from_regex(r"[a-z][a-z0-9]{0,12}", fullmatch=True),
    st.floats(NOW - 5e8, NOW + 5e8).map(lambda seconds: seconds // 60 * 60),
)
ids = st.one_of(
    names.map(str),
    st.from_regex(BRANCH_ID, fullmatch=True),
    names.map(lambda name: f"{name}-x"),
    names.map(lambda name: str(name).upper()),
    names.map(lambda name: f"{name}/../production"),
    names.map(lambda name: f"{name}\n"),
    st.sampled_from(["production", "main", "", "..", "lakebranch-", "%2e%2e/production", f"lakebranch-{OURS}-prod"]),
    st.text(max_size=80),
)
prefixes = st.sampled_from(["projects/shop/branches/", "projects/other/branches/", "projects/shop/", "", "/"])
statuses = st.fixed_dictionaries({}, optional={"default": st.booleans(), "is_protected": st.booleans()})


@given(names)
def test_a_name_is_read_back(name: Name) -> None:
    """Names fit what the service allows, and say what they were made from."""
    assert BRANCH_ID.fullmatch(str(name))
    assert parse(str(name)) == name


@pytest.mark.parametrize(
    "text", ["production", "", "lakebranch-ada-12345678-b1-x2613991299", "lakebranch-ada-1-b1-x2601010101"]
)
def test_other_names_are_not_ours(text: str) -> None:
    """Also those that only look like it."""
    assert parse(text) is None


def test_owners_differ() -> None:
    """Two people whose names begin alike are two owners, and the word is readable."""
    assert owner_of("ada@example.com") != owner_of("ada@example.org")
    assert owner_of("ada@example.com").startswith("ada")
    assert parse(str(Name(owner_of("Ünïcode Person@x"), "12345678", "b1", NOW // 60 * 60)))


@pytest.mark.parametrize(
    ("behalf", "word"),
    [("pr-17", "pr17"), ("main", "main"), ("17", "17"), ("1.2/x", None), ("feature/long", None), ("-", None)],
)
def test_an_owner_on_behalf_of_something(behalf: str, word: str | None) -> None:
    """The word says what for, as it is where it is short; the identity is still the same, and another's is another."""
    owner = owner_of("ada@example.com", behalf)
    assert is_same(owner, OURS)
    assert not is_same(owner, owner_of("grace@example.com", behalf))
    assert owner[:-6] == word or (word is None and re.fullmatch(r"[0-9a-f]{6}", owner[:-6]))
    assert parse(str(Name(owner, "12345678", "b1", NOW // 60 * 60)))
    assert owner_of("ada@example.com", f"{behalf}xxxxxxx") != owner_of("ada@example.com", f"{behalf}xxxxxxy")


LIKE_EACH_OTHER = st.from_regex(r"[prP]{1,2}[-.]?[01]{0,2}[-.]?[01]?", fullmatch=True)


@given(LIKE_EACH_OTHER, LIKE_EACH_OTHER)
def test_who_is_written_differently_is_another(one: str, other: str) -> None:
    """What is deleted for one owner was made for no other, however alike they look."""
    assert (owner_of("ada@example.com", one) == owner_of("ada@example.com", other)) is (one == other)


def test_a_word_that_means_something_else_is_not_used() -> None:
    """Neither that of who acts for nobody, nor one that may be the digits for another."""
    digits = owner_of("ada@example.com", "feature/long")[:6]
    for behalf in ("ada", digits):
        assert owner_of("ada@example.com", behalf) not in (OURS, f"{digits}{OURS[-6:]}")


class Recorder(BaseHTTPRequestHandler):
    """Answers every request with success, and remembers it."""

    seen: list[tuple[str, str]]

    def _answer(self) -> None:
        self.seen.append((self.command, self.path))
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = json.dumps({"name": "x/operations/y", "done": True, "response": {}}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = do_PATCH = do_DELETE = _answer  # noqa: N815  (the library's names)

    def log_message(self, *_: Any) -> None:
        """Nothing."""


@pytest.fixture(scope="module")
def service() -> Iterator[tuple[Api, list[tuple[str, str]]]]:
    """A project as Ada sees it, and what arrives there."""
    Recorder.seen = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Recorder)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    client = Client(f"http://127.0.0.1:{server.server_port}", lambda _: "Bearer x", Rate())
    yield Api(client, PROJECT, 5.0, Guard(PROJECT, OURS), now=lambda: NOW), Recorder.seen
    client.close()
    server.shutdown()
    thread.join()
    server.server_close()


def may_go(path: str, status: dict[str, bool]) -> bool:
    """Said in other words than the guard's."""
    found = re.fullmatch(
        r"projects/shop/branches/lakebranch-([a-z0-9]{1,12})-[0-9a-f]{8}-[a-z][a-z0-9]{0,12}-x\d{10}", path
    )
    if found is None or path.endswith("\n") or status.get("default") or status.get("is_protected"):
        return False
    name = parse(path.rpartition("/")[2])
    return name is not None and (found[1].endswith(OURS.removeprefix("ada")) or name.dies + GRACE <= NOW)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=300)
@given(prefixes, ids, statuses, st.sampled_from(["delete", "expire", "resize", "endpoint", "create"]))
def test_nothing_else_can_be_touched(service: Any, prefix: str, branch: str, status: dict[str, bool], act: str) -> None:
    """No request that changes anything leaves us unless it is for a branch that may go, and then for that one only."""
    api, seen = service
    seen.clear()
    path = f"{prefix}{branch}"
    acts = {
        "delete": lambda: api.delete(path, deadline(), status=status),
        "expire": lambda: api.set_expiration(path, {"ttl": "300s"}, deadline()),
        "resize": lambda: api.make_small(f"{path}/endpoints/primary", deadline()),
        "endpoint": lambda: api.create_endpoint(path, deadline()),
    }
    if act == "create":
        path, status = f"{PROJECT}/branches/{branch}", {}
        acts["create"] = lambda: api.create(branch, {"ttl": "300s"}, deadline())
    with suppress(BranchError):
        acts[act]()
    assert bool(seen) is may_go(path, status if act == "delete" else {})
    assert all(branch in where for method, where in seen if method != "GET")


def deadline() -> Any:
    """Soon."""
    from pytest_lakebranch.waiting import Deadline

    return Deadline(5)


@pytest.mark.parametrize(
    ("expires", "past"), [(None, True), (NOW - 60, True), (NOW + 60, False)], ids=["never", "before", "later"]
)
def test_what_will_expire_is_not_past(expires: float | None, past: bool) -> None:
    """A kept branch outlives the death date in its name."""
    name = Name(OURS, "0" * 8, "b1", NOW - 2 * GRACE)
    stamp = {} if expires is None else {"expire_time": datetime.fromtimestamp(expires, UTC).isoformat()}
    assert is_past(name, stamp, NOW) is past
