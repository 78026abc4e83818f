"""What the API answers when it refuses: status, error code, message and details, in the words of the real service.

The texts and codes are those that the service was seen to send; where none was seen, the text says what is wrong.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

ERROR_INFO = "type.googleapis.com/google.rpc.ErrorInfo"
REQUEST_INFO = "type.googleapis.com/google.rpc.RequestInfo"


class ApiError(Exception):
    """An answer other than success: ``status`` is HTTP's, ``code`` the service's; an empty one is not sent."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        details: tuple[Mapping[str, Any], ...] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.details = details
        self.headers = dict(headers or {})

    def body(self, request_id: str) -> dict[str, Any]:
        """The JSON object of the answer."""
        request = {"@type": REQUEST_INFO, "request_id": request_id, "serving_data": ""}
        code = {"error_code": self.code} if self.code else {}
        return {**code, "message": self.message, "details": [*self.details, request]}


def trace() -> str:
    """The end of a message by which the service's operators would find the request."""
    return f" [TraceId: {uuid.uuid4()}]"


def not_found(what: str) -> ApiError:
    """404: there is no such thing; ``what`` is a project, branch, endpoint, …"""
    return ApiError(404, "NOT_FOUND", f"{what} id not found{trace()}")


def no_resource() -> ApiError:
    """404: no resource can have this path."""
    return ApiError(404, "NOT_FOUND", f"resource not found{trace()}")


def already_exists(what: str) -> ApiError:
    """409: the name is taken."""
    return ApiError(409, "ALREADY_EXISTS", f"{what} with such id already exists")


def bad_request(message: str, *details: Mapping[str, Any]) -> ApiError:
    """400: the state of things does not allow it."""
    return ApiError(400, "BAD_REQUEST", message, details=details)


def invalid(message: str) -> ApiError:
    """400: a value cannot be right, whatever the state of things."""
    return ApiError(400, "INVALID_PARAMETER_VALUE", message)


def required(field: str) -> ApiError:
    """400: a field is missing."""
    return invalid(f"Field '{field}' is required, expected non-default value (not \"\")!")


def malformed(message: str) -> ApiError:
    """400: the body is no JSON object."""
    return ApiError(400, "MALFORMED_REQUEST", message)


def unauthenticated(message: str) -> ApiError:
    """401: nobody, or nobody any more."""
    return ApiError(401, "UNAUTHENTICATED", message)


def permission_denied(message: str) -> ApiError:
    """403: somebody who may not."""
    return ApiError(403, "PERMISSION_DENIED", message)


def over_quota(message: str) -> ApiError:
    """400: a limit of the project or the workspace is reached."""
    return ApiError(400, "QUOTA_EXCEEDED", message)


def reconciling(name: str) -> ApiError:
    """409: the resource is on its way to another state."""
    return ApiError(409, "RESOURCE_CONFLICT", f"{name} has a reconciliation in progress; try again later.")


def conflicting() -> ApiError:
    """409: another operation works on the same branch."""
    return ApiError(
        409,
        "RESOURCE_CONFLICT",
        "Your project already has conflicting operations in progress. "
        "Please wait until they are complete, and then try again.",
    )


def managed_by_parent() -> Mapping[str, Any]:
    """The detail of a refusal to delete what goes with its parent only."""
    return {
        "@type": ERROR_INFO,
        "reason": "RESOURCE_CONFLICT",
        "domain": "databricks.com",
        "metadata": {"declarative_context": "MANAGED_BY_PARENT"},
    }
