"""Gates of the privacy claim, on whole runs: the noise that is added, that it is never reused, and who is sampled.

A gate's tolerance is in standard errors of what it looks at, d weights or S steps: a correct run passes but for one
in some thousand, and one that is wrong by a few percent does not.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file

from runner.data.batches import BatchPlan, PoissonPlan
from runner.data.examples import Examples, TokenSet
from runner.data.tokenizers.characters import ByteTokenizer
from runner.privacy.noise import RunKey
from runner.run_directory import RunDirectory
from runner.storage import open_folder
from runner.train.feed import Feed
from tests.runs import run_runner, start_runner, wait_for, write_job

NOISE_MULTIPLIER, CLIP = 1.5, 0.5
LEARNING_RATE = 1.0
RECORDS = 32


def private_job(folder: Path, name: str, texts: list[str], **training: Any) -> dict[str, Any]:
    """A job of about 100,000 weights whose plain SGD lets the weights tell each step's noisy sum."""
    records = folder / "records"
    records.mkdir(exist_ok=True)
    pq.write_table(pa.table({"text": texts}), records / "a.parquet")
    return {
        "name": name,
        "data": {"uri": str(records)},
        "tokenizer": {"kind": "byte"},
        "examples": {"seq_length": 16},
        "model": {"embedding_dim": 128, "rnn_units": 64, "layers": 1},
        "training": {
            "optimizer": {"name": "sgd", "learning_rate": LEARNING_RATE},
            "validation_split": False,
            "early_stopping": {"metric": "loss"},
            "checkpoint_every_s": 3600,
            **training,
        },
        "privacy": {"enabled": True, "noise_multiplier": NOISE_MULTIPLIER, "l2_norm_clip": CLIP},
        "storage": {"uri": str(folder / "runs")},
    }


def largest_correlation(vectors: Iterable[NDArray[np.floating]]) -> float:
    """Between any two of vectors that have mean 0."""
    units = [vector / np.linalg.norm(vector) for vector in vectors]
    return max(abs(float(one @ other)) for one, other in itertools.combinations(units, 2))


# Noise: on records without text every gradient is zero, and a step adds its noise alone.

Noises = list[dict[str, NDArray[np.float32]]]
"""Of each step, the noise on each weight of the network."""


@pytest.fixture(scope="module")
def noises(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Noises]:
    """What runs with one and with two Ray Train workers added, step by step: all records join every step."""
    folder = tmp_path_factory.mktemp("noise")
    found = {}
    for workers in (2, 1):
        job = private_job(
            folder, f"with-{workers}", [""] * RECORDS, batch_size=RECORDS, epochs=6, save_all_checkpoints=True
        )
        run_runner("submit", write_job(folder / "job.yaml", job | {"resources": {"workers": workers}}))
        found[workers] = read_noises(folder / "runs" / f"with-{workers}")
    return found


def read_noises(run: Path) -> Noises:
    from runner.train.worker import build_network

    config = RunDirectory(open_folder(str(run))).read_config()
    tokens = cast(TokenSet, SimpleNamespace(vocab_size=ByteTokenizer.vocab_size, slots=None))
    weights = [build_network(config, tokens).weights_dict()]
    for checkpoint in sorted((run / "checkpoints").iterdir()):
        tensors = load_file(checkpoint / "tensors.safetensors")
        weights.append({name: tensors[f"weights/{name}"] for name in weights[0]})
    return [
        {name: (before[name] - after[name]) * RECORDS / LEARNING_RATE for name in before}
        for before, after in itertools.pairwise(weights)
    ]


def joined(noise: dict[str, NDArray[np.float32]]) -> NDArray[np.float32]:
    return np.concatenate([part.reshape(-1) for part in noise.values()])


@pytest.mark.parametrize("workers", [1, 2])
def test_every_step_adds_the_claimed_noise_once_however_many_workers(noises: dict[int, Noises], workers: int) -> None:
    assert len(noises[workers]) == 6
    for noise in noises[workers]:
        whole = joined(noise) / (NOISE_MULTIPLIER * CLIP)
        assert whole.std() == pytest.approx(1, abs=4 / math.sqrt(2 * whole.size))
        assert whole.mean() == pytest.approx(0, abs=4 / math.sqrt(whole.size))
        for name, part in noise.items():
            spread = part.std() / (NOISE_MULTIPLIER * CLIP)
            assert spread == pytest.approx(1, abs=5 / math.sqrt(2 * part.size)), name


def test_no_two_steps_of_any_run_share_noise(noises: dict[int, Noises]) -> None:
    vectors = [joined(noise) for run in noises.values() for noise in run]
    assert len(vectors) == 12
    assert largest_correlation(vectors) < 5 / math.sqrt(vectors[0].size)


# Reuse: a run that is killed between checkpoints takes some steps again.

STEPS_PER_EPOCH, EPOCHS, BATCH_SIZE = 6, 3, 16
Attempt = dict[int, NDArray[np.float32]]
"""The weights at each step that one process took; at the first, those it began with."""


def updates(attempt: Attempt) -> dict[int, NDArray[np.float32]]:
    """What each step changed. The noise outweighs the gradients by far: d weights carry it."""
    return {step: attempt[step] - attempt[step - 1] for step in attempt if step - 1 in attempt}


@pytest.fixture(scope="module")
def attempts(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Attempt], Path]:
    """A run that is killed, goes on as it was, is killed again and goes on with other threads; and its directory."""
    folder = tmp_path_factory.mktemp("reuse")
    texts = [f"record {number % 13}" for number in range(STEPS_PER_EPOCH * BATCH_SIZE)]
    training = {"batch_size": BATCH_SIZE, "epochs": EPOCHS, "callbacks": ["tests.audit.recorder:each_step"]}
    job = private_job(folder, "killed", texts, **training) | {"resources": {"cpus_per_worker": 2}}
    run = folder / "runs" / "killed"
    commands = [
        ("submit", write_job(folder / "job.yaml", job)),
        ("resume", run),
        ("resume", run, "--set", "resources.cpus_per_worker=1"),
    ]
    kills = [STEPS_PER_EPOCH + 3, 2 * STEPS_PER_EPOCH + 3, None]  # In the middle of the second epoch, and of the third.
    found = []
    for number, (command, kill_at) in enumerate(zip(commands, kills, strict=True)):
        weights = folder / f"attempt-{number}"
        weights.mkdir()
        environment = {
            "TEST_WEIGHTS_FOLDER": str(weights),
            "TEST_STEP_PAUSE_S": "0.7" if kill_at else "0",
        }
        if kill_at is None:
            run_runner(*command, **environment)
        else:
            process = start_runner(*command, **environment)
            wait_for(lambda: process.poll() is not None or list(weights.glob(f"{kill_at:06d}-*.npy")))
            assert process.poll() is None, process.communicate()
            process.kill()
            process.communicate()
        found.append({int(path.name.partition("-")[0]): np.load(path) for path in sorted(weights.glob("*.npy"))})
    return found, run


def test_a_step_that_is_taken_again_as_it_was_releases_the_very_same_weights(
    attempts: tuple[list[Attempt], Path],
) -> None:
    (first, again, _), _ = attempts
    repeated = updates(first).keys() & updates(again).keys()
    assert len(repeated) >= 3
    for step in repeated:
        np.testing.assert_array_equal(first[step], again[step])


def test_a_step_that_is_taken_again_under_other_conditions_draws_fresh_noise_and_is_counted(
    attempts: tuple[list[Attempt], Path],
) -> None:
    (_, before, changed), run = attempts
    began_at = min(changed)
    np.testing.assert_array_equal(before[began_at], changed[began_at])
    repeated = updates(before).keys() & updates(changed).keys()
    assert len(repeated) >= 3
    for step in repeated:
        one, other = updates(before)[step], updates(changed)[step]
        assert largest_correlation([one, other]) < 5 / math.sqrt(one.size)
    taken_before = max(before)
    report = json.loads((run / "privacy.json").read_text())
    old, new = report["steps_of_branches"]
    assert old >= taken_before
    assert new == STEPS_PER_EPOCH * EPOCHS - began_at
    assert report["steps"] == old + new


def test_no_noise_comes_twice_in_all_attempts_but_for_steps_repeated_as_they_were(
    attempts: tuple[list[Attempt], Path],
) -> None:
    (first, again, changed), _ = attempts
    vectors = [*(updates(first) | updates(again)).values(), *updates(changed).values()]
    assert len(vectors) > STEPS_PER_EPOCH * EPOCHS
    assert largest_correlation(vectors) < 5 / math.sqrt(vectors[0].size)


# Sampling: S steps by n training examples, true where an example is in the batch.

Joined = NDArray[np.bool_]
SAMPLED_EPOCHS = 250
PLAN = BatchPlan(examples=300, batch_size=20, seed=5, validation_split=True)
N = PLAN.training_examples
Q = PLAN.batch_size / N


def sampled(branch: int) -> Joined:
    """Who is in the batches that a run's two replicas hold."""
    key = RunKey(f"{77:064x}").for_sampling(branch)
    seq_length = 4
    examples = SimpleNamespace(
        rows=lambda positions: [np.full(seq_length + 1, position) for position in positions],
        lengths=np.full(PLAN.examples, seq_length, np.int32),
        tokens=SimpleNamespace(seq_length=seq_length),
    )
    feed = Feed(cast(Examples, examples), PoissonPlan(**asdict(PLAN), key=key), range(2), 2)
    steps = []
    for epoch in range(SAMPLED_EPOCHS):
        for share in feed.training(epoch, 0):
            inside = np.zeros(PLAN.examples, int)
            for batch in share.batches:
                np.add.at(inside, batch.targets[batch.weights[:, 0] > 0, 0], 1)
            steps.append(inside)
    counts = np.array(steps)
    assert counts.max() == 1, "an example is in a batch twice"
    validation = np.concatenate([PLAN.validation_positions(step) for step in range(PLAN.validation_steps)])
    assert not counts[:, validation].any(), "a validation example is trained on"
    return np.delete(counts, validation, axis=1) > 0


def flaws(inside: Joined) -> set[str]:
    """What tells the batches from independent coins of probability q, one for each example and step."""
    steps, n = inside.shape
    centred = (inside - Q) / math.sqrt(Q * (1 - Q))
    sizes = inside.sum(axis=1)

    def correlation_of_pairs(rows: NDArray[np.float64]) -> float:
        """Mean square of all pairs' correlations, in standard errors from what chance makes it."""
        units = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        squares = rows.shape[1] * (units @ units.T)[~np.eye(len(rows), dtype=bool)] ** 2
        return float((squares.mean() - 1) / math.sqrt(2 / (squares.size / 2)))

    def lagged(lag: int) -> float:
        return float((centred[lag:] * centred[:-lag]).sum() / math.sqrt(n * (steps - lag)))

    errors = {
        "mean size": (sizes.mean() - n * Q) / math.sqrt(n * Q * (1 - Q) / steps),
        "variance of the size": (sizes.var(ddof=1) / (n * Q * (1 - Q)) - 1) / math.sqrt(2 / (steps - 1)),
        "inclusion": ((centred.sum(axis=0) ** 2).sum() / steps - n) / math.sqrt(2 * n),
        "examples are independent": correlation_of_pairs(centred.T),
        "steps are independent": correlation_of_pairs(centred),
        "next step": lagged(1),
        "next epoch": lagged(round(1 / Q)),
    }
    return {name for name, error in errors.items() if abs(error) > 4}


@pytest.fixture(scope="module")
def branches() -> tuple[Joined, Joined]:
    return sampled(0), sampled(1)


def test_the_batches_of_a_run_are_independent_coins(branches: tuple[Joined, Joined]) -> None:
    for inside in branches:
        assert inside.shape == (SAMPLED_EPOCHS * round(1 / Q), N)
        assert flaws(inside) == set()


def test_a_new_branch_draws_other_batches(branches: tuple[Joined, Joined]) -> None:
    one, other = ((inside - Q) / math.sqrt(Q * (1 - Q)) for inside in branches)
    assert abs((one * other).sum() / math.sqrt(one.size)) < 4


def shuffled() -> Joined:
    """Every example once an epoch."""
    draw = np.random.default_rng(1)
    return np.concatenate(
        [
            draw.permutation(N)[None] // PLAN.batch_size == np.arange(round(1 / Q))[:, None]
            for _ in range(SAMPLED_EPOCHS)
        ]
    )


def coins(steps: int, q: float | NDArray[np.float64] = Q) -> Joined:
    return np.random.default_rng(2).random((steps, N)) < q


STEPS = SAMPLED_EPOCHS * round(1 / Q)


@pytest.mark.parametrize(
    ("inside", "flaw"),
    [
        pytest.param(shuffled(), "variance of the size", id="shuffled"),
        pytest.param(shuffled(), "steps are independent", id="shuffled, seen from the steps"),
        pytest.param(np.repeat(coins(STEPS // 2), 2, axis=0), "next step", id="every batch twice"),
        pytest.param(np.tile(coins(STEPS // SAMPLED_EPOCHS), (SAMPLED_EPOCHS, 1)), "next epoch", id="same epochs"),
        pytest.param(coins(STEPS, Q * 1.05), "mean size", id="a larger probability"),
        pytest.param(coins(STEPS, np.linspace(0.8, 1.2, N) * Q), "inclusion", id="some more often"),
        pytest.param(np.repeat(coins(STEPS)[:, ::2], 2, axis=1), "examples are independent", id="in pairs"),
    ],
)
def test_the_gate_sees_batches_that_are_not_independent_coins(inside: Joined, flaw: str) -> None:
    assert flaw in flaws(inside)
