"""A folder with one writer at a time: who takes it shuts out whoever had it before.

    driver = FencedFolder.enter(folder, "writer", "0001")   # may write until a later term begins
    mine = FencedFolder.take(folder, "writer", "0001")      # ... or, as here, until another takes it in the same term
    mine.child("checkpoints").write(...)                    # looks first whether that is so: else OvertakenError

A term is a text that sorts after those of earlier terms; the object `writer` holds the latest, and who took it last.
Each write costs a small read. A write that was already under way when another took the folder still lands: what is
written must bear that, as checkpoints do, which are the same whoever writes them.
"""

from __future__ import annotations

import builtins
import uuid
from collections.abc import Callable, Collection, Iterable

from runner.errors import ObjectNotFoundError, OvertakenError
from runner.storage.folder import Entry, Folder


class FencedFolder(Folder):
    """Another folder, written to only while `check` does not raise."""

    def __init__(self, folder: Folder, check: Callable[[], None]) -> None:
        self._folder = folder
        self.check = check
        self.uri = folder.uri
        self.is_local = folder.is_local

    @classmethod
    def enter(cls, folder: Folder, name: str, term: str) -> FencedFolder:
        """The folder for all of a term, which begins now if it has not.

        Raises:
            OvertakenError: a later term has begun.
        """

        def check() -> None:
            if cls.latest_term(folder, name) > term:
                raise _overtaken(folder)

        latest = cls.latest_term(folder, name)
        if latest > term:
            raise _overtaken(folder)
        if latest < term:
            folder.write(name, f"{term} nobody".encode())
        return cls(folder, check)

    @classmethod
    def take(cls, folder: Folder, name: str, term: str) -> FencedFolder:
        """Become the one writer of a term.

        Raises:
            OvertakenError: a later term has begun.
        """
        cls.enter(folder, name, term)
        mine = (term, uuid.uuid4().hex)
        folder.write(name, " ".join(mine).encode())

        def check() -> None:
            if _read(folder, name) != mine:
                raise _overtaken(folder)

        return cls(folder, check)

    @staticmethod
    def latest_term(folder: Folder, name: str) -> str:
        """The term that began last; empty where none did."""
        return _read(folder, name)[0]

    def child(self, name: str) -> FencedFolder:
        return FencedFolder(self._folder.child(name), self.check)

    def private_child(self, name: str, *, with_writers: bool = False) -> FencedFolder:
        return FencedFolder(self._folder.private_child(name, with_writers=with_writers), self.check)

    def read(self, name: str) -> bytes:
        return self._folder.read(name)

    def read_range(self, name: str, start: int, length: int) -> bytes:
        return self._folder.read_range(name, start, length)

    def write(self, name: str, data: bytes, *, durable: bool = True) -> None:
        self.check()
        self._folder.write(name, data, durable=durable)

    def create(self, name: str, data: bytes) -> bool:
        self.check()
        return self._folder.create(name, data)

    def size(self, name: str) -> int | None:
        return self._folder.size(name)

    def list(self, prefix: str = "") -> builtins.list[Entry]:
        return self._folder.list(prefix)

    def find_file(self, but: Collection[str] = ()) -> str | None:
        return self._folder.find_file(but)

    def subfolders(self) -> builtins.list[str]:
        return self._folder.subfolders()

    def delete(self, name: str) -> None:
        self.check()
        self._folder.delete(name)

    def remove(self, names: Iterable[str]) -> None:
        self.check()
        self._folder.remove(names)

    def check_writable(self) -> None:
        self.check()
        self._folder.check_writable()


def _read(folder: Folder, name: str) -> tuple[str, str]:
    """The latest term and who took the folder last; empty where nobody did, or without a term."""
    try:
        term, _, holder = folder.read(name).decode().rpartition(" ")
    except ObjectNotFoundError:
        return "", ""
    return term, holder


def _overtaken(folder: Folder) -> OvertakenError:
    return OvertakenError(f"{folder.uri}: another process writes here now; this one ends")
