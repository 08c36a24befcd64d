"""Batches arrive in order, ahead of time, and the thread that loads them never outlives its epoch."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray

from runner.data.batches import BatchPlan, PoissonPlan
from runner.data.examples import Examples
from runner.errors import StorageError
from runner.train.feed import AHEAD, Feed

LENGTHS = np.arange(1, 41, dtype=np.int32) % 7 + 1


def examples(on_rows: Callable[[NDArray[np.int64]], None] = lambda _: None) -> Examples:
    """Forty rows in memory: row p holds p everywhere."""

    def rows(positions: NDArray[np.int64]) -> list[Any]:
        on_rows(positions)
        return [np.full(LENGTHS[p] + 1, p) for p in positions]

    return cast(Examples, SimpleNamespace(rows=rows, lengths=LENGTHS, tokens=SimpleNamespace(seq_length=8)))


PLAN = BatchPlan(40, 4, 0, validation_split=True)


def loading_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "batch-feed"]


def wait_until(condition: Callable[[], bool]) -> None:
    give_up_at = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < give_up_at
        time.sleep(0.01)


@pytest.fixture(autouse=True)
def no_thread_stays() -> Iterator[None]:
    yield
    wait_until(lambda: not loading_threads())


def held(share: Any) -> list[int]:
    """The positions whose rows a share holds."""
    found = []
    for batch in share.batches:
        found += [int(row[0]) for row, weights in zip(batch.targets, batch.weights, strict=True) if weights.any()]
    return found


def test_steps_come_in_order_with_the_plans_examples() -> None:
    feed = Feed(examples(), PLAN, range(1), 1)
    for epoch in range(2):
        shares = list(feed.training(epoch, 0))
        assert [share.step for share in shares] == list(range(PLAN.training_steps))
        for share in shares:
            positions = PLAN.training_positions(epoch, share.step)
            assert held(share) == positions.tolist()
            assert (share.examples, share.tokens) == (len(positions), LENGTHS[positions].sum())


def test_an_epoch_can_be_entered_at_any_step_and_gives_the_same_batches() -> None:
    feed = Feed(examples(), PLAN, range(2), 2)
    whole = list(feed.training(3, 0))
    for first in range(PLAN.training_steps + 1):
        rest = list(feed.training(3, first))
        assert [share.step for share in rest] == [share.step for share in whole[first:]]
        for one, two in zip(rest, whole[first:], strict=True):
            for mine, theirs in zip(one.batches, two.batches, strict=True):
                assert np.array_equal(mine.inputs, theirs.inputs)
                assert np.array_equal(mine.dropout_keys, theirs.dropout_keys)


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_the_workers_shares_make_the_same_logical_batches(workers: int) -> None:
    each = 4 // workers
    feeds = [Feed(examples(), PLAN, range(rank * each, (rank + 1) * each), 4) for rank in range(workers)]
    for shares in zip(*(feed.training(1, 0) for feed in feeds), strict=True):
        positions = PLAN.training_positions(1, shares[0].step)
        assert sorted(p for share in shares for p in held(share)) == sorted(positions.tolist())
        assert {(share.step, share.tokens, share.examples) for share in shares} == {
            (shares[0].step, int(LENGTHS[positions].sum()), len(positions))
        }
        assert all(len(share.batches) == each for share in shares)


@pytest.mark.parametrize("replicas", [1, 2, 3])
def test_the_shares_of_local_replicas_have_one_shape(replicas: int) -> None:
    """TensorFlow traces a step of several replicas for each combination of shapes."""
    plan = PoissonPlan(40, 12, 0, validation_split=False, key=(1, 2))
    feed = Feed(examples(), plan, range(replicas), replicas)
    for epoch in range(40):
        for share in feed.training(epoch, 0):
            positions = plan.training_positions(epoch, share.step)
            assert sorted(held(share)) == sorted(positions[LENGTHS[positions] > 1]), "one target: a record without text"
            assert sum(int(batch.weights.sum()) for batch in share.batches) == share.tokens
            assert {array.shape for batch in share.batches for array in vars(batch).values()} == {
                share.batches[0].inputs.shape
            }


def test_the_rows_of_a_large_poisson_batch_take_few_values_on_several_replicas() -> None:
    lengths = np.full(5000, 3, np.int32)
    records = cast(
        Examples,
        SimpleNamespace(
            rows=lambda positions: [np.full(4, p) for p in positions],
            lengths=lengths,
            tokens=SimpleNamespace(seq_length=8),
        ),
    )
    plan = PoissonPlan(5000, 500, 0, validation_split=False, key=(1, 2))
    sizes = {plan.training_positions(epoch, step).size for epoch in range(5) for step in range(10)}
    feed = Feed(records, plan, range(2), 2)
    rows = {share.batches[0].inputs.shape[0] for epoch in range(5) for share in feed.training(epoch, 0)}
    assert len(sizes) > 30
    assert len(rows) <= 4


def test_validation_is_the_same_each_time_and_holds_the_plans_examples() -> None:
    feed = Feed(examples(), PLAN, range(1), 1)
    first, second = ([held(share) for share in feed.validation()] for _ in range(2))
    assert first == second == [PLAN.validation_positions(step).tolist() for step in range(PLAN.validation_steps)]
    assert list(Feed(examples(), BatchPlan(40, 4, 0, validation_split=False), range(1), 1).validation()) == []


def test_dropout_differs_from_epoch_to_epoch_and_from_step_to_step() -> None:
    feed = Feed(examples(), PLAN, range(1), 1)
    seen = {share.batches[0].dropout_keys[0, :1].tobytes() for epoch in range(3) for share in feed.training(epoch, 0)}
    assert len(seen) == 3 * PLAN.training_steps


def test_batches_are_loaded_ahead_but_not_without_end() -> None:
    loaded: list[int] = []
    plan = BatchPlan(40, 1, 0, validation_split=False)
    shares = Feed(examples(lambda positions: loaded.append(len(positions))), plan, range(1), 1).training(0, 0)
    next(shares)
    wait_until(lambda: len(loaded) >= AHEAD + 1)
    time.sleep(0.1)
    assert len(loaded) <= AHEAD + 2
    shares.close()  # type: ignore[attr-defined]


def test_what_loading_raises_is_raised_where_the_batch_is_asked_for() -> None:
    def fail_at_third(positions: NDArray[np.int64]) -> None:
        if np.array_equal(positions, PLAN.training_positions(0, 2)):
            raise StorageError("storage cannot be reached")

    shares = Feed(examples(fail_at_third), PLAN, range(1), 1).training(0, 0)
    assert [next(shares).step, next(shares).step] == [0, 1]
    with pytest.raises(StorageError, match="storage cannot be reached"):
        next(shares)


def test_leaving_an_epoch_early_ends_its_thread() -> None:
    shares = Feed(examples(), PLAN, range(1), 1).training(0, 0)
    next(shares)
    assert loading_threads()
    shares.close()  # type: ignore[attr-defined]
    wait_until(lambda: not loading_threads())


def test_an_error_in_the_step_ends_the_thread_too() -> None:
    def train() -> None:
        for _ in Feed(examples(), PLAN, range(1), 1).training(0, 0):
            raise ValueError("the step failed")

    with pytest.raises(ValueError, match="the step failed"):
        train()
    wait_until(lambda: not loading_threads())
