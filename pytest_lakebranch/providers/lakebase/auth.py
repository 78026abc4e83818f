"""Who we are at Databricks: a token, a service principal, a profile, or whatever ``databricks-sdk`` knows of.

Variables, precedence and the file's layout are those of the official SDK: environment before profile; two methods at
once are refused unless DATABRICKS_AUTH_TYPE chooses; the file is read only where a profile is named or nothing is
configured.
"""

from __future__ import annotations

import configparser
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pytest_lakebranch import __version__
from pytest_lakebranch.errors import CloudError, ConfigError
from pytest_lakebranch.providers._rest import is_loopback
from pytest_lakebranch.waiting import Clock

KEYS = {
    "host": "DATABRICKS_HOST",
    "token": "DATABRICKS_TOKEN",
    "client_id": "DATABRICKS_CLIENT_ID",
    "client_secret": "DATABRICKS_CLIENT_SECRET",
    "auth_type": "DATABRICKS_AUTH_TYPE",
    "discovery_url": "DATABRICKS_DISCOVERY_URL",
}
"""Names in a profile and their variables."""
SETTINGS_SECTION = "__settings__"
PAT, M2M, SDK = "pat", "oauth-m2m", "sdk"
REFRESH_BEFORE = 40.0
"""Seconds before its end from which a token is not used any more, as in the SDK."""
SDK_SECONDS = 15
"""For the SDK's own calls, each and with all attempts: by itself it would try for five minutes."""
DISCOVERY = "/.well-known/databricks-config"
SERVER = "/.well-known/oauth-authorization-server"
WAYS = (
    "Set DATABRICKS_HOST with DATABRICKS_TOKEN, or with DATABRICKS_CLIENT_ID and DATABRICKS_CLIENT_SECRET; or name a "
    "profile of ~/.databrickscfg in DATABRICKS_CONFIG_PROFILE; or install databricks-sdk, whose methods all work."
)
Header = Callable[[bool], str]
"""Gives the Authorization header; ``True`` asks it for a new one, because the former one was refused."""
Fetch = Callable[..., dict[str, Any]]
"""``fetch(method, url, **options)`` gets a JSON object; options are those of httpx."""


@dataclass(frozen=True, slots=True)
class Login:
    """How to authenticate at ``host``; ``method`` is pat, oauth-m2m, or sdk for any other one, which is told by
    ``environ``. Secrets do not show.
    """

    host: str
    method: str
    token: str = field(default="", repr=False)
    client_id: str = ""
    client_secret: str = field(default="", repr=False)
    discovery_url: str = ""
    environ: Mapping[str, str] = field(default_factory=dict, repr=False)


def find(environ: Mapping[str, str], *, home: Path | None = None) -> Login:
    """What the environment and the profile file say; nothing is connected to. Raises ConfigError."""
    values = {name: environ[variable] for name, variable in KEYS.items() if environ.get(variable)}
    profile = environ.get("DATABRICKS_CONFIG_PROFILE", "")
    if profile or not values:
        path = Path(environ.get("DATABRICKS_CONFIG_FILE") or (home or Path.home()) / ".databrickscfg").expanduser()
        values = {**_profile(path, profile), **values}
    login = _login(values)
    return replace(login, environ=environ) if login.method == SDK else login


def _profile(path: Path, name: str) -> dict[str, str]:
    parser = configparser.ConfigParser(default_section="", interpolation=None)
    try:
        parser.read(path)
    except configparser.Error as error:
        raise ConfigError(f"{path} cannot be read as a file of profiles: {type(error).__name__}.") from None
    chosen = name or parser.get(SETTINGS_SECTION, "default_profile", fallback="DEFAULT")
    if chosen != SETTINGS_SECTION and parser.has_section(chosen):
        return {key: value for key, value in parser.items(chosen) if key in KEYS and value}
    if not name:
        return {}
    known = ", ".join(section for section in parser.sections() if section != SETTINGS_SECTION) or "none"
    raise ConfigError(f"there is no profile {name!r} in {path} (there are: {known}).")


def _login(values: Mapping[str, str]) -> Login:
    ways = ((PAT, ("token",)), (M2M, ("client_id", "client_secret")))
    kinds = [kind for kind, keys in ways if all(values.get(key) for key in keys)]
    wanted = values.get("auth_type", "")
    if len(kinds) > 1 and not wanted:
        raise ConfigError(
            "more than one way to log in to Databricks is configured: a token, and a client id with its secret. "
            f"Remove one, or choose by DATABRICKS_AUTH_TYPE={PAT} or {M2M}."
        )
    method = wanted if wanted in kinds else (kinds[0] if kinds and not wanted else SDK)
    if method == SDK:
        return _by_sdk(values)
    if "host" not in values:
        raise ConfigError(f"lakebranch_provider=lakebase: the workspace is not known. {WAYS}")
    given: dict[str, Any] = {
        name: values.get(name, "") for name in ("token", "client_id", "client_secret", "discovery_url")
    }
    return Login(checked_host(values["host"]), method, **given)


def _by_sdk(values: Mapping[str, str]) -> Login:
    wanted = values.get("auth_type", "")
    if wanted in (PAT, M2M) or not values.get("host"):
        which = f" for {wanted}" if wanted else ""
        raise ConfigError(f"lakebranch_provider=lakebase: there are no credentials{which}. {WAYS}")
    if find_spec("databricks") is None or find_spec("databricks.sdk") is None:
        what = f"DATABRICKS_AUTH_TYPE={wanted} needs" if wanted else "another login needs"
        raise ConfigError(f"lakebranch_provider=lakebase: there are no credentials, and {what} databricks-sdk. {WAYS}")
    return Login(values.get("host", ""), SDK)


def checked_host(host: str) -> str:
    """The host with its scheme, https where it has none; raises ConfigError for one that a secret must not go to."""
    text = (host if "://" in host else f"https://{host}").rstrip("/")
    found = urlsplit(text)
    if found.scheme not in ("http", "https") or not found.hostname:
        raise ConfigError(f"DATABRICKS_HOST: {host!r} is no address such as https://my-workspace.cloud.databricks.com.")
    if found.scheme == "http" and not is_loopback(found.hostname):
        raise ConfigError(f"DATABRICKS_HOST: {host!r} is not encrypted: a token is not sent there. Use https.")
    return text


def authorization(login: Login, fetch: Fetch, clock: Clock) -> tuple[str, Header]:
    """The host, and what gives the Authorization header. Raises ConfigError."""
    if login.method == PAT:
        return login.host, lambda _renew: f"Bearer {login.token}"
    if login.method == M2M:
        return login.host, ServicePrincipal(login, fetch, clock)
    return _sdk(login)


def _sdk(login: Login) -> tuple[str, Header]:
    from databricks.sdk.core import Config  # type: ignore[import-not-found, import-untyped, unused-ignore]

    given: dict[str, Any] = {
        each.name: login.environ[each.env] for each in Config.attributes() if login.environ.get(each.env)
    }
    limits: dict[str, Any] = {"http_timeout_seconds": SDK_SECONDS, "retry_timeout_seconds": SDK_SECONDS}
    try:
        config = Config(product="pytest-lakebranch", product_version=__version__, **limits, **given)
    except Exception as error:  # noqa: BLE001  (whatever its methods and their libraries raise)
        raise ConfigError(f"databricks-sdk finds no way to log in: {_said(error)}. {WAYS}") from None
    host = checked_host(config.host or login.host)

    def header(_renew: bool) -> str:
        try:
            return str(config.authenticate()["Authorization"])
        except Exception as error:  # noqa: BLE001  (whatever its methods and their libraries raise)
            said = f"databricks-sdk cannot sign in: {_said(error)}"
            raise CloudError(said, hint=WAYS, passing=_passes(error)) from None

    return host, header


def _passes(error: Exception) -> bool:
    """Whether nobody answered. The SDK's own errors, and whatever its methods say, are the system's to Python, too."""
    from requests import exceptions  # type: ignore[import-untyped, unused-ignore]

    silence = (ConnectionError, TimeoutError, exceptions.ConnectionError, exceptions.Timeout)
    return isinstance(error, silence) and not isinstance(error, exceptions.SSLError)


def _said(error: Exception) -> str:
    """The kind of an error of the SDK, and what it says but its configuration."""
    return f"{type(error).__name__}: {str(error).split('. Config:')[0]}".rstrip(": .")


class ServicePrincipal:
    """OAuth for machines: tokens by client id and secret, kept in memory until shortly before they end. See Header."""

    def __init__(self, login: Login, fetch: Fetch, clock: Clock) -> None:
        self._login = login
        self._fetch = fetch
        self._clock = clock
        self._lock = threading.Lock()
        self._token = ""
        self._until = 0.0
        self._server = ""

    def __call__(self, renew: bool) -> str:
        """The header; raises CloudError."""
        with self._lock:
            if renew or not self._token or self._clock.now() >= self._until:
                self._renew()
            return f"Bearer {self._token}"

    def _renew(self) -> None:
        self._server = self._server or self._discovered()
        answer = self._fetch(
            "POST",
            self._server,
            data={"grant_type": "client_credentials", "scope": "all-apis"},
            auth=(self._login.client_id, self._login.client_secret),
        )
        self._token = str(answer.get("access_token", ""))
        if not self._token:
            raise CloudError(f"{self._server} gave no token", hint="Is DATABRICKS_HOST a Databricks workspace?")
        self._until = self._clock.now() + float(answer.get("expires_in", 3600)) - REFRESH_BEFORE

    def _discovered(self) -> str:
        """The token endpoint: by the workspace's own configuration, or where older workspaces have it."""
        endpoint = self._login.discovery_url or f"{self._oidc()}{SERVER}"
        found = str(self._fetch("GET", endpoint).get("token_endpoint", ""))
        return checked_host(found or f"{self._login.host}/oidc/v1/token")

    def _oidc(self) -> str:
        try:
            found = str(self._fetch("GET", f"{self._login.host}{DISCOVERY}").get("oidc_endpoint", ""))
        except CloudError as error:
            if error.status != 404:
                raise
            found = ""
        return found or f"{self._login.host}/oidc"
