"""What a sweep tried comes back to its search, whatever kind the values are; one trial's mistake is its own."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.config import JobConfig, parse_job
from runner.driver import check
from runner.errors import DataError, TokenizerError
from runner.run_directory import RunDirectory
from runner.sweep import driver, trial
from runner.sweep.search import SweepSearch
from runner.sweep.space import sweep_of, token_jobs, trial_job
from runner.sweep.table import Trial, read_trial, to_json, trial_directory

FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "training.save_best": st.one_of(st.none(), st.booleans()),
    "training.microbatch_size": st.one_of(st.none(), st.integers(1, 99), st.integers(1, 99).map(str)),
    "training.epochs": st.one_of(st.integers(1, 9), st.integers(1, 9).map(float), st.integers(1, 9).map(str)),
    "model.dropout_rate": st.one_of(st.sampled_from([0, 0.0, -0.0, "0", "0.25"]), st.floats(0, 0.9)),
    "data.field_delimiter": st.one_of(st.none(), st.text("🙂,|é\U0001f600'\"\\#: ", min_size=1, max_size=3)),
    "data.columns": st.one_of(st.none(), st.lists(st.text("ab🙂", min_size=1), min_size=1, max_size=2, unique=True)),
    "training.callbacks": st.lists(st.just("package.module:name"), max_size=2),
}


def job(parameters: dict[str, Any], folder: str = "runs", **settings: Any) -> JobConfig:
    document = {"name": "demo", "data": {"uri": "records/", "field_delimiter": ","}, "storage": {"uri": folder}}
    return parse_job(document | {"sweep": {"parameters": parameters, **settings}}, environment={})


def begun(config: JobConfig, values: list[dict[str, Any]]) -> list[Trial]:
    """Trials with these values, as their run directories show them afterwards."""
    found: list[Trial] = []
    for number, each in enumerate(values):
        directory = trial_directory(config, number)
        directory.claim(trial_job(config, number, each), "local")
        seen = read_trial(config, number)
        assert seen is not None
        found.append(Trial(number, seen.run, "done", seen.values, 1.0 + number, 1, 1.0))
    return found


@st.composite
def choices(draw: st.DrawFn) -> dict[str, Any]:
    path = draw(st.sampled_from(sorted(FIELDS)))
    return {path: {"choice": draw(st.lists(FIELDS[path], min_size=1, max_size=3))}}


@given(choices())
@settings(max_examples=40, deadline=None)
def test_optuna_learns_from_every_trial_of_an_earlier_process(
    tmp_path_factory: pytest.TempPathFactory, parameters: dict[str, Any]
) -> None:
    config = job(parameters, str(tmp_path_factory.mktemp("runs")), search="optuna", trials=9)
    [(path, parameter)] = parameters.items()
    trials = begun(config, [{path: value} for value in parameter["choice"]])
    search = SweepSearch(config, trials, {})
    told = search._optuna._ot_study.trials
    assert [each.value for each in told] == [each.metric for each in trials]
    for each, made in zip(told, trials, strict=True):
        again = trial_job(config, made.number, {path: parameter["choice"][each.params[path]]})
        assert again == RunDirectory(trial_directory(config, made.number).folder).read_config(), "the same job"
    suggested = search.suggest("next")
    assert any(suggested["values"][path] is value for value in sweep_of(config).parameters[path].choice or ())


def test_ranges_come_back_to_optuna_as_they_were(tmp_path: Path) -> None:
    parameters = {
        "model.dropout_rate": {"uniform": [0, 0.5]},
        "training.optimizer.learning_rate": {"log_uniform": [1e-5, 0.1]},
        "model.layers": {"int": [1, 3]},
    }
    config = job(parameters, str(tmp_path), search="optuna", trials=3)
    values = {"model.dropout_rate": 0.1 + 0.2, "training.optimizer.learning_rate": 1.1e-5, "model.layers": 2}
    search = SweepSearch(config, begun(config, [values]), {})
    assert [each.params for each in search._optuna._ot_study.trials] == [values]


def test_choices_that_python_takes_for_equal_have_tokens_of_their_own() -> None:
    parameters = {"tokenizer.character_coverage": {"choice": [1, 1.0]}, "data.max_records": {"choice": [1, 1.0, 2]}}
    assert len(token_jobs(job(parameters, search="grid"))) == 6


def test_the_table_holds_any_value_as_json(tmp_path: Path) -> None:
    config = job({"training.seed": {"choice": [1]}}, str(tmp_path))
    odd = {"training.seed": [float("nan"), float("inf"), None, {"a": "🙂"}, object]}
    found = Trial(0, "demo-000", "failed", odd, None, 0, 0.0, epsilon=float("inf"), error="no")

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    [row] = json.loads(to_json(config, [found]), parse_constant=refuse)["trials"]
    assert row["epsilon"] == "infinite"
    assert row["values"]["training.seed"][:4] == ["NaN", "Infinity", None, {"a": "🙂"}]


def test_settings_without_tokens_end_their_own_trials_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = job({"tokenizer.vocab_size": {"choice": [50, 600]}}, str(tmp_path), search="grid")
    problem = TokenizerError("too small")

    def check_job(job: JobConfig, **_: Any) -> Any:
        if job.tokenizer.vocab_size == 50:
            raise problem
        return type("Checked", (), {"key": "k", "tokens_key": "k"})

    monkeypatch.setattr(driver, "check_job", check_job)
    monkeypatch.setattr(driver, "make_tokens", lambda *_, **__: None)
    RunDirectory.of(config).claim(config, "local")
    problems = driver._prepare_tokens(config, RunDirectory.of(config), local=True)
    search = SweepSearch(config, [], {}, problems)
    told = [search.suggest(str(number)) for number in range(2)]
    assert [each["problem"] for each in told] == [problem, None]


def test_a_trial_without_tokens_says_why_and_keeps_its_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = job({"tokenizer.vocab_size": {"choice": [50, 600]}}, str(tmp_path), search="grid")
    RunDirectory.of(config).claim(config, "local")
    actor = run_trial(config, monkeypatch, problem=TokenizerError("50 is too small"))
    found = read_trial(config, 0)
    assert found is not None
    assert (found.state, found.error, found.values) == ("failed", "50 is too small", {"tokenizer.vocab_size": 50})
    assert [str(error) for error in actor._errors] == ["50 is too small"]


def test_a_trial_that_goes_on_takes_the_sweep_s_resources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trials of one actor share a TensorFlow, whose threads are set once."""
    config = job({"tokenizer.vocab_size": {"choice": [50, 600]}}, str(tmp_path), search="grid")
    RunDirectory.of(config).claim(config, "local")
    monkeypatch.setattr(trial, "drive_run", lambda *_, **__: None)
    run_trial(config, monkeypatch, cores=1)
    directory = trial_directory(config, 0)
    directory.update_status(state="stopped")
    assert directory.read_config().resources.cpus_per_worker == 1
    wider = config.resources.model_copy(update={"cpus_per_worker": 2, "max_failures": 7})
    RunDirectory.of(config).write_config(config.model_copy(update={"resources": wider}))
    run_trial(config, monkeypatch, cores=2)
    assert directory.read_config().resources == wider
    assert directory.read_config().tokenizer.vocab_size == 50


def run_trial(config: JobConfig, monkeypatch: pytest.MonkeyPatch, **more: Any) -> trial.TrialRunner:
    """Trial 0, in this process."""
    directory = RunDirectory.of(config)
    told = {"sweep_uri": directory.uri, "term": directory.enter().term, "number": 0, "local": True, "problem": None}
    told |= {"values": {"tokenizer.vocab_size": 50}, "cores": 1, **more}
    actor = object.__new__(trial.TrialRunner)
    actor._begin(told)
    actor._thread.join()
    return actor


def test_an_actor_begins_a_trial_when_its_figures_are_asked_for_and_not_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tune may start an actor for a trial that it then gives to another one."""
    config = job({"tokenizer.vocab_size": {"choice": [50, 600]}}, str(tmp_path), search="grid")
    directory = RunDirectory.of(config)
    directory.claim(config, "local")
    told = {"sweep_uri": directory.uri, "term": directory.enter().term, "number": 0, "local": True, "problem": None}
    told |= {"values": {"tokenizer.vocab_size": 50}, "cores": 1}
    began = list[str]()
    monkeypatch.setattr(trial, "drive_run", lambda uri, *_, **__: began.append(uri))
    actor = object.__new__(trial.TrialRunner)
    actor.setup(told)
    actor.cleanup()
    assert actor.reset_config(told)
    assert not began
    assert not trial_directory(config, 0).exists()
    assert actor.step()["done"]
    assert began == [trial_directory(config, 0).uri]


@pytest.mark.parametrize(("fails", "passes"), [([50], True), ([50, 600], False)])
def test_a_sweep_is_refused_only_where_no_trial_would_get_tokens(
    fails: list[int], passes: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from runner import driver as start

    config = job({"tokenizer.vocab_size": {"choice": [50, 600]}}, search="grid")

    def check_job(job: JobConfig) -> Any:
        if job.tokenizer.vocab_size in fails:
            raise TokenizerError(f"{job.tokenizer.vocab_size} is too small")
        return start.CheckedJob(job, "key", "key", None, None, ())

    monkeypatch.setattr(start, "check_job", check_job)
    if passes:
        assert check(config).config == config
        assert "50 is too small" in caplog.text
    else:
        with pytest.raises(TokenizerError, match="50 is too small"):
            check(config)


def test_a_trial_that_never_began_is_in_the_table_with_its_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = job({"tokenizer.vocab_size": {"choice": [50, 600]}}, str(tmp_path), search="grid")
    RunDirectory.of(config).claim(config, "local")
    monkeypatch.setattr(trial, "trial_job", lambda *_: (_ for _ in ()).throw(DataError("gone")))
    actor = run_trial(config, monkeypatch)
    table = driver._TableWriter(config, RunDirectory.of(config), [])
    told = {"number": 0, "values": {"tokenizer.vocab_size": 50}}
    for status, result in (("TERMINATED", actor.step()), ("ERROR", {}), ("TERMINATED", {})):
        table._look_at(type("TuneTrial", (), {"config": told, "last_result": result, "status": status}))
    assert [(each.state, each.error) for each in table.not_begun] == [
        ("failed", "gone"),
        ("lost", "its process is gone: killed, or out of memory"),
    ]
    assert threading.active_count() < 50
