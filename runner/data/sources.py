"""A file that a user names, local or on S3, as bytes or as text: gzip and a byte order mark are undone.

It is read a block at a time, so it may be larger than memory.
"""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Literal, TextIO, cast

from runner.errors import DataError
from runner.storage import Folder, LocalFolder, open_parent

BLOCK_BYTES = 1 << 20
BLOCK_BYTES_OF_S3 = 1 << 23  # one request each


@dataclass(frozen=True)
class Source:
    """A file that is there. `uri` is what the user wrote."""

    uri: str
    folder: Folder
    name: str
    size: int

    @contextmanager
    def open(self) -> Generator[IO[bytes]]:
        """The file's bytes, to be read and sought; gzip is undone.

        Raises:
            DataError: inside the block too, when what is read is damaged gzip.
            StorageError: storage cannot be reached or read.
        """
        stored = _StoredFile(self.folder, self.name, self.size)
        block = BLOCK_BYTES if self.folder.is_local else BLOCK_BYTES_OF_S3
        with io.BufferedReader(stored, block) as file:
            zipped = file.peek(2)[:2] == b"\x1f\x8b"
            try:
                yield cast(IO[bytes], gzip.GzipFile(fileobj=file) if zipped else file)
            except (EOFError, zlib.error, gzip.BadGzipFile):
                raise DataError(f"{self.uri}: damaged or incomplete gzip file") from None

    @contextmanager
    def open_text(self, newline: Literal["", "\n"] = "") -> Generator[TextIO]:
        r"""The file's text without a byte order mark; its line ends stay as they are.

        newline: where lines end: at `\n` alone, or with `""` at `\r` and `\r\n`, too.

        Raises:
            DataError: as `open`; inside the block too, when what is read is not UTF-8, naming the line.
        """
        with self.open() as file:
            self._refuse_utf16(file.read(64))
            file.seek(0)
            text = io.TextIOWrapper(file, encoding="utf-8-sig", newline=newline)
            try:
                yield text
            except UnicodeDecodeError:
                file.seek(0)
                self._refuse_bytes(file)
                raise

    def _refuse_utf16(self, head: bytes) -> None:
        """Its letters are valid UTF-8, with a NUL beside each, and so would pass for text."""
        marked = head.startswith((b"\xff\xfe", b"\xfe\xff"))
        if marked or (len(head) >= 4 and not (any(head[::2]) and any(head[1::2]))):
            raise DataError(f"{self.uri}, line 1: this is UTF-16: save the file as UTF-8")

    def _refuse_bytes(self, file: IO[bytes]) -> None:
        """Raise DataError for the first line that is not UTF-8."""
        before = 0
        for line in file:
            try:
                line.decode()
            except UnicodeDecodeError as error:
                *whole, part = (line[: error.start] + b".").splitlines()
                raise DataError(
                    f"{self.uri}, line {before + len(whole) + 1}, byte {len(part)}: not UTF-8: save the file as UTF-8"
                ) from None
            before += len(line.splitlines())


def find_source(uri: str, *, patient: bool = True) -> Source:
    """The file at a path or s3://; for `patient` see `open_folder`.

    Raises:
        ConfigError: a uri of another kind.
        DataError: there is no such file.
        StorageError: storage cannot be reached.
    """
    folder, name = open_parent(uri, patient=patient)
    if name in ("", ".", ".."):
        raise DataError(f"{uri}: a directory, not a file")
    try:
        size = folder.size(name)
    except ValueError as error:
        raise DataError(f"{uri}: {error}") from None
    if size is None and isinstance(folder, LocalFolder) and (path := folder.local_path(name)).exists():
        what = "a directory, not a file" if path.is_dir() else "not a regular file: it is read more than once"
        raise DataError(f"{uri}: {what}")
    if size is None:
        raise DataError(f"{uri}: no such file")
    return Source(uri, folder, name, size)


class _StoredFile(io.RawIOBase):
    """A folder's file as Python's own kind of file."""

    def __init__(self, folder: Folder, name: str, size: int) -> None:
        self._folder = folder
        self._name = name
        self._size = size
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = max(0, offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence])
        return self._at

    def readinto(self, buffer: bytearray | memoryview) -> int:  # pyright: ignore[reportIncompatibleMethodOverride]
        found = self._folder.read_range(self._name, self._at, len(buffer))
        buffer[: len(found)] = found
        self._at += len(found)
        return len(found)
