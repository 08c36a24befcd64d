"""What a training leaves in TensorFlow's registry goes with the training."""

from __future__ import annotations

import gc
import weakref

import keras
import numpy as np
import tensorflow as tf
from tensorflow.python.framework.ops import gradient_registry

from runner.data.batches import Batch
from runner.model.gradients import with_own_gradients
from runner.model.network import Network
from runner.train.step import TrainingStep


def train() -> tuple[weakref.ref[tf.Graph], weakref.ref[tf.Graph]]:
    """One step of a network of its own, and one evaluation; the graphs they were traced as."""
    network = Network(vocab_size=5, embedding_dim=3, rnn_units=4, layers=1, dropout_rate=0.0)
    optimizer = keras.optimizers.RMSprop(0.1)
    optimizer.build(network.trainable_variables)
    step = TrainingStep(network, optimizer, tf.distribute.get_strategy())
    ids = np.ones((2, 4), np.int32)
    batch = Batch(ids, ids, np.ones((2, 4), np.float32), np.ones((2, 4), np.uint32))
    step.train([batch], 8)
    step.evaluate([batch])
    graphs = [traced.get_concrete_function().graph for traced in (step._train, step._evaluate)]
    return weakref.ref(graphs[0]), weakref.ref(graphs[1])


def test_a_training_leaves_nothing_behind_in_its_process() -> None:
    before = set(gradient_registry.list())
    graphs = train()
    gc.collect()
    assert [graph() for graph in graphs] == [None, None]
    assert set(gradient_registry.list()) == before


def test_a_graph_that_is_still_there_has_its_gradients() -> None:
    @tf.custom_gradient
    def tripled(x: tf.Tensor) -> object:
        return 3 * x, lambda dy: 30 * dy  # Unlike its own gradient, so that it shows which one was taken.

    traced = tf.function(with_own_gradients(tripled), [tf.TensorSpec((), tf.float32)], autograph=False)
    x = tf.constant(2.0)
    traced(x)
    gc.collect()
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = traced(x)
    assert (float(y), float(tape.gradient(y, x))) == (6.0, 30.0)
