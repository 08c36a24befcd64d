"""Which files below `data.uri` are records, and what the names of their folders say.

    files = list_files(uri)          # Parquet by its name, sorted, with fingerprints
    for group in passed_over(uri): print(group)

A file counts by its name: `*.parquet`, `*.parq` or `*.pq`, in either case, at any depth. Names that start with `_` or
`.` are other tools' notes. A folder `year=2024` gives all files below it a column `year`, as Hive and Spark write them.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar
from urllib.parse import unquote

from runner.data.shards import NOTE, list_with_unpublished
from runner.errors import DataError, StorageError
from runner.storage import Entry, LocalFolder, open_folder, shown_name

READERS = 8
"""Files looked at at the same time: reading waits for storage, and pyarrow works outside the GIL."""

READING_VERSION = 2
"""How rows become records; a run keeps the version that it began with.

1: numbers as Arrow casts them (4.9e+12), and `max_records` counts rows. 2: see `runner.data.texts`; it counts records.
"""

SUFFIXES = (".parquet", ".parq", ".pq")
COMPRESSED = (".gz", ".zst", ".bz2", ".xz", ".zip")
NOTES = "_ or . in front: another tool's notes"
UNPUBLISHED = "of an import that did not end, or replaced by one"
HIVE_NULL = "__HIVE_DEFAULT_PARTITION__"
MOST_NAMES = 3
"""Of the files passed over for one reason, so many are named."""

Result = TypeVar("Result")
Item = TypeVar("Item")


@dataclass(frozen=True)
class SourceFile:
    """A Parquet file under `data.uri`. `fingerprint` changes when its content does.

    Of its rows, those from `start` on are records of the run: earlier ones were an earlier run's. `stop`: where a run
    with `max_records` ended in it; None for its end. Files are equal when their contents are.
    """

    name: str
    size: int
    fingerprint: str
    start: int = field(default=0, compare=False)
    stop: int | None = field(default=None, compare=False)
    version: int = field(default=READING_VERSION, compare=False)


@dataclass(frozen=True)
class PassedOver:
    """Files that are not read for one reason; the first few by name.

    >>> str(PassedOver.of("no rows", ["a.parquet", "b.parquet", "c.parquet", "d.parquet"]))
    '4 files (no rows): a.parquet, b.parquet, c.parquet and 1 more'
    """

    why: str
    files: int
    names: tuple[str, ...]

    @classmethod
    def of(cls, why: str, names: Sequence[str]) -> PassedOver:
        """Of all their names."""
        return cls(why, len(names), tuple(names[:MOST_NAMES]))

    def __str__(self) -> str:
        more = self.files - len(self.names)
        named = ", ".join(map(shown_name, self.names)) + (f" and {more} more" if more else "")
        return f"{self.files} file{'s' * (self.files > 1)} ({self.why}): {named}"


def list_files(uri: str) -> tuple[SourceFile, ...]:
    """The Parquet files below a folder, sorted by name.

    The fingerprint is the SHA-256 of a local file's content, and S3's own ETag and size elsewhere.

    Raises:
        DataError: there is no such folder, or no Parquet file in it; or imports replace its files just now.
        StorageError: storage cannot be reached.
    """
    folder = open_folder(uri, patient=False)
    entries, others = _sorted_out(uri)
    if not entries:
        seen = "".join(f"; passed over: {group}" for group in _grouped(others))
        raise DataError(
            f"{uri}: no Parquet files (*.parquet) here; `runner import` makes them from CSV, JSON or text{seen}"
        )
    if isinstance(folder, LocalFolder):
        digests = in_parallel(lambda entry: _file_sha256(folder.local_path(entry.name)), entries)
    else:
        digests = [entry.tag or str(entry.size) for entry in entries]
    return tuple(SourceFile(entry.name, entry.size, digest) for entry, digest in zip(entries, digests, strict=True))


def passed_over(uri: str) -> tuple[PassedOver, ...]:
    """The files below a folder that `list_files` leaves out, by the reason why."""
    return _grouped(_sorted_out(uri)[1])


def partition_columns(name: str) -> dict[str, str | None]:
    """The columns that a file's folders give it: Hive's `key=value`, percent-decoded.

    >>> partition_columns("year=2024/city=S%C3%A3o%20Paulo/a.parquet")
    {'year': '2024', 'city': 'São Paulo'}
    >>> partition_columns("year=__HIVE_DEFAULT_PARTITION__/a.parquet")
    {'year': None}
    """
    columns: dict[str, str | None] = {}
    for folder in name.split("/")[:-1]:
        key, is_partition, value = folder.partition("=")
        if is_partition and key:
            columns[unquote(key)] = None if value == HIVE_NULL else unquote(value)
    return columns


def in_parallel(function: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """The function's results in the items' order."""
    with ThreadPoolExecutor(READERS) as pool:
        return list(pool.map(function, items))


def _sorted_out(uri: str) -> tuple[list[Entry], list[tuple[str, str]]]:
    """The entries of Parquet files, and the name of every other file with the reason why it is none."""
    folder = open_folder(uri, patient=False)
    entries: list[Entry] = []
    others: list[tuple[str, str]] = []
    listed, hidden = list_with_unpublished(folder)
    for entry in listed:
        if entry.name.rpartition("/")[2] == NOTE:
            continue
        why = UNPUBLISHED if entry.name in hidden else _why_not(entry.name)
        if why is None and isinstance(folder, LocalFolder) and not folder.local_path(entry.name).is_file():
            why = "no regular file"  # A pipe would be waited on for ever.
        if why is None:
            entries.append(entry)
        else:
            others.append((entry.name, why))
    if isinstance(folder, LocalFolder):
        others += [(name, "links to nothing") for name in _dangling_links(folder.local_path())]
    return entries, others


def _why_not(name: str) -> str | None:
    """Why a file is none of records, by its name; None where it is one."""
    if any(part.startswith(("_", ".")) for part in name.split("/")):
        return NOTES
    if name.lower().endswith(SUFFIXES):
        return None
    if any(name.lower().endswith(suffix + compressed) for suffix in SUFFIXES for compressed in COMPRESSED):
        return "packed as a whole: unpack it, Parquet is compressed inside"
    return "not named *.parquet, *.parq or *.pq"


def _dangling_links(root: Path) -> list[str]:
    """Links below a folder whose target is gone, which no listing shows."""
    found: list[str] = []
    for folder, _, names in os.walk(root, followlinks=True):
        paths = [Path(folder, name) for name in names]
        found += [path.relative_to(root).as_posix() for path in paths if path.is_symlink() and not path.exists()]
    return sorted(found)


def _grouped(others: Iterable[tuple[str, str]]) -> tuple[PassedOver, ...]:
    reasons: dict[str, list[str]] = {}
    for name, why in others:
        reasons.setdefault(why, []).append(name)
    return tuple(PassedOver.of(why, names) for why, names in reasons.items())


def _file_sha256(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise StorageError(f"{path}: cannot be read: {error.strerror}") from error
