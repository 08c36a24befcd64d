"""`runner audit`: attack a run's published model with the records it was trained on and those it was not.

Everything is read from storage: the model, the job, the token shards. Needs uv (see `runner.privacy.isolated`).
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from runner.config import JobConfig
from runner.data.batches import BatchPlan, is_empty, load_batch
from runner.data.examples import Examples, TokenSet
from runner.data.prepare import find_tokens, token_key
from runner.errors import DataError
from runner.model.artifact import load_model
from runner.model.network import Network
from runner.privacy.audit import Claim, audit_losses
from runner.privacy.isolated import find_uv
from runner.privacy.report import JSON_FILE
from runner.run_directory import RunDirectory
from runner.storage import read_published
from runner.train.checkpoint import newest_checkpoint
from runner.train.facade import token_cache
from runner.train.series import source_files

MOST_EXAMPLES = 20_000
"""Of either kind; of more, evenly spaced ones are attacked."""
PHYSICAL_BATCH = 256
LOGITS_BYTES = 1 << 28
"""Logits of a physical batch take no more."""


def audit_run(directory: RunDirectory) -> tuple[dict[str, Any], str]:
    """Attack the model of a run, and hold what is found against its privacy statement.

    Returns plain values and the same in words; `contradicted` is true where the claim is proven false.

    Raises:
        ResourceError: uv is missing.
        RunNotFoundError: the run has no model.
        DataError: it has no validation examples, or its token shards are gone.
    """
    find_uv()
    config = directory.read_model_config()
    folder = directory.folder.child("model")
    model = load_model(folder)
    if not config.training.validation_split:
        raise DataError(
            f"{directory.uri}: training.validation_split is off, so there are no records that the model has not seen: "
            "nothing to compare with"
        )
    examples = Examples(_find_tokens(config, directory), config.data.cache_gib)
    trained, unseen = split_positions(config, examples)
    statement = read_published(folder).get(JSON_FILE)
    claim = None if statement is None else Claim.from_statement(json.loads(statement))
    answer, text = audit_losses(
        claim,
        mean_losses(model.network, examples, _evenly_spaced(trained)),
        mean_losses(model.network, examples, _evenly_spaced(unseen)),
        "records" if model.packing == "records" else "examples",
    )
    return {"run": directory.uri, **answer}, text


def split_positions(config: JobConfig, examples: Examples) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Ascending positions of the examples that the run trained on, and of those for validation.

    A private run trains on nothing of a record without text: such records are left out. Of each person, where these are
    protected, the first record stands for all.
    """
    settings = config.training
    plan = BatchPlan(examples.tokens.units, settings.batch_size, settings.seed, settings.validation_split)
    trained = [plan.training_positions(0, step) for step in range(plan.training_steps)]
    unseen = [plan.validation_positions(step) for step in range(plan.validation_steps)]

    def with_text(parts: list[NDArray[np.int64]]) -> NDArray[np.int64]:
        positions = np.concatenate(parts)
        if examples.persons is not None:
            positions = examples.persons.first(positions, 1)[:, 0]
        positions = np.sort(positions)
        if not config.privacy.enabled:
            return positions
        return positions[~is_empty(examples.lengths[positions], examples.tokens.seq_length)]

    return with_text(trained), with_text(unseen)


def mean_losses(network: Network, examples: Examples, positions: NDArray[np.int64]) -> NDArray[np.float32]:
    """Cross-entropy of the example at each position, in nats, averaged over its targets; without dropout."""

    @tf.function(
        input_signature=[tf.TensorSpec((None, None), dtype) for dtype in (tf.int32, tf.int32, tf.float32)],
        autograph=False,
    )
    def averages(inputs: tf.Tensor, targets: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
        logits = network.logits(inputs, targets=targets)  # (T*B, V)
        flat = tf.reshape(tf.transpose(targets), [-1])
        if network.slots is not None:
            slots = network.slots_of_tokens()
            logits = tf.where(slots == tf.gather(slots, flat)[:, tf.newaxis], logits, logits.dtype.min)
        entropies = tf.nn.sparse_softmax_cross_entropy_with_logits(flat, logits)
        entropies = tf.reshape(entropies, tf.reverse(tf.shape(inputs), [0])) * tf.transpose(weights)  # (T, B)
        return tf.reduce_sum(entropies, axis=0) / tf.reduce_sum(weights, axis=1)

    tokens = examples.tokens
    rows = max(1, min(PHYSICAL_BATCH, LOGITS_BYTES // (4 * tokens.seq_length * tokens.vocab_size)))
    losses = np.zeros(positions.size, np.float32)
    by_length = np.argsort(examples.lengths[positions], kind="stable")
    for start in range(0, positions.size, rows):
        chosen = by_length[start : start + rows]
        batch = load_batch(examples, positions[chosen], 0, 1, (0, 0))
        losses[chosen] = averages(*map(tf.constant, (batch.inputs, batch.targets, batch.weights))).numpy()
    return losses


def _evenly_spaced(positions: NDArray[np.int64]) -> NDArray[np.int64]:
    chosen = np.linspace(0, positions.size - 1, min(positions.size, MOST_EXAMPLES)).round().astype(np.int64)
    return positions[chosen]


def _find_tokens(config: JobConfig, directory: RunDirectory) -> TokenSet:
    """The token shards that the run was trained on; those of the records themselves where it was trained on draws."""
    checkpoint = newest_checkpoint(directory.folder.child("checkpoints"))
    key = checkpoint.state["tokens"] if checkpoint else token_key(config, source_files(config, directory))
    if config.trains_on_draws:
        key = key.rpartition("-")[0]
    cache = token_cache(config, patient=False)
    tokens = find_tokens(cache, key)
    if tokens is None:
        raise DataError(
            f"{cache.uri}/{key}: the tokens that this run was trained on are gone; submitting the same job under "
            "another name makes them again"
        )
    return tokens
