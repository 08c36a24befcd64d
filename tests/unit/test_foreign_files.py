"""Nothing of the user's is lost: every verb, ended in every way, leaves every file as it was."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, given, settings

from tests.foreign_files import CASES, EARLIER, FAULTS, TREES, Case, Fault, check

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


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(earlier=EARLIER, tree=TREES, case=CASES, fault=FAULTS)
def test_every_file_of_the_user_s_has_its_bytes_whatever_a_verb_does(
    monkeypatch, earlier: list[Case], tree: dict[str, bytes], case: Case, fault: Fault
) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)  # Thousands of writes, and no power cut.
    fault.calls = 0
    with tempfile.TemporaryDirectory(dir=IN_MEMORY if IN_MEMORY.is_dir() else None) as folder:
        source = Path(folder) / "source.txt"
        source.write_text("1\n2\n")
        place = Path(folder) / "place of ä"
        place.mkdir()
        check(Disk(place), source, earlier, tree, case, fault)
