"""A folder with one writer at a time: who takes it shuts out whoever had it before.

    mine = FencedFolder.take(folder, "writer")      # every other holder's next write raises OvertakenError
    mine.child("checkpoints").write(...)            # looks first whether it still is the newest holder

Each write costs a small read. A write that was already under way when another took the folder still lands: what is
written must bear that, as checkpoints do, which are the same whoever writes them.
"""

from __future__ import annotations

import builtins
import uuid
from collections.abc import Callable

from runner.errors import ObjectNotFoundError, OvertakenError
from runner.storage.folder import Entry, Folder


class FencedFolder(Folder):
    """Another folder, written to only while `check` does not raise."""

    def __init__(self, folder: Folder, check: Callable[[], None]) -> None:
        self._folder = folder
        self._check = check
        self.uri = folder.uri
        self.is_local = folder.is_local

    @classmethod
    def take(cls, folder: Folder, name: str) -> FencedFolder:
        """Become the folder's writer; its object `name` says who is."""
        token = uuid.uuid4().hex.encode()
        folder.write(name, token)

        def check() -> None:
            try:
                found = folder.read(name)
            except ObjectNotFoundError:
                found = b""
            if found != token:
                raise OvertakenError(f"{folder.uri}: another process writes here now; this one ends")

        return cls(folder, check)

    def child(self, name: str) -> FencedFolder:
        return FencedFolder(self._folder.child(name), self._check)

    def read(self, name: str) -> bytes:
        return self._folder.read(name)

    def read_range(self, name: str, start: int, length: int) -> bytes:
        return self._folder.read_range(name, start, length)

    def write(self, name: str, data: bytes, *, durable: bool = True) -> None:
        self._check()
        self._folder.write(name, data, durable=durable)

    def create(self, name: str, data: bytes) -> bool:
        self._check()
        return self._folder.create(name, data)

    def size(self, name: str) -> int | None:
        return self._folder.size(name)

    def list(self, prefix: str = "") -> builtins.list[Entry]:
        return self._folder.list(prefix)

    def subfolders(self) -> builtins.list[str]:
        return self._folder.subfolders()

    def delete(self, name: str) -> None:
        self._check()
        self._folder.delete(name)

    def delete_tree(self) -> None:
        self._check()
        self._folder.delete_tree()

    def check_writable(self) -> None:
        self._check()
        self._folder.check_writable()
