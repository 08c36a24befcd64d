"""What the workers of a run agree on before the first step: each says what it has, the first one decides.

    decided = agree(strategy, rank, workers, mine, decide)      # `decide` is called by the first worker alone

Every worker has to come here at the same places. It goes by sums over the replicas, as every step does, so nothing of
an earlier attempt can be taken for an answer.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray


def agree(
    strategy: tf.distribute.Strategy, rank: int, workers: int, mine: Any, decide: Callable[[list[Any]], Any]
) -> Any:
    """What the first worker decides, from what each worker has, by rank; all of them plain values for JSON."""
    everyone = [json.loads(text) for text in gather(strategy, rank, workers, json.dumps(mine))]
    decided = decide(everyone) if rank == 0 else None
    return json.loads(gather(strategy, rank, workers, json.dumps(decided))[0])


def gather(strategy: tf.distribute.Strategy, rank: int, workers: int, text: str) -> list[str]:
    """The texts of all workers, by rank; no worker has them before every worker has come here."""
    if workers == 1:
        return [text]
    content = np.frombuffer(text.encode(), np.uint8)
    lengths = np.zeros(workers, np.float32)
    lengths[rank] = content.size
    lengths = _sum_over_workers(strategy, lengths, workers).astype(int)
    rows = np.zeros((workers, max(1, lengths.max())), np.float32)
    rows[rank, : content.size] = content
    rows = _sum_over_workers(strategy, rows, workers).astype(np.uint8)
    return [row[:length].tobytes().decode() for row, length in zip(rows, lengths, strict=True)]


def _sum_over_workers(strategy: tf.distribute.Strategy, values: NDArray[np.float32], workers: int) -> NDArray[np.int64]:
    """The sum of every worker's `values`, which are whole numbers below 2^16: exact in float32."""
    mine = tf.constant(values)

    def add_up() -> tf.Tensor:
        return strategy.reduce(tf.distribute.ReduceOp.SUM, strategy.run(lambda: mine), axis=None)

    each = strategy.num_replicas_in_sync // workers
    return np.rint(tf.function(add_up, autograph=False)().numpy() / each).astype(np.int64)
