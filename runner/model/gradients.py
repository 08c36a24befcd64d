"""Custom gradients that go with the graph they were made for.

In a graph, TensorFlow enters each use of a custom gradient (`runner.model.kernels` has some, and Keras's optimizers
another) into a registry of the process, from which nothing is ever taken out. An entry holds the graph, and with it
all that a training leaves there: some 10 to 70 MB. A sweep trains many times in one process.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from functools import wraps
from typing import Any

import tensorflow as tf
from tensorflow.python.framework.ops import gradient_registry  # There is no public way to take an entry out.


def with_own_gradients(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, to be traced by `tf.function`: the graph holds the gradients that it was traced with.

    The registry keeps references that do not count, and loses them with the graph.
    """

    @wraps(function)
    def traced(*arguments: Any) -> Any:
        entries = gradient_registry._registry
        before = set(entries)
        results = function(*arguments)
        graph = tf.compat.v1.get_default_graph()
        for name in entries.keys() - before:
            gradient = gradient_registry.lookup(name)
            setattr(graph, f"_gradient_{name}", gradient)  # Where the collector sees that they hold each other.
            del entries[name]
            gradient_registry.register(_unless_gone(weakref.ref(gradient)), name)
            weakref.finalize(graph, entries.pop, name, None).atexit = False
        return results

    return traced


def _unless_gone(held: weakref.ref[Any]) -> Callable[..., Any]:
    def gradient(*arguments: Any) -> Any:
        found = held()
        assert found is not None, "the graph that holds it is gone"
        return found(*arguments)

    return gradient
