"""Every error that pytest-lakebranch raises on purpose.

    LakebranchError
    ├── ConfigError      a setting, marker argument or step is written wrongly
    ├── MachineError     this machine lacks something: PostgreSQL, a storage rung, disk space, a right
    ├── BaseError        the base could not be built or sealed
    ├── MigrationError   a migration does not pass a check
    ├── BranchError      a branch could not be created, forked, reset or used
    │   ├── CloudError   the service that branches live at refused, failed or did not answer
    │   └── UpkeepError  something beside the tests went wrong, and nothing of the run is left because of it
    └── HostError        the host process cannot be reached or broke off

Each carries one message for a person: what happened, where, what was tried, what to do.
All are picklable and cross the host's socket by class name and message.
"""

from __future__ import annotations

import contextlib
import os

OURS = (os.path.dirname(__file__) + os.sep, contextlib.__file__)  # noqa: PTH120  (pathlib would have to be imported)
"""How the names of files begin whose frames say nothing to a user."""

BRIEF = 120


class LakebranchError(Exception):
    """Base of all errors raised by pytest-lakebranch."""


class ConfigError(LakebranchError):
    """A setting, marker argument or step is written wrongly; pytest shows it as a usage error."""


class MachineError(LakebranchError):
    """This machine lacks something that was asked for."""


class BaseError(LakebranchError):
    """The base could not be built or sealed; nothing was cached."""


class MigrationError(LakebranchError):
    """A migration does not pass a check."""


class BranchError(LakebranchError):
    """A branch could not be created, forked, reset or used."""


class CloudError(BranchError):
    """A cloud's service refused, failed, or did not answer.

    ``passing``: the same request may succeed later. ``unsure``: it may have been carried out all the same.
    ``retry_after`` and ``waited`` are in seconds. ``nowhere``: its host's name has no address.
    """

    def __init__(  # noqa: PLR0913  (facts of one refusal, all named)
        self,
        message: str,
        *,
        status: int = 0,
        code: str = "",
        request_id: str = "",
        retry_after: float | None = None,
        hint: str = "",
        passing: bool = False,
        unsure: bool = False,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.code = code
        self.request_id = request_id
        self.retry_after = retry_after
        self.hint = hint
        self.passing = passing
        self.unsure = unsure
        self.nowhere = False
        self.doing = ""
        self.waited = 0.0

    @property
    def is_silence(self) -> bool:
        """Whether the service gave no answer that another attempt could not bring."""
        return self.passing and not self.status and not self.code

    @property
    def brief(self) -> str:
        """Status, code and message in a line."""
        words = (str(self.status) if self.status else "", self.code)
        return f"{' '.join(filter(None, words))}: {self.message}".removeprefix(": ")

    def __str__(self) -> str:
        """What was being done, what the service said, how long it was tried, and what to do."""
        doing = f"{self.doing}: " if self.doing else ""
        tried = f" (tried for {self.waited:.0f} s)" if self.waited >= 1 else ""
        request = f" Request id: {self.request_id}." if self.request_id else ""
        return f"{doing}{self.brief.rstrip('.')}{tried}.{request}{f' {self.hint}' if self.hint else ''}"

    def __reduce__(self) -> tuple[type[BranchError], tuple[str]]:
        """As a plain BranchError: across processes the text is what counts."""
        return (BranchError, (str(self),))


class UpkeepError(BranchError):
    """Something beside the tests went wrong; nothing of the run is left because of it."""


class HostError(LakebranchError):
    """The host process cannot be reached or broke off."""


ERRORS = (
    LakebranchError,
    ConfigError,
    MachineError,
    BaseError,
    MigrationError,
    BranchError,
    CloudError,
    UpkeepError,
    HostError,
)
BY_NAME: dict[str, type[LakebranchError]] = {kind.__name__: kind for kind in ERRORS}


def brief(error: LakebranchError) -> str:
    """How a message begins, where it is not the first time that it is said."""
    first = (str(error).splitlines() or [type(error).__name__])[0]
    return f"{first[:BRIEF]}{'…' if len(first) > BRIEF else ''}"


def end_at_callers(error: LakebranchError) -> None:
    """Have the traceback of an error end where our code was called, if it was."""
    last, step = None, error.__traceback__
    while step is not None:
        if not step.tb_frame.f_code.co_filename.startswith(OURS):
            last = step
        step = step.tb_next
    if last is not None:
        last.tb_next = None
