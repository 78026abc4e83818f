"""Every error that pytest-lakebranch raises on purpose.

    LakebranchError
    ├── ConfigError      a setting, marker argument or step is written wrongly
    ├── MachineError     this machine lacks something: PostgreSQL, a storage rung, disk space, a right
    ├── BaseError        the base could not be built or sealed
    ├── BranchError      a branch could not be created, forked, reset or used
    └── HostError        the host process cannot be reached or broke off

Each carries one message for a person: what happened, where, what was tried, what to do.
All are picklable and cross the host's socket by class name and message.
"""

from __future__ import annotations


class LakebranchError(Exception):
    """Base of all errors raised by pytest-lakebranch."""


class ConfigError(LakebranchError):
    """A setting, marker argument or step is written wrongly; pytest shows it as a usage error."""


class MachineError(LakebranchError):
    """This machine lacks something that was asked for."""


class BaseError(LakebranchError):
    """The base could not be built or sealed; nothing was cached."""


class BranchError(LakebranchError):
    """A branch could not be created, forked, reset or used."""


class HostError(LakebranchError):
    """The host process cannot be reached or broke off."""


BY_NAME: dict[str, type[LakebranchError]] = {
    kind.__name__: kind for kind in (LakebranchError, ConfigError, MachineError, BaseError, BranchError, HostError)
}
