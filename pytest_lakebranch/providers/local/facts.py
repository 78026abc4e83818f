"""What a provider with given settings would be like; no server is started to find out."""

from __future__ import annotations

import hashlib
import json

from pytest_lakebranch.config import Settings
from pytest_lakebranch.model import ProviderFacts
from pytest_lakebranch.postgres import binaries
from pytest_lakebranch.postgres.binaries import Binaries
from pytest_lakebranch.providers.local import launch, layers, settings_check, storage
from pytest_lakebranch.state import State


def facts_of(settings: Settings, state: State) -> ProviderFacts:
    """What a provider with these settings would say of itself; raises what it would raise. Starts no server."""
    found = binaries.find(settings.postgres)
    settings_check.check(settings, found)
    chosen = storage.choose(settings.storage, directory=state.home, machine=launch.inspect())
    return facts(found, chosen)


def facts(found: Binaries, chosen: storage.Chosen) -> ProviderFacts:
    return ProviderFacts("local", found.version, found.origin, chosen.storage.rung, chosen.reason)


def root_key(settings: Settings, found: Binaries) -> str:
    """The key of the empty state that these settings and programs lead to."""
    decisive = {
        "format": layers.FORMAT,
        "postgres": [found.version, found.origin],
        "settings": settings.server_settings,
        "locale": settings.locale,
        "database": settings.database,
        "user": settings.user,
    }
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()
