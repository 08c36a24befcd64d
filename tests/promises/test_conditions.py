"""Promise 19: everything that a step's sum depends on is in its conditions, each by itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from runner.config import JobConfig
from runner.privacy.noise import fingerprint
from runner.train import worker
from runner.train.worker import WorkerTask
from tests.mutants.branch_conditions import CONDITIONS
from tests.promises.private_runs import config_of
from tests.promises.test_looked_up import FIELDS, table_job

TASK = WorkerTask("run", "tokens", "1", workers=2, threads=3)
IDENTITY = {"tokens": "a", "first_weights": "f", "microbatch_size": 4}


def job() -> JobConfig:
    """One that sets all that may be left out."""
    values = table_job("x", Path("people"), Path("runs"), FIELDS)
    values["examples"] = {"field_order": "random"}
    values["privacy"] |= {"unit": "customer", "max_records_per_unit": 3}
    values["training"]["optimizer"] = {
        "name": "adam",
        "learning_rate": 0.01,
        "schedule": {"name": "cosine", "warmup": 0.1, "final": 0.1},
    }
    return config_of(values)


def conditions(config: JobConfig, **changed: Any) -> dict[str, Any]:
    arguments = {"identity": IDENTITY, "replicas": 2, "task": TASK, "planned_steps": 100} | changed
    return worker._conditions(config, **arguments)


def paths_of(plain: Mapping[str, Any], stem: str = "") -> Iterator[str]:
    """Where the plain values are, with dots; a list is one, and so is the environment, which has no fixed names."""
    for name, value in plain.items():
        if isinstance(value, Mapping) and name != "environment":
            yield from paths_of(value, f"{stem}{name}.")
        else:
            yield stem + name


def another(value: Any) -> Any:
    """A value of the same kind."""
    match value:
        case bool():
            return not value
        case int():
            return value + 1
        case float():
            return value / 2
        case str():
            return value + " "
        case None:
            return 1
        case _:
            return (*value, "another")


def changed_setting(config: JobConfig, path: str) -> JobConfig:
    """With another value at a path."""
    name, *rest = path.split(".")

    def change(section: Any, names: list[str]) -> Any:
        first, *others = names
        now = getattr(section, first)
        return section.model_copy(update={first: change(now, others) if others else another(now)})

    return config.model_copy(update={name: change(getattr(config, name), rest)})


@contextmanager
def another_version(package: str) -> Iterator[None]:
    real = worker.version
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(worker, "version", lambda name: real(name) + (".1" if name == package else ""))
        yield


def under_another(path: str) -> dict[str, Any]:
    """The conditions where what is at the path is another."""
    config = job()
    special: dict[str, Callable[[], dict[str, Any]]] = {
        "tokens": lambda: conditions(config, identity=IDENTITY | {"tokens": "b"}),
        "first_weights": lambda: conditions(config, identity=IDENTITY | {"first_weights": "g"}),
        "microbatch_size": lambda: conditions(config, identity=IDENTITY | {"microbatch_size": 2}),
        "planned_steps": lambda: conditions(config, planned_steps=101),
        "replicas": lambda: conditions(config, replicas=4),
        "workers": lambda: conditions(config, task=replace(TASK, workers=1)),
        "threads": lambda: conditions(config, task=replace(TASK, threads=2)),
        "field_order": lambda: conditions(
            config.model_copy(update={"examples": config.examples.model_copy(update={"field_order": "schema"})})
        ),
    }
    special["unit"] = lambda: conditions(changed_setting(config, "privacy.unit"))
    special["records_of_person"] = lambda: conditions(changed_setting(config, "privacy.max_records_per_unit"))
    if path in special:
        return special[path]()
    if path.startswith("versions."):
        with another_version(path.removeprefix("versions.")):
            return conditions(config)
    if path == "environment":
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("OMP_WAIT_POLICY", "passive")
            return conditions(config)
    if path == "noise":
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(worker, "GENERATOR", "another")
            return conditions(config)
    if path == "machine":
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(worker, "machine", lambda: ["another processor"])
            return conditions(config)
    return conditions(changed_setting(config, path))


def test_19_each_condition_names_a_branch_of_its_own() -> None:
    names = {fingerprint(conditions(job())): "all as it was"}
    for path in CONDITIONS:
        name = fingerprint(under_another(path))
        assert name not in names, f"{path} may change without a new branch, as with {names[name]}"
        names[name] = path
    assert fingerprint(conditions(job())) in names


def test_19_no_condition_is_without_a_mutant() -> None:
    """Whoever adds one adds it to the list of those that are left out in turn."""
    assert sorted(paths_of(conditions(job()))) == sorted(CONDITIONS)
