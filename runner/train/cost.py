"""What a job will cost, before it begins: steps, memory, hours and money.

    cost = estimate_cost(check_job(config), timed_steps=20)
    cost.seconds, cost.memory_bytes

Some optimizer steps of the job's own network are timed on this machine, on the job's own first records, which are
tokenized in a temporary folder. Nothing else is written, and a private job's budget is not touched.
"""

from __future__ import annotations

import itertools
import logging
import math
import resource
import secrets
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from runner.config import JobConfig
from runner.data.batches import plan_batches
from runner.data.examples import GIB, Examples, TokenSet
from runner.data.prepare import prepare_tokens
from runner.data.units import Unit
from runner.errors import ConfigError
from runner.privacy.accountant import Mechanism
from runner.privacy.grid import grid_of
from runner.privacy.noise import RunKey, draw_noise
from runner.storage import open_folder
from runner.train.columns import columns_job
from runner.train.devices import machine, set_up_devices
from runner.train.drawn_tokens import tokenizer_of
from runner.train.facade import CheckedJob, connected_ray
from runner.train.feed import Feed, Share
from runner.train.optimizer import build_optimizer
from runner.train.step import TrainingStep
from runner.train.worker import build_network, choose_microbatch, records_of_person

WARM_UP = 2
"""Steps before those that are timed: the first is compiled."""
FEWEST_ROWS = 20_000
"""Rows to tokenize, where there are as many."""
ROWS_LOOKED_AT = 1_000
"""For the share of texts."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Cost:
    """An estimate of one run.

    `rows`: of a replica's part of a batch. `steps`, `validation_batches`: of the whole run, unless early stopping ends
    it before. `step_s`, `validation_s`: medians of what one of them took. `memory_bytes`: the most that this process
    took, or its first GPU. `before_s`: of a private table with texts, the part on draws that is before the steps.
    """

    machine: str
    parameters: int
    replicas: int
    rows: int
    microbatch_size: int | None
    steps: int
    validation_batches: int
    tokens_of_a_step: float
    step_s: float
    validation_s: float
    memory_bytes: int
    workers: int
    gpus: int
    before_s: float = 0.0

    @property
    def seconds(self) -> float:
        """From a run's first step to its last."""
        return self.before_s + self.steps * self.step_s + self.validation_batches * self.validation_s


def describe_cost(cost: Cost, trials: int, price_per_hour: float | None) -> dict[str, Any]:
    """What `runner plan` says, as plain values: of `trials` runs, as long as this one each. The price is a worker's."""
    worker_hours = cost.seconds * cost.workers * trials / 3600
    return {
        "machine": cost.machine,
        "parameters": cost.parameters,
        "replicas": cost.replicas,
        "rows_of_a_replica": cost.rows,
        "microbatch_size": cost.microbatch_size,
        "memory_bytes": cost.memory_bytes,
        "tokens_of_a_step": round(cost.tokens_of_a_step),
        "steps": cost.steps,
        "validation_batches": cost.validation_batches,
        "step_s": cost.step_s,
        "validation_batch_s": cost.validation_s,
        **({"before_s": cost.before_s} if cost.before_s else {}),
        **({} if trials == 1 else {"trials": trials}),
        "seconds": cost.seconds,
        "worker_hours": worker_hours,
        **({"gpu_hours": worker_hours * cost.gpus} if cost.gpus else {}),
        **({} if price_per_hour is None else {"price": worker_hours * price_per_hour}),
    }


def in_lines(found: Mapping[str, Any]) -> Iterator[str]:
    """The same for a reader."""
    yield f"timed on: {found['machine']}"
    yield f"parameters: {found['parameters']:,}"
    replicas = f" on each of {found['replicas']} replicas" if found["replicas"] > 1 else ""
    at_once = f", {found['microbatch_size']} of them at once" if found["microbatch_size"] else ""
    yield f"a step: {found['rows_of_a_replica']:,} records{replicas}{at_once}"
    yield f"memory: {found['memory_bytes'] / GIB:.2f} GiB at most"
    yield f"steps: {found['steps']:,} of {found['step_s'] * 1e3:.1f} ms and {found['tokens_of_a_step']:,} tokens"
    if found["validation_batches"]:
        yield f"validation: {found['validation_batches']:,} batches of {found['validation_batch_s'] * 1e3:.1f} ms"
    if "before_s" in found:
        yield f"before, on draws: {timedelta(seconds=round(found['before_s']))}"
    yield f"a run: {timedelta(seconds=round(found['seconds']))} at most, from its first step to its last"
    if "trials" in found:
        yield f"trials: {found['trials']:,}, as long as this run each"
    yield f"hours of workers: {found['worker_hours']:.2f}"
    if "gpu_hours" in found:
        yield f"hours of GPUs: {found['gpu_hours']:.2f}"
    if "price" in found:
        yield f"price: {found['price']:.2f}"


def check_cost(found: Mapping[str, Any], max_cost: float | None) -> None:
    """Raise ConfigError where the job would cost more than `resources.max_cost`, or no price says what it would."""
    if max_cost is None:
        return
    if "price" not in found:
        raise ConfigError("resources.max_cost is set, but nothing says what an hour costs; give --price-per-hour")
    if found["price"] > max_cost:
        raise ConfigError(
            f"the job would cost {found['price']:.2f}, more than resources.max_cost {max_cost:g}; train for fewer "
            "training.epochs, or make the model smaller"
        )


def estimate_cost(checked: CheckedJob, timed_steps: int) -> Cost:
    """Time one replica's part of the job's steps here; that replicas add up their sums is not in it.

    Raises:
        ConfigError: the job looks its schema up in private records, so that nobody knows its tokens yet.
        ResourceError: this machine has too few GPUs.
    """
    config, resources = checked.config, checked.config.resources
    if checked.tokens_key is None:
        raise ConfigError(
            "fields: a part of the schema is looked up with noise when the run begins, so nobody knows its tokens yet; "
            "declare it for an estimate"
        )
    with TemporaryDirectory() as folder:
        tokens = checked.tokens or _tokenize_some(checked, folder, timed_steps)
        set_up_devices(resources, resources.cpus_per_worker, exact=config.takes_private_steps)
        before_s, trained = 0.0, None
        if config.trains_texts_apart:
            trained = tokenizer_of(tokens).text_tokens()
            before = _estimate(columns_job(config), tokens, config.privacy.draws, None, timed_steps)
            before_s = before.seconds * (1 - _share_of(tokens, trained))  # Draws have no texts.
        mechanism = checked.budget.mechanism if checked.budget else None
        cost = _estimate(config, tokens, _units(checked), mechanism, timed_steps, trained)
        return replace(cost, before_s=before_s)


def _estimate(
    config: JobConfig,
    tokens: TokenSet,
    units: int,
    mechanism: Mechanism | None,
    timed_steps: int,
    trained: NDArray[np.bool_] | None = None,
) -> Cost:
    """Of a run, or a part of one, whose batches are made of so many `units`; timed on `tokens`. trained: see `Feed`."""
    settings, resources = config.training, config.resources
    whole = plan_batches(config, units)
    steps = settings.epochs * whole.training_steps
    replicas, together = resources.workers * max(resources.gpus_per_worker, 1), records_of_person(config)
    network = build_network(config, tokens)
    optimizer = build_optimizer(settings.optimizer, steps)
    optimizer.build(network.trainable_variables)
    parameters = network.count_params()
    microbatch_size = choose_microbatch(config, tokens, replicas)
    noise = None
    if mechanism is not None:
        sigma = grid_of(mechanism, parameters, replicas, together or 1).sigma
        noise = partial(draw_noise, RunKey.new().for_noise(0, ""), sigma=sigma, count=parameters)
    step = TrainingStep(
        network,
        optimizer,
        tf.distribute.get_strategy(),
        microbatch_size,
        mechanism=mechanism,
        seq_length=tokens.seq_length,
        records_of_person=together or 1,
        trained=trained,
    )
    examples = Examples(tokens, config.data.cache_gib)
    there = tokens.examples if together is None or examples.persons is None else examples.persons.count
    plan = plan_batches(config, there, (secrets.randbits(64), secrets.randbits(64)))
    fields = tokens.slots.fields_of_tokens() if network.next_slot is not None and tokens.slots is not None else None
    feed = Feed(examples, plan, range(1), replicas, noise, fields, records_of_person=together, trained=trained)

    def train(share: Share) -> None:
        step.train(share.batches, share.tokens, noise=share.noise)

    def evaluate(share: Share) -> None:
        step.evaluate(share.batches)

    epochs = itertools.count() if plan.validation_steps else ()
    tokens_a_step, step_s = _time(train, (feed.training(epoch, 0) for epoch in itertools.count()), timed_steps)
    _, validation_s = _time(evaluate, (feed.validation() for _ in epochs), timed_steps)
    return Cost(
        machine=", ".join(machine()),
        parameters=parameters,
        replicas=replicas,
        rows=math.ceil(settings.batch_size / replicas) * (together or 1),
        microbatch_size=microbatch_size,
        steps=steps,
        validation_batches=settings.epochs * whole.validation_steps,
        tokens_of_a_step=tokens_a_step,
        step_s=step_s,
        validation_s=validation_s,
        memory_bytes=_peak_bytes(),
        workers=resources.workers,
        gpus=resources.gpus_per_worker,
    )


def _units(checked: CheckedJob) -> int:
    """What the run's batches are made of: so many draws, persons or examples."""
    config, survey = checked.config, checked.survey
    if config.trains_on_draws and not config.trains_texts_apart:
        return config.privacy.draws
    if checked.tokens is not None:
        return checked.tokens.units
    assert survey is not None
    return survey.found.windows if config.examples.packing == "stream" else checked.units


def _share_of(tokens: TokenSet, some: NDArray[np.bool_]) -> float:
    """Of the first tokens, how many are among `some` (V,)."""
    rows = Examples(tokens, cache_gib=0).rows(np.arange(min(tokens.examples, ROWS_LOOKED_AT)))
    return float(some[np.concatenate(rows)].mean())


def _tokenize_some(checked: CheckedJob, folder: str, timed_steps: int) -> TokenSet:
    """Of the job's first rows: enough for the steps that are timed."""
    config, survey = checked.config, checked.survey
    assert survey is not None
    left = max(FEWEST_ROWS, (WARM_UP + timed_steps) * config.training.batch_size)
    units: list[Unit] = []
    for unit in survey.units:
        units.append(replace(unit, stop=min(unit.stop, unit.start + left)))
        left -= units[-1].stop - unit.start
        if left == 0:
            break
    rows = sum(unit.stop - unit.start for unit in units)
    some = replace(survey, units=tuple(units), found=replace(survey.found, rows=rows))
    with connected_ray(local=True):
        return prepare_tokens(config, some, open_folder(folder), "some", log.debug, secrets.token_bytes(32))


def _time(run: Callable[[Share], None], passes: Iterable[Iterator[Share]], count: int) -> tuple[float, float]:
    """(tokens of the logical batch, seconds) of `run`, with the wait for its batch: a mean, and a median."""
    tokens, times = list[int](), list[float]()
    shares = itertools.islice(itertools.chain.from_iterable(passes), WARM_UP + count)
    clock = time.perf_counter()
    for share in shares:
        run(share)
        now = time.perf_counter()
        tokens.append(share.tokens)
        times.append(now - clock)
        clock = now
    return (statistics.mean(tokens[WARM_UP:]), statistics.median(times[WARM_UP:])) if times[WARM_UP:] else (0.0, 0.0)


def _peak_bytes() -> int:
    """The most memory that this process took; or its first GPU, where it trains on one."""
    if tf.config.list_logical_devices("GPU"):
        return int(tf.config.experimental.get_memory_info("GPU:0")["peak"])
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
