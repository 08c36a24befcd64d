"""Token shards: examples by position, from a memory-mapped local copy or by ranges from storage.

A shard is two files: `<name>.ids`, the ids of its examples behind one another (uint16 or int32, little-endian),
and `<name>.lengths`, each example's number of targets (int32; it has one id more). Where it matters whose an example
is, a third, `<name>.persons`, has a mark of 16 bytes for each. Positions count examples over the shards in order.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runner.data.persons import MARK_BYTES, Persons
from runner.data.schema.slots import Slots
from runner.data.tokenizers.base import token_dtype
from runner.errors import CorruptError, ObjectNotFoundError
from runner.storage import Folder, LocalFolder, open_folder

GIB = 1 << 30
RANGE_READERS = 16
"""Requests in flight while examples are read by ranges."""
MERGED_GAP_BYTES = 1 << 16
"""Ranges closer than this are read as one: asking costs more than reading on."""


@dataclass(frozen=True)
class Shard:
    """One shard's size and digests, as the manifest records them."""

    name: str
    examples: int
    targets: int
    ids_bytes: int
    ids_sha256: str
    lengths_sha256: str
    persons_sha256: str | None = None

    @property
    def files(self) -> dict[str, int]:
        """The size of each of its files in storage."""
        ids, lengths = shard_file_names(self.name)
        sizes = {ids: self.ids_bytes, lengths: 4 * self.examples}
        return (
            sizes if self.persons_sha256 is None else sizes | {persons_file_name(self.name): MARK_BYTES * self.examples}
        )

    def to_plain(self) -> dict[str, Any]:
        """Plain values for JSON; without persons as before there were any."""
        plain = asdict(self)
        if self.persons_sha256 is None:
            del plain["persons_sha256"]
        return plain


@dataclass(frozen=True)
class TokenSet:
    """A published set of token shards: what it holds, and what was found while making it."""

    folder: Folder
    key: str
    vocab_size: int
    end_id: int
    seq_length: int
    packing: str
    records: int
    null_rows: int
    cut_records: int
    unknown_tokens: int
    shards: tuple[Shard, ...]
    stops: dict[str, int | None] | None = None
    """The files with records of the job and where `max_records` ends in one; None: all files, to their ends."""
    slots: Slots | None = None
    """Of a table's tokens; None: texts."""
    persons: tuple[tuple[int, int], ...] | None = None
    """Ascending, a number of records and how many persons have so many; None: it is not told whose examples are."""
    nobodys: int = 0
    """Rows that nobody has, where it is told."""

    @classmethod
    def from_manifest(cls, folder: Folder, manifest: dict[str, Any]) -> TokenSet:
        """Read back what `to_info` wrote."""
        info = dict(manifest["info"])
        shards = tuple(Shard(**shard) for shard in info.pop("shards"))
        if "persons" in info:
            info["persons"] = tuple((records, persons) for records, persons in info["persons"])
        if "slots" in info:
            info["slots"] = Slots(**{name: tuple(values) for name, values in info["slots"].items()})
        return cls(folder=folder, shards=shards, **info)

    def to_info(self) -> dict[str, Any]:
        """Plain values for the manifest."""
        plain = {field.name: getattr(self, field.name) for field in fields(self)}
        del plain["folder"]
        if self.stops is None:
            del plain["stops"]
        if self.slots is None:
            del plain["slots"]
        else:
            plain["slots"] = asdict(self.slots)
        if self.persons is None:
            del plain["persons"], plain["nobodys"]
        return plain | {"shards": [shard.to_plain() for shard in self.shards]}

    @property
    def examples(self) -> int:
        """Number of examples."""
        return sum(shard.examples for shard in self.shards)

    @property
    def units(self) -> int:
        """What privacy is for and batches are made of: persons, where it is told whose examples are, else examples."""
        return self.examples if self.persons is None else sum(persons for _, persons in self.persons)

    @property
    def targets(self) -> int:
        """Number of tokens that are predicted in one pass over all examples."""
        return sum(shard.targets for shard in self.shards)

    @property
    def bytes(self) -> int:
        """Size of the shards in storage."""
        return sum(sum(shard.files.values()) for shard in self.shards)


def shard_file_names(name: str) -> tuple[str, str]:
    """The names of a shard's ids and of its lengths."""
    return f"{name}.ids", f"{name}.lengths"


def persons_file_name(name: str) -> str:
    """The name of the file that tells whose a shard's examples are."""
    return f"{name}.persons"


class Examples:
    """Examples by position. `lengths` (n,) int32 holds every example's number of targets; `persons` whose it is, None
    where that is not told."""

    def __init__(self, tokens: TokenSet, cache_gib: float) -> None:
        """Open the shards: memory-mapped when they fit `cache_gib`, by ranges otherwise.

        Raises:
            CorruptError: a shard is missing or does not match its SHA-256.
        """
        self.tokens = tokens
        self.is_mapped = tokens.bytes <= cache_gib * GIB
        self._dtype = np.dtype(token_dtype(tokens.vocab_size))
        folder = _local_copy(tokens) if self.is_mapped else None
        self._mapped = [self._map(folder, shard) for shard in tokens.shards] if folder else None
        self.lengths = self._read_lengths(folder or tokens.folder)
        self.persons = None if tokens.persons is None else Persons.of(self._read_marks(folder or tokens.folder))

    @cached_property
    def _pool(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(RANGE_READERS)

    @cached_property
    def _first_positions(self) -> NDArray[np.int64]:
        """Position of each shard's first example."""
        return np.cumsum([0, *(shard.examples for shard in self.tokens.shards)])[:-1]

    @cached_property
    def _id_starts(self) -> NDArray[np.int64]:
        """Where each example's ids start in its shard, counted in ids."""
        starts = np.cumsum(self.lengths.astype(np.int64) + 1) - (self.lengths + 1)
        for first in self._first_positions:
            starts[first:] -= starts[first] if first < starts.size else 0
        return starts

    def rows(self, positions: NDArray[np.int64]) -> list[NDArray[np.integer]]:
        """The ids of the examples at `positions`, `lengths[position] + 1` each."""
        shards = np.searchsorted(self._first_positions, positions, side="right") - 1
        starts, counts = self._id_starts[positions], self.lengths[positions] + 1
        if self._mapped is None:
            return self._rows_by_ranges(shards, starts, counts)
        return [
            self._mapped[shard][start : start + count]
            for shard, start, count in zip(shards.tolist(), starts.tolist(), counts.tolist(), strict=True)
        ]

    def _rows_by_ranges(
        self, shards: NDArray[np.int64], starts: NDArray[np.int64], counts: NDArray[np.int32]
    ) -> list[NDArray[np.integer]]:
        size = self._dtype.itemsize
        spans = merge_spans(shards.tolist(), (starts * size).tolist(), (counts * size).tolist())

        def read(span: Span) -> bytes:
            name = shard_file_names(self.tokens.shards[span.shard].name)[0]
            try:
                content = self.tokens.folder.read_range(name, span.start, span.stop - span.start)
            except ObjectNotFoundError as error:
                raise _damaged(self.tokens.folder, name) from error
            if len(content) != span.stop - span.start:
                raise _damaged(self.tokens.folder, name)
            return content

        rows: list[NDArray[np.integer]] = [np.zeros(0, self._dtype)] * len(counts)
        for span, content in zip(spans, self._pool.map(read, spans), strict=True):
            for row in span.rows:
                offset = int(starts[row]) * size - span.start
                rows[row] = np.frombuffer(content, self._dtype, int(counts[row]), offset)
        return rows

    def _map(self, folder: LocalFolder, shard: Shard) -> NDArray[np.integer]:
        path = folder.local_path(shard_file_names(shard.name)[0])
        return np.asarray(np.memmap(path, self._dtype, "r"))

    def _read_lengths(self, folder: Folder) -> NDArray[np.int32]:
        parts: list[NDArray[np.int32]] = []
        for shard in self.tokens.shards:
            name = shard_file_names(shard.name)[1]
            parts.append(np.frombuffer(_read(folder, name, shard.lengths_sha256), "<i4"))
        return np.concatenate(parts)

    def _read_marks(self, folder: Folder) -> NDArray[np.uint8]:
        """(n, 16)."""
        parts: list[NDArray[np.uint8]] = []
        for shard in self.tokens.shards:
            assert shard.persons_sha256 is not None
            content = _read(folder, persons_file_name(shard.name), shard.persons_sha256)
            parts.append(np.frombuffer(content, np.uint8).reshape(-1, MARK_BYTES))
        return np.concatenate(parts)


@dataclass(frozen=True)
class Span:
    """Bytes `start` to `stop` of a shard's ids, and which of the asked rows lie in them."""

    shard: int
    start: int
    stop: int
    rows: tuple[int, ...]


def merge_spans(shards: Sequence[int], starts: Sequence[int], sizes: Sequence[int]) -> list[Span]:
    """The fewest reads that hold all rows: neighbors in a shard with small gaps become one span."""
    spans: list[Span] = []
    for row in sorted(range(len(shards)), key=lambda row: (shards[row], starts[row])):
        shard, start, stop = shards[row], starts[row], starts[row] + sizes[row]
        last = spans[-1] if spans else None
        if last is not None and last.shard == shard and start - last.stop <= MERGED_GAP_BYTES:
            spans[-1] = Span(shard, last.start, max(last.stop, stop), (*last.rows, row))
        else:
            spans.append(Span(shard, start, stop, (row,)))
    return spans


def _local_copy(tokens: TokenSet) -> LocalFolder:
    """The folder itself when it is local, else a verified copy under the user's cache; safe for several workers."""
    source = tokens.folder
    target = source if isinstance(source, LocalFolder) else open_folder(str(_cache_home() / "tokens" / tokens.key))
    assert isinstance(target, LocalFolder)

    def fetch(shard: Shard) -> None:
        digests = (shard.ids_sha256, shard.lengths_sha256, shard.persons_sha256)
        for (name, size), digest in zip(shard.files.items(), digests, strict=False):
            assert digest is not None
            if target.size(name) == size and _digest(target, name) == digest:
                continue
            if target is source:
                raise _damaged(source, name)
            target.write(name, _read(source, name, digest), durable=False)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(fetch, tokens.shards))
    return target


def _read(folder: Folder, name: str, digest: str) -> bytes:
    """A whole file, checked against its SHA-256."""
    try:
        content = folder.read(name)
    except ObjectNotFoundError as error:
        raise _damaged(folder, name) from error
    if hashlib.sha256(content).hexdigest() != digest:
        raise _damaged(folder, name)
    return content


def _digest(folder: LocalFolder, name: str) -> str:
    with folder.local_path(name).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _cache_home() -> Path:
    """`$XDG_CACHE_HOME/runner`, or the temporary directory where that cannot be written (containers)."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "runner"
    try:
        home.mkdir(parents=True, exist_ok=True)
    except OSError:
        home = Path(tempfile.gettempdir()) / f"runner-cache-{os.getuid()}"
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
    return home


def _damaged(folder: Folder, name: str) -> CorruptError:
    return CorruptError(f"{folder.uri}/{name} is missing or damaged; delete {folder.uri} and submit again")
