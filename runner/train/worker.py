"""What each worker runs: from the run directory and the token shards to a finished run.

A worker knows its place (`WorkerTask`) and reads everything else from storage, so the same function serves one
worker in the user's own process and many on a cluster, for a first start and for every restart.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.metadata import version
from typing import Any

import tensorflow as tf

from runner.config import JobConfig
from runner.data.batches import plan_batches
from runner.data.canaries import WithCanaries
from runner.data.examples import Examples, TokenSet
from runner.data.survey import columns_read
from runner.data.tokenizers.saved import from_files
from runner.errors import (
    DataError,
    OutOfMemoryError,
    OvertakenError,
    RepeatedOtherwiseError,
    RunnerError,
    StorageError,
)
from runner.model.artifact import save_model
from runner.model.network import Network
from runner.privacy.clipping import SUMS
from runner.privacy.endings import FAILED
from runner.privacy.grid import grid_of
from runner.privacy.ledger import RunLedger
from runner.privacy.noise import GENERATOR, draw_noise, fingerprint
from runner.privacy.one_run import toss_coins
from runner.run_directory import RunDirectory
from runner.storage import open_folder, read_manifest, read_published
from runner.train.agreement import agree
from runner.train.callbacks import import_object
from runner.train.canary_scores import make_canaries, measure_run
from runner.train.checkpoint import Checkpoint, newest_checkpoint
from runner.train.columns import COLUMNS_FOLDER, columns_job, train_columns
from runner.train.devices import (
    local_replicas,
    machine,
    make_strategy,
    memory_bytes,
    rounding_environment,
    set_up_devices,
)
from runner.train.drawn_tokens import log_shares, tokenizer_of
from runner.train.feed import Feed
from runner.train.gpus import free_gpu_memory
from runner.train.heartbeat import Heartbeat, LogFile
from runner.train.keras_callbacks import make_callbacks
from runner.train.loop import TrainingLoop
from runner.train.optimizer import build_optimizer, check_rate_setters
from runner.train.private_run import charge_again, keep_steps_outside, settle
from runner.train.progress import Ending, weights_digest
from runner.train.series import first_weights
from runner.train.step import TrainingStep, activation_bytes, microbatch_that_fits
from runner.train.table_shares import known_tables
from runner.train.tracking import Tracker

MOST_AT_ONCE = "microbatch"
"""A file of the run: how many examples a replica holds at once since a step was out of memory."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class WorkerTask:
    """A worker's place in a run. `term`: of the attempt that it works for; `threads`: cores to use, None for all.
    `draws_uri`: of the draws that a private table's columns are learned from, where it has texts, too."""

    run_uri: str
    tokens_uri: str
    term: str
    rank: int = 0
    workers: int = 1
    threads: int | None = None
    draws_uri: str | None = None


def run_worker(task: WorkerTask, stop: threading.Event, log_file: LogFile | None = None) -> Ending:
    """Train, and as the chief (rank 0) leave the model and the status; `stop` ends the run at its next step."""
    directory = RunDirectory(open_folder(task.run_uri))
    own_log = log_file or LogFile(directory, f"worker-{task.rank}")
    try:
        if task.rank == 0:
            directory = directory.take_over(task.term)
        with Heartbeat(directory, own_log, stop, writes_status=task.rank == 0) as heartbeat:
            while True:
                try:
                    return _train(task, directory, heartbeat)
                except (RepeatedOtherwiseError, OutOfMemoryError) as error:
                    if isinstance(error, OutOfMemoryError):
                        _hold_less(directory, error)
                    if task.workers > 1:  # Ray starts them all again.
                        raise
                    log.warning("%s", error)
    except Exception:
        log.exception("worker %d of %d failed", task.rank, task.workers)
        raise
    finally:
        if log_file is None:
            own_log.close()


def _train(task: WorkerTask, directory: RunDirectory, heartbeat: Heartbeat) -> Ending:
    config = directory.read_config()
    is_chief = task.rank == 0
    set_up_devices(config.resources, task.threads, exact=config.takes_private_steps)
    strategy = make_strategy(config.resources)
    heartbeat.report("preparing", "building the network")
    folder = open_folder(task.tokens_uri)
    tokens = TokenSet.from_manifest(folder, read_manifest(folder))
    settings = config.training
    planned_steps = settings.epochs * plan_batches(config, tokens.units).training_steps
    with strategy.scope():
        network = build_network(config, tokens)
        optimizer = build_optimizer(settings.optimizer, planned_steps)
        optimizer.build(network.trainable_variables)
        network.compile(optimizer=optimizer)
    callbacks = make_callbacks(settings.callbacks, is_chief=is_chief)  # They may fail: before anything is charged.
    check_rate_setters(settings.optimizer, callbacks)
    checkpoint = newest_checkpoint(directory.folder.child("checkpoints"))
    if checkpoint is not None and checkpoint.state["tokens"] != tokens.key:
        raise DataError(
            f"{config.data.uri}: the records changed since this run began; start a new run, or put them back"
        )
    together = records_of_person(config)
    replicas, mine = strategy.num_replicas_in_sync, local_replicas(strategy, task.rank, task.workers)
    if checkpoint is None and config.trains_texts_apart:
        if (weights := _learn_columns(config, task, directory, heartbeat, network, strategy)) is None:
            return _end_before_texts(config, directory, heartbeat, is_chief=is_chief)
        network.load_weights_dict(weights)
    elif checkpoint is None and (weights := first_weights(config, directory)) is not None:
        network.load_weights_dict(weights)
    identity: dict[str, Any] = {"tokens": tokens.key}
    if config.takes_private_steps:
        before = checkpoint.state.get("first_weights") if checkpoint else weights_digest(network.weights_dict())
        identity["first_weights"] = before
    mine_alone = {
        "checkpoint": checkpoint and [checkpoint.state.get("branch"), checkpoint.step],
        "microbatch_size": choose_microbatch(config, tokens, replicas),
        "most_at_once": read_most_at_once(directory),
        "conditions": _conditions(config, identity, replicas, task, planned_steps),
    }
    decide = partial(_decide, config, directory, checkpoint)
    decided = agree(strategy, task.rank, task.workers, mine_alone, decide)
    identity["microbatch_size"] = decided["microbatch_size"]
    ledger, noise, branch = None, None, None
    plan = plan_batches(config, tokens.units)
    if config.takes_private_steps:
        if tf.config.get_visible_devices("GPU"):  # A repeated step must release the same numbers.
            tf.config.experimental.enable_op_determinism()
        ledger = RunLedger.open(directory.folder, writes=is_chief)
        chosen = ledger.state.branches[-1]
        if asdict(chosen) != decided["branch"]:
            raise StorageError(f"{directory.uri}: this worker does not see the ledger that the first one wrote")
        if is_chief:
            keep_steps_outside(config, ledger)
        identity["branch"] = ledger.branch
        plan = plan_batches(config, tokens.units, ledger.branch_key.for_sampling(ledger.branch))
        ledger.check_sampler(plan)
        branch = f"{ledger.branch} {chosen.nonce} {chosen.conditions}"
        if mine[0] == 0:
            weights = network.count_params()
            assert ledger.state.mechanism is not None
            sigma = grid_of(ledger.state.mechanism, weights, replicas, together or 1).sigma
            key = ledger.branch_key.for_noise(ledger.branch, chosen.conditions)
            noise = partial(draw_noise, key, sigma=sigma, count=weights)
    examples = Examples(tokens, config.data.cache_gib)
    if ledger is not None and config.privacy.canaries:
        coins = toss_coins(ledger.key, config.privacy.canaries)
        examples = WithCanaries(examples, make_canaries(config, tokens), coins)
    fields, trained = None, tokenizer_of(tokens).text_tokens() if config.trains_texts_apart else None
    if network.next_slot is not None and tokens.slots is not None:
        fields = tokens.slots.fields_of_tokens()
    loop = TrainingLoop(
        settings=settings,
        network=network,
        optimizer=optimizer,
        step=TrainingStep(
            network,
            optimizer,
            strategy,
            identity["microbatch_size"],
            len(mine),
            mechanism=ledger.state.mechanism if ledger else None,
            seq_length=tokens.seq_length,
            records_of_person=together or 1,
            trained=trained,
        ),
        feed=Feed(examples, plan, mine, replicas, noise, fields, branch, together, trained),
        directory=directory,
        heartbeat=heartbeat,
        callbacks=callbacks,
        epoch_callback=(
            import_object(settings.epoch_callback, "training.epoch_callback") if settings.epoch_callback else None
        ),
        is_chief=is_chief,
        identity=identity,
        ledger=ledger,
        released=None if ledger or not config.trains_on_draws else RunLedger.open(directory.folder).state,
    )
    if checkpoint is not None:
        loop.restore(checkpoint)
    elif config.trains_on_draws and not config.trains_texts_apart:
        # What is frequent is known before the first step: this saves a third of the steps.
        network.load_weights_dict(network.weights_dict() | {"dense/bias": log_shares(loop.feed.examples)})
    if not is_chief:
        return loop.run()
    if task.draws_uri is not None:  # Its files are those of the model: with what is known of the columns.
        tokens = replace(tokens, folder=open_folder(task.draws_uri))
    begun_at = loop.progress.total_steps
    loop.tracker = tracker = Tracker(config, directory, directory.current_status().created)
    heartbeat.report("training", "compiling the first step")
    try:
        ending = loop.run()
        _leave_results(directory, config, tokens, loop, ending)
    except (RepeatedOtherwiseError, OutOfMemoryError):
        tracker.end("KILLED")
        raise
    except RunnerError as error:
        if not isinstance(error, StorageError) and loop.progress.rows:
            tracker.epochs(loop.progress.rows)
            _leave_what_there_is(error, directory, config, tokens, loop)
        if not isinstance(error, OvertakenError):  # Else the run goes on elsewhere.
            tracker.end("FAILED")
        raise
    except Exception:
        tracker.end("FAILED")
        raise
    message: str = ending
    if checkpoint is not None and ending != "stopped" and loop.progress.total_steps == begun_at:
        message = f"{ending}; {loop.progress.how_to_go_on(ending, settings)}"
    heartbeat.finish("stopped" if ending == "stopped" else "done", message)
    tracker.end("KILLED" if ending == "stopped" else "FINISHED")
    log.info("%s after %d steps", message, loop.progress.total_steps)
    return ending


def _learn_columns(
    config: JobConfig,
    task: WorkerTask,
    directory: RunDirectory,
    heartbeat: Heartbeat,
    network: Network,
    strategy: tf.distribute.Strategy,
) -> Mapping[str, Any] | None:
    """The weights that steps on texts begin with; None where the run was stopped before it had them."""
    assert task.draws_uri is not None
    job, place = columns_job(config), RunDirectory(directory.folder.child(COLUMNS_FOLDER))
    folder = open_folder(task.draws_uri)
    draws = TokenSet.from_manifest(folder, read_manifest(folder))
    checkpoint = newest_checkpoint(place.folder.child("checkpoints"))
    said = {
        "checkpoint": checkpoint and checkpoint.step,
        "microbatch_size": choose_microbatch(job, draws, strategy.num_replicas_in_sync),
        "most_at_once": read_most_at_once(directory),
    }
    decided = agree(strategy, task.rank, task.workers, said, partial(_decide, job, place, checkpoint))
    return train_columns(
        job,
        place,
        heartbeat,
        network=network,
        strategy=strategy,
        draws=draws,
        mine=local_replicas(strategy, task.rank, task.workers),
        microbatch_size=decided["microbatch_size"],
        checkpoint=checkpoint,
        is_chief=task.rank == 0,
    )


def _end_before_texts(config: JobConfig, directory: RunDirectory, heartbeat: Heartbeat, *, is_chief: bool) -> Ending:
    """Of a run that was stopped before its first step on texts: it is charged for its counts, and leaves no model."""
    if is_chief:
        settle(config, directory, "stopped")
        heartbeat.finish("stopped", "stopped")
    return "stopped"


def _decide(
    config: JobConfig, directory: RunDirectory, checkpoint: Checkpoint | None, everyone: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """The microbatch of all workers, and of a run of private steps the branch: the first worker's decision.

    Raises:
        StorageError: the workers go on from different checkpoints.
    """
    if any(each["checkpoint"] != everyone[0]["checkpoint"] for each in everyone):
        raise StorageError(f"{directory.uri}: the workers see different checkpoints; resume the run again")
    found = [(checkpoint.state if checkpoint else each)["microbatch_size"] for each in everyone]
    found += [each["most_at_once"] for each in everyone]
    decided: dict[str, Any] = {"microbatch_size": min((size for size in found if size is not None), default=None)}
    if not config.takes_private_steps:
        return decided
    ledger = RunLedger.open(directory.folder, writes=True)
    conditions = fingerprint(
        decided | {"workers": [each["conditions"] for each in everyone], "cut_epochs": _cut_epochs(checkpoint, ledger)}
    )
    ledger.begin(conditions, (checkpoint.state["branch"], checkpoint.step) if checkpoint else None)
    if ledger.branch > 0:
        charge_again(config, ledger)
    return decided | {"branch": asdict(ledger.state.branches[-1])}


def _conditions(
    config: JobConfig, identity: dict[str, Any], replicas: int, task: WorkerTask, planned_steps: int
) -> dict[str, Any]:
    """All that this worker's part of a private step's sum depends on besides the step's batch, down to its last bit.

    Settings that a run begun earlier did not know are left out where they change nothing, so that it goes on.
    """
    training = config.training
    has_schedule = training.optimizer.schedule is not None
    return {
        **identity,
        "model": config.model.model_dump(mode="json"),
        "training": training.model_dump(
            mode="json",
            include={"batch_size", "optimizer", "validation_split", "callbacks", "seed"},
            exclude=None if has_schedule else {"optimizer": {"schedule"}},
        ),
        **({"planned_steps": planned_steps} if has_schedule else {}),
        "privacy": config.privacy.model_dump(
            mode="json", include={"noise_multiplier", "target_epsilon", "l2_norm_clip"}
        ),
        **({"field_order": "random"} if config.examples.field_order == "random" else {}),
        **({"unit": config.unit, "records_of_person": records_of_person(config)} if config.unit else {}),
        **({"canaries": config.privacy.canaries} if config.privacy.canaries else {}),
        "replicas": replicas,
        "workers": task.workers,
        "threads": task.threads or os.cpu_count(),
        "machine": machine(),
        "environment": rounding_environment(),
        "noise": GENERATOR,
        "sums": SUMS,
        "versions": {name: version(name) for name in ("runner", "tensorflow", "keras", "numpy")},
    }


def _cut_epochs(checkpoint: Checkpoint | None, ledger: RunLedger) -> list[tuple[int, int]]:
    """Epochs that a time limit or the budget cut short, with their steps: after them a step's number in the run and
    its place in the plan are no longer those of a run that was not cut."""
    assert ledger.state.mechanism is not None
    rows = checkpoint.state["progress"]["rows"] if checkpoint else []
    return [(row["epoch"], row["steps"]) for row in rows if row["steps"] != ledger.state.mechanism.steps_per_epoch]


def records_of_person(config: JobConfig) -> int | None:
    """Of a job whose steps draw persons: how many records of each are in a batch; None where they draw records."""
    return config.privacy.max_records_per_unit if config.takes_private_steps else None


def build_network(config: JobConfig, tokens: TokenSet) -> Network:
    """The job's network for these tokens, with its initial weights, a function of `training.seed`."""
    model = config.model
    return Network(
        vocab_size=tokens.vocab_size,
        embedding_dim=model.embedding_dim,
        rnn_units=model.rnn_units,
        layers=model.layers,
        dropout_rate=model.dropout_rate,
        rnn_initializer=model.rnn_initializer,
        seed=config.training.seed,
        slots=None if tokens.slots is None else tokens.slots.sizes,
        any_order=tokens.slots is not None and config.examples.field_order == "random",
    )


def choose_microbatch(config: JobConfig, tokens: TokenSet, replicas: int) -> int | None:
    """The job's `microbatch_size`, or one whose activations fit the memory of this machine, or of its GPUs."""
    if config.training.microbatch_size is not None:
        return config.training.microbatch_size
    model = config.model
    memory = memory_bytes() // replicas
    if tf.config.list_logical_devices("GPU"):
        memory = free_gpu_memory() or memory_bytes()
    logits = tokens.vocab_size if tokens.slots is None else max(tokens.slots.sizes)
    together = records_of_person(config) or 1
    row = activation_bytes(logits, model.embedding_dim, model.rnn_units, model.layers, tokens.seq_length, together)
    return microbatch_that_fits(-(-config.training.batch_size // replicas) * together, row, memory)


def read_most_at_once(directory: RunDirectory) -> int | None:
    """How many examples a replica holds at once since a step was out of memory; None where none was."""
    text = directory.folder.read_if_exists(MOST_AT_ONCE)
    return None if text is None else int(text)


def _hold_less(directory: RunDirectory, error: OutOfMemoryError) -> None:
    """Note, once in a run, that a replica holds half as many examples at once from here on: batches stay as they are.

    Raises:
        OutOfMemoryError: it was half already, or a single one, or those of a single person.
    """
    before, half = read_most_at_once(directory), error.rows // 2
    if half < error.fewest or (before is not None and error.rows <= before):
        less = f"set training.microbatch_size below {error.rows}, or " if half >= error.fewest else ""
        error.args = (f"{error}; {less}make the model or examples.seq_length smaller",)
        raise error
    directory.folder.write(MOST_AT_ONCE, str(half).encode())
    error.args = (f"{error}; going on from the last checkpoint with {half}",)


def _leave_results(
    directory: RunDirectory, config: JobConfig, tokens: TokenSet, loop: TrainingLoop, ending: str
) -> None:
    """Publish the history, and the model once an epoch is done."""
    statement: Mapping[str, bytes] = {}
    if config.privacy.enabled:
        measured = measure_run(config, directory, loop, build_network(config, tokens))
        statement = settle(config, directory, ending, measured)
    loop.write_history()
    _leave_model(directory, config, tokens, loop, statement)


def _leave_model(
    directory: RunDirectory, config: JobConfig, tokens: TokenSet, loop: TrainingLoop, statement: Mapping[str, bytes]
) -> None:
    """Publish the kept weights and the privacy statement; before the first epoch is done there is nothing."""
    if loop.kept_weights is None:
        return
    files = read_published(tokens.folder)
    save_model(
        directory.folder.child("model"),
        loop.kept_weights,
        loop.network.config(),
        from_files(files),
        seq_length=tokens.seq_length,
        packing=tokens.packing,
        field_delimiter=config.data.field_delimiter,
        columns=columns_read(config.fields) if config.fields else config.data.columns or (config.data.text_column,),
        statement=statement,
        epoch=loop.progress.kept_epoch,
        known=known_tables(config, files, loop.feed.examples, loop.feed.plan),
    )


def _leave_what_there_is(
    error: RunnerError, directory: RunDirectory, config: JobConfig, tokens: TokenSet, loop: TrainingLoop
) -> None:
    """Of a run that failed: the epochs that went well and the model so far, of which the error's line tells."""
    try:
        _leave_results(directory, config, tokens, loop, FAILED)
    except RunnerError as another:
        log.warning("no model is left of the epochs before: %s", another)
        return
    error.args = (f"{error}; model/ has epoch {loop.progress.kept_epoch}",)
