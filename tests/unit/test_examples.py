"""Examples by position: the same from a memory-mapped copy and by ranges, and never damaged ones."""

from __future__ import annotations

import hashlib
import itertools
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from runner.data.examples import MERGED_GAP_BYTES, Examples, Shard, TokenSet, merge_spans, shard_file_names
from runner.errors import CorruptError
from runner.storage import Folder, LocalFolder, publish, read_manifest
from tests.folder_contract import flip

Rows = list[list[int]]


class CountingFolder(LocalFolder):
    """Remembers the ranges it is asked for."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.ranges: list[tuple[str, int, int]] = []
        self._lock = threading.Lock()

    def read_range(self, name: str, start: int, length: int) -> bytes:
        with self._lock:
            self.ranges.append((name, start, length))
        return super().read_range(name, start, length)


def delegate(name: str) -> Any:
    return lambda self, *arguments, **options: getattr(self.near, name)(*arguments, **options)


class FarFolder(Folder):
    """A folder that is not on this machine, as far as anyone can tell."""

    locals().update({name: delegate(name) for name in Folder.__abstractmethods__})

    def __init__(self, near: LocalFolder) -> None:
        self.near = near
        self.uri = f"far:{near.uri}"


def token_set(folder: Folder, shards: list[Rows], *, vocab_size: int = 300, seq_length: int = 40) -> TokenSet:
    """Token shards on disk, published as `prepare_tokens` does."""
    dtype = np.uint16 if vocab_size <= 65_536 else np.int32
    described: list[Shard] = []
    for number, rows in enumerate(shards):
        name = f"{number:012d}-0000"
        ids = np.concatenate([np.array(row, dtype) for row in rows]).tobytes()
        lengths = np.array([len(row) - 1 for row in rows], "<i4")
        for file, content in zip(shard_file_names(name), (ids, lengths.tobytes()), strict=True):
            folder.write(file, content)
        digests = [hashlib.sha256(content).hexdigest() for content in (ids, lengths.tobytes())]
        described.append(Shard(name, len(rows), int(lengths.sum()), len(ids), *digests))
    tokens = TokenSet(
        folder=folder,
        key="0" * 32,
        vocab_size=vocab_size,
        end_id=0,
        seq_length=seq_length,
        packing="records",
        records=sum(map(len, shards)),
        null_rows=0,
        cut_records=0,
        shards=tuple(described),
    )
    publish(folder, {}, tokens.to_info())
    return tokens


def plain(rows: list[NDArray[np.integer]]) -> Rows:
    return [row.tolist() for row in rows]


SHARDS: list[Rows] = [[[0, 1, 2, 0], [0, 3, 0]], [[0, 4, 5, 6, 7, 0]], [[0, 0], [0, 8, 0], [0, 9, 9, 0]]]
ALL = [row for shard in SHARDS for row in shard]

ROW = st.lists(st.integers(0, 299), min_size=2, max_size=10)


@given(
    st.lists(st.lists(ROW, min_size=1, max_size=6), min_size=1, max_size=4),
    st.sampled_from([300, 100_000]),
    st.data(),
)
@settings(max_examples=60)
def test_ranges_and_the_memory_map_give_the_same_rows_in_the_asked_order(
    tmp_path_factory: pytest.TempPathFactory, shards: list[Rows], vocab_size: int, data: st.DataObject
) -> None:
    folder = LocalFolder(tmp_path_factory.mktemp("tokens"))
    tokens = token_set(folder, shards, vocab_size=vocab_size)
    everything = [row for shard in shards for row in shard]
    chosen = data.draw(st.lists(st.integers(0, len(everything) - 1), max_size=10))
    positions = np.array(chosen, np.int64)
    mapped, ranged = Examples(tokens, 1), Examples(tokens, 0)
    assert (mapped.is_mapped, ranged.is_mapped) == (True, False)
    assert mapped.lengths.tolist() == ranged.lengths.tolist() == [len(row) - 1 for row in everything]
    assert plain(mapped.rows(positions)) == plain(ranged.rows(positions)) == [everything[p] for p in chosen]


def test_large_vocabularies_keep_their_ids(tmp_path: Path) -> None:
    rows = [[0, 70_000, 99_999, 0]]
    tokens = token_set(LocalFolder(tmp_path), [rows], vocab_size=100_000)
    for cache_gib in (0, 1):
        assert plain(Examples(tokens, cache_gib).rows(np.array([0]))) == rows


def test_a_token_set_reads_back_from_its_manifest(tmp_path: Path) -> None:
    folder = LocalFolder(tmp_path)
    tokens = token_set(folder, SHARDS)
    found = TokenSet.from_manifest(folder, read_manifest(folder))
    assert found == tokens
    assert (found.examples, found.targets) == (6, sum(len(row) - 1 for row in ALL))
    assert found.bytes == sum(entry.size for entry in folder.list() if entry.name != "manifest.json")


def test_shards_that_do_not_fit_the_cache_are_read_by_ranges(tmp_path: Path) -> None:
    tokens = token_set(LocalFolder(tmp_path), SHARDS)
    gib = tokens.bytes / (1 << 30)
    assert Examples(tokens, gib).is_mapped
    assert not Examples(tokens, gib * 0.99).is_mapped


def test_reading_by_ranges_asks_only_for_what_is_needed(tmp_path: Path) -> None:
    row = [0] + [7] * 9_998 + [0]
    folder = CountingFolder(tmp_path)
    tokens = token_set(folder, [[row] * 40, [row] * 3], seq_length=10_000)
    examples = Examples(tokens, 0)
    assert folder.ranges == []
    examples.rows(np.array([39, 0, 1, 42]))
    size = len(row) * 2
    names = [shard_file_names(shard.name)[0] for shard in tokens.shards]
    assert sorted(folder.ranges) == [
        (names[0], 0, 2 * size),
        (names[0], 39 * size, size),
        (names[1], 2 * size, size),
    ]


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 10**6), st.integers(1, 10**5)), max_size=20))
def test_merged_spans_hold_every_row_once_and_no_large_gap(rows: list[tuple[int, int, int]]) -> None:
    shards, starts, sizes = ([row[part] for row in rows] for part in range(3))
    spans = merge_spans(shards, starts, sizes)
    assert sorted(row for span in spans for row in span.rows) == list(range(len(rows)))
    for span in spans:
        covered = span.start
        for row in span.rows:
            assert (shards[row], starts[row]) >= (span.shard, span.start)
            assert starts[row] + sizes[row] <= span.stop
            assert starts[row] - covered <= MERGED_GAP_BYTES
            covered = max(covered, starts[row] + sizes[row])
        assert covered == span.stop
    for one, two in itertools.pairwise(spans):
        assert one.shard < two.shard or two.start - one.stop > MERGED_GAP_BYTES


# Damage


@pytest.mark.parametrize("number", range(len(SHARDS)))
@pytest.mark.parametrize("part", [0, 1])
def test_a_flipped_byte_is_found_before_training(tmp_path: Path, number: int, part: int) -> None:
    folder = LocalFolder(tmp_path)
    tokens = token_set(folder, SHARDS)
    name = shard_file_names(tokens.shards[number].name)[part]
    folder.write(name, flip(folder.read(name), 3))
    with pytest.raises(CorruptError, match=f"{name} is missing or damaged; delete"):
        Examples(tokens, 1)
    if part == 1:  # ids are not read whole by ranges; lengths always are
        with pytest.raises(CorruptError, match=f"{name} is missing or damaged; delete"):
            Examples(tokens, 0)


@pytest.mark.parametrize("part", [0, 1])
@pytest.mark.parametrize("cache_gib", [0, 1])
def test_a_missing_shard_is_named(tmp_path: Path, part: int, cache_gib: int) -> None:
    folder = LocalFolder(tmp_path)
    tokens = token_set(folder, SHARDS)
    name = shard_file_names(tokens.shards[1].name)[part]
    folder.delete(name)
    with pytest.raises(CorruptError, match=f"{name} is missing or damaged; delete"):
        Examples(tokens, cache_gib).rows(np.arange(6))


@pytest.mark.parametrize("cache_gib", [0, 1])
def test_a_cut_shard_is_named(tmp_path: Path, cache_gib: int) -> None:
    folder = LocalFolder(tmp_path)
    tokens = token_set(folder, SHARDS)
    name = shard_file_names(tokens.shards[2].name)[0]
    folder.write(name, folder.read(name)[:-2])
    with pytest.raises(CorruptError, match=f"{name} is missing or damaged; delete"):
        Examples(tokens, cache_gib).rows(np.arange(6))


def test_a_shard_that_is_listed_twice_is_two_shards(tmp_path: Path) -> None:
    tokens = token_set(LocalFolder(tmp_path), SHARDS[:1])
    twice = replace(tokens, shards=tokens.shards * 2)
    assert plain(Examples(twice, 1).rows(np.array([0, 2, 3]))) == [ALL[0], ALL[0], ALL[1]]


# Copies of what is far away


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the local copy of the far token set belongs."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache/runner/tokens" / ("0" * 32)


def test_what_is_far_away_is_copied_once_and_mapped(tmp_path: Path, copy: Path) -> None:
    near = LocalFolder(tmp_path / "near")
    tokens = replace(token_set(near, SHARDS), folder=FarFolder(near))
    assert plain(Examples(tokens, 1).rows(np.arange(6))) == ALL
    assert len(list(copy.iterdir())) == 2 * len(SHARDS)
    near.remove([entry.name for entry in near.list()])
    assert plain(Examples(tokens, 1).rows(np.arange(6))) == ALL


def test_a_damaged_copy_is_fetched_again(tmp_path: Path, copy: Path) -> None:
    near = LocalFolder(tmp_path / "near")
    tokens = replace(token_set(near, SHARDS), folder=FarFolder(near))
    Examples(tokens, 1)
    for path in copy.iterdir():
        path.write_bytes(flip(path.read_bytes(), 1))
    assert plain(Examples(tokens, 1).rows(np.arange(6))) == ALL


def test_damage_far_away_never_reaches_the_copy(tmp_path: Path, copy: Path) -> None:
    near = LocalFolder(tmp_path / "near")
    tokens = replace(token_set(near, SHARDS), folder=FarFolder(near))
    name = shard_file_names(tokens.shards[0].name)[0]
    near.write(name, flip(near.read(name), 1))
    with pytest.raises(CorruptError, match=f"far:.*{name} is missing or damaged"):
        Examples(tokens, 1)
    assert not (copy / name).exists()
