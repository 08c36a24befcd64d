"""Fields change places as a whole, by numbers that no record has a part in."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from runner.config import parse_job
from runner.data.batches import BatchPlan, FieldOrder, PoissonPlan, shuffle_fields
from runner.data.examples import Examples, TokenSet
from runner.data.files import SourceFile
from runner.data.prepare import token_key
from runner.data.schema.slots import Slots
from runner.errors import ConfigError
from runner.storage import LocalFolder
from runner.train.feed import Feed

SLOTS = Slots(sizes=(1, 4, 2, 2, 3, 5), fields=(-1, 0, 1, 1, 2, 3))  # field 1 has two slots, field 3 is a text
FIELDS = SLOTS.fields_of_tokens()


def draw_rows(count: int, seed: int = 0) -> list[NDArray[np.int32]]:
    """Records as they come from the shards: the end, the fields in the schema's order, the end."""
    draw = np.random.default_rng(seed)

    def row() -> list[int]:
        text = draw.integers(12, 17, draw.integers(0, 4)).tolist()
        whole = [draw.integers(1, 5), draw.integers(5, 7), draw.integers(7, 9), draw.integers(9, 12), *text]
        return [0, *whole, 0]

    return [np.array(row(), np.int32) for _ in range(count)]


ROWS = draw_rows(60)


def feed(plan: BatchPlan, replicas: Any = range(1), total: int = 1, fields: Any = FIELDS) -> Feed:
    examples = SimpleNamespace(
        rows=lambda positions: [ROWS[position] for position in positions],
        lengths=np.array([row.size - 1 for row in ROWS], np.int32),
        tokens=SimpleNamespace(seq_length=8),
    )
    return Feed(cast(Examples, examples), plan, replicas, total, fields=fields)


PLAN = BatchPlan(60, 12, 3, validation_split=True)


def records_of(share: Any) -> list[tuple[int, ...]]:
    """The targets of a share, without padding."""
    return [
        tuple(targets[weights > 0].tolist())
        for batch in share.batches
        for targets, weights in zip(batch.targets, batch.weights, strict=True)
    ]


def by_field(record: tuple[int, ...]) -> dict[int, list[int]]:
    """The tokens of each field, in their order; it must not be broken up."""
    found: dict[int, list[int]] = {}
    last = None
    for token in record:
        field = int(FIELDS[token])
        assert field == last or field not in found, "a field is in two pieces"
        found.setdefault(field, []).append(token)
        last = field
    return found


@given(st.integers(0, 2**63 - 1), st.integers(1, 40))
def test_fields_stay_whole_and_the_end_stays_last(key: int, rows: int) -> None:
    ids = np.zeros((rows, 9), np.int32)
    for row, record in zip(ids, draw_rows(rows, seed=key % 1000), strict=True):
        row[: record.size] = record
    shuffled = shuffle_fields(ids, FIELDS, FieldOrder(FIELDS, (key, 0)).draw(rows))
    for before, after in zip(ids, shuffled, strict=True):
        length = int(np.flatnonzero(before)[-1])
        assert after[0] == 0
        assert not after[length + 1 :].any()
        assert by_field(tuple(after[1 : length + 1].tolist())) == by_field(tuple(before[1 : length + 1].tolist()))


def test_every_second_record_is_in_order_and_of_the_others_every_order_comes_as_often() -> None:
    """Chi-square over the 24 orders of four fields: below 49.7 with probability 0.999."""
    draws = 48_000
    ids = np.tile(np.array([[0, 1, 5, 7, 9, 12, 0]], np.int32), (draws, 1))
    shuffled = shuffle_fields(ids, FIELDS, FieldOrder(FIELDS, (5, 6)).draw(draws))
    assert (shuffled[::2] == ids[::2]).all()
    _, counts = np.unique(shuffled[1::2], axis=0, return_counts=True)
    assert len(counts) == 24
    assert stats.chisquare(counts).statistic < 49.7


def test_orders_change_from_step_to_step_and_come_back_when_a_step_is_made_again() -> None:
    first = [[records_of(share) for share in feed(PLAN).training(epoch, 0)] for epoch in range(2)]
    again = [records_of(share) for share in feed(PLAN).training(1, 2)]
    assert again == first[1][2:]
    whole = {tuple(row[1:].tolist()) for row in ROWS}
    shuffled = [record for epoch in first for step in epoch for record in step]
    assert len(set(shuffled)) > 1.2 * len(whole)
    assert {tuple(sorted(record)) for record in shuffled} <= {tuple(sorted(record)) for record in whole}


@pytest.mark.parametrize("workers", [1, 2, 4])
@pytest.mark.parametrize("plan", [PLAN, PoissonPlan(60, 12, 3, validation_split=True, key=(1, 2))])
def test_any_number_of_workers_trains_on_the_same_orders(plan: BatchPlan, workers: int) -> None:
    expected = [sorted(records_of(share)) for share in feed(plan).training(1, 0)]
    each = 4 // workers
    feeds = [feed(plan, range(rank * each, (rank + 1) * each), 4) for rank in range(workers)]
    for expected_step, shares in zip(expected, zip(*(one.training(1, 0) for one in feeds), strict=True), strict=True):
        found = sorted(record for share in shares for record in records_of(share) if record)
        assert found == [record for record in expected_step if record]


def test_validation_has_the_same_orders_in_every_epoch_and_others_than_training() -> None:
    one, two = ([records_of(share) for share in feed(PLAN).validation()] for _ in range(2))
    assert one == two
    plain = [records_of(share) for share in feed(PLAN, fields=None).validation()]
    assert one != plain
    assert [[by_field(record) for record in step] for step in one] == [
        [by_field(record) for record in step] for step in plain
    ]


def test_an_order_does_not_depend_on_what_the_record_or_another_one_holds() -> None:
    order = FieldOrder(FIELDS, (1, 2)).draw(2)
    ids = np.array([[0, 1, 5, 7, 9, 12, 0], [0, 2, 6, 8, 10, 13, 0]], np.int32)
    found, swapped = shuffle_fields(ids, FIELDS, order), shuffle_fields(ids[::-1], FIELDS, order)
    assert FIELDS[found].tolist() == FIELDS[swapped].tolist()
    emptied = shuffle_fields(np.where([[True], [False]], ids, 0), FIELDS, order)
    assert emptied.tolist() == [found[0].tolist(), [0] * 7]


def test_without_a_field_order_batches_are_as_before() -> None:
    shares = list(feed(PLAN, fields=None).training(0, 0))
    for share in shares:
        positions = PLAN.training_positions(0, share.step)
        assert records_of(share) == [tuple(ROWS[position][1:].tolist()) for position in positions]


JOB: dict[str, Any] = {"name": "a", "data": {"uri": "b"}, "examples": {"field_order": "random"}}
TABLE = {"fields": {"sex": {"kind": "category"}}}


def test_jobs_that_differ_in_the_order_of_fields_share_their_tokens() -> None:
    files = (SourceFile(name="a.parquet", size=1, fingerprint="f", version=1),)
    one, other = (parse_job(job, environment={}) for job in (JOB | TABLE, JOB | TABLE | {"examples": {}}))
    assert (one.examples.field_order, other.examples.field_order) == ("random", "schema")
    assert token_key(one, files) == token_key(other, files)


def test_a_job_of_texts_has_no_order_of_fields() -> None:
    with pytest.raises(ConfigError, match=r"examples.field_order: only a job with fields"):
        parse_job(JOB, environment={})


def test_slots_come_back_from_the_manifest_and_texts_have_none_there(tmp_path: Any) -> None:
    folder = LocalFolder(tmp_path)
    plain: dict[str, Any] = {"vocab_size": 17, "end_id": 0, "seq_length": 8, "packing": "records", "records": 1}
    plain |= {"null_rows": 0, "cut_records": 0, "shards": ()}
    for slots in (SLOTS, None):
        tokens = TokenSet(folder, "key", **plain, slots=slots)
        info = tokens.to_info()
        assert ("slots" in info) == (slots is not None)
        assert TokenSet.from_manifest(folder, {"info": info}) == tokens
        assert TokenSet.from_manifest(folder, {"info": info | {"unknown_tokens": 3}}) == tokens, "as it once was"
