"""What is taken out of messages, and what stays in them."""

from __future__ import annotations

import pytest

from pytest_lakebranch.masking import masked

SAME = "="


@pytest.mark.parametrize(
    ("text", "environ", "shown"),
    [
        ("at postgresql://me:pa55@db/x", {}, "at postgresql://me:***@db/x"),
        ("password=pa55 host=db", {}, "password=*** host=db"),
        ('{"api_key": "pa55"}', {}, '{"api_key": ***}'),
        ("CREATE ROLE app PASSWORD 'it''s'", {}, "CREATE ROLE app PASSWORD ***"),
        ("ALTER ROLE app ENCRYPTED PASSWORD  E'x' LOGIN", {}, "ALTER ROLE app ENCRYPTED PASSWORD  *** LOGIN"),
        ("it was pa55!", {"DB_PASSWORD": "pa55"}, "it was ***!"),
        ("it was pa55!", {"URL": "postgresql://me:pa55@db/x"}, "it was ***!"),
        ("it was p/55!", {"URL": "postgresql://me:p%2F55@db/x"}, "it was ***!"),
        ("in xlong-secret-wordx", {"A_TOKEN": "long-secret-word"}, "in x***x"),
        ("the catalog has cats", {"DB_PASSWORD": "cats"}, "the catalog has ***"),
        ('role "postgres" is not there', {"URL": "postgresql://postgres:postgres@db/x"}, SAME),
        ('role "postgres" is not there', {"POSTGRES_PASSWORD": "postgres"}, SAME),
        ("the shop is shut", {"URL": "postgresql://shop:shop@db/x"}, SAME),
        ("an app", {"URL": "postgresql://me:app@db/x"}, SAME),
        ("it is false", {"TOKENIZERS_PARALLELISM": "false"}, SAME),
        ("in /home/me", {"PWD": "/home/me"}, SAME),
        ('password authentication failed for user "app"', {}, SAME),
        ("ALTER TABLE t ADD password text", {}, SAME),
    ],
)
def test_masked(text: str, environ: dict[str, str], shown: str) -> None:
    """Passwords and the values of secret variables go; words that merely look like them stay."""
    assert masked(text, environ) == (text if shown is SAME else shown)
