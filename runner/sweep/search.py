"""Which trial comes next: Ray Tune asks, trial by trial, and hears how each ended."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from ray.tune.search import Searcher

from runner.config import JobConfig, ParameterConfig
from runner.errors import ConfigError, RunnerError
from runner.sweep.space import (
    Values,
    draw_values,
    exact_text,
    metric_of,
    sweep_of,
    token_settings,
    trial_count,
    trial_job,
    value_at,
)
from runner.sweep.table import Trial, read_trial

log = logging.getLogger(__name__)


class SweepSearch(Searcher):
    """Hands out the trials that are not over, by number, with the values that they began with or new ones.

    Optuna is told of the trials that were over before.
    """

    def __init__(
        self,
        config: JobConfig,
        begun: list[Trial],
        shared: dict[str, Any],
        problems: Mapping[str, RunnerError] | None = None,
    ) -> None:
        """`begun`: the trials that a sweep which goes on has made so far. `shared`: what every trial is told.

        `problems`: why there are no tokens, by the settings of which there are none.
        """
        self._config = config
        self._problems = problems or {}
        self._shared = shared
        self._sweep = sweep_of(config)
        self._metric_name, larger_is_better = metric_of(self._sweep)
        super().__init__(metric=self._metric_name, mode="max" if larger_is_better else "min")
        self._begun = {trial.number: trial for trial in begun}
        self._left = [
            number
            for number in range(trial_count(self._sweep))
            if number not in self._begun or not self._begun[number].is_over
        ]
        self._numbers: dict[str, int] = {}
        self._optuna = self._make_optuna() if self._sweep.search == "optuna" else None
        self.is_closed = False
        """No trial begins any more."""

    def suggest(self, trial_id: str) -> Any:
        if self.is_closed or not self._left:
            return Searcher.FINISHED
        number = self._numbers[trial_id] = self._left.pop(0)
        values = self._values(trial_id, number)
        return {"number": number, "values": values, "problem": self._problem(number, values), **self._shared}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:  # noqa: ARG002
        """Tell Optuna the figure that the table ranks the trial by; `result` has the last epoch's, or none."""
        number = self._numbers.pop(trial_id)
        if self._optuna is None:
            return
        trial = read_trial(self._config, number)
        figure = trial.metric if trial is not None and trial.has_model and not error else None
        if number not in self._begun:
            told = None if figure is None else {self._metric_name: figure}
            self._optuna.on_trial_complete(trial_id, told, error=figure is None)
        elif figure is not None:  # Optuna did not suggest it in this process.
            self._tell(self._optuna, self._begun[number], figure)

    def __deepcopy__(self, memo: dict[int, Any]) -> SweepSearch:
        """Tune works with a copy; it has to be this one, which can be closed."""
        return self

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the run directories say all."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: see `save`."""

    def _values(self, trial_id: str, number: int) -> Values:
        if number in self._begun:
            return self._begun[number].values
        if self._optuna is None:
            return draw_values(self._sweep, number)
        places = self._optuna.suggest(trial_id)
        parameters = self._sweep.parameters
        return {
            path: place if (choice := parameters[path].choice) is None else choice[place]
            for path, place in places.items()
        }

    def _problem(self, number: int, values: Values) -> RunnerError | None:
        if not self._problems:
            return None
        try:
            return self._problems.get(token_settings(trial_job(self._config, number, values)))
        except ConfigError:
            return None  # The trial says so itself.

    def _make_optuna(self) -> Any:
        import optuna
        from ray.tune.search.optuna import OptunaSearch

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        space = {path: _distribution(parameter) for path, parameter in self._sweep.parameters.items()}
        seed = self._sweep.seed + len(self._begun)  # Or a sweep that goes on would draw its first values again.
        search = OptunaSearch(space, metric=self.metric, mode=self.mode, seed=seed)
        for trial in self._begun.values():
            if trial.is_over and trial.metric is not None:
                self._tell(search, trial, trial.metric)
        return search

    def _tell(self, optuna: Any, trial: Trial, figure: float) -> None:
        """Tell Optuna of a trial that an earlier process made."""
        places = {path: self._place(trial, path) for path in self._sweep.parameters}
        if None in places.values():
            log.warning("%s: its values are none of this sweep's; Optuna does not learn from it", trial.run)
        else:
            optuna.add_evaluated_point(places, figure)

    def _place(self, trial: Trial, path: str) -> float | None:
        """What Optuna calls the value of a trial's job, where '16' is 16, and null may stand for something."""
        parameter, value = self._sweep.parameters[path], trial.values[path]
        if parameter.choice is None:
            return int(value) if parameter.integers is not None else float(value)
        texts = [exact_text(choice) for choice in parameter.choice]
        wanted = exact_text(value)
        if wanted in texts:
            return texts.index(wanted)
        for place, choice in enumerate(parameter.choice):
            try:
                job = trial_job(self._config, trial.number, trial.values | {path: choice})
            except ConfigError:
                continue
            if exact_text(value_at(job, path)) == wanted:
                return place
        return None


def _distribution(parameter: ParameterConfig) -> Any:
    """Optuna's range for a parameter; of a choice the places, since Optuna takes 1 and true for the same value."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if parameter.choice is not None:
        return CategoricalDistribution(range(len(parameter.choice)))
    if parameter.integers is not None:
        return IntDistribution(*parameter.integers)
    if parameter.uniform is not None:
        return FloatDistribution(*parameter.uniform)
    assert parameter.log_uniform is not None
    return FloatDistribution(*parameter.log_uniform, log=True)
