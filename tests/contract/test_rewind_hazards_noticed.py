"""Would the tests of single hazards notice? Their answers are taken out, where random work would take too long to tell.

H6 leaves nothing wrong in the files; H15 is a race; H20 needs a table above 1 GB; H22 ruins the layer that all leases
share. The random leases find H6, H14 and H15 too (test_rewind_mutations).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest
import test_rewind_faults as faults
import test_rewind_growth as growth
import test_rewind_hazards as hazards
from local_rigs import rig
from rewind_rigs import Branch

from pytest_lakebranch.providers.local.rewind import files, gate, knowledge
from pytest_lakebranch.providers.local.rewind.unproven import UnprovenError

pytestmark = pytest.mark.soak
NOTICED = (AssertionError, pytest.fail.Exception)


@contextlib.contextmanager
def fresh(home: Path) -> Iterator[Branch]:
    """A branch in a state directory of its own, whatever becomes of it."""
    with contextlib.suppress(AssertionError), rig(home, check=False) as made:
        yield Branch(made)


def test_h6(shared_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catalogs are told by their file's number."""
    learn = knowledge._catalogs
    monkeypatch.setattr(
        knowledge, "_catalogs", lambda *args: frozenset(n for n in learn(*args) if n < knowledge.FIRST_USER_OID)
    )
    with fresh(shared_home / "noticed6") as branch, pytest.raises(NOTICED):
        hazards.test_h6_rewritten_catalogs(branch)


def test_h15(shared_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients are ended, and the postmaster goes on starting others."""
    with fresh(shared_home / "noticed15") as branch:
        monkeypatch.setattr(gate, "_stop", lambda pid: None)
        with pytest.raises(NOTICED):
            faults.test_h15_clients_that_return(branch)


def test_h20(shared_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All blocks are looked for in a relation's first file."""
    with fresh(shared_home / "noticed20") as branch:
        monkeypatch.setattr(files, "SEGMENT_BLOCKS", 1 << 40)
        with pytest.raises(NOTICED):
            growth.test_h20_relations_above_one_segment(branch, monkeypatch)


def test_h20_rows(shared_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same, with files of that size."""
    monkeypatch.setattr(files, "SEGMENT_BLOCKS", 1 << 40)
    with pytest.raises(NOTICED):
        growth.test_h20_rows_beyond_one_segment(lambda: rig(shared_home / "noticed20r", check=False))


def test_h22_gone(shared_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sealed file that is not there means that there was none."""
    segment = files.Files._segment

    def segment_or_none(self: files.Files, folder: str, name: str, *rest: object) -> None:
        try:
            segment(self, folder, name, *rest)  # type: ignore[arg-type]
        except UnprovenError:
            Path(self.root, folder, name).unlink(missing_ok=True)

    monkeypatch.setattr(files.Files, "_segment", segment_or_none)
    with pytest.raises(NOTICED):
        faults.test_h22_sealed_file_that_is_gone(shared_home / "noticed22", tmp_path)


def test_h22_cut(shared_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a sealed file does not hold any more is taken for zeros."""

    def read_padded(self: knowledge.SealedFiles, path: str, count: int, offset: int) -> bytes:
        with Path(self.root, path).open("rb") as sealed:
            sealed.seek(offset)
            return sealed.read(count).ljust(count, b"\0")

    monkeypatch.setattr(knowledge.SealedFiles, "read", read_padded)
    with pytest.raises(NOTICED):
        faults.test_h22_sealed_file_that_was_cut(shared_home / "noticed22")
