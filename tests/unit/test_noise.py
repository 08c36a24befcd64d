"""Noise repeats for a step that repeats, is another for any other step, and is standard normal."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from runner.privacy import noise as noise_module
from runner.privacy.noise import NOISE_BLOCK, RunKey, draw_noise, fingerprint

KEY = (1, 2)
COUNT = 300_000  # more than a block


def test_a_step_s_noise_repeats_bit_for_bit() -> None:
    assert draw_noise(KEY, 5, COUNT).tobytes() == draw_noise(KEY, 5, COUNT).tobytes()


def test_noise_does_not_depend_on_how_many_threads_draw_it(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = draw_noise(KEY, 5, COUNT)
    monkeypatch.setattr(noise_module.os, "cpu_count", lambda: 1)
    noise_module._threads.cache_clear()
    try:
        assert np.array_equal(draw_noise(KEY, 5, COUNT), expected)
    finally:
        noise_module._threads.cache_clear()


def test_noise_of_fewer_weights_is_the_beginning_of_that_of_more() -> None:
    """Blocks are drawn on their own: the last one's size must not change the ones before."""
    assert np.array_equal(draw_noise(KEY, 5, COUNT)[:NOISE_BLOCK], draw_noise(KEY, 5, NOISE_BLOCK))


def test_noise_is_standard_normal_in_every_block() -> None:
    noise = draw_noise(KEY, 0, 2 * NOISE_BLOCK + 1000)
    assert noise.dtype == np.float32
    for block in (noise[:NOISE_BLOCK], noise[NOISE_BLOCK : 2 * NOISE_BLOCK]):
        assert stats.kstest(block, "norm").pvalue > 1e-4
        assert abs(block.mean()) < 5 / math.sqrt(NOISE_BLOCK)
        assert abs(block.std() - 1) < 5 / math.sqrt(2 * NOISE_BLOCK)
    assert np.abs(noise).max() > 4


def test_no_two_of_many_steps_keys_and_blocks_are_correlated() -> None:
    count = 100_000
    drawn = [draw_noise(key, step, count) for key in ((1, 2), (1, 3), (2, 2)) for step in (0, 1, 2, 1 << 40)]
    whole = draw_noise(KEY, 7, 2 * NOISE_BLOCK)
    drawn += [whole[:count], whole[NOISE_BLOCK : NOISE_BLOCK + count]]
    worst = max(abs(np.corrcoef(one, two)[0, 1]) for one, two in itertools.combinations(drawn, 2))
    assert worst < 5 / math.sqrt(count)


def test_a_run_key_is_256_bits_and_never_the_same() -> None:
    keys = {RunKey.new().hexadecimal for _ in range(100)}
    assert len(keys) == 100
    assert {len(bytes.fromhex(key)) for key in keys} == {32}


def test_a_run_key_does_not_show_itself() -> None:
    key = RunKey.new()
    assert key.hexadecimal not in f"{key} {key!r} {[key]}"


@given(st.lists(st.tuples(st.integers(0, 9), st.text(max_size=5)), min_size=2, max_size=8, unique=True))
def test_every_branch_and_every_set_of_conditions_has_a_noise_of_its_own(places: list[tuple[int, str]]) -> None:
    key = RunKey("ab" * 32)
    noises = {key.for_noise(branch, conditions) for branch, conditions in places}
    batches = {key.for_sampling(branch) for branch, _ in places}
    assert len(noises) == len(places)
    assert len(batches) == len({branch for branch, _ in places})
    assert noises.isdisjoint(batches)
    assert noises.isdisjoint({RunKey("cd" * 32).for_noise(branch, conditions) for branch, conditions in places})


def test_a_fingerprint_names_the_values_and_not_their_order() -> None:
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})
    assert len({fingerprint({"a": value}) for value in (1, "1", 1.5, None, [1])}) == 5
