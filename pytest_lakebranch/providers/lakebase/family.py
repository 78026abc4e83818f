"""Which branch was forked from which: a parent goes after its children, and stays where one of them does."""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Callable, Iterator

from pytest_lakebranch.errors import BranchError


class Family:
    """Branches by their paths. ``delete`` deletes one that has no children any more, does not wait for it, and calls
    what it is given when it is gone.
    """

    def __init__(self, delete: Callable[[str, Callable[[], None]], None]) -> None:
        self._delete = delete
        self._lock = threading.Lock()
        self._children: Counter[str] = Counter()
        self._parent_of: dict[str, str] = {}
        self._doomed: set[str] = set()
        self._left: set[str] = set()

    @contextlib.contextmanager
    def counted(self, parent: str) -> Iterator[None]:
        """Keep the parent from being deleted while a child is made; it stays counted when that succeeds.

        Raises BranchError when the parent is to be deleted.
        """
        with self._lock:
            if parent in self._doomed:
                raise BranchError("the run is ending: no more branches are made.")
            self._children[parent] += 1
        try:
            yield
        except BaseException:
            self._one_less(parent)
            raise

    def born(self, path: str, parent: str) -> None:
        """A child that was :meth:`counted` is there."""
        with self._lock:
            self._parent_of[path] = parent

    def doom(self, path: str) -> bool:
        """Delete a branch when it has no children any more, and then its parent if that waits for it; False when it
        stays.
        """
        with self._lock:
            if path in self._left:
                return False
            if self._children[path]:
                self._doomed.add(path)
                return True
        self._remove(path)
        return True

    def leave(self, path: str) -> int:
        """The branch stays, and so do those that it comes from, which cannot be deleted: how many were to be."""
        with self._lock:
            line = set(self._line(path))
            spared = len(line & self._doomed)
            self._left |= line
            self._doomed -= line
        return spared

    def _line(self, path: str | None) -> Iterator[str]:
        while path is not None:
            yield path
            path = self._parent_of.get(path)

    def is_left(self, path: str) -> bool:
        """Whether the branch stays."""
        with self._lock:
            return path in self._left

    def _remove(self, path: str) -> None:
        self._delete(path, lambda: self._gone(path))

    def _gone(self, path: str) -> None:
        with self._lock:
            parent = self._parent_of.pop(path, None)
        if parent is not None:
            self._one_less(parent)

    def _one_less(self, parent: str) -> None:
        with self._lock:
            self._children[parent] -= 1
            ready = parent in self._doomed and not self._children[parent]
            self._doomed -= {parent} if ready else set()
        if ready:
            self._remove(parent)
