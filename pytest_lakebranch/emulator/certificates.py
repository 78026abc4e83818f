"""Certificates for endpoints, by an authority of the emulator's own that lives as long as it does."""

from __future__ import annotations

import ssl
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import trustme


class Authority:
    """Signs a certificate for each host, so that ``sslmode=verify-full`` works for who trusts it."""

    @cached_property
    def _authority(self) -> trustme.CA:
        import trustme

        return trustme.CA(organization_name="pytest-lakebranch emulator")

    def context(self, host: str) -> ssl.SSLContext:
        """What a server at ``host`` needs to speak TLS."""
        made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._authority.issue_cert(host).configure_cert(made)
        return made

    def write(self, path: Path) -> None:
        """Write the authority's certificate, which is no secret."""
        self._authority.cert_pem.write_to_path(str(path))
