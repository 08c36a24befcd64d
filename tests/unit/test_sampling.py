"""Generated records follow the model's distribution and depend on (seed, record number) alone."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from runner.errors import ConfigError
from runner.model.chooser import make_chooser
from runner.model.network import Network
from runner.model.sampling import STEPS_AT_ONCE, Sampler, row_keys, uniform

END = 0
VOCAB = 12


@pytest.fixture(scope="module")
def network() -> Network:
    """A network whose records are short and whose next token depends on what came before."""
    network = Network(vocab_size=VOCAB, embedding_dim=8, rnn_units=8, layers=2, dropout_rate=0.5, seed=3)
    weights = {name: 4 * value for name, value in network.weights_dict().items()}
    weights["dense/bias"][END] += 0.3
    network.load_weights_dict(weights)
    return network


def draw(network: Network, n: int, *, seed: int = 7, first: int = 0, prompts=((),), **settings) -> list[list[int]]:
    sampler = Sampler(network, **{"end_id": END, "max_length": 15, **settings})
    return [record for batch in sampler.batches(n, seed=seed, first=first, prompts=prompts) for record in batch]


def allowed_tokens(logits: np.ndarray, top_k: int | None, top_p: float) -> np.ndarray:
    """The oracle: probabilities after top-k and then top-p, one row at a time."""
    result = np.zeros_like(logits)
    for row, values in zip(result, logits, strict=True):
        order = np.argsort(-values, kind="stable")[:top_k]
        p = np.exp(values[order] - values[order[0]])
        p /= p.sum()
        count = 1 + int(np.searchsorted(np.cumsum(p), top_p)) if top_p < 1 else len(p)
        row[order[:count]] = p[:count] / p[:count].sum()
    return result


SETTINGS = [(30, None, 1.0), (300, None, 1.0), (30, 5, 1.0), (30, None, 0.6), (30, 8, 0.7), (30, 1, 1.0), (30, 99, 1.0)]
LARGE_VOCABULARY = [(300, None, 0.99), (300, None, 0.9), (300, None, 0.02)]  # with and without the full sort


@pytest.mark.parametrize(("vocab_size", "top_k", "top_p"), SETTINGS + LARGE_VOCABULARY)
def test_top_k_and_top_p_allow_what_the_oracle_allows(vocab_size, top_k, top_p):
    logits = np.random.default_rng(0).normal(size=(4, vocab_size)) * 1.5
    draws = 10_000
    u = tf.constant((np.arange(draws) + 0.5) / draws, tf.float32)
    choose = make_chooser(vocab_size, 1.0, top_k, top_p)
    for values, expected in zip(logits, allowed_tokens(logits, top_k, top_p), strict=True):
        ids = choose(tf.constant(np.tile(values, (draws, 1)), tf.float32), u).numpy()
        found = np.bincount(ids, minlength=vocab_size) / draws
        assert abs(found - expected).max() < 3 / draws
        assert not found[expected == 0].any()


@pytest.mark.parametrize("vocab_size", [30, 300])
@pytest.mark.parametrize(("temperature", "top_p"), [(1e-6, 1.0), (1e-6, 1e-6), (1.0, 1e-6)])
def test_the_least_settings_take_the_most_likely_token(vocab_size, temperature, top_p):
    logits = tf.constant(np.random.default_rng(0).normal(size=(50, vocab_size)) * 10, tf.float32)
    ids = make_chooser(vocab_size, temperature, None, top_p)(logits, tf.linspace(0.0, 1 - 2.0**-24, 50))
    assert (ids.numpy() == tf.argmax(logits, axis=1).numpy()).all()


def test_the_largest_temperature_takes_every_token_as_often():
    logits = tf.constant(np.tile(np.random.default_rng(0).normal(size=30) * 10, (3000, 1)), tf.float32)
    ids = make_chooser(30, 1e6, None, 1.0)(logits, tf.constant((np.arange(3000) + 0.5) / 3000, tf.float32))
    assert abs(np.bincount(ids.numpy(), minlength=30) - 100).max() <= 1


def test_first_tokens_follow_the_softmax(network):
    """Chi-square over 11 degrees of freedom: below 31.3 with probability 0.999."""
    records = draw(network, 20_000, max_length=1, temperature=1.5, batch_size=2000)
    found = np.bincount([record[0] if record else END for record in records], minlength=VOCAB)
    logits, _ = network.step(tf.constant([END]), network.initial_state(1))
    expected = tf.nn.softmax(logits[0] / 1.5).numpy() * len(records)
    assert ((found - expected) ** 2 / expected).sum() < 31.3


def test_second_tokens_follow_the_softmax_given_the_first(network):
    records = draw(network, 20_000, max_length=2, prompts=[[5]], batch_size=2000)
    found = np.bincount([record[1] if len(record) > 1 else END for record in records], minlength=VOCAB)
    _, state = network.step(tf.constant([END]), network.initial_state(1))
    logits, _ = network.step(tf.constant([5]), state)
    expected = tf.nn.softmax(logits[0]).numpy() * len(records)
    assert ((found - expected) ** 2 / expected).sum() < 31.3


def test_greedy_records_repeat_the_networks_argmax(network):
    [record] = draw(network, 1, temperature=0.0)
    logits = network(np.array([[END, *record]])).numpy()[0]
    choices = logits.argmax(axis=1).tolist()
    assert choices[: len(record)] == record
    assert len(record) == 15 or choices[-1] == END


@pytest.mark.parametrize("settings", [{}, {"top_k": 4}, {"top_p": 0.8}, {"prompts": [[3, 4]]}])
def test_records_do_not_depend_on_the_batch_size(network, settings):
    records = draw(network, 40, **settings)
    assert draw(network, 40, **settings, batch_size=7) == records
    assert draw(network, 13, **settings) == records[:13]
    assert draw(network, 10, **settings, first=30) == records[30:]


def test_seeds_and_rows_give_different_records(network):
    records = draw(network, 200, temperature=3.0)
    assert records == draw(network, 200, temperature=3.0)
    assert records != draw(network, 200, temperature=3.0, seed=8)
    long = [tuple(record) for record in records if len(record) > 8]
    assert len(set(long)) == len(long) > 20


def test_records_start_with_the_prompt_end_before_the_end_token_and_keep_to_the_length(network):
    records = draw(network, 300, prompts=[[3, 4]], max_length=9)
    assert all(record[:2] == [3, 4] and END not in record and len(record) <= 9 for record in records)
    lengths = {len(record) for record in records}
    assert {2, 9} <= lengths


def test_every_record_may_have_a_prompt_of_its_own(network):
    """Whatever is drawn beside it, and with the random numbers of its own number."""
    prompts = [[], [3], [4, 5, 6], [7, 7], [1] * 14]
    records = draw(network, 5, prompts=prompts, batch_size=2)
    assert [record[: len(prompt)] for record, prompt in zip(records, prompts, strict=True)] == prompts
    for number, prompt in enumerate(prompts):
        assert draw(network, 1, prompts=[prompt], first=number) == [records[number]]


def test_records_far_longer_than_a_stretch_of_steps_are_whole(network):
    """Beside short ones, which take turns in the other slots."""
    settings = {"max_length": 3 * STEPS_AT_ONCE, "temperature": 3.0}
    records = draw(network, 300, **settings, batch_size=7)
    assert max(map(len, records)) > 2 * STEPS_AT_ONCE
    assert records == draw(network, 300, **settings, batch_size=300)


def test_records_come_as_they_are_made(network):
    sampler = Sampler(network, end_id=END, max_length=15, batch_size=10)
    batches = list(sampler.batches(300))
    assert len(batches) > 3
    assert [record for batch in batches for record in batch] == draw(network, 300, seed=0)
    assert list(sampler.batches(0)) == []


@pytest.mark.parametrize("u", [0.0, 0.5, 1 - 2.0**-24])
@pytest.mark.parametrize("only", [0, 31, 32, 200, 299])
def test_a_token_without_probability_is_never_drawn(only, u):
    """At the ends of the blocks that are summed up, too."""
    logits = np.full((1, 300), -1e9, np.float32)
    logits[0, only] = 0
    assert make_chooser(300, 1.0, None, 1.0)(tf.constant(logits), tf.constant([u], tf.float32)).numpy() == [only]


def test_uniform_numbers_are_uniform_and_independent_over_rows_and_steps():
    keys = tf.constant(row_keys(0, np.arange(20_000)))
    numbers = np.stack([uniform(keys, tf.constant(step)).numpy() for step in range(20)])
    assert numbers.min() >= 0
    assert numbers.max() < 1
    counts, _ = np.histogram(numbers, bins=64, range=(0, 1))
    assert ((counts - counts.mean()) ** 2 / counts.mean()).sum() < 63 + 5 * np.sqrt(2 * 63)
    correlations = np.corrcoef(numbers)[np.triu_indices(20, k=1)]
    assert abs(correlations).max() < 5 / np.sqrt(20_000)
    assert abs(np.corrcoef(numbers[:, :-1].ravel(), numbers[:, 1:].ravel())[0, 1]) < 5 / np.sqrt(numbers.size)


def test_a_million_records_have_distinct_keys_for_nearby_seeds():
    keys = np.concatenate([row_keys(seed, np.arange(500_000)) for seed in (0, 1)])
    assert len(np.unique(keys.view(np.uint64))) == len(keys)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": -1.0}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"temperature": float("inf")}, "temperature must be at most 1e\\+06, not inf"),
        ({"temperature": 1e-40}, "temperature must be 0, for the most likely token, or at least 1e-06, not 1e-40"),
        ({"top_k": 0}, "top_k"),
        ({"top_p": 0.0}, "top_p"),
        ({"top_p": 1e-50}, "top_p must be at least 1e-06"),
        ({"top_p": 1.1}, "top_p"),
        ({"batch_size": 0}, "batch_size"),
        ({"max_length": 0}, "max_length"),
        ({"prompts": [[1] * 15]}, "prompt has 15 tokens"),
        ({"prompts": [[END]]}, "end-of-record"),
        ({"prompts": [[1], [VOCAB]]}, "vocabulary"),
        ({"end_id": VOCAB}, "vocabulary"),
    ],
)
def test_settings_out_of_range_are_config_errors(network, settings, message):
    with pytest.raises(ConfigError, match=message):
        draw(network, 1, **settings)
