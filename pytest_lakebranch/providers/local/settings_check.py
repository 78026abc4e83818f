"""Whether PostgreSQL knows the settings and the locale that were asked for, before anything is made with them."""

from __future__ import annotations

import ctypes
import subprocess

from pytest_lakebranch.config import Settings
from pytest_lakebranch.errors import ConfigError
from pytest_lakebranch.postgres.binaries import Binaries
from pytest_lakebranch.processes import LINUX
from pytest_lakebranch.providers.local.cluster import BUILTIN
from pytest_lakebranch.providers.local.launch import environment

ALL_CATEGORIES = 0x1FBF if LINUX else 0x3F
"""LC_ALL_MASK of locale.h: of glibc, and of macOS."""


def check(settings: Settings, binaries: Binaries) -> None:
    """Raise ConfigError for what can be known to be refused; some milliseconds, and none where nothing was set."""
    if settings.settings:
        _check_settings(settings.server_settings, binaries)
    if settings.locale != BUILTIN and not settings.locale.startswith("icu:"):
        _check_locale(settings.locale)


def _check_settings(given: dict[str, str], binaries: Binaries) -> None:
    """Have the server tell its version with these settings: it reads them all first, and starts nothing."""
    words = [word for name, value in given.items() for word in ("-c", f"{name}={value}")]
    command = [binaries.program("postgres"), "-C", "server_version", "-c", "config_file=/dev/null", "-D", "/", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment(), errors="replace")
    said = [line.partition("FATAL:")[2].strip() for line in done.stderr.splitlines() if "FATAL:" in line]
    if done.returncode != 0 and said:
        raise ConfigError(f"lakebranch_settings: PostgreSQL {binaries.version} says: {said[-1]}.")


def _check_locale(name: str) -> None:
    """Ask the C library, as initdb does, without a change to this process."""
    try:
        newlocale = ctypes.CDLL(None).newlocale
    except (OSError, AttributeError):
        return
    newlocale.restype, newlocale.argtypes = ctypes.c_void_p, [ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p]
    found = newlocale(ALL_CATEGORIES, name.encode(), None)
    if not found:
        raise ConfigError(
            f"lakebranch_locale: this machine has no locale {name!r}. `locale -a` lists those that it has (Debian and "
            "Ubuntu: `apt-get install locales`, then `locale-gen`); C.UTF-8 is PostgreSQL's own from version 17 on."
        )
    ctypes.CDLL(None).freelocale(ctypes.c_void_p(found))
