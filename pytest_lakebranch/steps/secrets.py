"""Taking secrets out of what other programs say."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

_IN_URL = re.compile(r"(?P<before>\b[a-z][a-z0-9+.-]*://[^\s:/@]*:)[^\s@/]+(?=@)", re.IGNORECASE)
_ASSIGNED = re.compile(
    r"(?P<before>\b\w*(?:password|passwd|pwd|secret|token|api_?key)\w*['\"]?\s*[=:]\s*)(?:'[^']*'|\"[^\"]*\"|[^\s,;&]+)",
    re.IGNORECASE,
)
_NAMES = re.compile(r"PASSW|PWD$|SECRET|TOKEN|API_?KEY|CREDENTIAL|PRIVATE_?KEY", re.IGNORECASE)
_SHORTEST = 4


def masked(text: str, environ: Mapping[str, str] | None = None) -> str:
    """``text`` without passwords in URLs and assignments, and without the values of variables that hold secrets."""
    for name, value in (os.environ if environ is None else environ).items():
        if len(value) >= _SHORTEST and _NAMES.search(name) and name not in ("PWD", "OLDPWD"):
            text = text.replace(value, "***")
        for found in _IN_URL.finditer(value):
            text = text.replace(value[found.end("before") : found.end()], "***")
    text = _IN_URL.sub(r"\g<before>***", text)
    return _ASSIGNED.sub(r"\g<before>***", text)
