"""What an emulator that is served leaves for its clients: a configuration file with profiles, and a certificate."""

from __future__ import annotations

import os
from configparser import ConfigParser
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_lakebranch.emulator.identities import Identity

if TYPE_CHECKING:
    from pytest_lakebranch.emulator.emulator import Emulator

LOOPBACK = "127.0.0.1,localhost"


@dataclass(frozen=True, slots=True)
class Handover:
    """Where an emulator is, and how to sign in: ``config`` is in the format of ``~/.databrickscfg``."""

    url: str
    config: Path
    ca: Path
    profiles: tuple[str, ...]


def hand_over(emulator: Emulator, url: str, directory: Path) -> Handover:
    """Write the files, readable by this user only, into ``directory``, which is made if need be. Raises OSError."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    config, ca = directory / "databrickscfg", directory / "ca.pem"
    profiles = {name_of(identity): credentials(identity) for identity in emulator.options.identities}
    parser = ConfigParser(interpolation=None, default_section="none")
    for name, keys in profiles.items():
        parser[name] = {"host": url, **keys}
    config.unlink(missing_ok=True)  # an existing one may be open to others
    with open(os.open(config, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:  # noqa: PTH123  (the mode)
        parser.write(file)
    emulator.authority.write(ca)
    return Handover(url, config, ca, tuple(profiles))


def name_of(identity: Identity) -> str:
    """The profile of an identity."""
    if identity.is_service_principal:
        return "emulator-m2m"
    return "emulator" if identity.manages else "emulator-viewer"


def credentials(identity: Identity) -> dict[str, str]:
    """The keys of its profile."""
    if identity.secret is not None:
        return {"client_id": identity.name, "client_secret": identity.secret}
    return {"token": identity.token or ""}


def environment(emulator: Emulator, url: str) -> dict[str, str]:
    """This process's environment, with which every client finds the emulator and nothing else, as the creator."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("DATABRICKS_")}
    identity = emulator.options.identities[0]
    signed = {f"DATABRICKS_{key.upper()}": value for key, value in credentials(identity).items()}
    for name in ("NO_PROXY", "no_proxy"):
        kept[name] = f"{kept[name]},{LOOPBACK}" if kept.get(name) else LOOPBACK
    port = emulator.options.addresses.port
    return {**kept, "DATABRICKS_HOST": url, **signed, **({} if port == 5432 else {"PGPORT": str(port)})}
