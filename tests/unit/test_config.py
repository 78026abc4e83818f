"""Settings: three spellings, one order of precedence, no silent nonsense."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pytest_lakebranch.config import TABLE, Settings, not_default, refuse_unknown, resolve
from pytest_lakebranch.errors import ConfigError


def settings(**places: Any) -> Settings:
    """Settings from the given places; the others give nothing."""
    empty: dict[str, Any] = {"options": {}, "environ": {}, "ini": {}, "root": Path("/project")}
    return resolve(**{**empty, **places})


def test_nothing_given_means_defaults() -> None:
    """Without any setting, every value is its default and no source is named."""
    found = settings()
    assert (found.provider, found.database, found.user) == ("local", "app", "postgres")
    assert found.sources == {}
    assert not_default(found) == []


@pytest.mark.parametrize(
    ("places", "value", "source"),
    [
        ({"options": {"database": "a"}, "environ": {"LAKEBRANCH_DATABASE": "b"}}, "a", "--lakebranch-database"),
        ({"environ": {"LAKEBRANCH_DATABASE": "b"}, "ini": {"database": "c"}}, "b", "LAKEBRANCH_DATABASE"),
        ({"ini": {"database": "c"}}, "c", "lakebranch_database in ini"),
    ],
)
def test_precedence(places: dict[str, Any], value: str, source: str) -> None:
    """The command line wins over the environment, the environment over ini."""
    found = settings(**places)
    assert found.database == value
    assert found.sources == {"database": source}


def test_false_on_a_stronger_place_wins() -> None:
    """A flag that is switched off in the environment beats one that is switched on in ini."""
    assert settings(environ={"LAKEBRANCH_AUTOUSE": "no"}, ini={"autouse": True}).autouse is False


@pytest.mark.parametrize("row", [row for row in TABLE if row.kind != "flag"], ids=lambda row: row.name)
@pytest.mark.parametrize("place", ["options", "environ", "ini"])
def test_set_but_empty_is_an_error(row: Any, place: str) -> None:
    """A value that is set to nothing is refused, and the message names the place."""
    key = {"options": row.name, "environ": row.env, "ini": row.name}[place]
    empty: Any = [] if row.kind == "list" and place != "environ" else ""
    with pytest.raises(ConfigError, match="empty") as caught:
        settings(**{place: {key: empty}})
    assert {"options": row.flag, "environ": row.env, "ini": row.ini}[place] in str(caught.value)


@pytest.mark.parametrize(
    ("ini", "says"),
    [
        ({"provider": "oracle"}, "not one of local"),
        ({"storage": "floppy"}, "not one of auto, snapshot, overlay, reflink, copy"),
        ({"autouse": "perhaps"}, "neither true nor false"),
        ({"database": "postgres"}, "maintenance database"),
        ({"database": "x" * 64}, "63 bytes"),
        ({"settings": ["work_mem"]}, "not of the form name=value"),
        ({"settings": ["port=5433"]}, "cannot be set"),
        ({"env": ["1X"]}, "neither NAME nor NAME=TEMPLATE"),
        ({"env": ["X={hots}"]}, "unknown placeholder"),
        ({"env": ["X={host.x}"]}, "unknown placeholder"),
        ({"env": ["X={"]}, "unknown placeholder"),
        ({"lock_timeout": "0s"}, "lakebranch_lock_timeout: '0s' is no time at all"),
        ({"deadline": "0m"}, "lakebranch_deadline: '0m' is no time at all"),
        ({"ttl": "0h"}, "lakebranch_ttl: '0h' is no time at all"),
        ({"ttl": "forever"}, "lakebranch_ttl: 'forever' is not a span of time such as"),
        ({"home": "~no-such-user/x"}, "lakebranch_home: '~no-such-user/x': there is no such user"),
        ({"report": ["~no-such-user/x.html"]}, "lakebranch_report: '~no-such-user/x.html': there is no such user"),
        ({"cache_size": "big"}, "lakebranch_cache_size: 'big' is not a size such as 500M or 2G"),
        ({"cache_size": "-1G"}, "lakebranch_cache_size: '-1G' is not a size"),
        ({"cache_size": "1.5G"}, "lakebranch_cache_size: '1.5G' is not a size"),
        ({"cache_size": "10 apples"}, "lakebranch_cache_size: '10 apples' is not a size"),
        ({"cache_size": "٣G"}, "lakebranch_cache_size: '٣G' is not a size"),
    ],
)
def test_nonsense_is_refused(ini: dict[str, Any], says: str) -> None:
    """Each wrong value is refused with what is wrong about it."""
    with pytest.raises(ConfigError, match=says):
        settings(ini=ini)


def test_lists_from_the_environment_are_split_like_a_shell_would() -> None:
    """Words are separated by blanks; quotes hold words together."""
    found = settings(environ={"LAKEBRANCH_SETTINGS": "timezone=UTC 'search_path=a, b'"})
    assert found.server_settings == {"timezone": "UTC", "search_path": "a, b"}
    with pytest.raises(ConfigError, match="cannot be split"):
        settings(environ={"LAKEBRANCH_SETTINGS": "'open"})


@pytest.mark.parametrize(
    ("environ", "ini", "meant"), [(["LAKEBRANCH_BAES"], [], "BASE"), ([], ["lakebranch_usr"], "user")]
)
def test_a_misspelt_setting_is_refused(environ: list[str], ini: list[str], meant: str) -> None:
    """Instead of doing nothing; the message has the setting that was meant."""
    with pytest.raises(ConfigError, match=f"Did you mean .*{meant}"):
        refuse_unknown(environ, ini)


def test_variables_are_filled() -> None:
    """A bare name gets the URL, a template its parts."""
    found = settings(ini={"env": ["DATABASE_URL", "DB_HOST={host}", "DSN=postgresql+psycopg://{user}@/{database}"]})
    values = {"url": "U", "host": "H", "port": "5432", "user": "me", "database": "app"}
    assert found.variables(values) == {"DATABASE_URL": "U", "DB_HOST": "H", "DSN": "postgresql+psycopg://me@/app"}


def test_json_round_trip() -> None:
    """What the host reads is what the worker wrote."""
    found = settings(ini={"base": ["sql:a.sql"], "settings": ["work_mem=8MB"]}, options={"rebuild": True})
    import json

    assert Settings.from_json(json.loads(json.dumps(found.to_json()))) == found


def test_relative_paths_are_relative_to_the_root() -> None:
    """A relative state directory lies in the project, and so do PostgreSQL's programs; words are no paths."""
    assert settings(ini={"home": "state"}).home == "/project/state"
    assert settings(ini={"postgres": "pg/bin"}).postgres == "/project/pg/bin"
    assert settings(ini={"postgres": "/usr/bin"}).postgres == "/usr/bin"
    assert settings(ini={"postgres": "embedded"}).postgres == "embedded"


def test_a_list_of_a_stronger_place_replaces_the_others() -> None:
    """Entries of several places are not mixed."""
    environ = {"LAKEBRANCH_BASE": "sql:schema.sql 'command:sh seed.sh inputs=seed.sql'"}
    found = settings(environ=environ, ini={"base": ["dump:a", "sql:b"]})
    assert found.base == ("sql:schema.sql", "command:sh seed.sh inputs=seed.sql")
