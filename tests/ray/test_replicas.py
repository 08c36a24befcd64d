"""A logical batch gives the same update however it is spread over replicas and microbatches."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from tests.runs import ROOT

SCRIPT = """
import json, sys
import numpy as np
import tensorflow as tf
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 4)
import keras
from runner.data.batches import Batch, dropout_keys
from runner.model.network import Network
from runner.train.step import TrainingStep

rows, width, vocab = 10, 12, 30
draw = np.random.default_rng(3)
ids = draw.integers(0, vocab, (rows, width + 1)).astype(np.int32)
lengths = draw.integers(1, width + 1, rows)
weights = (np.arange(width) < lengths[:, None]).astype(np.float32)
keys = dropout_keys((1, 2), rows, width)
tokens = int(lengths.sum())
devices = [device.name for device in tf.config.list_logical_devices("CPU")]

def update(replicas, microbatch_size=None):
    strategy = tf.distribute.MirroredStrategy(devices[:replicas]) if replicas > 1 else tf.distribute.get_strategy()
    with strategy.scope():
        network = Network(vocab_size=vocab, embedding_dim=8, rnn_units=8, layers=2, dropout_rate=0.3, seed=1)
        optimizer = keras.optimizers.SGD(1.0, use_ema=True, ema_momentum=0.75)
        optimizer.build(network.trainable_variables)
    before = network.weights_dict()
    shares = []
    for replica in range(replicas):
        mine = slice(replica, None, replicas)
        longest = int(lengths[mine].max())
        targets = ids[mine, 1:longest + 1]
        shares.append(Batch(ids[mine, :longest], targets, weights[mine, :longest], keys[mine, :longest]))
    step = TrainingStep(network, optimizer, strategy, microbatch_size, replicas)
    evaluated = step.evaluate(shares)
    sums = step.train(shares, tokens, stop=True)
    after = network.weights_dict()
    gradient = np.concatenate([(before[name] - after[name]).ravel() for name in sorted(before)])
    step.train(shares, tokens)
    last = network.weights_dict()
    optimizer.finalize_variable_values(network.trainable_variables)
    average = network.weights_dict()
    expected = {name: 0.75 * after[name] + 0.25 * last[name] for name in after}
    averaged = max(np.abs(average[name] - expected[name]).max() for name in after)
    return gradient, [sums.loss, sums.right, evaluated.loss, evaluated.right], sums.stop_votes, float(averaged)

replicas = int(sys.argv[1])
result = {}
for microbatch_size in (None, 2):
    gradient, sums, votes, averaged = update(replicas, microbatch_size)
    result[str(microbatch_size)] = {
        "gradient": gradient.tolist(), "sums": sums, "votes": votes, "error of average": averaged
    }
print(json.dumps(result))
"""


def update(replicas: int) -> dict[str, Any]:
    """Gradient, sums and votes of one step, by microbatch size.

    A process for each number of replicas: virtual devices are set before TensorFlow starts, and its collectives
    keep the first group's size.
    """
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(replicas)], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def updates() -> dict[int, Any]:
    return {replicas: update(replicas) for replicas in (1, 2, 4)}


@pytest.mark.parametrize("replicas", [1, 2, 4])
@pytest.mark.parametrize("microbatch_size", ["None", "2"])
def test_a_logical_batch_gives_the_same_gradient_and_sums(
    updates: dict[int, Any], replicas: int, microbatch_size: str
) -> None:
    whole, spread = updates[1]["None"], updates[replicas][microbatch_size]
    scale = np.abs(whole["gradient"]).max()
    assert np.abs(np.subtract(whole["gradient"], spread["gradient"])).max() < 1e-5 * scale
    assert spread["sums"] == pytest.approx(whole["sums"], rel=1e-5)


@pytest.mark.parametrize("replicas", [1, 2, 4])
def test_every_replica_s_vote_to_stop_is_counted(updates: dict[int, Any], replicas: int) -> None:
    assert updates[replicas]["None"]["votes"] == replicas


@pytest.mark.parametrize("replicas", [1, 2, 4])
def test_the_moving_average_is_that_of_the_weights_on_any_number_of_replicas(
    updates: dict[int, Any], replicas: int
) -> None:
    assert updates[replicas]["None"]["error of average"] < 1e-6
