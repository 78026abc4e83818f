"""The emulator, driven by the official client."""

from __future__ import annotations

from databricks.sdk.service import postgres
from emulator_rigs import Emulated

pytest_plugins = ["emulator_fixtures"]


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


def test_service_principals_sign_in_with_client_credentials(lakebase: Emulated) -> None:
    """M2M: discovery, a token, and the same API."""
    principal = lakebase.client(1)
    assert principal.current_user.me().user_name == lakebase.emulator.options.identities[1].name
    assert lakebase.production in [each.name for each in principal.postgres.list_branches(lakebase.project)]


def test_deletion_purges(lakebase: Emulated) -> None:
    """A purged branch is gone, and its operation can still be read."""
    branch = lakebase.branch()
    operation = lakebase.w.postgres.delete_branch(branch.name, purge=True)
    operation.wait()
    assert branch.name not in [each.name for each in lakebase.w.postgres.list_branches(lakebase.project)]
    assert lakebase.w.postgres.get_operation(operation.name()).done is True


def test_states_of_a_ready_branch(lakebase: Emulated) -> None:
    """A branch whose operation is done is ready, and its endpoint reads, writes and runs."""
    branch = lakebase.branch()
    assert branch.status.current_state is postgres.BranchStatusState.READY
    endpoint = next(iter(lakebase.w.postgres.list_endpoints(branch.name)))
    assert endpoint.status.endpoint_type is postgres.EndpointType.ENDPOINT_TYPE_READ_WRITE
    assert endpoint.status.current_state is postgres.EndpointStatusState.ACTIVE
