"""The resources of the API as the emulator holds them; times are in seconds since 1970."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from pytest_lakebranch.emulator.store import Store
    from pytest_lakebranch.model import ForkPoint

BranchState = Literal["INIT", "READY", "DELETED"]
EndpointState = Literal["INIT", "ACTIVE", "IDLE"]
READ_WRITE, READ_ONLY = "ENDPOINT_TYPE_READ_WRITE", "ENDPOINT_TYPE_READ_ONLY"
OAUTH, PASSWORD, NO_LOGIN = "LAKEBASE_OAUTH_V1", "PG_PASSWORD_SCRAM_SHA_256", "NO_LOGIN"
DAY = 86400.0


def uid() -> str:
    """A new unique identifier."""
    return str(uuid.uuid4())


@dataclass(slots=True)
class Sizing:
    """How large a compute is and when it is suspended: after ``suspend`` seconds without activity, None for never."""

    min_cu: float = 1.0
    max_cu: float = 1.0
    suspend: float | None = DAY
    pg_settings: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class Role:
    """A role of a branch; ``password`` is known for those that log in with one."""

    id: str
    postgres_role: str
    identity_type: str
    auth_method: str
    created: float
    updated: float
    superuser: bool = False
    attributes: dict[str, bool] = field(default_factory=dict)
    password: str | None = field(default=None, repr=False)


@dataclass(slots=True)
class Database:
    """A database of a branch; ``role`` is the identifier of its owner."""

    id: str
    postgres_database: str
    role: str
    created: float
    updated: float


@dataclass(slots=True, eq=False)
class Endpoint:
    """A compute endpoint; ``address`` is where it listens."""

    branch: Branch
    id: str
    type: str
    sizing: Sizing
    created: float
    updated: float
    last_active: float
    address: str = ""
    state: EndpointState = "INIT"
    pending: EndpointState | None = None
    disabled: bool = False
    readable_secondaries: bool = False
    computes: int = 1
    uid: str = field(default_factory=uid)

    @property
    def name(self) -> str:
        """The full resource path."""
        return f"{self.branch.name}/endpoints/{self.id}"


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a branch's data came from."""

    branch: str | None = None
    lsn: str | None = None
    time: float | None = None
    snapshot: str | None = None


@dataclass(slots=True, eq=False)
class Branch:
    """A branch; ``store`` is its data. ``busy`` while an operation changes what is in it."""

    project: Project
    id: str
    origin: Origin
    created: float
    updated: float
    state_changed: float
    expires: float | None = None
    protected: bool = False
    state: BranchState = "INIT"
    pending: BranchState | None = "READY"
    deleted: float | None = None
    purge: float | None = None
    logins_from: float = 0.0
    busy: bool = False
    uid: str = field(default_factory=uid)
    endpoints: dict[str, Endpoint] = field(default_factory=dict)
    roles: dict[str, Role] = field(default_factory=dict)
    databases: dict[str, Database] = field(default_factory=dict)
    _store: Store | None = None

    @property
    def name(self) -> str:
        """The full resource path."""
        return f"{self.project.name}/branches/{self.id}"

    @property
    def store(self) -> Store:
        """The branch's data; there is none while the branch is being made."""
        if self._store is None:
            raise LookupError(f"{self.name} has no data yet")
        return self._store

    @store.setter
    def store(self, store: Store) -> None:
        self._store = store

    @property
    def has_store(self) -> bool:
        """Whether there is data."""
        return self._store is not None

    @property
    def is_default(self) -> bool:
        """Whether this is the project's default branch."""
        return self.project.default_branch == self.id

    @property
    def is_root(self) -> bool:
        """Whether it has no parent."""
        return self.origin.branch is None and self.origin.snapshot is None

    @property
    def children(self) -> list[Branch]:
        """Branches that were forked from this one and are not deleted."""
        return [
            each for each in self.project.branches.values() if each.origin.branch == self.name and each.deleted is None
        ]


@dataclass(slots=True, eq=False)
class Snapshot:
    """An immutable copy of a branch's data."""

    project: Project
    id: str
    source: str
    point: ForkPoint
    created: float
    expires: float | None
    bytes: int
    roles: dict[str, Role]
    databases: dict[str, Database]
    uid: str = field(default_factory=uid)

    @property
    def name(self) -> str:
        """The full resource path."""
        return f"{self.project.name}/snapshots/{self.id}"


@dataclass(slots=True, eq=False)
class Project:
    """A project."""

    id: str
    owner: str
    created: float
    updated: float
    display_name: str
    pg_version: int
    retention: float = 7 * DAY
    sizing: Sizing = field(default_factory=Sizing)
    native_login: bool = False
    budget_policy: str | None = None
    tags: list[dict[str, str]] = field(default_factory=list)
    default_branch: str = ""
    deleted: float | None = None
    purge: float | None = None
    uid: str = field(default_factory=uid)
    branches: dict[str, Branch] = field(default_factory=dict)
    snapshots: dict[str, Snapshot] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The full resource path."""
        return f"projects/{self.id}"

    @property
    def endpoints(self) -> Iterator[Endpoint]:
        """All endpoints of all branches."""
        return (endpoint for branch in self.branches.values() for endpoint in branch.endpoints.values())
