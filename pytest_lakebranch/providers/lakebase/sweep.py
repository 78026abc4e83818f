"""Deleting many branches: those that were forked from others first, and as many as can be."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby

from pytest_lakebranch.errors import BranchError, CloudError, LakebranchError
from pytest_lakebranch.providers.lakebase.api import Api, View
from pytest_lakebranch.waiting import Deadline

AT_A_TIME = 8


class Sweep:
    """Deletes some of a project's branches, which ``views`` shows by their paths."""

    def __init__(self, api: Api, views: Mapping[str, View]) -> None:
        self._api = api
        self._views = views
        self._staying: set[str] = set()
        self._silent = False

    def without_ancestors(self, due: set[str]) -> list[str]:
        """Those that are due and have no children but such that are due, too; the youngest generation first."""
        spared = {ancestor for path in self._views if path not in due for ancestor in self._line(path)}
        return sorted(due - spared, key=self._age)

    def _age(self, path: str) -> int:
        return -len(self._line(path))

    def _line(self, path: str) -> list[str]:
        """The branches that one was forked from, the nearest first."""
        found: list[str] = []
        while (path := self._source(path)) and path not in found:
            found.append(path)
        return found

    def _source(self, path: str) -> str:
        return str((self._views.get(path, {}).get("status") or {}).get("source_branch", ""))

    def delete(self, paths: Iterable[str]) -> None:
        """Delete them, the youngest generation first; returns when they are gone.

        All are tried, but those that what stays was forked from, and the rest when the service gives no answer.
        Raises CloudError, or BranchError with all that could not be deleted.
        """
        errors: list[LakebranchError] = []
        with ThreadPoolExecutor(AT_A_TIME, "lakebranch-sweep") as threads:
            for _, generation in groupby(paths, key=self._age):
                going = [path for path in generation if path not in self._staying]
                errors += [error for error in threads.map(self._failure, going) if error is not None]
        if len(errors) == 1:
            raise errors[0]
        if errors:
            raise BranchError(f"{len(errors)} branches could not be deleted: {'; '.join(map(str, errors))}")

    def _failure(self, path: str) -> LakebranchError | None:
        """Why a branch could not be deleted; None when it is gone."""
        if self._silent:
            return BranchError(f"deleting {path}: not tried")
        try:
            deadline = Deadline(self._api.patience, self._api.client.clock)
            self._api.delete(path, deadline, status=self._views[path].get("status"), children_go=False)
        except LakebranchError as error:
            self._staying.update(self._line(path))
            self._silent |= isinstance(error, CloudError) and error.is_silence
            return error
        return None

    def check(self, paths: Iterable[str]) -> None:
        """Raise BranchError when what was deleted is still listed."""
        left = {str(view["name"]) for view in self._api.branches()}.intersection(paths)
        if left:
            raise BranchError(f"deleted, and there all the same: {', '.join(sorted(left))}")
