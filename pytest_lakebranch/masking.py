"""Taking secrets out of what other programs say."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from urllib.parse import unquote

_IN_URL = re.compile(
    r"(?P<before>\b[a-z][a-z0-9+.-]*://(?P<user>[^\s:/@]*):)(?P<password>[^\s@/]+)(?=@)", re.IGNORECASE
)
_ASSIGNED = re.compile(
    r"(?P<before>\b\w*(?:password|passwd|pwd|secret|token|api_?key)\w*(?:['\"]?\s*[=:]\s*|\s+(?=E?')))"
    r"(?:E?'(?:[^']|'')*'|\"[^\"]*\"|[^\s,;&]+)",
    re.IGNORECASE,
)
"""``password=x``, ``"token": "x"``, and SQL's ``PASSWORD 'x'``."""
_NAMES = re.compile(r"PASSW|PWD$|SECRET|(?:^|_)TOKEN$|API_?KEY|CREDENTIAL|PRIVATE_?KEY", re.IGNORECASE)
_SHORTEST = 4
_CERTAIN = 12
"""Characters from which a secret is masked inside longer words too; a shorter one may be a part of any word."""
_KNOWN_TO_ALL = frozenset({"postgres", "password"})
"""Words that messages need, and that are the password of many a test server."""


def masked(text: str, environ: Mapping[str, str] | None = None) -> str:
    """``text`` without passwords in URLs, assignments and SQL, and without the values of variables with secrets."""
    for secret in sorted(set(_secrets(os.environ if environ is None else environ)), key=len, reverse=True):
        whole = re.escape(secret)
        text = re.sub(whole if len(secret) >= _CERTAIN else rf"(?<!\w){whole}(?!\w)", "***", text)
    text = _IN_URL.sub(r"\g<before>***", text)
    return _ASSIGNED.sub(r"\g<before>***", text)


def _secrets(environ: Mapping[str, str]) -> Iterator[str]:
    """What must not be shown; a password that is the user's name is none."""
    for name, value in environ.items():
        if _NAMES.search(name) and name not in ("PWD", "OLDPWD") and _is_secret(value):
            yield value
        for found in _IN_URL.finditer(value):
            for password in (found["password"], unquote(found["password"])):
                if password != found["user"] and _is_secret(password):
                    yield password


def _is_secret(value: str) -> bool:
    return len(value) >= _SHORTEST and value.lower() not in _KNOWN_TO_ALL
