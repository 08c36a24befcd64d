"""What a folder promises, wherever it is stored; `tests/folder_contract.py` holds both kinds to it."""

from __future__ import annotations

import builtins
import re
import uuid
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from runner.errors import ObjectNotFoundError

TEMPORARY_PREFIX = ".tmp-"
"""Files under such a name belong to a write in progress, or to one that was killed; no listing shows them."""
TEMPORARY_NAME = re.compile(re.escape(TEMPORARY_PREFIX) + "[0-9a-f]{32}")
"""The names that `temporary_name` gives: others under the prefix are somebody else's files."""


@dataclass(frozen=True)
class Entry:
    """One stored object: its name relative to the folder that was listed, and its size in bytes.

    `tag` changes when the content does, where the store keeps such a thing (S3's ETag).
    """

    name: str
    size: int
    tag: str | None = field(default=None, compare=False)


class Folder(ABC):
    """A place that holds named objects, each a run of bytes.

    A name is one or more segments joined by `/`; any character but NUL is welcome. Names that are empty,
    absolute or contain an empty, `.` or `..` segment raise ValueError. Storage that fails raises
    StorageError, an object that is not there ObjectNotFoundError. Safe to share between threads.
    """

    uri: str
    is_local: bool

    @abstractmethod
    def child(self, name: str) -> Folder:
        """The folder `name` inside this one; nothing is created."""

    def private_child(self, name: str, *, with_writers: bool = False) -> Folder:  # noqa: ARG002 (disks ask for it)
        """The folder `name` inside this one, for secrets: on a disk only the user may read what is written there.

        `with_writers`: and those who may write in this folder. On S3 all objects have the bucket's own protection.
        """
        return self.child(name)

    @abstractmethod
    def read(self, name: str) -> bytes:
        """The whole object."""

    def read_if_exists(self, name: str) -> bytes | None:
        """The whole object, None where there is none."""
        try:
            return self.read(name)
        except ObjectNotFoundError:
            return None

    @abstractmethod
    def read_range(self, name: str, start: int, length: int) -> bytes:
        """Bytes `start` to `start + length`, fewer where the object ends before."""

    @abstractmethod
    def write(self, name: str, data: bytes, *, durable: bool = True) -> None:
        """Store `data`, replacing what was there; readers and crashes see the old bytes or the new ones.

        `durable=False` spares the wait for the disk: a power cut may then bring the old bytes back, or none.
        """

    @abstractmethod
    def create(self, name: str, data: bytes) -> bool:
        """Store `data` unless the object exists; of several racing creators exactly one gets True."""

    @abstractmethod
    def size(self, name: str) -> int | None:
        """Bytes in the object, None where there is none."""

    def exists(self, name: str) -> bool:
        """Whether there is such an object (a folder is not one)."""
        return self.size(name) is not None

    @abstractmethod
    def list(self, prefix: str = "") -> builtins.list[Entry]:
        """All objects here and below whose name starts with `prefix`, sorted by name."""

    @abstractmethod
    def find_file(self, but: Collection[str] = ()) -> str | None:
        """The name of one object here or below that is not in `but`; None where there is none.

        Of a large folder only the beginning is looked at. A symbolic link is an object, wherever it leads.
        """

    @abstractmethod
    def subfolders(self) -> builtins.list[str]:
        """Names of the folders directly inside this one, sorted."""

    @abstractmethod
    def delete(self, name: str) -> None:
        """Remove the object; one that is not there is fine."""

    @abstractmethod
    def remove(self, names: Iterable[str]) -> None:
        """Remove these objects, and on a disk the directories that held them, this one too, if nothing else is there.

        Names that are not there are fine. Nothing is removed by way of a symbolic link to another directory.
        """

    @abstractmethod
    def check_writable(self) -> None:
        """Write, read and remove a small probe; StorageError says why that cannot be done."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.uri!r})"


def checked_name(name: str) -> str:
    """`name` itself, or ValueError when it could point outside the folder or at a temporary file."""
    segments = name.split("/")
    if "\0" in name or any(segment in ("", ".", "..") for segment in segments):
        raise ValueError(f"not a name inside a folder: {name!r}")
    if any(segment.startswith(TEMPORARY_PREFIX) for segment in segments):
        raise ValueError(f"names starting with {TEMPORARY_PREFIX} are kept for temporary files: {name!r}")
    return name


def checked_prefix(prefix: str) -> str:
    """`prefix` itself, or ValueError when it could point outside the folder.

    The last segment of a prefix may be partial or empty.
    """
    *parents, _partial = prefix.split("/")
    if parents:
        checked_name("/".join(parents))
    return prefix


def is_temporary(name: str) -> bool:
    """Whether an object of this name belongs to a write in progress."""
    return any(segment.startswith(TEMPORARY_PREFIX) for segment in name.split("/"))


def temporary_name() -> str:
    """A name that no other write uses."""
    return TEMPORARY_PREFIX + uuid.uuid4().hex


def shown_name(name: str) -> str:
    """A name for a message: what cannot be printed is escaped."""
    return name if name.isprintable() else ascii(name)
