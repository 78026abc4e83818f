"""Calls to a cloud's REST API: one client with retries that end, a rate that is kept, and errors a person can act on.

Used by every cloud provider; knows none of them.
"""

from __future__ import annotations

import logging
import platform
import random
import re
import socket
import threading
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from pytest_lakebranch import __version__
from pytest_lakebranch.errors import CloudError
from pytest_lakebranch.masking import masked
from pytest_lakebranch.providers._rate import Rate
from pytest_lakebranch.waiting import Clock, Deadline

if TYPE_CHECKING:
    import httpx

LOG = logging.getLogger("pytest_lakebranch.rest")
USER_AGENT = f"pytest-lakebranch/{__version__} python/{platform.python_version()} os/{platform.system().lower()}"
TRY_AGAIN = frozenset({429, 500, 502, 503, 504})
"""Statuses after which the same request may succeed. Our requests may all be sent twice: names are fixed beforehand."""
BUSY = re.compile(r"reconciliation|conflicting operations|operation in progress", re.IGNORECASE)
"""In the message of a 409 or 423: the resource is busy, not ours to give up on."""
FIRST_PAUSE, LONGEST_PAUSE = 0.2, 8.0
CONNECT_SECONDS, ANSWER_SECONDS = 10.0, 60.0
FIRST_SECONDS = 15.0
"""How long an answer is waited for from a host that has never given one: its name may be wrong."""
SHOWN = 300
CERTIFICATE = "CERTIFICATE_VERIFY_FAILED"
TRUST = (
    "Whose certificate is that? Look at the host name (DATABRICKS_HOST), at this machine's clock, and whether a proxy "
    "reads along: the certificate of its authority goes into the file that SSL_CERT_FILE names."
)
LOOK_AT = "Look at the host name (DATABRICKS_HOST), the network, and HTTPS_PROXY and NO_PROXY."


@dataclass(frozen=True, slots=True)
class Request:
    """One request; ``doing`` says for a person what it is for."""

    method: str
    path: str
    doing: str
    query: Mapping[str, str] | None = None
    body: Mapping[str, Any] | None = None


@dataclass(slots=True)
class Client:
    """Sends requests to ``host``, at most as many a minute as ``rate`` allows. May be used from several threads.

    ``authorization`` gives the header for each request, anew where ``renew`` says that the former one was refused.
    """

    host: str
    authorization: Callable[[bool], str]
    rate: Rate
    clock: Clock = field(default_factory=Clock)
    _given_up: float = 0.0
    _answered: bool = False
    _http: httpx.Client | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def call(self, request: Request, deadline: Deadline) -> dict[str, Any]:
        """Send a request until it is answered with success or a lasting failure: the JSON object; raises CloudError.

        Tried again, as long as the deadline lets: what ``TRY_AGAIN`` and ``BUSY`` name, no connection, half an answer,
        and the same when signing in. A host that has never answered is given up soon, and at once where its name has no
        address. Where another call has given up after as long a wait, and nobody has been answered since, one attempt
        is made, and no long one.
        """
        attempt, unsure, renew, renewed = 0, False, False, False
        while True:
            found = self._attempt(request, deadline, renew=renew)
            if isinstance(found, dict):
                return found
            found.doing, found.unsure = found.doing or request.doing, unsure or found.unsure
            unsure, renew = found.unsure, False
            if found.status == 401 and not renewed:
                renew = renewed = True
                continue
            self._pause(found, attempt, deadline)
            attempt += 1

    def _pause(self, failure: CloudError, attempt: int, deadline: Deadline) -> None:
        """Wait before the next attempt; raises the failure when there is to be none."""
        longest = min(LONGEST_PAUSE, FIRST_PAUSE * 2**attempt)
        pause = max(longest * random.uniform(0.6, 1.4), failure.retry_after or 0.0)  # noqa: S311
        if not failure.passing or pause >= self._left(failure, deadline):
            failure.waited = deadline.seconds - deadline.left if attempt else 0.0
            if failure.passing and failure.status == 0:
                self._given_up = max(self._given_up, deadline.seconds)
            raise failure
        LOG.info("%s: %s; again in %.1f s", failure.doing, failure.brief, pause)
        if failure.status == 429:
            self.rate.hold(pause)
        self.clock.sleep(pause)

    def _left(self, failure: CloudError, deadline: Deadline) -> float:
        """Seconds for further attempts after this failure."""
        if failure.status:
            return deadline.left
        if self._is_given_up(deadline) or (failure.nowhere and not self._answered):
            return 0.0
        return deadline.left if self._answered else deadline.left - max(0.0, deadline.seconds - FIRST_SECONDS)

    def _is_given_up(self, deadline: Deadline) -> bool:
        """Whether another call has waited as long, and nobody has been answered since."""
        return self._given_up >= deadline.seconds

    def _attempt(self, request: Request, deadline: Deadline, *, renew: bool) -> dict[str, Any] | CloudError:
        """The JSON object of a success, or the error of a failure."""
        import httpx

        self.rate.wait(deadline)
        try:
            headers = {"Authorization": self.authorization(renew)}
        except CloudError as error:
            error.unsure = False  # the request itself was not sent
            return error
        usual = ANSWER_SECONDS if self._answered else FIRST_SECONDS
        patience = CONNECT_SECONDS if self._is_given_up(deadline) else usual
        timeout = httpx.Timeout(min(patience, max(deadline.left, 1.0)), connect=CONNECT_SECONDS)
        what: dict[str, Any] = {"params": request.query, "json": request.body, "headers": headers, "timeout": timeout}
        try:
            response = self._client().request(request.method, request.path, **what)
        except (httpx.RequestError, httpx.InvalidURL) as error:
            return _unreachable(self.host, error)
        self._given_up, self._answered = 0.0, True
        LOG.debug("%s %s %s: %d", request.method, request.path, dict(request.query or {}), response.status_code)
        return _judged(response)

    def _client(self) -> httpx.Client:
        import httpx

        with self._lock:
            if self._http is None:
                self._http = httpx.Client(
                    base_url=self.host,
                    headers={"User-Agent": USER_AGENT, "Accept": "application/json"},
                    limits=httpx.Limits(max_connections=32),
                    trust_env=_has_proxies(self.host),
                )
            return self._http

    def close(self) -> None:
        """Hang up. Idempotent; a call after it connects again."""
        with self._lock:
            if self._http is not None:
                self._http.close()
                self._http = None


def is_loopback(host: str) -> bool:
    """Whether ``host`` is this machine."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _has_proxies(url: str) -> bool:
    """Whether the variables that name proxies hold for a URL: none leads back to this machine."""
    return not is_loopback(urlsplit(url).hostname or "")


def _proxy(url: str) -> str:
    """The proxy through which a URL is reached, without its password; empty for none."""
    found = urlsplit(url)
    proxies = getproxies()
    named = proxies.get(found.scheme) or proxies.get("all") or ""
    if not named or not _has_proxies(url) or proxy_bypass(found.hostname or ""):
        return ""
    return urlsplit(named if "://" in named else f"//{named}").netloc.rpartition("@")[2]


def _unreachable(where: str, error: Exception) -> CloudError:
    import httpx

    never_sent = isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.UnsupportedProtocol)
    proxy, said = _proxy(where), str(error)
    through = f" through the proxy {proxy}" if proxy else ""
    untrusted = CERTIFICATE in said
    refused = isinstance(error, httpx.ProxyError) and not said.startswith("5")
    never = isinstance(error, httpx.UnsupportedProtocol | httpx.InvalidURL | httpx.TooManyRedirects)
    found = CloudError(
        f"{where} does not answer{through}: {type(error).__name__}: {masked(said)}".rstrip(": "),
        hint=TRUST if untrusted else LOOK_AT,
        passing=not (never or untrusted or refused),
        unsure=not never_sent and not isinstance(error, httpx.ProxyError),
    )
    found.nowhere = _is_nowhere(error)
    return found


def _is_nowhere(error: BaseException | None) -> bool:
    """Whether a name has no address; that nobody can be asked for it just now is something else."""
    while error is not None and not isinstance(error, socket.gaierror):
        error = error.__cause__ or error.__context__
    return error is not None and error.errno == socket.EAI_NONAME


def _judged(response: httpx.Response) -> dict[str, Any] | CloudError:
    if response.is_success:
        try:
            found = response.json() if response.content else {}
        except ValueError:
            found = None
        if isinstance(found, dict):
            return found
        return CloudError(
            f"the answer is no JSON object but {_shown(response)}",
            status=response.status_code,
            hint="Is a proxy in between, or is this not the API's host? Look at DATABRICKS_HOST and HTTPS_PROXY.",
        )
    return _refused(response)


def _refused(response: httpx.Response) -> CloudError:
    body = _object(response)
    status = response.status_code
    message = str(body.get("message") or body.get("error_description") or body.get("detail") or _shown(response))
    code = str(body.get("error_code") or body.get("error") or body.get("code") or "")
    details = _details(body)
    busy = status in (409, 423) and BUSY.search(message) is not None
    return CloudError(
        message,
        status=status,
        code=code,
        request_id=_request_id(details) or response.headers.get("x-request-id", ""),
        retry_after=_retry_after(response, details),
        hint=_hint(status, code, message, is_api=bool(body)),
        passing=status in TRY_AGAIN or busy,
        unsure=status in (500, 502, 503, 504),
    )


def _object(response: httpx.Response) -> dict[str, Any]:
    try:
        found = response.json()
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _shown(response: httpx.Response) -> str:
    """The beginning of an answer that is no JSON object: the title of an HTML page, or its text."""
    text = response.text.strip()
    title = re.search(r"<title>(.*?)</title>", text, re.IGNORECASE | re.DOTALL)
    said = title[1] if title else re.sub(r"<[^>]*>", " ", text)
    kind = response.headers.get("content-type", "something")
    return f"{kind}: {' '.join(said.split())[:SHOWN]}" if said else f"nothing ({kind})"


def failed(error: Mapping[str, Any], passing: Container[str]) -> CloudError:
    """The error with which an operation ended, ``passing`` being the codes of those that may not come again."""
    code, message = str(error.get("error_code", "")), str(error.get("message", "no reason given"))
    hint, request_id = _hint(0, code, message, is_api=True), _request_id(_details(error))
    return CloudError(message, code=code, request_id=request_id, hint=hint, passing=code in passing)


def _details(body: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [item for item in body.get("details") or [] if isinstance(item, dict)]


def _request_id(details: list[dict[str, Any]]) -> str:
    return next((str(item["request_id"]) for item in details if item.get("request_id")), "")


def _date(header: str) -> datetime | None:
    """A time as HTTP writes it; None for nonsense."""
    try:
        found = parsedate_to_datetime(header)
    except (ValueError, TypeError):
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _retry_after(response: httpx.Response, details: list[dict[str, Any]]) -> float | None:
    """Seconds: of the header (RFC 9110, 10.2.3), a number or a date by the service's clock, or of a RetryInfo."""
    header = response.headers.get("retry-after", "")
    if header.strip().isdigit():
        return float(header)
    until, now = _date(header), _date(response.headers.get("date", "")) or datetime.now(UTC)
    if until is not None:
        return max(0.0, (until - now).total_seconds())
    delays = (re.fullmatch(r"(\d+(?:\.\d+)?)s", str(item.get("retry_delay", ""))) for item in details)
    return next((float(found[1]) for found in delays if found), None)


HINTS = {
    401: "The token is wrong, expired or of another workspace: look at DATABRICKS_TOKEN, or client id and secret.",
    403: "The identity lacks the permission: branches are made and deleted by who CAN MANAGE the project.",
    404: "Look at lakebranch_source and DATABRICKS_HOST: the name or the workspace is another one.",
    407: "The proxy wants a login: look at HTTPS_PROXY.",
    429: "The API's rate limit: set lakebranch_requests to fewer a minute, or run fewer workers.",
}


def _hint(status: int, code: str, message: str, *, is_api: bool) -> str:
    if not is_api and status != 429:
        return (
            "This does not look like the API's answer: is a proxy in between? Look at HTTPS_PROXY and DATABRICKS_HOST."
        )
    if is_quota(status, code, message):
        return "Delete branches (`lakebranch reap`), run fewer workers, or set lakebranch_branches to what there is."
    return HINTS.get(status, "It is the service's fault: try again later." if status >= 500 else "")


def is_quota(status: int, code: str, message: str) -> bool:
    """Whether a refusal says that there is too much of something; a 429 that does not name a quota is about haste."""
    if "QUOTA" in code or code == "RESOURCE_LIMIT_EXCEEDED":
        return True
    return status != 429 and (code == "RESOURCE_EXHAUSTED" or re.search(r"limit of|quota", message) is not None)


def fetch(method: str, url: str, **options: Any) -> dict[str, Any]:
    """The JSON object at a URL, without authorization of ours; raises CloudError. For signing in."""
    import httpx

    try:
        how = {"headers": {"User-Agent": USER_AGENT}, "timeout": CONNECT_SECONDS, "trust_env": _has_proxies(url)}
        response = httpx.request(method, url, **{**how, **options})
        found = _judged(response)
    except (httpx.RequestError, httpx.InvalidURL) as error:
        found = _unreachable(url, error)
    if isinstance(found, CloudError):
        found.doing = f"signing in at {url}"
        raise found from None
    return found
