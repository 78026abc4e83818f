"""All calls of the API: their names, which are the SDK's, their paths, and who answers them."""

from __future__ import annotations

from dataclasses import dataclass

from pytest_lakebranch.emulator.branches import Branches
from pytest_lakebranch.emulator.credentials import Credentials
from pytest_lakebranch.emulator.databases import Databases
from pytest_lakebranch.emulator.endpoints import Endpoints
from pytest_lakebranch.emulator.http import Route
from pytest_lakebranch.emulator.projects import Projects
from pytest_lakebranch.emulator.roles import Roles
from pytest_lakebranch.emulator.snapshots import Snapshots
from pytest_lakebranch.emulator.world import Call, View, World


@dataclass(frozen=True, slots=True)
class Services:
    """Who answers calls, by the kind of resource."""

    world: World
    projects: Projects
    branches: Branches
    endpoints: Endpoints
    roles: Roles
    databases: Databases
    snapshots: Snapshots
    credentials: Credentials

    @classmethod
    def of(cls, world: World) -> Services:
        """Those of a world."""
        endpoints = Endpoints(world)
        branches = Branches(world, endpoints)
        snapshots = Snapshots(world, branches)
        return cls(
            world,
            Projects(world, branches),
            branches,
            endpoints,
            Roles(world),
            Databases(world),
            snapshots,
            Credentials(world),
        )

    def operation(self, call: Call, resource: str, operation: str) -> View:
        """An operation, whatever it works on."""
        return self.world.operations.get(f"{resource}/operations/{operation}")

    def tick(self) -> None:
        """Do what is due: suspend, expire, purge."""
        now = self.world.time.now()
        self.endpoints.tick(now)
        self.branches.tick(now)
        self.snapshots.tick(now)
        self.projects.tick(now)


def routes(services: Services) -> tuple[Route, ...]:
    """All calls."""
    one = "/projects/<project>"
    two = f"{one}/branches/<branch>"
    three = f"{two}/endpoints/<endpoint>"
    return (
        Route("create_project", "POST", "/projects", services.projects.create, changes=True),
        Route("list_projects", "GET", "/projects", services.projects.list),
        Route("get_project", "GET", one, services.projects.get),
        Route("update_project", "PATCH", one, services.projects.update, changes=True),
        Route("delete_project", "DELETE", one, services.projects.delete, changes=True),
        Route("undelete_project", "POST", f"{one}/undelete", services.projects.undelete, changes=True),
        Route("create_branch", "POST", f"{one}/branches", services.branches.create, changes=True, locks=True),
        Route("list_branches", "GET", f"{one}/branches", services.branches.list),
        Route("get_branch", "GET", two, services.branches.get),
        Route("update_branch", "PATCH", two, services.branches.update, changes=True),
        Route("delete_branch", "DELETE", two, services.branches.delete, changes=True),
        Route("undelete_branch", "POST", f"{two}/undelete", services.branches.undelete, changes=True),
        Route("create_endpoint", "POST", f"{two}/endpoints", services.endpoints.create, changes=True),
        Route("list_endpoints", "GET", f"{two}/endpoints", services.endpoints.list),
        Route("get_endpoint", "GET", three, services.endpoints.get),
        Route("update_endpoint", "PATCH", three, services.endpoints.update, changes=True),
        Route("delete_endpoint", "DELETE", three, services.endpoints.delete, changes=True),
        Route("generate_database_credential", "POST", "/credentials", services.credentials.create),
        Route("create_role", "POST", f"{two}/roles", services.roles.create),
        Route("list_roles", "GET", f"{two}/roles", services.roles.list),
        Route("get_role", "GET", f"{two}/roles/<role>", services.roles.get),
        Route("update_role", "PATCH", f"{two}/roles/<role>", services.roles.update),
        Route("delete_role", "DELETE", f"{two}/roles/<role>", services.roles.delete),
        Route("reveal_role_password", "POST", f"{two}/roles/<role>/password", services.roles.reveal),
        Route("create_database", "POST", f"{two}/databases", services.databases.create),
        Route("list_databases", "GET", f"{two}/databases", services.databases.list),
        Route("get_database", "GET", f"{two}/databases/<database>", services.databases.get),
        Route("update_database", "PATCH", f"{two}/databases/<database>", services.databases.update),
        Route("delete_database", "DELETE", f"{two}/databases/<database>", services.databases.delete),
        Route("create_snapshot", "POST", f"{one}/snapshots", services.snapshots.create, changes=True, locks=True),
        Route("list_snapshots", "GET", f"{one}/snapshots", services.snapshots.list),
        Route("get_snapshot", "GET", f"{one}/snapshots/<snapshot>", services.snapshots.get),
        Route("delete_snapshot", "DELETE", f"{one}/snapshots/<snapshot>", services.snapshots.delete, changes=True),
        Route("get_operation", "GET", "/<path:resource>/operations/<operation>", services.operation),
    )
