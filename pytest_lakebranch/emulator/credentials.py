"""Credentials: short-lived tokens that are passwords."""

from __future__ import annotations

import re

from pytest_lakebranch.emulator.clock import timestamp
from pytest_lakebranch.emulator.fields import Reader, inside, many, moment, one_of, seconds, text
from pytest_lakebranch.emulator.limits import LONGEST_CREDENTIAL, SHORTEST_CREDENTIAL
from pytest_lakebranch.emulator.refusals import invalid, no_resource, required
from pytest_lakebranch.emulator.world import Call, View, World

CREDENTIAL: dict[str, Reader] = {
    "endpoint": text,
    "ttl": seconds,
    "expire_time": moment,
    "claims": many(inside({"permission_set": one_of("READ_ONLY"), "resources": many(inside({"table_name": text}))})),
}
PATH = re.compile(r"projects/([^/]+)/branches/([^/]+)/endpoints/([^/]+)")


class Credentials:
    """The call that mints them."""

    def __init__(self, world: World) -> None:
        self._world = world

    def create(self, call: Call) -> View:
        """A token for an endpoint, valid for an hour unless less is asked for; checked at login only."""
        given = inside(CREDENTIAL)("", call.body)
        name = given.get("endpoint", "")
        if not name:
            raise required("endpoint")
        found = PATH.fullmatch(name)
        if found is None:
            raise no_resource()
        endpoint = self._world.endpoint(*found.groups())
        now = self._world.time.now()
        if "ttl" in given and "expire_time" in given:
            raise invalid("Only one of ttl and expire_time can be provided.")
        expires = given.get("expire_time", now + given.get("ttl", LONGEST_CREDENTIAL))
        if not SHORTEST_CREDENTIAL - 1 <= expires - now <= LONGEST_CREDENTIAL + 1:  # clocks differ a little
            raise invalid("The expiration time must be at least 300 seconds and at most 3600 seconds from now.")
        token = self._world.tokens.credential(call.identity, endpoint.name, expires)
        return {"token": token, "expire_time": timestamp(expires)}
