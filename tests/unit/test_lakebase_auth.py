"""Who we are at Databricks: precedence, profiles, and what is refused before anything is sent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pytest_lakebranch.errors import CloudError, ConfigError
from pytest_lakebranch.providers.lakebase.auth import Login, ServicePrincipal, authorization, find
from pytest_lakebranch.waiting import Clock

HOST = "https://shop.cloud.databricks.com"
SECRET = "dose-planted"
PROFILES = f"""
[DEFAULT]
host = {HOST}
token = from-default

[ci]
host = {HOST}/
client_id = robot
client_secret = {SECRET}

[__settings__]
default_profile = ci
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A home directory with profiles."""
    (tmp_path / ".databrickscfg").write_text(PROFILES)
    return tmp_path


def test_the_environment(tmp_path: Path) -> None:
    """A token, or a client id with its secret; https where no scheme is given."""
    found = find({"DATABRICKS_HOST": "shop.cloud.databricks.com/", "DATABRICKS_TOKEN": "t"}, home=tmp_path)
    assert (found.host, found.method, found.token) == (HOST, "pat", "t")
    machine = {"DATABRICKS_HOST": HOST, "DATABRICKS_CLIENT_ID": "robot", "DATABRICKS_CLIENT_SECRET": SECRET}
    assert find(machine, home=tmp_path).method == "oauth-m2m"
    both = {**machine, "DATABRICKS_TOKEN": "t", "DATABRICKS_AUTH_TYPE": "oauth-m2m"}
    assert find(both, home=tmp_path).method == "oauth-m2m"


def test_profiles(file: Path) -> None:
    """The one that is named, else the file's default; a token of the environment wins over that of a profile."""
    assert find({}, home=file).client_id == "robot"
    assert find({"DATABRICKS_CONFIG_PROFILE": "DEFAULT"}, home=file).token == "from-default"
    named = {"DATABRICKS_CONFIG_PROFILE": "DEFAULT", "DATABRICKS_TOKEN": "mine"}
    assert find(named, home=file).token == "mine"
    assert find({"DATABRICKS_CONFIG_PROFILE": "ci"}, home=file).host == HOST


@pytest.mark.parametrize(
    ("environ", "says"),
    [
        ({"DATABRICKS_TOKEN": "t"}, "workspace is not known"),
        ({"DATABRICKS_CONFIG_FILE": "/nowhere"}, "there are no credentials[.].*DATABRICKS_HOST"),
        ({"DATABRICKS_HOST": HOST, "DATABRICKS_AUTH_TYPE": "pat"}, "there are no credentials for pat"),
        ({"DATABRICKS_CONFIG_PROFILE": "none"}, r"no profile 'none' .*DEFAULT, ci"),
        ({"DATABRICKS_HOST": "http://shop.example.com", "DATABRICKS_TOKEN": "t"}, "not encrypted"),
        ({"DATABRICKS_HOST": "ftp://x", "DATABRICKS_TOKEN": "t"}, "no address"),
        (
            {
                "DATABRICKS_HOST": HOST,
                "DATABRICKS_TOKEN": "t",
                "DATABRICKS_CLIENT_ID": "a",
                "DATABRICKS_CLIENT_SECRET": "b",
            },
            "more than one way",
        ),
    ],
)
def test_what_is_refused(file: Path, environ: dict[str, str], says: str) -> None:
    """Each with what to do."""
    with pytest.raises(ConfigError, match=says):
        find(environ, home=file)


def test_secrets_do_not_show(file: Path) -> None:
    """In a repr."""
    assert SECRET not in repr(find({}, home=file))
    assert "from-default" not in repr(find({"DATABRICKS_CONFIG_PROFILE": "DEFAULT"}, home=file))


def principal(answers: dict[str, Any], time: list[float]) -> tuple[ServicePrincipal, list[str]]:
    """A service principal whose workspace answers so, and the URLs that were asked."""
    asked: list[str] = []

    def fetch(method: str, url: str, **_: Any) -> dict[str, Any]:
        asked.append(f"{method} {url.removeprefix(HOST)}")
        answer = answers[url.removeprefix(HOST)]
        if isinstance(answer, CloudError):
            raise answer
        return dict(answer)

    login = Login(HOST, "oauth-m2m", client_id="robot", client_secret=SECRET)
    made = authorization(login, fetch, Clock(now=lambda: time[0]))[1]
    assert isinstance(made, ServicePrincipal)
    return made, asked


DISCOVERED = {
    "/.well-known/databricks-config": {"oidc_endpoint": f"{HOST}/oidc"},
    "/oidc/.well-known/oauth-authorization-server": {"token_endpoint": f"{HOST}/oidc/v1/token"},
    "/oidc/v1/token": {"access_token": "a", "expires_in": 3600},
}


def test_a_token_is_used_until_shortly_before_its_end() -> None:
    """Then, or when it was refused, there is a new one; the discovery is done once."""
    time = [0.0]
    header, asked = principal(DISCOVERED, time)
    assert header(False) == header(False) == "Bearer a"
    assert len(asked) == 3
    time[0] = 3561.0
    header(False)
    header(True)
    assert asked[3:] == ["POST /oidc/v1/token"] * 2


def test_an_older_workspace_has_no_configuration() -> None:
    """Its authorization server is where it always was."""
    answers = {**DISCOVERED, "/.well-known/databricks-config": CloudError("no", status=404)}
    header, _ = principal(answers, [0.0])
    assert header(False) == "Bearer a"


def test_a_token_endpoint_elsewhere_gets_no_secret_in_the_clear() -> None:
    """A discovery that leads to http is refused."""
    answers = {
        **DISCOVERED,
        "/oidc/.well-known/oauth-authorization-server": {"token_endpoint": "http://evil.example/t"},
    }
    header, asked = principal(answers, [0.0])
    with pytest.raises(ConfigError, match="not encrypted"):
        header(False)
    assert not any(line.startswith("POST") for line in asked)
