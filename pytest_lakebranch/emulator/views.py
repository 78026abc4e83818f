"""The JSON that the API shows of each resource: ``status`` only, as the service does; what is None is left out."""

from __future__ import annotations

from typing import Any

from pytest_lakebranch.emulator.clock import duration, timestamp
from pytest_lakebranch.emulator.resources import (
    READ_ONLY,
    Branch,
    Database,
    Endpoint,
    Project,
    Role,
    Sizing,
    Snapshot,
)

SIZE_LIMIT = 8 << 40
"""Bytes of a branch's logical size, of the service."""
View = dict[str, Any]


def _given(**fields: Any) -> View:
    return {name: value for name, value in fields.items() if value is not None}


def _resource(it: Project | Branch | Endpoint, status: View, **more: Any) -> View:
    """What all of them have, and what one has more."""
    times = {"create_time": timestamp(it.created), "update_time": timestamp(it.updated)}
    return _given(name=it.name, uid=it.uid, **times, **more, status=status)


def _time(seconds: float | None) -> str | None:
    return None if seconds is None else timestamp(seconds)


def _sizing(sizing: Sizing) -> View:
    return _given(
        autoscaling_limit_min_cu=sizing.min_cu,
        autoscaling_limit_max_cu=sizing.max_cu,
        suspend_timeout_duration=None if sizing.suspend is None else duration(sizing.suspend),
    )


def project(it: Project) -> View:
    """A Project."""
    active = max((endpoint.last_active for endpoint in it.endpoints), default=None)
    sizes = [branch.store.bytes for branch in it.branches.values() if branch.has_store]
    status = _given(
        project_id=it.id,
        display_name=it.display_name,
        owner=it.owner,
        pg_version=it.pg_version,
        history_retention_duration=duration(it.retention),
        default_endpoint_settings={**_sizing(it.sizing), **_given(pg_settings=it.sizing.pg_settings or None)},
        default_branch=f"{it.name}/branches/{it.default_branch}" if it.default_branch else None,
        enable_pg_native_login=it.native_login,
        budget_policy_id=it.budget_policy,
        custom_tags=it.tags or None,
        branch_logical_size_limit_bytes=SIZE_LIMIT,
        synthetic_storage_size_bytes=sum(sizes),
        compute_last_active_time=_time(active),
    )
    return _resource(it, status, project_id=it.id, delete_time=_time(it.deleted), purge_time=_time(it.purge))


def branch(it: Branch) -> View:
    """A Branch."""
    status = _given(
        branch_id=it.id,
        current_state=it.state,
        pending_state=it.pending,
        state_change_time=timestamp(it.state_changed),
        default=it.is_default,
        is_protected=it.protected,
        logical_size_bytes=it.store.bytes if it.has_store else None,
        source_branch=it.origin.branch,
        source_branch_lsn=it.origin.lsn,
        source_branch_time=_time(it.origin.time),
        source_snapshot=it.origin.snapshot,
        expire_time=_time(it.expires),
        delete_time=_time(it.deleted),
        purge_time=_time(it.purge),
    )
    return _resource(it, status, branch_id=it.id, parent=it.project.name)


def endpoint(it: Endpoint) -> View:
    """An Endpoint."""
    read_only = it.type == READ_ONLY
    secondary = it.address if it.computes > 1 and it.readable_secondaries else None
    hosts = _given(
        host=it.address,
        read_only_host=it.address if read_only else secondary,
        read_write_pooled_host=None if read_only else it.address,
        read_only_pooled_host=it.address if read_only else secondary,
    )
    group = {"min": it.computes, "max": it.computes, "enable_readable_secondaries": it.readable_secondaries}
    status = _given(
        endpoint_id=it.id,
        endpoint_type=it.type,
        current_state=it.state,
        pending_state=it.pending,
        disabled=it.disabled,
        **_sizing(it.sizing),
        last_active_time=timestamp(it.last_active),
        group=group,
        settings={"pg_settings": it.sizing.pg_settings} if it.sizing.pg_settings else None,
        hosts=hosts if it.address else None,
    )
    return _resource(it, status, endpoint_id=it.id, parent=it.branch.name)


def role(parent: Branch, it: Role) -> View:
    """A Role."""
    status = {
        "role_id": it.id,
        "postgres_role": it.postgres_role,
        "identity_type": it.identity_type,
        "auth_method": it.auth_method,
        "membership_roles": ["DATABRICKS_SUPERUSER"] if it.superuser else [],
        "attributes": {name: it.attributes.get(name, False) for name in ("bypassrls", "createdb", "createrole")},
    }
    return {
        "name": f"{parent.name}/roles/{it.id}",
        "role_id": it.id,
        "parent": parent.name,
        "create_time": timestamp(it.created),
        "update_time": timestamp(it.updated),
        "status": status,
    }


def database(parent: Branch, it: Database) -> View:
    """A Database."""
    status = {
        "database_id": it.id,
        "postgres_database": it.postgres_database,
        "role": f"{parent.name}/roles/{it.role}",
    }
    return {
        "name": f"{parent.name}/databases/{it.id}",
        "database_id": it.id,
        "parent": parent.name,
        "create_time": timestamp(it.created),
        "update_time": timestamp(it.updated),
        "status": status,
    }


def snapshot(it: Snapshot) -> View:
    """A Snapshot."""
    status = _given(
        source_branch=it.source,
        full_size_bytes=it.bytes,
        expire_time=_time(it.expires),
        no_expiry=True if it.expires is None else None,
    )
    return {
        "name": it.name,
        "snapshot_id": it.id,
        "uid": it.uid,
        "create_time": timestamp(it.created),
        "status": status,
    }
