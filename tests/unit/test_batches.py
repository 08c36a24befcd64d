"""The batch of step k is a pure function of (seed, epoch, k), whoever asks and however many ask."""

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
from runner.data.batches import (
    VALIDATION_EVERY,
    Batch,
    BatchPlan,
    PoissonPlan,
    dropout_keys,
    load_batch,
    plan_batches,
    step_digest,
    trimmed_length,
)
from runner.data.examples import Examples

PLANS = st.builds(
    BatchPlan,
    examples=st.integers(2, 300),
    batch_size=st.integers(1, 40),
    seed=st.integers(0, 2**32 - 1),
    validation_split=st.booleans(),
).filter(lambda plan: plan.examples >= 2 * plan.batch_size)


def epoch_of(plan: BatchPlan, epoch: int) -> list[int]:
    return [p for step in range(plan.training_steps) for p in plan.training_positions(epoch, step).tolist()]


def validation_of(plan: BatchPlan) -> list[int]:
    return [p for step in range(plan.validation_steps) for p in plan.validation_positions(step).tolist()]


@given(PLANS, st.integers(0, 50))
def test_an_epoch_trains_every_training_example_exactly_once(plan: BatchPlan, epoch: int) -> None:
    trained, validated = epoch_of(plan, epoch), validation_of(plan)
    assert sorted(trained + validated) == list(range(plan.examples))
    assert (sorted(plan.trained), plan.held_out.tolist()) == (sorted(trained), validated)


@given(PLANS)
def test_no_validation_example_is_trained_on_in_any_epoch(plan: BatchPlan) -> None:
    validated = set(validation_of(plan))
    assert bool(validated) == plan.validation_split
    for epoch in range(4):
        assert validated.isdisjoint(epoch_of(plan, epoch))


@given(PLANS)
def test_every_fifth_batch_of_the_permuted_examples_is_for_validation(plan: BatchPlan) -> None:
    batches = -(-plan.examples // plan.batch_size)
    sizes = [min(plan.batch_size, plan.examples - batch * plan.batch_size) for batch in range(batches)]
    expected = sum(sizes[::VALIDATION_EVERY]) if plan.validation_split else 0
    assert VALIDATION_EVERY == 5
    assert len(validation_of(plan)) == expected


@given(PLANS)
def test_only_the_last_batch_is_partial_and_it_is_kept(plan: BatchPlan) -> None:
    sizes = [plan.training_positions(0, step).size for step in range(plan.training_steps)]
    assert set(sizes[:-1]) <= {plan.batch_size}
    assert 1 <= sizes[-1] <= plan.batch_size
    assert sum(sizes) + len(validation_of(plan)) == plan.examples
    with pytest.raises(IndexError, match=f"no step {plan.training_steps}"):
        plan.training_positions(0, plan.training_steps)


@given(PLANS, st.integers(0, 3), st.data())
def test_a_step_can_be_asked_for_alone_and_in_any_order(plan: BatchPlan, epoch: int, data: st.DataObject) -> None:
    step = data.draw(st.integers(0, plan.training_steps - 1))
    fresh = BatchPlan(plan.examples, plan.batch_size, plan.seed, plan.validation_split)
    expected = fresh.training_positions(epoch, step)
    for other in (epoch + 1, epoch + 2, epoch):
        plan.training_positions(other, 0)
    assert plan.training_positions(epoch, step).tolist() == expected.tolist()


def test_epochs_are_shuffled_anew_and_validation_never() -> None:
    plan = BatchPlan(1_000, 50, 3, validation_split=True)
    assert epoch_of(plan, 0) != epoch_of(plan, 1) != epoch_of(plan, 2)
    assert epoch_of(plan, 0) != sorted(epoch_of(plan, 0))
    assert validation_of(plan) == validation_of(BatchPlan(1_000, 50, 3, validation_split=True))


def test_another_seed_is_another_split_and_another_order() -> None:
    one, two = (BatchPlan(1_000, 50, seed, validation_split=True) for seed in (0, 1))
    assert sorted(validation_of(one)) != sorted(validation_of(two))
    without = [BatchPlan(1_000, 50, seed, validation_split=False) for seed in (0, 1)]
    assert epoch_of(without[0], 0) != epoch_of(without[1], 0)


def test_the_order_is_the_same_in_every_process_and_version() -> None:
    """Resumed runs rely on it: a change here breaks every checkpoint that exists."""
    plan = BatchPlan(20, 3, 7, validation_split=True)
    assert plan.validation_positions(0).tolist() == [17, 11, 0]
    assert plan.training_positions(0, 0).tolist() == [10, 16, 8]
    assert plan.training_positions(5, 1).tolist() == [14, 7, 3]
    assert dropout_keys((1, 2), 1, 3).tolist() == [[3042142985, 1328497427, 564130602]]


# Poisson sampling; `test_poisson.py` has the rest


@pytest.mark.parametrize(
    ("privacy", "kind"),
    [
        ({}, BatchPlan),
        ({"enabled": True, "noise_multiplier": 1.0}, PoissonPlan),
        ({"enabled": True, "noise_multiplier": 1.0, "canaries": 7}, PoissonPlan),
    ],
)
def test_the_plan_of_a_job_has_its_settings_and_draws_as_its_privacy_says(privacy: dict[str, Any], kind: type) -> None:
    training = {"batch_size": 6, "seed": 5, "validation_split": True}
    document = {"name": "a", "data": {"uri": "r"}, "tokenizer": {"kind": "byte"}, "training": training}
    plan = plan_batches(parse_job(document | {"privacy": privacy}, environment={}), 100, (3, 4))
    plain = BatchPlan(100, 6, 5, validation_split=True)
    canaries = privacy.get("canaries", 0)
    assert type(plan) is kind
    assert plan.held_out.tolist() == plain.held_out.tolist()
    assert plan.trained.tolist() == [*plain.trained, *range(100, 100 + canaries)]
    if isinstance(plan, PoissonPlan):
        drawn_so = PoissonPlan(100, 6, 5, validation_split=True, canaries=canaries, key=(3, 4))
        assert plan.training_positions(1, 2).tolist() == drawn_so.training_positions(1, 2).tolist()


def poisson(
    examples: int, batch_size: int, key: tuple[int, int] = (1, 2), validation_split: bool = False
) -> PoissonPlan:
    return PoissonPlan(examples, batch_size, 0, validation_split, key=key)


def drawn(plan: PoissonPlan, steps: int) -> NDArray[np.bool_]:
    """Which example is in which step: (steps, examples)."""
    found = np.zeros((steps, plan.examples), bool)
    for step in range(steps):
        found[step, plan.training_positions(*divmod(step, plan.training_steps))] = True
    return found


def test_every_subset_is_drawn_as_often_as_independent_coins_would() -> None:
    """Chi-square over all 16 subsets of four examples."""
    steps, plan = 20_000, poisson(4, 1)
    found = drawn(plan, steps)
    counts = np.bincount(found @ (1 << np.arange(4)), minlength=16)
    sizes = np.array([bin(subset).count("1") for subset in range(16)])
    expected = steps * 0.25**sizes * 0.75 ** (4 - sizes)
    assert stats.chisquare(counts, expected).pvalue > 1e-4


def test_the_poisson_sample_is_the_same_in_every_process_and_version() -> None:
    """Resumed runs rely on it, and so does what repeated steps cost."""
    assert poisson(20, 4).training_positions(0, 0).tolist() == [8, 13, 0]
    assert poisson(20, 4).training_positions(7, 3).tolist() == [15]


@pytest.mark.parametrize("replicas", [1, 2, 4])
def test_replicas_share_out_a_poisson_sample_whatever_its_size(replicas: int) -> None:
    plan, sizes = poisson(30, 2), set()
    examples = examples_of([[9, position + 10, 9] for position in range(30)], 8)
    for step in range(plan.training_steps):
        positions = plan.training_positions(0, step)
        sizes.add(positions.size)
        held = []
        for replica in range(replicas):
            share = load_batch(examples, positions, replica, replicas, (1, 2), skip_empty=True)
            held += [inputs[1] - 10 for inputs, _, _ in real_rows(share)]
            assert len(share.inputs) >= 1
        assert sorted(held) == sorted(positions.tolist())
    assert 0 in sizes


# Shares


def examples_of(rows: list[list[int]], seq_length: int) -> Examples:
    """What `load_batch` needs of the examples, in memory."""
    arrays = [np.array(row, np.uint16) for row in rows]

    def take(positions: NDArray[np.int64]) -> list[Any]:
        return [arrays[position] for position in positions.tolist()]

    return cast(Examples, SimpleNamespace(rows=take, tokens=SimpleNamespace(seq_length=seq_length)))


ROWS = st.integers(1, 40).flatmap(
    lambda seq_length: st.tuples(
        st.just(seq_length),
        st.lists(st.lists(st.integers(1, 9), min_size=2, max_size=seq_length + 1), min_size=1, max_size=13),
    )
)


def real_rows(batch: Batch) -> list[tuple[list[int], list[int], list[int]]]:
    """Inputs, targets and dropout keys of each row that has any weight."""
    found = []
    for inputs, targets, weights, keys in zip(
        batch.inputs, batch.targets, batch.weights, batch.dropout_keys, strict=True
    ):
        length = int(weights.sum())
        assert weights.tolist() == [1.0] * length + [0.0] * (len(weights) - length)
        assert not inputs[length:].any()
        assert not targets[length:].any()
        if length:
            found.append((inputs[:length].tolist(), targets[:length].tolist(), keys[:length].tolist()))
    return found


@given(ROWS, st.sampled_from([1, 2, 4]))
def test_the_replicas_shares_are_a_partition_of_the_logical_batch(
    rows: tuple[int, list[list[int]]], replicas: int
) -> None:
    seq_length, contents = rows
    examples, positions = examples_of(contents, seq_length), np.arange(len(contents))
    (whole,) = [real_rows(load_batch(examples, positions, 0, 1, (1, 2)))]
    assert [(inputs, targets) for inputs, targets, _ in whole] == [(row[:-1], row[1:]) for row in contents]
    for replica in range(replicas):
        share = load_batch(examples, positions, replica, replicas, (1, 2))
        assert real_rows(share) == whole[replica::replicas]  # the dropout keys among it
        assert len(share.inputs) >= 1


@given(ROWS)
def test_trimming_cuts_nothing_but_padding(rows: tuple[int, list[list[int]]]) -> None:
    seq_length, contents = rows
    batch = load_batch(examples_of(contents, seq_length), np.arange(len(contents)), 0, 1, (1, 2))
    longest = max(len(row) - 1 for row in contents)
    width = batch.inputs.shape[1]
    assert longest <= width <= seq_length
    assert batch.inputs.shape == batch.targets.shape == batch.weights.shape == batch.dropout_keys.shape
    assert [array.dtype.name for array in (batch.inputs, batch.targets, batch.weights, batch.dropout_keys)] == [
        "int32",
        "int32",
        "float32",
        "uint32",
    ]


def test_a_replica_without_a_row_holds_one_of_padding() -> None:
    batch = load_batch(examples_of([[1, 2, 3]], 16), np.array([0]), 3, 4, (1, 2))
    assert batch.inputs.shape[0] == 1
    assert not batch.weights.any()


@given(st.integers(1, 20_000))
def test_there_are_few_lengths_and_each_row_fits_its_own(seq_length: int) -> None:
    lengths = {trimmed_length(longest, seq_length) for longest in range(1, seq_length + 1)}
    assert len(lengths) <= 16
    assert max(lengths) == seq_length
    for longest in (1, seq_length // 2 or 1, seq_length):
        assert longest <= trimmed_length(longest, seq_length) < longest + -(-seq_length // 16)


def test_dropout_keys_differ_by_step_and_by_row_and_repeat_for_the_same_step() -> None:
    keys = dropout_keys((1 << 63 | 5, 7), 8, 50)
    assert keys.dtype == np.uint32
    assert np.array_equal(keys, dropout_keys((1 << 63 | 5, 7), 8, 50))
    assert len(np.unique(keys)) > 395
    assert not np.array_equal(keys, dropout_keys((1 << 63 | 5, 8), 8, 50))
    assert not np.array_equal(keys, dropout_keys((1 << 63 | 6, 7), 8, 50))
    assert np.array_equal(keys[:3], dropout_keys((1 << 63 | 5, 7), 3, 50))


def test_a_step_s_digest_tells_its_batch_from_every_other() -> None:
    """Each number is exact in float32, and so is their sum over many replicas."""
    positions = np.array([3, 5, 8])
    digests = {
        step_digest(branch, step, np.array(chosen)).tobytes()
        for branch, step, chosen in [
            ("b", 1, positions),
            ("c", 1, positions),
            ("b", 2, positions),
            ("b", 1, [3, 5]),
            ("b", 1, [3, 5, 9]),
            ("b", 1, [5, 3, 8]),
        ]
    }
    assert len(digests) == 6
    digest = step_digest("b", 1, positions)
    assert digest.tobytes() in digests
    assert digest.dtype == np.float32
    assert digest.max() < 2**16
