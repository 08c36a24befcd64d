"""Packing loses nothing: every token is predicted once, and how records arrive makes no difference."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from runner.data.packing import Packed, Packer, Packing

END = 0
RECORDS = st.lists(st.lists(st.integers(1, 9), max_size=12), max_size=12)
LENGTHS = st.integers(1, 8)
PACKINGS: st.SearchStrategy[Packing] = st.sampled_from(["records", "stream"])


def pack(packing: Packing, seq_length: int, batches: Sequence[Sequence[Sequence[int]]]) -> Packed:
    packer = Packer(packing, seq_length, END)
    for records in batches:
        add(packer, records)
    return packer.take()


def add(packer: Packer, records: Sequence[Sequence[int]]) -> None:
    tokens = np.array([token for record in records for token in record], np.int32)
    packer.add(tokens, np.array([len(record) for record in records], np.int32))


def examples(packed: Packed) -> list[list[int]]:
    """Each example's ids."""
    assert packed.ids.dtype == packed.lengths.dtype == np.int32
    assert packed.ids.size == (packed.lengths + 1).sum()
    ends = np.cumsum(packed.lengths + 1)[:-1]
    return [part.tolist() for part in np.split(packed.ids, ends)] if packed.lengths.size else []


@given(RECORDS, LENGTHS)
def test_a_record_becomes_one_example_between_two_ends_cut_to_the_length(
    records: list[list[int]], seq_length: int
) -> None:
    packed = pack("records", seq_length, [records])
    whole = [[END, *record, END] for record in records]
    assert examples(packed) == [ids[: seq_length + 1] for ids in whole]
    assert packed.cut == sum(len(ids) > seq_length + 1 for ids in whole)


@given(RECORDS, LENGTHS)
def test_a_stream_predicts_each_token_and_each_end_exactly_once(records: list[list[int]], seq_length: int) -> None:
    packed = pack("stream", seq_length, [records])
    found = examples(packed)
    expected = [token for record in records for token in [*record, END]]
    assert [token for ids in found for token in ids[1:]] == expected
    assert packed.cut == 0


@given(RECORDS, LENGTHS)
def test_a_streams_window_begins_with_what_came_before_it(records: list[list[int]], seq_length: int) -> None:
    found = examples(pack("stream", seq_length, [records]))
    before = END
    for number, ids in enumerate(found):
        assert ids[0] == before
        assert len(ids) == seq_length + 1 or number == len(found) - 1
        assert len(ids) >= 2
        before = ids[-1]


@given(RECORDS, LENGTHS, PACKINGS, st.lists(st.integers(0, 12), max_size=5))
def test_the_batches_in_which_records_arrive_make_no_difference(
    records: list[list[int]], seq_length: int, packing: Packing, cuts: list[int]
) -> None:
    bounds = [0, *sorted(min(cut, len(records)) for cut in cuts), len(records)]
    batches = [records[start:stop] for start, stop in itertools.pairwise(bounds)]
    at_once, in_parts = pack(packing, seq_length, [records]), pack(packing, seq_length, batches)
    assert examples(in_parts) == examples(at_once)
    assert in_parts.cut == at_once.cut


@given(RECORDS, LENGTHS, PACKINGS, st.integers(0, 12))
def test_examples_can_be_taken_early_without_losing_or_repeating_any(
    records: list[list[int]], seq_length: int, packing: Packing, taken_after: int
) -> None:
    packer = Packer(packing, seq_length, END)
    add(packer, records[:taken_after])
    assert packer.pending_ids >= 0
    early = packer.take(last=False)
    assert packer.pending_ids == 0
    add(packer, records[taken_after:])
    late = packer.take()
    at_once = pack(packing, seq_length, [records])
    assert examples(early) + examples(late) == examples(at_once)
    assert early.cut + late.cut == at_once.cut


@given(RECORDS, LENGTHS, PACKINGS)
def test_pending_ids_tell_what_taking_would_give(records: list[list[int]], seq_length: int, packing: Packing) -> None:
    packer = Packer(packing, seq_length, END)
    add(packer, records)
    pending = packer.pending_ids
    assert packer.take(last=False).ids.size == pending


def test_nothing_packs_to_nothing() -> None:
    for packing in ("records", "stream"):
        assert examples(pack(packing, 4, [])) == []
        assert examples(pack(packing, 4, [[]])) == []


def test_an_empty_record_is_an_example_of_its_end_alone() -> None:
    assert examples(pack("records", 4, [[[]]])) == [[END, END]]


def test_narrow_ids_do_not_overflow() -> None:
    packer = Packer("stream", 3, 65_535)
    packer.add(np.array([65_534] * 5, np.uint16), np.array([5], np.uint16))
    assert examples(packer.take()) == [[65_535, 65_534, 65_534, 65_534], [65_534, 65_534, 65_534, 65_535]]
