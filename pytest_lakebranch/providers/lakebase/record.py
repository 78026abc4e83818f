"""The note in a run's directory of where it has branches, and which of them are to stay."""

from __future__ import annotations

import threading
from pathlib import Path

from pytest_lakebranch import cloud_record
from pytest_lakebranch.cloud_record import CloudRecord
from pytest_lakebranch.providers.lakebase.names import GRACE
from pytest_lakebranch.providers.lakebase.project import Project


class Record:
    """Written when it is made; does nothing without a directory. ``dies`` is the death date of the run's branches."""

    def __init__(self, project: Project, directory: Path | None, dies: float) -> None:
        self._directory = directory
        self._lock = threading.Lock()
        self._record = CloudRecord(
            project.api.client.host, project.api.project, project.run, project.owner, dies + GRACE
        )
        self._write(self._record)

    def _write(self, record: CloudRecord) -> None:
        self._record = record
        if self._directory is not None:
            record.write(self._directory)

    def keep(self, path: str) -> None:
        """A branch is about to be left for a human: nobody is to delete it who cleans up after the run."""
        with self._lock:
            self._write(self._record.keeping(path))

    def remove(self) -> None:
        """Nothing is left but what is to stay."""
        if self._directory is not None:
            cloud_record.remove(self._directory)
