"""What a sweep tries is drawn from its ranges, the same in every process, and checked before anything starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from runner.config import JobConfig, SweepConfig, parse_job
from runner.driver import check_changes
from runner.errors import ConfigError
from runner.sweep.space import (
    check_sweep,
    draw_values,
    longest_trial,
    metric_of,
    sweep_of,
    token_jobs,
    trial_count,
    trial_job,
    trial_name,
)
from runner.sweep.table import Trial, best_trial, ranked, read_trial, to_csv, to_json, trial_directory

UNITS = {"model.rnn_units": {"choice": [16, 32, 64]}}
RATE = {"training.optimizer.learning_rate": {"log_uniform": [1e-4, 1e-1]}}
DROPOUT = {"model.dropout_rate": {"uniform": [0.1, 0.5]}}
BATCH = {"training.batch_size": {"int": [8, 11]}}
ALL = UNITS | RATE | DROPOUT | BATCH


def job(parameters: dict[str, Any], name: str = "demo", **sweep: Any) -> JobConfig:
    document = {"name": name, "data": {"uri": "records/"}, "sweep": {"parameters": parameters, **sweep}}
    return parse_job(document, environment={})


def stored_in(folder: Path, config: JobConfig) -> JobConfig:
    return config.model_copy(update={"storage": config.storage.model_copy(update={"uri": str(folder)})})


def sweep(parameters: dict[str, Any], **settings: Any) -> SweepConfig:
    return sweep_of(job(parameters, **settings))


@pytest.mark.parametrize(
    "parameters",
    [
        {"model.dropout_rate": {"uniform": [0, 1]}},
        {"model.dropout_rate": {"log_uniform": [1e-3, 1]}},
        {"privacy.delta": {"log_uniform": [1e-9, 1]}},
        {"model.layers": {"int": [1, 16]}},
    ],
)
def test_a_range_may_end_at_what_is_never_drawn(parameters: dict[str, Any]) -> None:
    check_sweep(job(parameters, trials=3))


@pytest.mark.parametrize(
    "parameters",
    [
        {"model.dropout_rate": {"uniform": [0, 1.1]}},
        {"model.dropout_rate": {"uniform": [-0.1, 1]}},
        {"training.optimizer.learning_rate": {"log_uniform": [1e-3, 101]}},
        {"privacy.delta": {"uniform": [0, 1]}},
        {"model.layers": {"int": [1, 17]}},
    ],
)
def test_a_range_may_not_end_at_what_can_be_drawn_and_is_refused(parameters: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as caught:
        check_sweep(job(parameters, trials=1, seed=1))
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("kind", ["uniform", "log_uniform"])
@given(st.floats(1e-9, 1e9), st.integers(1, 3), st.integers(0, 100))
def test_what_is_drawn_is_never_out_of_a_range_however_small(kind: str, low: float, steps: int, number: int) -> None:
    """Logarithms and sums round; a range of two neighboring numbers has the lower one alone."""
    high = low
    for _ in range(steps):
        high = float(np.nextafter(high, np.inf))
    value = draw_values(sweep({"training.optimizer.learning_rate": {kind: [low, high]}}), number)
    assert low <= value["training.optimizer.learning_rate"] < high


@given(st.integers(0, 2**32 - 1), st.integers(0, 1000))
def test_values_are_in_their_ranges_and_a_function_of_seed_and_number(seed: int, number: int) -> None:
    values = draw_values(sweep(ALL, seed=seed), number)
    assert values == draw_values(sweep(ALL, seed=seed), number)
    assert values["model.rnn_units"] in (16, 32, 64)
    assert 1e-4 <= values["training.optimizer.learning_rate"] < 1e-1
    assert 0.1 <= values["model.dropout_rate"] < 0.5
    assert values["training.batch_size"] in range(8, 12)
    made = trial_job(job(ALL), 7, values)
    assert made.training.optimizer.learning_rate == values["training.optimizer.learning_rate"]
    assert (made.name, made.sweep) == ("demo-007", None)


def test_trials_keep_their_names_however_many_a_resume_adds() -> None:
    assert {trial_name(job(UNITS, trials=trials), 7) for trials in (8, 2000)} == {"demo-007"}


def test_values_have_the_distributions_that_the_job_names() -> None:
    drawn = [draw_values(sweep(ALL), number) for number in range(2000)]
    magnitudes = np.log10([values["training.optimizer.learning_rate"] for values in drawn])
    assert stats.kstest(magnitudes, stats.uniform(-4, 3).cdf).pvalue > 1e-3
    dropouts = [values["model.dropout_rate"] for values in drawn]
    assert stats.kstest(dropouts, stats.uniform(0.1, 0.4).cdf).pvalue > 1e-3
    for path, kinds in (("model.rnn_units", 3), ("training.batch_size", 4)):
        counts = np.unique([values[path] for values in drawn], return_counts=True)[1]
        assert len(counts) == kinds
        assert stats.chisquare(counts).pvalue > 1e-3
    assert abs(stats.spearmanr(magnitudes, dropouts).statistic) < 0.1


def test_a_grid_takes_every_point_once() -> None:
    grid = sweep(UNITS | BATCH, search="grid")
    points = [draw_values(grid, number) for number in range(trial_count(grid))]
    assert len(points) == 12
    assert len({tuple(point.values()) for point in points}) == 12
    assert trial_count(sweep(UNITS | BATCH, search="grid", trials=5)) == 5
    assert trial_count(sweep(UNITS | BATCH, search="grid", trials=50)) == 12
    assert trial_count(sweep(UNITS)) == 10


def test_a_sweep_survives_its_own_yaml() -> None:
    config = job(ALL)
    assert parse_job(yaml.safe_load(config.to_yaml()), environment={}) == config


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"model.rnn_unit": {"choice": [1]}}, "model.rnn_unit is not a field of a job; known there: embedding_dim,"),
        ({"model": {"choice": [1]}}, "model is a section; name one of embedding_dim"),
        ({"model.rnn_units.x": {"choice": [1]}}, "model.rnn_units.x is not a field of a job"),
        ({"storage.uri": {"choice": ["a"]}}, "storage.uri cannot be swept"),
        ({"privacy.unit": {"choice": ["a", "b"]}}, "privacy.unit cannot be swept; what trials cost adds up for one"),
        ({"model.rnn_units": {"choice": [-1]}}, "greater than or equal to 1"),
        ({"model.dropout_rate": {"uniform": [0.5, 0.5]}}, "uniform: the range from 0.5 to 0.5 is empty"),
        ({"training.batch_size": {"int": [9, 8]}}, "int: the range from 9 to 8 is empty"),
        ({"model.dropout_rate": {"log_uniform": [0, 0.5]}}, "log_uniform: must start above 0"),
        ({"model.dropout_rate": {}}, "takes exactly one of uniform, log_uniform, int and choice, not 0"),
        ({"model.rnn_units": {"choice": []}}, "model.rnn_units.choice"),
        ({}, "sweep.parameters"),
    ],
)
def test_parameters_that_cannot_be_are_refused_in_one_line(parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        check_sweep(job(parameters))
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"metric": "f1"}, "sweep.metric"),
        ({"trials": 0}, "sweep.trials"),
        ({"search": "grid", "parameters": RATE}, "search grid needs choice or int"),
        ({"scheduler": "median"}, "sweep.scheduler"),
        ({"name": "x" * 60}, "more than 63 characters"),
    ],
)
def test_settings_that_cannot_be_are_refused_in_one_line(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        check_sweep(job(**{"parameters": UNITS} | settings))
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_values_that_are_fine_alone_and_not_together_are_refused_before_anything_starts() -> None:
    parameters = {"privacy.noise_multiplier": {"choice": [1.0, 0.0]}, "privacy.max_epsilon": {"choice": [8.0]}}
    document = job(parameters, search="grid", metric="val_loss").model_dump(mode="json")
    document |= {"tokenizer": {"kind": "byte"}, "privacy": {"enabled": True, "noise_multiplier": 1.0}}
    with pytest.raises(ConfigError, match=r"noise_multiplier 0 gives no privacy: max_epsilon 8 cannot be kept"):
        check_sweep(parse_job(document, environment={}))


def test_a_private_sweep_has_to_name_its_metric() -> None:
    document = job(UNITS).model_dump(mode="json")
    document |= {"tokenizer": {"kind": "byte"}, "privacy": {"enabled": True, "noise_multiplier": 1.0}}
    with pytest.raises(ConfigError, match="epsilon does not"):
        check_sweep(parse_job(document, environment={}))
    document["sweep"]["metric"] = "val_loss"
    check_sweep(parse_job(document, environment={}))


def test_each_set_of_tokens_is_made_once() -> None:
    assert len(token_jobs(job(UNITS))) == 1
    vocabulary = {"tokenizer.vocab_size": {"choice": [100, 200]}}
    assert sorted(made.tokenizer.vocab_size for made in token_jobs(job(vocabulary | UNITS))) == [100, 200]
    found = token_jobs(job(vocabulary | UNITS, search="optuna"))
    assert sorted(made.tokenizer.vocab_size for made in found) == [100, 200]


def test_the_longest_trial_bounds_the_scheduler() -> None:
    assert longest_trial(job(UNITS)) == 15
    assert longest_trial(job({"training.epochs": {"int": [2, 40]}})) == 40


def test_the_best_metric_comes_first_and_failures_last() -> None:
    trials = [
        Trial(number, f"demo-00{number}", state, {"model.rnn_units": 16}, metric, 1, 2.0, error=error)
        for number, state, metric, error in (
            (0, "done", 1.5, None),
            (1, "failed", None, "no, thanks"),
            (2, "behind", 1.25, None),
            (3, "failed", 1.0, "late"),
            (4, "lost", 0.5, "cut off"),
        )
    ]
    config = job(UNITS)
    assert metric_of(sweep_of(config)) == ("val_loss", False)
    assert [trial.number for trial in ranked(config, trials)] == [2, 0, 1, 3, 4]
    best = best_trial(config, trials)
    assert best is not None
    assert best.number == 2
    larger = job(UNITS, metric="val_accuracy")
    assert [trial.number for trial in ranked(larger, trials)] == [0, 2, 1, 3, 4]
    lines = to_csv(config, trials).decode().splitlines()
    assert lines[0] == "rank,run,state,val_loss,model.rnn_units,epochs,seconds,epsilon,error"
    assert lines[3] == '3,demo-001,failed,,16,1,2.0,,"no, thanks"'
    assert b'"best": "demo-002"' in to_json(config, trials)
    assert best_trial(config, trials[1:2]) is None


def test_a_trial_whose_process_is_gone_says_so(tmp_path: Path) -> None:
    config = stored_in(tmp_path, job(UNITS))
    directory = trial_directory(config, 0)
    directory.claim(trial_job(config, 0, {"model.rnn_units": 16}), "local")
    directory.update_status(state="training", heartbeat=0.0, pid=2**22 + 1)
    trial = read_trial(config, 0)
    assert trial is not None
    assert (trial.state, trial.error) == ("lost", "its process is gone: killed, or out of memory")
    assert not trial.is_over


@pytest.mark.parametrize("trials", [1, 2])
def test_a_resume_takes_no_trial_away(trials: int, tmp_path: Path) -> None:
    """A private sweep's epsilon is that of all trials: those beyond a smaller number would not be counted."""
    before = stored_in(tmp_path, job(UNITS, trials=3))
    after = before.model_copy(update={"sweep": sweep(UNITS, trials=trials)})
    with pytest.raises(ConfigError, match=r"--set sweep\.trials: a resume can add trials to the 3"):
        check_changes(before, after)
    check_changes(before, before.model_copy(update={"sweep": sweep(UNITS, trials=4)}))


def test_a_grid_too_large_to_look_at_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"2,000,000,000 trials are more than 10,000"):
        check_sweep(job({"training.seed": {"int": [1, 2_000_000_000]}}, search="grid"))


def test_privacy_is_not_swept() -> None:
    with pytest.raises(ConfigError, match="all trials are private, or none is"):
        check_sweep(job({"privacy.enabled": {"choice": [True, False]}}))
