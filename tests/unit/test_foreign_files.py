"""Nothing of the user's is lost: every verb, ended in every way, leaves every file as it was."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.foreign_files import FAULTS, VERBS, Fault, cases, check, earlier_cases, trees

IN_MEMORY = Path("/dev/shm")


class Disk:
    """A directory."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.uri = str(path)

    def put(self, path: str, data: bytes) -> bool:
        file = self._path / path
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data)
        except (FileExistsError, NotADirectoryError, IsADirectoryError):
            return False
        return True

    def files(self) -> dict[str, bytes]:
        return {
            str(path.relative_to(self._path)): path.read_bytes() for path in self._path.rglob("*") if path.is_file()
        }


@pytest.mark.parametrize("verb", VERBS)
@settings(max_examples=20, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(data=st.data(), fault=FAULTS)
def test_every_file_of_the_user_s_has_its_bytes_whatever_a_verb_does(
    monkeypatch: pytest.MonkeyPatch, verb: str, data: st.DataObject, fault: Fault
) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)  # Thousands of writes, and no power cut.
    earlier, tree, case = data.draw(st.tuples(earlier_cases(verb), trees(verb), cases(verb)))
    fault.calls = 0
    with tempfile.TemporaryDirectory(dir=IN_MEMORY if IN_MEMORY.is_dir() else None) as folder:
        source = Path(folder) / "source.txt"
        source.write_text("1\n2\n")
        place = Path(folder) / "place of ä"
        place.mkdir()
        check(Disk(place), source, earlier, tree, case, fault)
