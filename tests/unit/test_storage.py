"""Folders on a local disk: the shared contract, and what only a disk can do wrong."""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import pytest

from runner.errors import ConfigError, CorruptError, OvertakenError, StorageError
from runner.storage import (
    FencedFolder,
    LocalFolder,
    arrow_filesystem,
    open_folder,
    open_parent,
    publish,
    read_manifest,
    read_published,
)
from runner.storage.failures import storage_error
from tests.folder_contract import FILES, FolderContract, flip

OVERWRITE_FOR_EVER = """
import itertools, sys
from runner.storage import open_folder

folder = open_folder(sys.argv[1])
for turn in itertools.count():
    letter = b"abcdefghij"[turn % 10 : turn % 10 + 1]
    folder.write("state", letter * (1_000_000 + turn % 10), durable=False)
"""


@pytest.fixture
def folder(tmp_path: Path) -> LocalFolder:
    return LocalFolder(tmp_path / "a folder")


class TestLocalFolder(FolderContract):
    """The contract that `tests/s3/test_storage_s3.py` runs too."""


class TestFencedFolder(FolderContract):
    """Whoever holds a folder has all of it."""

    @pytest.fixture
    def folder(self, tmp_path: Path) -> FencedFolder:
        return FencedFolder.take(LocalFolder(tmp_path), "writer", "1").child("a folder")


def test_who_held_a_folder_before_another_took_it_reads_and_writes_no_more(folder: LocalFolder) -> None:
    before = FencedFolder.take(folder, "writer", "1")
    inside = before.child("inside")
    publish(inside, FILES)
    after = FencedFolder.take(folder, "writer", "1")
    assert read_published(inside) == FILES
    writes: list[Callable[[], object]] = [
        lambda: inside.write("empty", b"x"),
        lambda: inside.create("new", b"x"),
        lambda: inside.delete("empty"),
        lambda: before.remove(["inside/empty"]),
        lambda: before.check_writable(),
        lambda: publish(inside, {}),
    ]
    for write in writes:
        with pytest.raises(OvertakenError, match="another process writes here now"):
            write()
    assert read_published(after.child("inside")) == FILES
    after.remove(["writer"])
    with pytest.raises(OvertakenError):
        inside.write("x", b"x")


def test_a_later_term_shuts_out_all_of_the_earlier_ones_for_good(folder: LocalFolder) -> None:
    driver = FencedFolder.enter(folder, "writer", "1")
    worker = FencedFolder.take(folder, "writer", "1")
    driver.write("by the driver", b"")
    worker.write("by the worker", b"")
    after = FencedFolder.enter(folder, "writer", "2")
    for earlier in (driver, worker):
        with pytest.raises(OvertakenError):
            earlier.write("too late", b"")
    for come_back in (FencedFolder.enter, FencedFolder.take):
        with pytest.raises(OvertakenError):
            come_back(folder, "writer", "1")
    after.write("by the next driver", b"")
    FencedFolder.take(folder, "writer", "2").write("by the next worker", b"")
    assert not folder.exists("too late")


def test_a_holder_that_left_no_term_is_earlier_than_any(folder: LocalFolder) -> None:
    folder.write("writer", b"f3c0a5d2")
    FencedFolder.enter(folder, "writer", "1").write("x", b"")
    assert FencedFolder.latest_term(folder, "writer") == "1"


def test_a_reader_sees_whole_contents_while_writers_are_killed(folder: LocalFolder) -> None:
    """Write in a loop, kill -9 at any time: what can be read is always one of the written contents."""
    seen: set[bytes] = set()
    for attempt in range(6):
        folder.delete("state")
        writer = subprocess.Popen([sys.executable, "-c", OVERWRITE_FOR_EVER, folder.uri])
        try:
            wait_until(lambda: folder.exists("state"))
            give_up_at = time.monotonic() + 0.2 + 0.037 * attempt
            while time.monotonic() < give_up_at:
                seen.add(whole_content(folder.read("state")))
        finally:
            writer.send_signal(signal.SIGKILL)
            writer.wait()
        seen.add(whole_content(folder.read("state")))
        assert [entry.name for entry in folder.list()] == ["state"]
    assert len(seen) > 1


def whole_content(data: bytes) -> bytes:
    """The letter that `data` consists of, in the length that belongs to this letter."""
    letter = data[:1]
    assert data == letter * (1_000_000 + b"abcdefghij".index(letter))
    return letter


@pytest.mark.parametrize("published_before", [False, True])
@pytest.mark.parametrize("written", range(len(FILES) + 1))
def test_a_publication_that_breaks_off_is_never_taken_for_one(
    tmp_path: Path, written: int, published_before: bool
) -> None:
    if published_before:
        publish(LocalFolder(tmp_path), dict.fromkeys(FILES, b"old"))

    class DyingFolder(LocalFolder):
        left = written

        def write(self, name: str, data: bytes, *, durable: bool = True) -> None:
            if self.left == 0:
                raise KeyboardInterrupt
            self.left -= 1
            super().write(name, data, durable=durable)

    with pytest.raises(KeyboardInterrupt):
        publish(DyingFolder(tmp_path), FILES)
    with pytest.raises(CorruptError, match="never completely published"):
        read_published(LocalFolder(tmp_path))


def test_a_flipped_bit_anywhere_in_the_manifest_is_noticed_or_harmless(folder: LocalFolder) -> None:
    publish(folder, {"a": b"1"}, {"step": 17})
    published = folder.read("manifest.json")
    intact = read_manifest(folder)
    errors: list[str] = []
    for position in range(len(published)):
        folder.write("manifest.json", flip(published, position), durable=False)
        try:
            assert read_manifest(folder) == intact  # A space may become another white space.
        except CorruptError as error:
            errors.append(str(error))
    assert len(errors) > 0.7 * len(published)
    assert all("manifest.json" in error for error in errors)


def test_one_of_eight_racing_processes_wins(folder: LocalFolder) -> None:
    creators, rounds = 8, 20
    spawning = multiprocessing.get_context("spawn")
    barrier = spawning.Barrier(creators)
    racers = [spawning.Process(target=race, args=(folder.uri, barrier, creator, rounds)) for creator in range(creators)]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join()
        assert racer.exitcode == 0
    for turn in range(rounds):
        winners = [creator for creator in range(creators) if folder.exists(f"won/{turn} by {creator}")]
        assert len(winners) == 1
        assert folder.read(f"lock {turn}") == str(winners[0]).encode() * 100_000


def race(uri: str, barrier: Barrier, creator: int, rounds: int) -> None:
    """Create what the others create at the same time, and leave a note about each victory."""
    folder = open_folder(uri)
    for turn in range(rounds):
        barrier.wait()
        if folder.create(f"lock {turn}", str(creator).encode() * 100_000):
            folder.write(f"won/{turn} by {creator}", b"")


def test_a_durable_write_is_on_the_disk_before_it_is_visible(
    folder: LocalFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.write("a", b"old")
    calls: list[str] = []
    fsync, replace = os.fsync, os.replace

    def recording_fsync(descriptor: int) -> None:
        calls.append("sync folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "sync file")
        fsync(descriptor)

    def recording_replace(*paths: str) -> None:
        calls.append("rename")
        replace(*paths)

    monkeypatch.setattr(os, "fsync", recording_fsync)
    monkeypatch.setattr(os, "replace", recording_replace)
    folder.write("a", b"new")
    assert calls == ["sync file", "rename", "sync folder"]
    calls.clear()
    folder.write("a", b"newer", durable=False)
    assert calls == ["rename"]


def test_the_probe_creates_no_folders_that_stay(tmp_path: Path) -> None:
    LocalFolder(tmp_path / "a" / "b" / "c").check_writable()
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "a").mkdir()
    LocalFolder(tmp_path / "a" / "b" / "c").check_writable()
    assert list(tmp_path.rglob("*")) == [tmp_path / "a"]


def test_files_are_readable_by_whom_the_umask_lets(folder: LocalFolder) -> None:
    mask = os.umask(0o027)
    try:
        folder.write("a", b"1")
        folder.create("b", b"1")
    finally:
        os.umask(mask)
    assert [stat.S_IMODE(folder.local_path(name).stat().st_mode) for name in "ab"] == [0o640, 0o640]


@contextmanager
def without_privileges() -> Generator[None]:
    """As the user nobody where the tests run as root, who may write everywhere."""
    is_root = os.geteuid() == 0
    if is_root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if is_root:
            os.seteuid(0)


def test_permission_denied_is_said(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory)
        path.joinpath("private").write_bytes(b"")
        path.joinpath("private").chmod(0)
        path.chmod(0o555)
        folder = LocalFolder(path)
        with without_privileges():
            for action in (
                folder.check_writable,
                folder.child("new").check_writable,
                lambda: folder.write("a", b""),
                lambda: folder.create("a", b""),
                lambda: folder.read("private"),
                lambda: folder.delete("private"),
                lambda: folder.remove(["private"]),
            ):
                with pytest.raises(StorageError, match=f"^permission denied: {directory}"):
                    action()
        assert [entry.name for entry in folder.list()] == ["private"]
        path.chmod(0o755)


@pytest.mark.parametrize("code", [errno.EPERM, errno.ENOTSUP])
def test_on_a_disk_without_hard_links_one_creator_wins_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(code, "no links here")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    folder = LocalFolder(tmp_path)
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda number: folder.create("a", b"%d" % number), range(8)))
    assert sum(won) == 1
    assert folder.read("a") == b"%d" % won.index(True)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_where_nothing_can_be_created_is_said() -> None:
    with pytest.raises(StorageError, match=r"^permission denied: /proc/new"):
        open_folder("/proc/new").check_writable()


def test_a_file_where_a_folder_should_be_is_said(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"1")
    for folder in (LocalFolder(file), LocalFolder(file / "below")):
        for action in (
            folder.check_writable,
            lambda folder=folder: folder.write("a", b""),
            lambda folder=folder: folder.create("a", b""),
            lambda folder=folder: folder.read("a"),
            folder.list,
            folder.subfolders,
        ):
            with pytest.raises(StorageError, match=f"^{file} is a file, not a folder"):
                action()
    assert file.read_bytes() == b"1"


def test_a_folder_where_a_file_should_be_is_said(folder: LocalFolder) -> None:
    folder.write("a/b", b"1")
    for action in (lambda: folder.read("a"), lambda: folder.write("a", b""), lambda: folder.delete("a")):
        with pytest.raises(StorageError, match="/a is a folder, not a file"):
            action()
    assert not folder.exists("a")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_said_and_keeps_the_old_bytes(
    folder: LocalFolder, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.write("a", b"old")

    def full(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", full)
    for action in (lambda: folder.write("a", b"new"), lambda: folder.create("b", b""), folder.check_writable):
        with pytest.raises(StorageError, match=f"^the disk is full: {folder.uri}"):
            action()
    assert list(folder.local_path().iterdir()) == [folder.local_path("a")]
    assert folder.read("a") == b"old"


def test_every_situation_has_its_own_line() -> None:
    numbers = (errno.ENOENT, errno.EACCES, errno.EROFS, errno.ENOSPC, errno.ENOTDIR, errno.EISDIR, errno.EIO)
    lines = [str(storage_error(OSError(number, os.strerror(number)), "/x")) for number in numbers]
    assert "the file system is read-only: /x; choose another folder" in lines
    assert len(set(lines)) == len(numbers)
    assert not any("\n" in line for line in lines)


@pytest.mark.parametrize(
    ("uri", "path"),
    [
        ("runs", "{cwd}/runs"),
        ("./a b#c%20/", "{cwd}/a b#c%20"),
        ("/srv/runs", "/srv/runs"),
        ("~/runs", "{home}/runs"),
        ("file:///srv/a%20b%23", "/srv/a b#"),
        ("file://localhost/srv", "/srv"),
    ],
)
def test_local_uris(uri: str, path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/ada")
    expected = path.format(cwd=tmp_path, home="/home/ada")
    folder = open_folder(uri)
    assert isinstance(folder, LocalFolder)
    assert folder.uri == expected
    assert folder.is_local
    assert folder.local_path("x/y") == Path(expected) / "x/y"
    assert arrow_filesystem(uri)[1] == expected


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "gs://bucket/x",
        "http://host/x",
        "s3://",
        "s3:///x",
        "file://host/x",
        "s3:/x",
        "s3:bucket/x",
        "S3:x",
        "file:/x",
    ],
)
def test_other_uris_are_refused(uri: str) -> None:
    with pytest.raises(ConfigError, match=r"s3://bucket/prefix|file:///path"):
        open_folder(uri)


def test_a_user_and_a_path_that_cannot_be_are_refused_in_one_line() -> None:
    with pytest.raises(ConfigError, match=r"^'~nobody-of-this-name/x': there is no user 'nobody-of-this-name'"):
        open_folder("~nobody-of-this-name/x")
    with pytest.raises(ConfigError, match="holds the character NUL"):
        open_folder("a\0b")


@pytest.mark.parametrize(
    ("uri", "folder", "name"),
    [
        ("out.csv", "{cwd}", "out.csv"),
        ("a/out.csv", "{cwd}/a", "out.csv"),
        ("/out.csv", "/", "out.csv"),
        ("file:///out.csv", "/", "out.csv"),
        ("file:///a/out.csv", "/a", "out.csv"),
        ("s3://bucket/out.csv", "s3://bucket", "out.csv"),
        ("s3://bucket/a/out.csv", "s3://bucket/a", "out.csv"),
    ],
)
def test_a_file_is_in_its_folder(
    uri: str, folder: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    parent, found = open_parent(uri, patient=False)
    assert (parent.uri.rstrip("/") or "/", found) == (folder.format(cwd=tmp_path), name)


@pytest.mark.parametrize("uri", ["s3://out.csv", "s3://bucket/", "s3://b/a/", "file://out.csv", "a/", "a/..", "", "."])
def test_what_names_no_file_is_refused_and_makes_no_folder(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"names no file: write a file's path or s3://bucket/file"):
        open_parent(uri, patient=False)
    assert list(tmp_path.iterdir()) == []


def test_local_folders_import_no_cloud_library(tmp_path: Path) -> None:
    program = "import sys, runner.storage as s; s.open_folder(sys.argv[1]).list('x'); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program, tmp_path], capture_output=True, text=True, check=True)
    assert not {"boto3", "botocore", "pyarrow"} & set(done.stdout.split())


def wait_until(is_so: Callable[[], bool]) -> None:
    """Return once `is_so()`; fail after 20 s."""
    give_up_at = time.monotonic() + 20
    while not is_so():
        assert time.monotonic() < give_up_at
        time.sleep(0.01)
