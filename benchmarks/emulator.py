"""The emulator without injected latency: from asking for a branch to being logged in, and what a query costs."""

from __future__ import annotations

import time
from collections.abc import Iterator

import httpx
import psycopg

from benchmarks.measure import Figure, median, milliseconds, provider, workplace
from pytest_lakebranch.emulator.emulator import PROJECT, Emulator
from pytest_lakebranch.emulator.handover import credentials
from pytest_lakebranch.emulator.listening import served

ROUNDS = 20
QUERIES = 500
PATH = f"projects/{PROJECT}/branches"


def figures() -> Iterator[Figure]:
    """On the first rung that works here, as a client sees it."""
    with workplace() as home, provider(home, "auto") as local:
        base = local.seal(local.build("base", None), local.root_key)
        with Emulator(local, base) as emulator:
            emulator.set_up()
            with served(emulator) as url, client(emulator, url) as api:
                yield from of(api, emulator.options.identities[0].name)


def client(emulator: Emulator, url: str) -> httpx.Client:
    """An HTTP client of the user."""
    token = credentials(emulator.options.identities[0])["token"]
    return httpx.Client(base_url=f"{url}/api/2.0/postgres/", headers={"Authorization": f"Bearer {token}"})


def of(api: httpx.Client, user: str) -> Iterator[Figure]:
    """Branches one after another, each deleted again."""
    ready, logged_in = [], []
    for number in range(ROUNDS):
        began = time.perf_counter()
        name = create(api, f"b{number}")
        ready.append((time.perf_counter() - began) * 1e3)
        log_in(api, name, user).close()
        logged_in.append((time.perf_counter() - began) * 1e3)
        api.delete(name, params={"purge": "true"}).raise_for_status()
    yield Figure("emulator: branch created and its operation done", median(ready), "ms")
    yield Figure("emulator: branch created and logged in", median(logged_in), "ms", 200.0)
    with log_in(api, f"{PATH}/production", user) as connection:
        passed = milliseconds(lambda: [connection.execute("select 1") for _ in range(QUERIES)])
    yield Figure("emulator: round trip of a query through TLS", passed / QUERIES, "ms")


def create(api: httpx.Client, name: str) -> str:
    """The path of a new branch, once its operation is done."""
    answer = api.post(PATH, params={"branch_id": name}, json={"spec": {"ttl": "3600s"}})
    operation = answer.raise_for_status().json()["name"]
    while not api.get(operation).json()["done"]:
        time.sleep(0.002)
    return f"{PATH}/{name}"


def log_in(api: httpx.Client, branch: str, user: str) -> psycopg.Connection:
    """A connection to the branch, with a credential of its own."""
    endpoint = api.get(f"{branch}/endpoints/primary").json()
    token = api.post("credentials", json={"endpoint": endpoint["name"]}).json()["token"]
    host = endpoint["status"]["hosts"]["host"]
    return psycopg.connect(
        host=host,
        port=5432,
        user=user,
        password=token,
        dbname="databricks_postgres",
        sslmode="require",
        autocommit=True,
    )
