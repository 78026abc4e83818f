"""Deleting many branches: those that were forked from others first, and as many as can be."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import groupby

from pytest_lakebranch.errors import BranchError, CloudError, LakebranchError
from pytest_lakebranch.providers._rest import TRY_AGAIN
from pytest_lakebranch.providers.lakebase.api import Api, View
from pytest_lakebranch.waiting import Deadline

AT_A_TIME = 8


@dataclass(slots=True)
class Limit:
    """How long a sweep may take; also for one that is under way. What was not begun before ``end`` is not tried."""

    end: Deadline = field(default_factory=lambda: Deadline(math.inf))


class Sweep:
    """Deletes some of a project's branches, which ``views`` shows by their paths."""

    def __init__(self, api: Api, views: Mapping[str, View], limit: Limit) -> None:
        self._api = api
        self._views = views
        self._limit = limit
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

        All are tried, but those that what stays was forked from, and the rest when the service gives no answer, or none
        but to try again later.
        Raises CloudError, or BranchError with all that could not be deleted.
        """
        errors: list[LakebranchError] = []
        for _, generation in groupby(paths, key=self._age):
            errors += self._failures([path for path in generation if path not in self._staying])
        if len(errors) == 1:
            raise errors[0]
        if errors:
            raise BranchError(f"{len(errors)} branches could not be deleted: {'; '.join(map(str, errors))}")

    def _failures(self, paths: list[str]) -> list[LakebranchError]:
        """Why some could not be deleted. A process that ends does not wait for these threads, as for those of a pool it
        would.
        """
        waiting, errors = iter(paths), list[LakebranchError]()

        def work() -> None:
            for path in waiting:
                if (error := self._failure(path)) is not None:
                    errors.append(error)

        threads = [threading.Thread(target=work, name="lakebranch-sweep", daemon=True) for _ in paths[:AT_A_TIME]]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return errors

    def _failure(self, path: str) -> LakebranchError | None:
        """Why a branch could not be deleted; None when it is gone."""
        left = self._limit.end.left
        if self._silent or not left:
            return BranchError(f"deleting {path}: not tried")
        try:
            deadline = Deadline(min(self._api.patience, left), self._api.client.clock)
            self._api.delete(path, deadline, status=self._views[path].get("status"), children_go=False)
        except LakebranchError as error:
            self._staying.update(self._line(path))
            self._silent |= isinstance(error, CloudError) and (error.is_silence or error.status in TRY_AGAIN)
            return error
        return None

    def check(self, paths: Iterable[str]) -> None:
        """Raise BranchError when what was deleted is still listed."""
        left = {str(view["name"]) for view in self._api.branches()}.intersection(paths)
        if left:
            raise BranchError(f"deleted, and there all the same: {', '.join(sorted(left))}")
