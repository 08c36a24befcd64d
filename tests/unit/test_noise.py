"""Noise repeats for a step that repeats, is another for any other step, and is normal."""

from __future__ import annotations

import hashlib
import hmac
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from runner.privacy import noise as noise_module
from runner.privacy.noise import GENERATOR, NOISE_BLOCK, RunKey, draw_noise, fingerprint, key_stream

KEY, OTHER = bytes(32), bytes(31) + b"\x01"
COUNT = 150_000  # more than two blocks
SIGMA = 1.5e6


def test_a_step_s_noise_repeats_bit_for_bit() -> None:
    assert draw_noise(KEY, 5, SIGMA, COUNT).tobytes() == draw_noise(KEY, 5, SIGMA, COUNT).tobytes()


def test_noise_is_what_runs_begun_earlier_draw_when_they_go_on() -> None:
    """Where these bits have to change, `GENERATOR` has to change with them: then a resumed run opens a branch."""
    digest = hashlib.sha256(draw_noise(KEY, 5, SIGMA, COUNT).astype("<i4").tobytes()).hexdigest()
    assert GENERATOR == "discrete Gaussian on a grid, AES-256-CTR"
    assert digest == "2e6804fb2aede753d7c40d264fc5a625c628b88ef8cca4914ae5db2dccb886bd"


def test_noise_does_not_depend_on_how_many_threads_draw_it(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = draw_noise(KEY, 5, SIGMA, COUNT)
    monkeypatch.setattr(noise_module.os, "cpu_count", lambda: 1)
    noise_module._threads.cache_clear()
    try:
        assert np.array_equal(draw_noise(KEY, 5, SIGMA, COUNT), expected)
    finally:
        noise_module._threads.cache_clear()


def test_noise_of_fewer_weights_is_the_beginning_of_that_of_more() -> None:
    """Blocks are drawn on their own: the last one's size must not change the ones before."""
    assert np.array_equal(draw_noise(KEY, 5, SIGMA, COUNT)[:NOISE_BLOCK], draw_noise(KEY, 5, SIGMA, NOISE_BLOCK))


def test_noise_is_normal_in_every_block() -> None:
    noise = draw_noise(KEY, 0, SIGMA, 2 * NOISE_BLOCK + 1000)
    assert noise.dtype == np.int32
    for block in (noise[:NOISE_BLOCK] / SIGMA, noise[NOISE_BLOCK : 2 * NOISE_BLOCK] / SIGMA):
        assert stats.kstest(block, "norm").pvalue > 1e-4
        assert abs(block.mean()) < 5 / math.sqrt(NOISE_BLOCK)
        assert abs(block.std() - 1) < 5 / math.sqrt(2 * NOISE_BLOCK)
        assert np.abs(block).max() > 3.8


def test_without_a_width_there_is_no_noise() -> None:
    assert not draw_noise(KEY, 0, 0.0, 1000).any()


def test_no_two_of_many_steps_keys_branches_and_blocks_are_correlated() -> None:
    count, run = 50_000, RunKey("ab" * 32)
    keys = [KEY, OTHER, *(run.for_noise(branch, where) for branch in (0, 1) for where in ("1 worker", "2 workers"))]
    drawn = [draw_noise(key, step, SIGMA, count) for key in keys for step in (0, 1, 1 << 40)]
    whole = draw_noise(KEY, 7, SIGMA, 2 * NOISE_BLOCK)
    drawn += [whole[:count], whole[NOISE_BLOCK : NOISE_BLOCK + count]]
    units = np.array(drawn) / SIGMA
    correlations = np.corrcoef(units) - np.eye(len(drawn))
    assert np.abs(correlations).max() < 5 / math.sqrt(count)
    for lag in (1, 2, 8):
        assert abs(np.corrcoef(units[0][lag:], units[0][:-lag])[0, 1]) < 5 / math.sqrt(count)


def test_every_bit_of_a_run_s_key_is_in_its_noise() -> None:
    """Keys of 256 bits that differ in one: AES gets as many, and other ones."""
    keys = {RunKey(f"{1 << bit:064x}").for_noise(0, "here") for bit in range(256)}
    assert len(keys) == 256
    assert {len(key) for key in keys} == {32}
    streams = {key_stream((1 << bit).to_bytes(32), 0)(16) for bit in range(256)}
    assert len(streams) == 256


def test_keys_are_derived_as_rfc_5869_says() -> None:
    """By the standard library's HMAC: extract with a salt of zeros, expand by one block."""
    run, purpose = RunKey("0f" * 32), json.dumps(["noise", 3, "there"]).encode()
    extracted = hmac.digest(bytes(32), bytes.fromhex(run.hexadecimal), "sha256")
    assert run.for_noise(3, "there") == hmac.digest(extracted, purpose + b"\x01", "sha256")


def test_a_run_key_is_256_bits_and_never_the_same() -> None:
    keys = {RunKey.new().hexadecimal for _ in range(100)}
    assert len(keys) == 100
    assert {len(bytes.fromhex(key)) for key in keys} == {32}


def test_a_run_key_does_not_show_itself() -> None:
    key = RunKey.new()
    assert key.hexadecimal not in f"{key} {key!r} {[key]}"


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 9), st.text(max_size=5)), min_size=2, max_size=8, unique=True))
def test_every_branch_and_every_set_of_conditions_has_a_noise_of_its_own(places: list[tuple[int, str]]) -> None:
    key = RunKey("ab" * 32)
    noises = {key.for_noise(branch, conditions) for branch, conditions in places}
    batches = {b"".join(part.to_bytes(8) for part in key.for_sampling(branch)) for branch, _ in places}
    assert len(noises) == len(places)
    assert len(batches) == len({branch for branch, _ in places})
    assert {noise[:16] for noise in noises}.isdisjoint(batches)
    assert noises.isdisjoint({RunKey("cd" * 32).for_noise(branch, conditions) for branch, conditions in places})


def test_a_fingerprint_names_the_values_and_not_their_order() -> None:
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})
    assert len({fingerprint({"a": value}) for value in (1, "1", 1.5, None, [1])}) == 5
