"""The first part of a private run on a table with texts: the network learns the other columns, from draws alone.

    job = columns_job(config)
    weights = train_columns(job, place, ...)        # None: it was stopped, and a resume goes on

What is learned here is a function of the noisy counts, and costs nothing beside them. It has checkpoints and a history
of its own, in `columns/`. The steps on texts that follow train the embeddings and logits of the texts' tokens, and no
other weight. Texts come last in a record, so the other columns are drawn afterwards as they were before.
"""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from runner.config import JobConfig, TrainingConfig
from runner.config.training import PrivacyConfig
from runner.data.batches import plan_batches
from runner.data.examples import Examples, TokenSet
from runner.errors import DataError
from runner.model.network import Network
from runner.run_directory import RunDirectory
from runner.templates import PRIVATE_TABLE
from runner.train.checkpoint import Checkpoint
from runner.train.drawn_tokens import log_shares
from runner.train.feed import Feed
from runner.train.heartbeat import Heartbeat
from runner.train.loop import TrainingLoop, Weights
from runner.train.optimizer import build_optimizer
from runner.train.step import TrainingStep

COLUMNS_FOLDER = "columns"
"""In the run directory."""


def columns_job(config: JobConfig) -> JobConfig:
    """The job of this part: on draws, with the settings of a private table without texts."""
    own = config.training
    settings = TrainingConfig.model_validate(
        PRIVATE_TABLE["training"]
        | {
            "seed": own.seed,
            "microbatch_size": own.microbatch_size,
            "checkpoint_every_s": own.checkpoint_every_s,
        }
    )
    return config.model_copy(update={"training": settings, "privacy": PrivacyConfig()})


def train_columns(
    job: JobConfig,
    place: RunDirectory,
    heartbeat: Heartbeat,
    *,
    network: Network,
    strategy: tf.distribute.Strategy,
    draws: TokenSet,
    mine: Sequence[int],
    microbatch_size: int | None,
    checkpoint: Checkpoint | None,
    is_chief: bool,
) -> Weights | None:
    """The weights of the last epoch; None where it was stopped before. `job`: of `columns_job`. `place`: where its
    checkpoints are, of which `checkpoint` is the newest. `mine`: the worker's own replicas.

    Raises:
        DataError: the draws are not those that it began with.
    """
    if checkpoint is not None and checkpoint.state["tokens"] != draws.key:
        raise DataError(f"{place.uri}: the draws changed since this run began; start a new run")
    settings, plan = job.training, plan_batches(job, draws.units)
    with strategy.scope():
        optimizer = build_optimizer(settings.optimizer, settings.epochs * plan.training_steps)
        optimizer.build(network.trainable_variables)
    examples = Examples(draws, job.data.cache_gib)
    loop = TrainingLoop(
        settings=settings,
        network=network,
        optimizer=optimizer,
        step=TrainingStep(network, optimizer, strategy, microbatch_size, len(mine)),
        feed=Feed(examples, plan, mine, strategy.num_replicas_in_sync),
        directory=place,
        heartbeat=heartbeat,
        callbacks=(),
        epoch_callback=None,
        is_chief=is_chief,
        identity={"tokens": draws.key, "microbatch_size": microbatch_size},
    )
    if checkpoint is not None:
        loop.restore(checkpoint)
    else:
        # What is frequent is known before the first step: this saves a third of the steps.
        network.load_weights_dict(network.weights_dict() | {"dense/bias": log_shares(examples)})
    heartbeat.report("training", "the columns that are not texts, from draws")
    return None if loop.run() == "stopped" else loop.kept_weights
