"""Folders on a local or mounted file system.

A write goes to a temporary dot-file in the same directory and is then renamed over the target, which POSIX
makes atomic; a creation is hard-linked to its target instead, which fails when the target exists.
"""

from __future__ import annotations

import builtins
import errno
import os
import stat
from collections.abc import Collection, Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path, PurePosixPath

from runner.errors import StorageError
from runner.storage.failures import reporting
from runner.storage.folder import (
    TEMPORARY_NAME,
    TEMPORARY_PREFIX,
    Entry,
    Folder,
    checked_name,
    checked_prefix,
    temporary_name,
)

WITHOUT_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)
"""What file systems without hard links say: exFAT, some network mounts."""


class LocalFolder(Folder):
    """A directory; it and its parents are created by the first write."""

    is_local = True

    def __init__(self, path: Path, *, private: bool = False, with_writers: bool = False) -> None:
        """`private`, `with_writers`: see `private_child`."""
        self._path = path
        self._private = private
        self._with_writers = with_writers
        self.uri = str(path)

    def local_path(self, name: str = "") -> Path:
        """Where the object is on this machine, for memory-mapping; the folder's own path without a name."""
        return self._path / checked_name(name) if name else self._path

    def child(self, name: str) -> LocalFolder:
        return LocalFolder(self._path / checked_name(name), private=self._private)

    def private_child(self, name: str, *, with_writers: bool = False) -> LocalFolder:
        return LocalFolder(self._path / checked_name(name), private=True, with_writers=with_writers)

    def read(self, name: str) -> bytes:
        path = self._path / checked_name(name)
        with reporting(path):
            return path.read_bytes()

    def read_range(self, name: str, start: int, length: int) -> bytes:
        path = self._path / checked_name(name)
        if start < 0 or length < 0:
            raise ValueError(f"a range starts at 0 or later and is not negative: {start}, {length}")
        with reporting(path), path.open("rb", buffering=0) as file:
            return read_fully(file.fileno(), start, length)

    def write(self, name: str, data: bytes, *, durable: bool = True) -> None:
        path = self._path / checked_name(name)
        with reporting(path):
            mode = self._make_directories(path.parent)
            with temporary_file(path.parent, data, durable=durable, mode=mode) as temporary:
                temporary.replace(path)
            if durable:
                sync_directory(path.parent)

    def create(self, name: str, data: bytes) -> bool:
        path = self._path / checked_name(name)
        with reporting(path):
            mode = self._make_directories(path.parent)
            with temporary_file(path.parent, data, durable=True, mode=mode) as temporary:
                try:
                    path.hardlink_to(temporary)
                except FileExistsError:
                    return False
                except OSError as error:
                    if error.errno not in WITHOUT_LINKS:
                        raise
                    # A killed creation may leave it empty here: there is no other way to be the only one.
                    try:
                        path.open("xb").close()
                    except FileExistsError:
                        return False
                    temporary.replace(path)
            sync_directory(path.parent)
        return True

    def size(self, name: str) -> int | None:
        path = self._path / checked_name(name)
        with reporting(path):
            return path.stat().st_size if path.is_file() else None

    def list(self, prefix: str = "") -> builtins.list[Entry]:
        parent, _, _ = checked_prefix(prefix).rpartition("/")
        with reporting(self._path):
            files = list_files(self._path / parent)
            named = sorted((path.relative_to(self._path).as_posix(), size) for path, size in files)
        return [Entry(name, size) for name, size in named if name.startswith(prefix)]

    def find_file(self, but: Collection[str] = ()) -> str | None:
        with reporting(self._path):
            names = (path.relative_to(self._path).as_posix() for path in walk(self._path))
            return next((name for name in names if name not in but), None)

    def subfolders(self) -> builtins.list[str]:
        with reporting(self._path):
            return sorted(entry.name for entry in scan(self._path) if entry.is_dir())

    def delete(self, name: str) -> None:
        path = self._path / checked_name(name)
        with reporting(path):
            path.unlink(missing_ok=True)

    def remove(self, names: Iterable[str]) -> None:
        names = [checked_name(name) for name in names]
        # The innermost first; the last is this directory itself.
        inner = {parent for name in names for parent in PurePosixPath(name).parents}
        directories = [self._path / each for each in sorted(inner, key=lambda each: len(each.parts), reverse=True)]
        for directory in directories[:-1]:
            if directory.is_symlink():
                raise StorageError(
                    f"{directory} is a link to another folder: nothing is removed there; remove the link"
                )
        with reporting(self._path):
            for name in names:
                (self._path / name).unlink(missing_ok=True)
            for directory in directories:
                remove_if_empty(directory)

    def _make_directories(self, path: Path) -> int | None:
        """Create what is missing of an object's directories; returns this one's mode, None: the umask decides."""
        mode = None
        if self._private:
            make_directories(self._path.parent)
            mode = stat.S_IRWXU
            if self._with_writers:
                around = self._path.parent.stat().st_mode
                mode |= (stat.S_IRWXG if around & stat.S_IWGRP else 0) | (stat.S_IRWXO if around & stat.S_IWOTH else 0)
            make_directories(self._path, mode=mode)
            restrict(self._path, mode)
        make_directories(path)
        return mode

    def check_writable(self) -> None:
        created: builtins.list[Path] = []
        with reporting(self._path):
            try:
                created = make_directories(self._path)
                with temporary_file(self._path, b"probe", durable=True) as probe:
                    probe.read_bytes()
            finally:
                for directory in reversed(created):
                    with suppress(OSError):  # Somebody else has begun to use it.
                        directory.rmdir()


@contextmanager
def temporary_file(directory: Path, data: bytes, *, durable: bool, mode: int | None = None) -> Generator[Path]:
    """A file holding `data`, on the disk when `durable`, gone at the end unless it was renamed by then.

    `mode`: of its directory, from the beginning; None: the permissions that the user's umask gives.
    """
    path = directory / temporary_name()
    try:
        opener = partial(os.open, mode=0o666 if mode is None else mode & 0o666)
        with open(path, "xb", buffering=0, opener=opener) as file:
            if mode is not None:
                restrict(path, mode & 0o666)
            rest = memoryview(data)
            while rest:
                rest = rest[file.write(rest) :]
            if durable:
                os.fsync(file.fileno())
        yield path
    finally:
        path.unlink(missing_ok=True)


def restrict(path: Path, mode: int) -> None:
    """Give a file or directory this mode, where it has another one: a umask may have taken bits from it."""
    if stat.S_IMODE(path.stat().st_mode) != mode:
        with suppress(PermissionError):  # A file system without modes, where the mount says who may read.
            path.chmod(mode)


def make_directories(path: Path, *, mode: int = 0o777) -> list[Path]:
    """Create the missing directories of `path`, durably; returns those created, outermost first.

    `mode`: of `path` itself, before the umask.
    """
    created: list[Path] = []
    missing = [directory for directory in (path, *path.parents) if not directory.is_dir()]
    for directory in reversed(missing):
        try:
            directory.mkdir(mode if directory == path else 0o777)
        except FileNotFoundError as error:  # Its parent is there: so says /proc, where nothing can be made.
            raise PermissionError(errno.EPERM, "cannot create a folder", str(directory)) from error
        except FileExistsError:
            if not directory.is_dir():
                raise
        else:
            created.append(directory)
            sync_directory(directory.parent)
    return created


def remove_if_empty(directory: Path) -> None:
    """Remove a directory that holds nothing, or only what writes that were killed left."""
    try:
        entries = list(directory.iterdir())
    except FileNotFoundError:
        return
    if directory.is_symlink() or not all(TEMPORARY_NAME.fullmatch(entry.name) for entry in entries):
        return
    for entry in entries:
        entry.unlink(missing_ok=True)
    with suppress(OSError):  # Something was written just now, or the parent is not ours to change.
        directory.rmdir()


def sync_directory(path: Path) -> None:
    """Make the directory's entries durable: a renamed file is safe only after this."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_fully(descriptor: int, start: int, length: int) -> bytes:
    """`length` bytes from `start`, or up to the file's end: one `pread` gives at most 2 GiB."""
    parts: list[bytes] = []
    while length > 0 and (part := os.pread(descriptor, length, start)):
        parts.append(part)
        start += len(part)
        length -= len(part)
    return b"".join(parts)


def list_files(directory: Path) -> Iterator[tuple[Path, int]]:
    """Every file at or below `directory` and its size; files that vanish meanwhile are left out."""
    for entry in scan(directory):
        if entry.is_dir():
            yield from list_files(Path(entry.path))
            continue
        try:
            yield Path(entry.path), entry.stat().st_size
        except FileNotFoundError:
            continue


def walk(directory: Path) -> Iterator[Path]:
    """Everything at or below `directory` that is no directory; links are not followed."""
    for entry in scan(directory):
        if entry.is_dir(follow_symlinks=False):
            yield from walk(Path(entry.path))
        else:
            yield Path(entry.path)


def scan(directory: Path) -> list[os.DirEntry[str]]:
    """The directory's entries but for temporary files; none when there is no such directory."""
    try:
        with os.scandir(directory) as entries:
            return [entry for entry in entries if not entry.name.startswith(TEMPORARY_PREFIX)]
    except FileNotFoundError:
        return []
