"""Signing in: discovery, tokens for service principals, and who one is."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from werkzeug.wrappers import Request, Response

from pytest_lakebranch.emulator.http import Page, json_response
from pytest_lakebranch.emulator.identities import ACCESS_SECONDS, Identity
from pytest_lakebranch.emulator.refusals import ApiError

if TYPE_CHECKING:
    from pytest_lakebranch.emulator.emulator import Emulator

SCOPES = ("all-apis", "postgres")
NAMES = frozenset({"databricks_config", "oauth_authorization_server", "oidc_token", "me"})
"""The calls, as faults, latencies and what was served name them."""


class SignIn:
    """The pages around the API; they raise ApiError."""

    def __init__(self, emulator: Emulator) -> None:
        self._emulator = emulator
        self.pages = {
            "GET /.well-known/databricks-config": Page(self.configuration, "databricks_config"),
            "GET /oidc/.well-known/oauth-authorization-server": Page(self.server, "oauth_authorization_server"),
            "POST /oidc/v1/token": Page(self.token, "oidc_token", _refused),
            "GET /api/2.0/preview/scim/v2/Me": Page(self.me, "me"),
        }

    def configuration(self, request: Request) -> Response:
        """Where to sign in."""
        base = request.host_url.rstrip("/")
        return json_response(
            {
                "oidc_endpoint": f"{base}/oidc",
                "account_id": self._emulator.account_id,
                "workspace_id": str(self._emulator.workspace_id),
                "cloud": "aws",
            }
        )

    def server(self, request: Request) -> Response:
        """The authorization server."""
        base = f"{request.host_url.rstrip('/')}/oidc"
        return json_response(
            {
                "issuer": base,
                "authorization_endpoint": f"{base}/v1/authorize",
                "token_endpoint": f"{base}/v1/token",
            }
        )

    def token(self, request: Request) -> Response:
        """An access token by client credentials, sent as Basic authorization or in the form."""
        return json_response(self._granted(request))

    def _granted(self, request: Request) -> dict[str, Any]:
        form, basic = request.form, request.authorization
        if form.get("grant_type") != "client_credentials":
            raise ApiError(400, "unsupported_grant_type", "grant_type must be client_credentials")
        scopes = form.get("scope", "").split()
        if not scopes or not set(scopes) <= set(SCOPES):
            raise ApiError(400, "invalid_scope", f"scope must be one of {', '.join(SCOPES)}")
        if basic is not None and basic.type == "basic":
            client, secret = basic.username or "", basic.password or ""
        else:
            client, secret = form.get("client_id", ""), form.get("client_secret", "")
        token = self._emulator.world.tokens.log_in(client, secret)
        return {
            "access_token": token,
            "token_type": "Bearer",
            "expires_in": int(ACCESS_SECONDS),
            "scope": " ".join(scopes),
        }

    def me(self, request: Request) -> Response:
        """Who the token belongs to."""
        return json_response(_user(self._emulator.world.tokens.authenticated(request.headers.get("Authorization"))))


def _refused(error: ApiError) -> Response:
    """In OAuth's words."""
    response = json_response({"error": error.code, "error_description": error.message}, error.status)
    response.headers.update(error.headers)
    return response


def _user(identity: Identity) -> dict[str, Any]:
    number = int(hashlib.sha256(identity.name.encode()).hexdigest()[:12], 16)
    return {
        "schemas": ["urn:ietf:params:scim:schemas:core:2.0:User"],
        "id": str(number),
        "userName": identity.name,
        "displayName": identity.name,
        "active": True,
        "emails": [{"type": "work", "value": identity.name, "primary": True}],
    }
