"""Every error comes out of Ray as it went in: its class, its lines, its exit code, whether another try may help."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import ray
import ray.data
from ray import tune

from runner.data import prepare
from runner.data.units import Unit
from runner.errors import RunnerError, find_user_error
from tests.unit.test_errors import CLASSES


def raised(kind: type[RunnerError]) -> RunnerError:
    error = kind(f"{kind.__name__} of\na worker", "and another")
    error.exit_code += 10
    error.may_pass = not error.may_pass
    return error


def check(found: BaseException | None, kind: type[RunnerError]) -> None:
    error = find_user_error(found)
    assert type(error) is kind
    assert str(error) == f"{kind.__name__} of a worker\nand another"
    assert (error.exit_code, error.may_pass) == (kind.exit_code + 10, not kind.may_pass)


def fail(kind: type[RunnerError]) -> Any:
    raise raised(kind)


class Failing:
    """An actor."""

    def fail(self, kind: type[RunnerError]) -> None:
        fail(kind)


class FailingTrial(tune.Trainable):
    """A trial in a Tune actor."""

    def step(self) -> dict[str, Any]:
        return fail(CLASSES[self.config["place"]])


def test_out_of_tasks_in_tasks_and_actors() -> None:
    outer = ray.remote(lambda kind: ray.get(ray.remote(fail).remote(kind)))
    actor = ray.remote(Failing).remote()
    for kind in CLASSES:
        for call in (ray.remote(fail), outer, actor.fail):  # type: ignore[attr-defined]
            with pytest.raises(Exception, match="of a worker") as error:
                ray.get(call.remote(kind))
            check(error.value, kind)


def test_out_of_ray_data() -> None:
    """With the settings that records are tokenized with."""

    def tokenize(kind: type[RunnerError]) -> None:
        with prepare._carried_errors():
            fail(kind)

    def prepare_tokens(kind: type[RunnerError]) -> None:
        with prepare._plain_errors():
            list(prepare._dataset((Unit("file", 0, 1, 0),)).map_batches(lambda _: tokenize(kind)).iter_rows())

    for kind in CLASSES:
        with pytest.raises(kind) as error:
            prepare_tokens(kind)
        check(error.value, kind)


def test_out_of_a_group_of_train_workers(tmp_path: Path) -> None:
    from ray.train import RunConfig, ScalingConfig
    from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

    kind = CLASSES[0]
    trainer = DataParallelTrainer(
        lambda: fail(kind),
        scaling_config=ScalingConfig(num_workers=1),
        run_config=RunConfig(storage_path=str(tmp_path)),
    )
    with pytest.raises(ray.train.TrainingFailedError) as error:
        trainer.fit()
    check(error.value, kind)


def test_out_of_tune_trials(tmp_path: Path) -> None:
    """Two classes: a trial that fails takes its actor along, and starting one takes seconds."""
    results = tune.Tuner(
        FailingTrial,
        param_space={"place": tune.grid_search([0, 1])},
        run_config=tune.RunConfig(storage_path=str(tmp_path), verbose=0),
    ).fit()
    for result in results:
        check(result.error, CLASSES[result.config["place"]])
