"""The Parquet shards that `runner import` leaves in a folder, and the note that tells them from the user's own files.

    target = Target.open("records/", overwrite=True)        # refuses what it would spoil
    target.write(rows, schema, rows_per_shard=100_000)      # all of it, or nothing
    list_with_unpublished(folder)                           # what is there, and what of it readers pass over

`_import.json` lists the shards of the last import that came to its end. While another replaces them, it also lists
those that are being written, and later those that are being removed; one write of it makes the new ones count and the
old ones not. Readers of records pass over both, so an import that is killed anywhere leaves the records before or the
records after, never a mixture. The next import removes what is left over.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from runner.data.table import Row
from runner.errors import DataError, StorageError
from runner.run_files import JOB, find_run_around, is_run
from runner.storage import Entry, Folder, open_folder, shown_name
from runner.storage.manifest import contents_sha256, sha256

NOTE = "_import.json"
VERSION = 1

_SHARD_CHARACTERS = 1 << 26  # a shard of long records ends early: it is built in memory
_MOST_LISTINGS = 5
READ_AS_RECORDS = re.compile(r"(?i)\.(parquet|parq|pq)(\.gz)?$")


@dataclass(frozen=True)
class File:
    """What tells a file that we wrote from another of its name."""

    size: int
    sha256: str

    @classmethod
    def of(cls, data: bytes) -> File:
        return cls(len(data), sha256(data))


Files = Mapping[str, File]


@dataclass(frozen=True)
class Note:
    """What `_import.json` says. `number`: of the import whose `shards` count, from 1; 0 before the first."""

    number: int = 0
    shards: Files = field(default_factory=dict[str, File])
    writing: Files = field(default_factory=dict[str, File])
    removing: Files = field(default_factory=dict[str, File])

    @property
    def files(self) -> dict[str, File]:
        """All that are ours."""
        return {**self.removing, **self.writing, **self.shards}

    def to_bytes(self) -> bytes:
        """As it is stored: with a SHA-256 of its own, so that no other file is taken for one."""
        contents = {"version": VERSION, **asdict(self)}
        return json.dumps(contents | {"sha256": contents_sha256(contents)}, indent=1).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Note | None:
        """None for a file that is not ours."""
        try:
            contents: dict[str, Any] = dict(json.loads(data))
            recorded = contents.pop("sha256")
            if recorded != contents_sha256(contents) or contents.pop("version") != VERSION:
                return None
            number = contents.pop("number")
            return cls(
                number, **{key: {name: File(**file) for name, file in contents[key].items()} for key in contents}
            )
        except (ValueError, TypeError, KeyError, RecursionError):
            return None


def list_with_unpublished(folder: Folder) -> tuple[list[Entry], set[str]]:
    """All objects here and below, and the names of those that an import has not published yet, or has replaced already.

    A listing from before an import ended, and its note from after that, give a part of the new records and none of the
    old: where a shard is missing, all is looked at again, until the notes say that no import ended in between. Shards
    that are missing then are gone for good, because the user took them away.

    Raises:
        DataError: imports ended all the time.
    """
    before: dict[str, Files] | None = None
    for _ in range(_MOST_LISTINGS):
        entries = folder.list()
        sizes = {entry.name: entry.size for entry in entries}
        notes = {name: note for name in sizes if (note := _read_note(folder, name)) is not None}
        shards = {name: note.shards for name, note in notes.items()}
        if shards == before or all(_beside(name, shard) in sizes for name in shards for shard in shards[name]):
            hidden = {
                path
                for name, note in notes.items()
                for shard, file in {**note.removing, **note.writing}.items()
                if sizes.get(path := _beside(name, shard)) == file.size
            }
            return entries, hidden
        before = shards
    raise DataError(f"{folder.uri}: imports replace the records here just now: try again when they have ended")


@dataclass
class Target:
    """A folder that an import may write to. `note`: of the imports before.

    `found`: the note as it was read or written last; two of them where writing it was interrupted. As soon as it holds
    anything else, another import has the folder, and this one ends.
    """

    folder: Folder
    note: Note
    found: tuple[bytes | None, ...]

    @classmethod
    def open(cls, uri: str, *, overwrite: bool) -> Target:
        """The folder at `uri`, when nothing of the user's would be lost or mixed with the import there.

        Raises:
            DataError: it holds Parquet files that are not an import's, or are and `overwrite` is off; or it is, holds
                or lies in a run's directory.
        """
        folder = open_folder(uri)
        names = [entry.name for entry in folder.list()]
        _check_no_run(folder, names)
        data = folder.read(NOTE) if NOTE in names else None
        note = Note() if data is None else Note.from_bytes(data)
        if note is None:
            raise DataError(f"{uri} holds an {NOTE} that no import wrote, or that was changed: choose another folder")
        files = [name for name in names if _is_read(name)]
        if foreign := [name for name in files if name not in note.files]:
            raise DataError(
                f"{uri} already holds Parquet files ({len(files)}) that no import of its own wrote, or only an earlier "
                f"version's, such as {shown_name(foreign[0])}: choose another folder, or move them away"
            )
        if not overwrite and not note.shards.keys().isdisjoint(files):
            raise DataError(
                f"{uri} already holds Parquet files ({len(files)}): choose another folder or add --overwrite"
            )
        for name in files:
            if File.of(folder.read(name)) != note.files[name]:
                raise DataError(f"{uri}: {name} is not as the import wrote it: move it away or delete it")
        return cls(folder, note, (data,))

    def write(self, rows: Iterable[Row], schema: pa.Schema, rows_per_shard: int) -> dict[str, int]:
        """Write rows as Parquet files of `schema`, all texts, put them in place of the shards before, and count them.

        Returns:
            `files`, `records` and `bytes`.

        Raises:
            DataError: something else wrote a file of the same name, or another import wrote here, meanwhile.
            StorageError: writing failed.
            Then, or when it is interrupted, the shards before still count and what was written is removed, unless the
            new ones counted already.
        """
        before = Note(self.note.number, self.note.shards)
        if left := {**self.note.writing, **self.note.removing}:
            self._write_note(replace(before, removing=left))  # An import that is still writing them ends.
            for name in left:
                self.folder.delete(name)
        written: dict[str, File] = {}
        records = 0
        try:
            for shard in _cut(rows, rows_per_shard):
                self._write_shard(before, written, _to_parquet(shard, schema))
                records += len(shard)
            self._write_note(Note(before.number + 1, written, removing=before.shards))
        except BaseException:
            with contextlib.suppress(StorageError):
                self._take_back(before, written)
            raise
        if before.shards:
            self._check_note()
            for name in before.shards:
                self.folder.delete(name)
            self._write_note(Note(before.number + 1, written))
        return {"files": len(written), "records": records, "bytes": sum(file.size for file in written.values())}

    def _write_shard(self, before: Note, written: dict[str, File], data: bytes) -> None:
        name = _shard_name(before.number + 1, len(written))
        written[name] = File.of(data)
        self._write_note(replace(before, writing=written))
        if not self.folder.create(name, data):
            del written[name]
            raise DataError(f"{self.folder.uri}/{name} was written by something else just now: try again")

    def _take_back(self, before: Note, written: Files) -> None:
        """Remove what was written of an import, unless it counts already, or is another import's by now."""
        data = self.folder.read_if_exists(NOTE)
        note = Note.from_bytes(data or b"") or Note()
        is_ours = data in self.found and note.number == before.number
        for name, file in written.items():
            if is_ours or (note.files.get(name) != file and File.of(self.folder.read_if_exists(name) or b"") == file):
                self.folder.delete(name)
        if is_ours and before.number:
            self.folder.write(NOTE, before.to_bytes())
        elif is_ours:
            self.folder.delete(NOTE)

    def _check_note(self) -> None:
        if self.folder.read_if_exists(NOTE) not in self.found:
            raise DataError(
                f"{self.folder.uri}: another import writes here at the same time: try again when it has ended"
            )

    def _write_note(self, note: Note) -> None:
        self._check_note()
        data = note.to_bytes()
        self.found = (*self.found, data)
        self.folder.write(NOTE, data)
        self.found = (data,)


def _check_no_run(folder: Folder, names: Sequence[str]) -> None:
    """Raise DataError for a folder that is, holds or lies in a run's directory: its files would mix with records."""
    if (run := find_run_around(folder.uri)) is not None:
        raise DataError(f"{folder.uri}: {run} is the directory of a run: choose another folder")
    for name in names:
        inside, _, last = name.rpartition("/")
        if last == JOB and inside and "/" not in inside and is_run(folder.child(inside)):
            raise DataError(f"{folder.uri}: holds the run {shown_name(inside)}: choose another folder")


def _read_note(folder: Folder, name: str) -> Note | None:
    """What an object of this name says, if it is an import's note."""
    return Note.from_bytes(folder.read(name)) if name.rpartition("/")[2] == NOTE else None


def _beside(note: str, shard: str) -> str:
    """The name of a shard of the note's folder, from where the note has its own."""
    return note.removesuffix(NOTE) + shard


def _is_read(name: str) -> bool:
    """Whether an object may be read as records: names that start with `_` or `.` never are."""
    hidden = any(part.startswith(("_", ".")) for part in name.split("/"))
    return READ_AS_RECORDS.search(name) is not None and not hidden


def _shard_name(number: int, index: int) -> str:
    """Of the first import `part-00000.parquet` ...; others have their number in the name, so that none is replaced."""
    return f"part-{index:05d}.parquet" if number == 1 else f"part-{number}-{index:05d}.parquet"


def _cut(rows: Iterable[Row], rows_per_shard: int) -> Iterator[list[Row]]:
    shard: list[Row] = []
    characters = 0
    for row in rows:
        shard.append(row)
        characters += sum(len(value) for value in row.values() if value)
        if len(shard) == rows_per_shard or characters >= _SHARD_CHARACTERS:
            yield shard
            shard, characters = [], 0
    if shard:
        yield shard


def _to_parquet(rows: Sequence[Row], schema: pa.Schema) -> bytes:
    data = io.BytesIO()
    table = pa.table([[row.get(column) for row in rows] for column in schema.names], schema=schema)
    pq.write_table(table, data, compression="zstd")
    return data.getvalue()
