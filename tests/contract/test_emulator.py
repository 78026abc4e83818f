"""The emulator, driven by the official client: what each call does, to real databases."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from databricks.sdk.common.types.fieldmask import FieldMask
from databricks.sdk.service import postgres
from emulator_rigs import DATABASE, Emulated
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from pytest_lakebranch.emulator.emulator import USER
from pytest_lakebranch.emulator.oidc import NAMES as SIGN_IN

pytest_plugins = ["emulator_fixtures"]
pytestmark = pytest.mark.usefixtures("tidy")


def mask(*paths: str) -> FieldMask:
    """An update mask."""
    return FieldMask(list(paths))


def span(seconds: int) -> Duration:
    """A duration."""
    return Duration(seconds=seconds)


def test_a_branch_is_a_database_of_its_own(lakebase: Emulated) -> None:
    """What is written on a branch is not seen on its parent, and the other way round."""
    branch = lakebase.branch()
    with lakebase.connect(branch.name) as connection:
        connection.execute("delete from item where id > 3")
    assert lakebase.count(branch.name) == 3
    assert lakebase.count(lakebase.production) == 10


def test_a_branch_of_a_branch_begins_with_its_present(lakebase: Emulated) -> None:
    """A fork has what was committed when it was asked for."""
    parent = lakebase.branch()
    with lakebase.connect(parent.name) as connection:
        connection.execute("insert into item values (100)")
        child = lakebase.branch(parent.name)
        connection.execute("insert into item values (101)")
    assert lakebase.count(child.name) == 11
    assert child.status.source_branch == parent.name
    assert child.status.source_branch_lsn


def test_the_client_waits_for_its_operations(lakebase: Emulated) -> None:
    """The SDK's own wait() ends with the branch; an operation begins undone, and can be read when all is over."""
    spec = postgres.BranchSpec(ttl=span(3600))
    created = lakebase.w.postgres.create_branch(lakebase.project, postgres.Branch(spec=spec), "waited")
    assert created._operation.done is False
    assert created.name().startswith(f"{lakebase.project}/branches/waited/operations/")
    assert created.name().endswith("=")
    branch = created.wait()
    assert branch.status.current_state is postgres.BranchStatusState.READY
    assert branch.spec is None
    deleted = lakebase.w.postgres.delete_branch(branch.name, purge=True)
    assert deleted.wait() is None
    assert lakebase.w.postgres.get_operation(deleted.name()).done is True
    assert branch.name not in [each.name for each in lakebase.w.postgres.list_branches(lakebase.project)]


def test_service_principals_sign_in_with_client_credentials(lakebase: Emulated) -> None:
    """M2M: discovery, a token, and the same API."""
    principal = lakebase.client(1)
    assert principal.current_user.me().user_name == lakebase.emulator.options.identities[1].name
    assert lakebase.production in [each.name for each in principal.postgres.list_branches(lakebase.project)]
    assert principal.config.workspace_id == str(lakebase.emulator.workspace_id)
    token = principal.postgres.generate_database_credential(f"{lakebase.production}/endpoints/primary").token
    with lakebase.connect(lakebase.production, user=principal.config.client_id, password=token) as connection:
        assert connection.execute("select count(*) from item").fetchone() == (10,)


def test_every_call_of_the_client_has_a_route(lakebase: Emulated) -> None:
    """The routes are the SDK's methods on these resources, the one that later SDKs have, and those of signing in."""
    others = ("catalog", "synced_table", "data_api", "cdf", "snapshot_schedule")
    methods = {name for name in vars(postgres.PostgresAPI) if not name.startswith("_")}
    wanted = {name for name in methods if not any(other in name for other in others)}
    assert lakebase.emulator.faults.routes == wanted | {"reveal_role_password"} | SIGN_IN


def test_a_new_branch_has_an_endpoint_that_runs(lakebase: Emulated) -> None:
    """Endpoint ``primary`` reads, writes, and has the project's default size."""
    branch = lakebase.branch()
    [endpoint] = lakebase.w.postgres.list_endpoints(branch.name)
    assert endpoint.name == f"{branch.name}/endpoints/primary"
    assert endpoint.status.endpoint_type is postgres.EndpointType.ENDPOINT_TYPE_READ_WRITE
    assert endpoint.status.current_state is postgres.EndpointStatusState.ACTIVE
    assert endpoint.status.pending_state is None
    assert endpoint.status.suspend_timeout_duration.seconds == 86400


def test_projects(lakebase: Emulated) -> None:
    """Created with a default branch, changed by masks, deleted softly, brought back, purged."""
    api = lakebase.w.postgres
    wanted = postgres.ProjectSpec(
        display_name="Shop",
        default_endpoint_settings=postgres.ProjectDefaultEndpointSettings(
            autoscaling_limit_min_cu=0.5, suspend_timeout_duration=span(120)
        ),
    )
    project = lakebase.done(api.create_project(postgres.Project(spec=wanted), "shop"))
    assert (project.status.display_name, project.status.owner) == ("Shop", USER)
    assert project.status.default_branch == "projects/shop/branches/production"
    [branch] = api.list_branches(project.name)
    assert branch.status.default
    assert lakebase.count(branch.name) == 10
    [endpoint] = api.list_endpoints(branch.name)
    assert endpoint.status.autoscaling_limit_min_cu == 0.5
    tags = [postgres.ProjectCustomTag(key="team", value="db")]
    changed = postgres.Project(spec=postgres.ProjectSpec(display_name="Shop 2", custom_tags=tags))
    project = lakebase.done(api.update_project(project.name, changed, mask("spec.display_name", "spec.custom_tags")))
    assert (project.status.display_name, project.status.custom_tags) == ("Shop 2", tags)
    emptied = postgres.Project(spec=postgres.ProjectSpec(display_name="ignored", custom_tags=[]))
    project = lakebase.done(api.update_project(project.name, emptied, mask("spec.custom_tags")))
    assert (project.status.display_name, project.status.custom_tags) == ("Shop 2", [])
    lakebase.done(api.delete_project(project.name))
    assert [each.name for each in api.list_projects()] == [lakebase.project]
    assert api.get_project(project.name).purge_time is not None
    assert "projects/shop" in [each.name for each in api.list_projects(show_deleted=True)]
    lakebase.done(api.undelete_project(project.name))
    assert lakebase.count(branch.name) == 10
    lakebase.done(api.delete_project(project.name, purge=True))
    assert [each.name for each in api.list_projects(show_deleted=True)] == [lakebase.project]


def test_branches_are_changed_by_masks(lakebase: Emulated) -> None:
    """Protection and expiration, one without the other."""
    api, branch = lakebase.w.postgres, lakebase.branch()
    spec = postgres.BranchSpec(is_protected=True)
    changed = lakebase.done(api.update_branch(branch.name, postgres.Branch(spec=spec), mask("spec.is_protected")))
    assert changed.status.is_protected
    spec = postgres.BranchSpec(is_protected=False)
    lakebase.done(api.update_branch(branch.name, postgres.Branch(spec=spec), mask("spec.is_protected")))
    spec = postgres.BranchSpec(ttl=span(600))
    changed = lakebase.done(api.update_branch(branch.name, postgres.Branch(spec=spec), mask("spec.expiration")))
    left = changed.status.expire_time.ToDatetime(UTC) - datetime.now(UTC)
    assert timedelta(seconds=590) < left <= timedelta(seconds=600)
    spec = postgres.BranchSpec(no_expiry=True)
    changed = lakebase.done(api.update_branch(branch.name, postgres.Branch(spec=spec), mask("spec")))
    assert changed.status.expire_time is None
    replaced = api.create_branch(
        lakebase.project,
        postgres.Branch(spec=postgres.BranchSpec(ttl=span(60))),
        branch.branch_id,
        replace_existing=True,
    )
    assert lakebase.done(replaced).status.expire_time is not None


def test_a_softly_deleted_branch_comes_back(lakebase: Emulated) -> None:
    """It is hidden, nobody can connect, its name stays taken; with its data it comes back."""
    api, branch = lakebase.w.postgres, lakebase.branch()
    with lakebase.connect(branch.name) as connection:
        connection.execute("insert into item values (100)")
        lakebase.done(api.delete_branch(branch.name))
        with pytest.raises(psycopg.OperationalError):
            connection.execute("select 1")
    assert branch.name not in [each.name for each in api.list_branches(lakebase.project)]
    [hidden] = [each for each in api.list_branches(lakebase.project, show_deleted=True) if each.name == branch.name]
    assert hidden.status.current_state is postgres.BranchStatusState.DELETED
    assert hidden.status.purge_time.ToDatetime() > hidden.status.delete_time.ToDatetime()
    assert lakebase.done(api.undelete_branch(branch.name)) is None
    assert lakebase.count(branch.name) == 11


def test_lists_come_in_pages(lakebase: Emulated) -> None:
    """The SDK follows the tokens through all pages."""
    names = {lakebase.branch().name for _ in range(3)}
    assert names <= {each.name for each in lakebase.w.postgres.list_branches(lakebase.project, page_size=2)}


def test_endpoints(lakebase: Emulated) -> None:
    """A read-only endpoint beside the first one: created, changed, disabled, enabled, deleted."""
    api, branch = lakebase.w.postgres, lakebase.branch()
    spec = postgres.EndpointSpec(
        endpoint_type=postgres.EndpointType.ENDPOINT_TYPE_READ_ONLY,
        autoscaling_limit_min_cu=0.5,
        autoscaling_limit_max_cu=1,
        suspend_timeout_duration=span(300),
    )
    made = lakebase.done(api.create_endpoint(branch.name, postgres.Endpoint(spec=spec), "ro"))
    assert made.status.hosts.read_only_host == made.status.hosts.host
    with lakebase.connect(branch.name, "ro") as connection:
        assert connection.execute("select count(*) from item").fetchone() == (10,)
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            connection.execute("delete from item")
    spec = postgres.EndpointSpec(endpoint_type=spec.endpoint_type, no_suspension=True, disabled=True)
    changed = api.update_endpoint(made.name, postgres.Endpoint(spec=spec), mask("spec.suspension", "spec.disabled"))
    changed = lakebase.done(changed)
    assert (changed.status.disabled, changed.status.suspend_timeout_duration) == (True, None)
    with pytest.raises(psycopg.OperationalError, match="disabled"):
        lakebase.connect(branch.name, "ro")
    spec = postgres.EndpointSpec(endpoint_type=spec.endpoint_type, disabled=False)
    lakebase.done(api.update_endpoint(made.name, postgres.Endpoint(spec=spec), mask("spec.disabled")))
    lakebase.connect(branch.name, "ro").close()
    lakebase.done(api.delete_endpoint(made.name))
    assert [each.endpoint_id for each in api.list_endpoints(branch.name)] == ["primary"]


def test_roles(lakebase: Emulated) -> None:
    """Roles with rights of their own, inherited by children; their attributes, memberships and passwords."""
    api, branch = lakebase.w.postgres, lakebase.branch()
    spec = postgres.RoleRoleSpec(postgres_role="Reader One", attributes=postgres.RoleAttributes(createdb=True))
    role = lakebase.done(api.create_role(branch.name, postgres.Role(spec=spec), role_id="reader"))
    assert role.status.auth_method is postgres.RoleAuthMethod.PG_PASSWORD_SCRAM_SHA_256
    assert role.status.attributes.createdb
    assert "reader" in [each.role_id for each in api.list_roles(branch.name)]
    with lakebase.connect(branch.name) as connection:
        found = connection.execute("select rolcreatedb from pg_roles where rolname = 'Reader One'").fetchone()
    assert found == (True,)
    superuser = postgres.RoleMembershipRole.DATABRICKS_SUPERUSER
    spec = postgres.RoleRoleSpec(membership_roles=[superuser])
    role = lakebase.done(api.update_role(role.name, postgres.Role(spec=spec), mask("spec.membership_roles")))
    assert role.status.membership_roles == [superuser]
    spec = postgres.RoleRoleSpec(attributes=postgres.RoleAttributes(createdb=False, createrole=True))
    role = lakebase.done(api.update_role(role.name, postgres.Role(spec=spec), mask("spec.attributes.createdb")))
    assert (role.status.attributes.createdb, role.status.attributes.createrole) == (False, False)
    child = lakebase.branch(branch.name)
    assert api.get_role(f"{child.name}/roles/reader").status.postgres_role == "Reader One"
    spec = postgres.RoleRoleSpec(postgres_role="Reader One")
    replaced = api.create_role(child.name, postgres.Role(spec=spec), role_id="reader", replace_existing=True)
    assert not lakebase.done(replaced).status.membership_roles
    lakebase.done(api.delete_role(role.name))
    assert "reader" not in [each.role_id for each in api.list_roles(branch.name)]


def test_roles_with_passwords_log_in_where_the_project_allows_it(lakebase: Emulated) -> None:
    """SCRAM, also after the password was changed by SQL; refused when native login is off."""
    api, branch = lakebase.w.postgres, lakebase.branch()
    spec = postgres.RoleRoleSpec(postgres_role="app")
    role = lakebase.done(api.create_role(branch.name, postgres.Role(spec=spec), role_id="app-role"))
    password = lakebase.w.api_client.do("POST", f"/api/2.0/postgres/{role.name}/password", body={})["password"]
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        lakebase.connect(branch.name, user="app", password=password)
    _allow_passwords(lakebase, allowed=True)
    try:
        with lakebase.connect(branch.name, user="app", password=password) as connection:
            assert connection.execute("select current_user").fetchone() == ("app",)
            connection.execute("alter role app password 'another'")
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            lakebase.connect(branch.name, user="app", password=password)
        lakebase.connect(branch.name, user="app", password="another").close()
    finally:
        _allow_passwords(lakebase, allowed=False)
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        lakebase.connect(branch.name, user="app", password="another")


def _allow_passwords(lakebase: Emulated, *, allowed: bool) -> None:
    project = postgres.Project(spec=postgres.ProjectSpec(enable_pg_native_login=allowed))
    change = lakebase.w.postgres.update_project(lakebase.project, project, mask("spec.enable_pg_native_login"))
    lakebase.done(change)


def test_databases(lakebase: Emulated) -> None:
    """Created for a role, renamed, given away, dropped while somebody is connected."""
    api, branch = lakebase.w.postgres, lakebase.branch()
    owner = next(each for each in api.list_roles(branch.name) if each.status.postgres_role == USER)
    assert [each.status.postgres_database for each in api.list_databases(branch.name)] == [DATABASE]
    spec = postgres.DatabaseDatabaseSpec(role=owner.name, postgres_database="orders")
    made = lakebase.done(api.create_database(branch.name, postgres.Database(spec=spec), database_id="orders"))
    assert (made.status.postgres_database, made.status.role) == ("orders", owner.name)
    other = postgres.RoleRoleSpec(postgres_role="other")
    role = lakebase.done(api.create_role(branch.name, postgres.Role(spec=other), role_id="other"))
    spec = postgres.DatabaseDatabaseSpec(role=role.name, postgres_database="orders2")
    changed = api.update_database(made.name, postgres.Database(spec=spec), mask("spec"))
    assert lakebase.done(changed).status.postgres_database == "orders2"
    with lakebase.connect(branch.name, dbname="orders2") as connection:
        found = connection.execute("select pg_get_userbyid(datdba) from pg_database where datname = 'orders2'")
        assert found.fetchone() == ("other",)
        lakebase.done(api.delete_role(role.name, reassign_owned_to=owner.name))
        assert api.get_database(made.name).status.role == owner.name
        lakebase.done(api.delete_database(made.name))
        with pytest.raises(psycopg.OperationalError):
            connection.execute("select 1")


def test_snapshots(lakebase: Emulated) -> None:
    """A branch made from a snapshot has what was there, also when its source is gone."""
    api, branch = lakebase.w.postgres, lakebase.branch()
    spec = postgres.SnapshotSpec(source_branch=branch.name)
    made = lakebase.done(api.create_snapshot(lakebase.project, postgres.Snapshot(spec=spec), "before"))
    assert api.get_snapshot(made.name).status.no_expiry
    with lakebase.connect(branch.name) as connection:
        connection.execute("delete from item")
    lakebase.done(api.delete_branch(branch.name, purge=True))
    spec = postgres.BranchSpec(source_snapshot=made.name, no_expiry=True)
    restored = api.create_branch(lakebase.project, postgres.Branch(spec=spec), "restored")
    assert lakebase.done(restored).status.source_snapshot == made.name
    lakebase.done(api.delete_snapshot(made.name))
    assert [*api.list_snapshots(lakebase.project)] == []
    assert lakebase.count(f"{lakebase.project}/branches/restored") == 10


def test_credentials_last_as_long_as_is_asked(lakebase: Emulated) -> None:
    """An hour, or between five minutes and one; given as a span or as a time."""
    api, endpoint = lakebase.w.postgres, f"{lakebase.production}/endpoints/primary"
    now = datetime.now(UTC)

    def lasts(**how: object) -> float:
        found = api.generate_database_credential(endpoint, **how)
        return (found.expire_time.ToDatetime(UTC) - now).total_seconds()

    at = Timestamp()
    at.FromDatetime(now + timedelta(seconds=1200))
    assert 3590 < lasts() < 3610
    assert 590 < lasts(ttl=span(600)) < 610
    assert 1190 < lasts(expire_time=at) < 1210


def test_the_past_of_a_branch(lakebase: Emulated) -> None:
    """A fork from a time or a log position in which the emulator has seen the branch."""
    branch = lakebase.branch()
    seen = lakebase.control("POST", "remember", {"branch": branch.name}).json()
    with lakebase.connect(branch.name) as connection:
        connection.execute("delete from item where id > 4")
    lakebase.branch(branch.name)
    with lakebase.connect(branch.name) as connection:
        connection.execute("delete from item")
    at = Timestamp()
    at.FromJsonString(seen["time"])
    assert lakebase.count(lakebase.branch(branch.name, source_branch_time=at).name) == 10
    assert lakebase.count(lakebase.branch(branch.name, source_branch_lsn=seen["lsn"]).name) == 10
    assert lakebase.count(branch.name) == 0
