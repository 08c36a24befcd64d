"""The clipped sum over persons is the sum of their records' own gradients, added up by person and then cut to the clip.

The judge takes the gradient of one record at a time (`reference_gradients`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from runner.model.network import Network
from tests.unit.test_clipping import (
    SEQ_LENGTH,
    VOCAB,
    Records,
    bias_only,
    compiled,
    draw_records,
    flat,
    float64,
    make_network,
    poisoned,
    reference_gradients,
    reference_sum,
    two_token_records,
)
from tests.unit.test_slots import draw_rows, table_network

__all__ = ["float64"]


def of_persons(gradients: NDArray[Any], records: int) -> NDArray[Any]:
    """The gradient of each person's records together."""
    return gradients.reshape(-1, records, gradients.shape[1]).sum(axis=1)


def assert_same_sum(network: Network, batch: Records, records: int, tolerance: float) -> None:
    alone = reference_gradients(network, batch)
    gradients = of_persons(alone, records)
    norms = np.linalg.norm(gradients, axis=1)
    clip = float(np.median(norms))
    found = compiled(network, clip, records_of_person=records)(batch)
    assert found.norms.shape == norms.shape
    assert np.abs(found.norms - norms).max() < tolerance * norms.max()
    expected = reference_sum(gradients, clip)
    assert np.abs(flat(found.gradients) - expected).max() < tolerance * np.abs(expected).max()
    if records > 1:
        assert np.abs(expected - reference_sum(alone, clip)).max() > 0.01 * np.abs(expected).max(), "not by record"


@pytest.mark.parametrize("records", [1, 3])
@pytest.mark.usefixtures("float64")
def test_of_texts(records: int) -> None:
    """Among them persons with fewer records than the bound: their last rows are padding."""
    batch = draw_records(rows=9)
    for row in (5, 7, 8):
        batch = batch.emptied(row)
    assert_same_sum(make_network(2, 0.4), batch, records, 1e-10)


@pytest.mark.parametrize("records", [1, 3])
@pytest.mark.usefixtures("float64")
def test_of_tables(records: int) -> None:
    assert_same_sum(table_network(1, 0.4, any_order=True), draw_rows(9).emptied(4), records, 1e-10)


@pytest.mark.parametrize(
    "sizes", [{"vocab_size": 40, "embedding_dim": 24, "rnn_units": 24}, {"vocab_size": 3, "rnn_units": 1}]
)
@pytest.mark.usefixtures("float64")
def test_by_gram_matrices_and_directly(sizes: dict[str, int]) -> None:
    assert_same_sum(make_network(1, 0.3, **sizes), draw_records(rows=6, vocab=sizes["vocab_size"]), 3, 1e-10)


def test_in_float32() -> None:
    assert_same_sum(make_network(1, 0.4), draw_records(rows=6), 3, 1e-5)


@pytest.mark.parametrize("value", [np.inf, np.nan])
def test_a_person_with_a_record_that_is_not_finite_adds_nothing_and_leaves_the_others_alone(value: float) -> None:
    batch, run = draw_records(rows=6), compiled(make_network(2), 0.1, records_of_person=2)
    spoiled = run(Records(batch.ids, batch.targets, poisoned(batch.weights, value), batch.keys))  # row 3: person 1
    assert np.isfinite(spoiled.norms).tolist() == [True, False, True]
    assert flat(spoiled.gradients).tolist() == flat(run(batch.emptied(2).emptied(3)).gradients).tolist()


@pytest.mark.parametrize("clip", [1e-3, 0.3])
@pytest.mark.parametrize(
    "counts",
    [
        [(9, 0), (9, 0), (9, 0), (0, 9), (0, 9), (0, 9)],  # two against each other
        [(9, 0)] * 6,  # all one way
        [(9, 0), (0, 9), (1, 0), (9, 0), (5, 4), (0, 2)],  # and some that cancel in themselves
    ],
)
def test_emptying_all_of_a_person_s_records_moves_the_sum_by_at_most_the_clip(
    counts: list[tuple[int, int]], clip: float
) -> None:
    network = make_network()
    bias_only(network, np.array([0, 0] + [-50] * (VOCAB - 2)))
    run, batch = compiled(network, clip, records_of_person=3), two_token_records(counts)
    whole = flat(run(batch).gradients)
    moves = [
        np.linalg.norm(whole - flat(run(batch.emptied(row).emptied(row + 1).emptied(row + 2)).gradients))
        for row in range(0, len(counts), 3)
    ]
    assert max(moves) <= clip * (1 + 1e-5)
    sums = [abs(sum(zeros - ones for zeros, ones in counts[row : row + 3])) for row in (0, 3)]
    longest = max(sums) * 0.5 * 2**0.5 / SEQ_LENGTH
    assert max(moves) == pytest.approx(min(clip, longest), rel=1e-4), "the bound is reached: the records are hard"
