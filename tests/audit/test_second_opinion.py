"""tensorflow-privacy, in its own environment, says what this project's own means say.

The first call makes the environment (about 300 MB to download). Without uv these tests fail.
"""

from __future__ import annotations

from typing import Any

import dp_accounting
import keras
import numpy as np
import pytest
import tensorflow as tf

from runner.errors import JobFailedError
from runner.privacy.accountant import Histogram, Mechanism, Release, epsilon, spent_by
from runner.privacy.isolated import ask_second_opinion
from tests.unit.test_clipping import SEQ_LENGTH as SCALE_LENGTH
from tests.unit.test_clipping import compiled
from tests.unit.test_slots import OF_TOKENS, draw_rows, table_network

Arrays = dict[str, np.ndarray]

VOCAB_SIZE, EMBEDDING_DIM, RNN_UNITS, LAYERS = 11, 5, 7, 2
RECORDS, SEQ_LENGTH = 6, 9


def a_step(*, masks: bool) -> Arrays:
    """A model and a batch: tokens that repeat, records of all lengths down to one token, dropout if wanted."""
    random = np.random.default_rng(3)

    def normal(*shape: int) -> np.ndarray:
        return random.normal(scale=0.5, size=shape).astype(np.float32)

    step = {"embedding": normal(VOCAB_SIZE, EMBEDDING_DIM)}
    for i, width in enumerate([EMBEDDING_DIM, *[RNN_UNITS] * (LAYERS - 1)]):
        step |= {f"kernel_{i}": normal(width, 4 * RNN_UNITS), f"recurrent_{i}": normal(RNN_UNITS, 4 * RNN_UNITS)}
        step |= {f"bias_{i}": normal(4 * RNN_UNITS)}
    step |= {"dense_kernel": normal(RNN_UNITS, VOCAB_SIZE), "dense_bias": normal(VOCAB_SIZE)}
    ids = random.integers(1, VOCAB_SIZE, size=(RECORDS, SEQ_LENGTH + 1), dtype=np.int32)
    ids[0] = 4
    lengths = np.array([SEQ_LENGTH, SEQ_LENGTH, 6, 4, 2, 1])
    step |= {"inputs": ids[:, :-1], "targets": ids[:, 1:]}
    step |= {"weights": (np.arange(SEQ_LENGTH) < lengths[:, None]).astype(np.float32)}
    if masks:
        for i, width in enumerate([EMBEDDING_DIM, *[RNN_UNITS] * LAYERS]):
            kept = random.random((RECORDS, SEQ_LENGTH, width)) < 0.8
            step |= {f"mask_{i}": (kept / 0.8).astype(np.float32)}
    return step


def gradients_one_by_one(step: Arrays) -> list[Arrays]:
    """Each record's gradient by itself, through Keras's own layers."""
    names = [name for name in step if name.startswith(("embedding", "kernel", "recurrent", "bias", "dense"))]
    embedding = keras.layers.Embedding(VOCAB_SIZE, EMBEDDING_DIM)
    lstms = [keras.layers.LSTM(RNN_UNITS, return_sequences=True) for _ in range(LAYERS)]
    dense = keras.layers.Dense(VOCAB_SIZE)
    model = [embedding, *lstms, dense]

    def loss(b: int) -> tf.Tensor:
        x = embedding(step["inputs"][b : b + 1])
        for i, lstm in enumerate([None, *lstms]):
            x = lstm(x) if lstm else x
            x = x * step[f"mask_{i}"][b : b + 1] if f"mask_{i}" in step else x
        entropies = tf.nn.sparse_softmax_cross_entropy_with_logits(step["targets"][b : b + 1], dense(x))
        return tf.reduce_sum(entropies * step["weights"][b : b + 1])

    loss(0)  # Builds the layers.
    variables = [variable for layer in model for variable in layer.trainable_variables]
    for name, variable in zip(names, variables, strict=True):
        variable.assign(step[name])
    gradients = []
    for b in range(RECORDS):
        with tf.GradientTape() as tape:
            value = loss(b)
        dense_gradients = [tf.convert_to_tensor(g) for g in tape.gradient(value, [v.value for v in variables])]
        gradients.append({name: g.numpy() for name, g in zip(names, dense_gradients, strict=True)})
    return gradients


def relative_error(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


@pytest.mark.parametrize("masks", [False, True], ids=["no dropout", "dropout"])
def test_its_clipped_sum_is_that_of_gradients_taken_one_by_one(masks: bool) -> None:
    step = a_step(masks=masks)
    gradients = gradients_one_by_one(step)
    norms = np.array([np.sqrt(sum((g**2).sum() for g in gradient.values())) for gradient in gradients])
    clip = float(np.median(norms))  # Between two of them: half of the records are clipped.
    factors = np.minimum(1, clip / norms)
    assert (factors < 1).sum() == RECORDS / 2
    expected = {
        name: sum(c * gradient[name] for c, gradient in zip(factors, gradients, strict=True)) for name in gradients[0]
    }

    answer = ask_second_opinion("clipped-sum", {**step, "clip": clip})

    assert set(answer) == {*expected, "norms"}
    errors = {name: relative_error(answer[name], expected[name]) for name in expected}
    assert max(errors.values()) < 1e-5, errors
    np.testing.assert_allclose(answer["norms"], norms, rtol=1e-5)


@pytest.mark.parametrize("any_order", [False, True])
def test_its_clipped_sum_of_a_table_s_rows_is_the_project_s_own(any_order: bool) -> None:
    """Each target is one of its slot's tokens; half of the rows are clipped."""
    network, rows = table_network(2, any_order=any_order), draw_rows()
    clip = float(np.median(compiled(network, 1.0)(rows).norms[:-1]))
    own = compiled(network, clip)(rows)
    weights = network.weights_dict()
    names = {"embedding": "embedding", "dense_kernel": "dense/kernel", "dense_bias": "dense/bias"}
    for layer in range(2):
        parts = {"kernel": "kernel", "recurrent": "recurrent_kernel", "bias": "bias"}
        names |= {f"{short}_{layer}": f"lstm_{layer}/{long}" for short, long in parts.items()}
    if any_order:
        names["next_slot"] = "next_slot"
    step = {short: weights[long] for short, long in names.items()} | {"slots": OF_TOKENS, "clip": clip}
    step |= {"inputs": rows.ids, "targets": rows.targets, "weights": rows.weights / SCALE_LENGTH}

    answer = ask_second_opinion("clipped-sum", step)

    assert set(weights) == set(names.values())
    for short, gradient in zip(weights, own.gradients, strict=True):
        (name,) = [each for each, long in names.items() if long == short]
        assert relative_error(answer[name], np.asarray(gradient)) < 1e-5, name
    np.testing.assert_allclose(answer["norms"], own.norms, rtol=1e-5, atol=1e-7)


HISTOGRAMS = [{"sigma": 12.5, "threshold": None}, {"sigma": 25.0, "threshold": 140}, {"sigma": 25.0, "threshold": None}]


@pytest.mark.parametrize("steps", [0, 65])
def test_its_epsilon_of_releases_beside_steps_and_alone_is_the_project_s_own(steps: int) -> None:
    run = {"n": 1000, "batch_size": 50, "steps": 65, "noise_multiplier": 1.1} if steps else {}
    answer = ask_second_opinion("epsilon", run | {"delta": 1e-4, "histograms": HISTOGRAMS})
    release = Release("all", tuple(Histogram(str(place), **each) for place, each in enumerate(HISTOGRAMS)))
    spent = spent_by([release], Mechanism(1000, 50, 1.1), steps)
    for by in ("rdp", "pld"):
        assert answer[f"epsilon_{by}"] == pytest.approx(epsilon(spent, 1e-4, by), rel=2e-3)


@pytest.mark.parametrize(("noise_multiplier", "rdp", "pld"), [(1, 2.229, 2.000), (2, 0.776, 0.717)])
def test_its_epsilon_is_the_known_figure(noise_multiplier: float, rdp: float, pld: float) -> None:
    run = {"n": 50_000, "batch_size": 256, "steps": 3906, "delta": 1e-6, "noise_multiplier": noise_multiplier}
    answer = ask_second_opinion("epsilon", run)
    assert answer == {"epsilon_rdp": pytest.approx(rdp, abs=6e-4), "epsilon_pld": pytest.approx(pld, abs=6e-4)}


def test_it_counts_every_step_and_not_one_more() -> None:
    event = dp_accounting.PoissonSampledDpEvent(7 / 300, dp_accounting.GaussianDpEvent(1.3))
    for steps in (1, 40):
        run = {"n": 300, "batch_size": 7, "steps": steps, "delta": 1e-4, "noise_multiplier": 1.3}
        expected = dp_accounting.rdp.RdpAccountant().compose(event, steps).get_epsilon(1e-4)
        assert ask_second_opinion("epsilon", run)["epsilon_rdp"] == pytest.approx(expected, rel=1e-6)


def losses(mean: float, n: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(mean, 0.3, size=n)


def attacks(train: np.ndarray, validation: np.ndarray) -> dict[str, Any]:
    return ask_second_opinion("membership", {"loss_train": train, "loss_validation": validation})


def test_losses_drawn_alike_tell_no_member() -> None:
    answer = attacks(losses(3, 4000, 0), losses(3, 2000, 1))
    assert answer["attack"] == "threshold_attack"
    assert answer["auc"] == pytest.approx(0.5, abs=0.03)
    assert answer["advantage"] < 0.06
    assert answer["exposure_mean"] == pytest.approx(answer["exposure_of_chance"], abs=0.15)


def test_losses_that_do_not_overlap_tell_every_member() -> None:
    answer = attacks(losses(1, 400, 0), losses(5, 256, 1))
    assert answer["auc"] == pytest.approx(1, abs=1e-9)
    assert answer["advantage"] == pytest.approx(1, abs=1e-9)
    exposures = [answer[f"exposure_{name}"] for name in ("mean", "max", "median")]
    assert exposures == pytest.approx([8, 8, 8])  # log2 of 256 validation records: as exposed as can be seen.
    assert answer["exposure_of_chance"] == pytest.approx(1.44, abs=0.05)


def test_one_memorized_record_shows_in_the_largest_exposure_only() -> None:
    train, validation = losses(3, 500, 0), losses(3, 512, 1)
    train[7], validation[:] = 0.01, np.maximum(validation, np.sort(train)[0])
    answer = attacks(train, validation)
    assert answer["exposure_max"] == pytest.approx(9)
    assert answer["exposure_mean"] < 2


@pytest.mark.parametrize(
    ("command", "question", "words"),
    [
        ("epsilon", {"n": 10, "batch_size": 256, "steps": 1, "delta": 0.1, "noise_multiplier": 1}, "batch_size"),
        ("epsilon", {"n": 10}, "missing: batch_size"),
        ("epsilon", {"delta": 0.1, "histograms": [{"sigma": 0}]}, "each of histograms must have a sigma above 0"),
        ("membership", {"loss_train": [1.0, 2.0], "loss_validation": [1.0, np.nan]}, "finite"),
        ("clipped-sum", {"clip": 1.0}, "missing: embedding"),
        ("clipped-sum", {**a_step(masks=False), "clip": 1.0, "bias_1": np.zeros(3)}, r"bias_1 has shape \(3,\), not"),
        ("clipped-sum", {**a_step(masks=False), "clip": 0.0}, "clip must be above 0"),
        (
            "clipped-sum",
            {**a_step(masks=False), "clip": 1.0, "slots": np.zeros(3, int)},
            r"slots has shape \(3,\), not",
        ),
    ],
)
def test_a_question_that_makes_no_sense_is_refused_in_one_line(command, question, words) -> None:
    with pytest.raises(JobFailedError, match=f"failed: {command}: .*{words}"):
        ask_second_opinion(command, question)
