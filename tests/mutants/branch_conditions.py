"""Every single condition of a branch of steps, left out: steps under another one would repeat the noise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tests.mutants.mutants import leave_mark, mutant
from tests.mutants.streams import replace_everywhere

CONDITIONS = (
    "tokens",
    "first_weights",
    "microbatch_size",
    "model.embedding_dim",
    "model.rnn_units",
    "model.layers",
    "model.dropout_rate",
    "model.rnn_initializer",
    "training.batch_size",
    "training.callbacks",
    "training.optimizer.ema_momentum",
    "training.optimizer.learning_rate",
    "training.optimizer.name",
    "training.optimizer.schedule.final",
    "training.optimizer.schedule.name",
    "training.optimizer.schedule.warmup",
    "training.seed",
    "training.validation_split",
    "planned_steps",
    "privacy.noise_multiplier",
    "privacy.target_epsilon",
    "privacy.l2_norm_clip",
    "field_order",
    "unit",
    "records_of_person",
    "replicas",
    "workers",
    "threads",
    "machine",
    "noise",
    "environment",
    "versions.runner",
    "versions.tensorflow",
    "versions.keras",
    "versions.numpy",
)
"""By their names in `runner.train.worker._conditions`; `test_conditions.py` has the same list."""


def without(conditions: Any, path: str) -> Any:
    """Plain values without what is at a path, at any depth that begins with it."""
    if isinstance(conditions, list):
        return [without(each, path) for each in conditions]
    if not isinstance(conditions, Mapping):
        return conditions
    first, _, rest = path.partition(".")
    kept = {name: value for name, value in conditions.items() if rest or name != first}
    return {name: without(value, rest if rest and name == first else path) for name, value in kept.items()}


def leave_out(path: str) -> None:
    from runner.privacy import noise

    fingerprint = noise.fingerprint

    def faulty(conditions: Mapping[str, Any]) -> str:
        leave_mark()
        return fingerprint(without(conditions, path))

    replace_everywhere(fingerprint, faulty)


for path in CONDITIONS:
    mutant(
        "test_19_each_condition_names_a_branch_of_its_own",
        file="test_conditions.py",
        kind="conditions",
        name=f"steps_do_not_depend_on_{path.replace('.', '_')}",
    )(lambda path=path: leave_out(path))


@mutant("test_06_a_run_that_goes_back_behind_a_cut_epoch_draws_fresh_noise_and_counts_it", kind="conditions")
def steps_do_not_depend_on_cut_epochs() -> None:
    """Nor are they compared when they are taken again, which would notice it."""
    from runner.privacy.ledger import RunLedger

    RunLedger.compare = lambda *_arguments: None
    leave_out("cut_epochs")
