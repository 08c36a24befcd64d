"""A disk that really is full: a small one of its own where we may mount, else the largest size of a file."""

from __future__ import annotations

import resource
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from runner.errors import StorageError
from runner.storage import LocalFolder
from tests.foreign_files import FOLDERS, Case, Ending, Fault, check
from tests.unit.test_foreign_files import Disk

PAGE = 4096
SIZE = 400 * PAGE


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A directory, on a disk of its own if possible."""
    path = tmp_path / "disk"
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(path)]
    mounted = subprocess.run(mount, capture_output=True).returncode == 0
    yield path
    if mounted:
        subprocess.run(["umount", str(path)], check=True)


class Full(Fault):
    """Leaves so many pages of the disk free while a verb runs."""

    def __init__(self, disk: Path, pages: int) -> None:
        super().__init__()
        self._disk = disk
        self._pages = pages

    @contextmanager
    def installed(self, kind: type) -> Iterator[None]:
        with self._filled() if self._disk.is_mount() else self._limited():
            yield

    @contextmanager
    def _filled(self) -> Iterator[None]:
        filler = self._disk / "filler"
        free = shutil.disk_usage(self._disk).free
        filler.write_bytes(bytes(max(free - self._pages * PAGE, 0)))
        yield
        filler.unlink()

    @contextmanager
    def _limited(self) -> Iterator[None]:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (self._pages * 20, hard))
        yield
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_the_disk_is_full(disk: Path) -> None:
    """Against a disk that is not, with which the next test could not fail."""
    with Full(disk, 1).installed(LocalFolder), pytest.raises(StorageError):
        LocalFolder(disk).write("a", bytes(2 * PAGE))
    assert list(disk.iterdir()) == []
    LocalFolder(disk).write("a", bytes(2 * PAGE))


@pytest.mark.parametrize("verb", ["submit", "sweep", "resume", "import", "generate", "report", "init"])
def test_a_full_disk_costs_no_file_of_the_user_s(
    disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    monkeypatch.setattr("os.fsync", lambda _: None)
    source = tmp_path / "source.txt"
    source.write_text("1\n2\n3\n")
    folders = {folder for each in FOLDERS.values() for folder in each}
    tree = {f"{folder}notes.txt": b"mine" for folder in folders} | {"job.yaml": b"mine", "synthetic.csv": b"mine"}
    endings: dict[str, Ending] = {"submit": "refused"}
    case = Case(verb, endings.get(verb, "done"), overwrite=True)
    for pages in (0, 2, 5, 12):
        place = disk / str(pages)
        place.mkdir()
        earlier = [Case("sweep"), Case("import"), Case("submit", "stopped")]
        check(Disk(place), source, earlier, tree, case, Full(disk, pages))
        shutil.rmtree(place)
