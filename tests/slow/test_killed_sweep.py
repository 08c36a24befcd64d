"""A sweep killed with -9 and resumed: trials that were over stay as they were, the others end as if unharmed."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.runs import (
    history_of,
    run_runner,
    small_job,
    start_runner,
    status_of,
    wait_for,
    weights_of,
    write_job,
    write_records,
)

TRIALS = 4
SWEEP = {
    "parameters": {"model.rnn_units": {"choice": [8, 12, 16, 20]}},
    "search": "grid",
    "max_concurrent": 2,
}


@pytest.mark.timeout(900)
def test_a_killed_sweep_goes_on_without_repeating_trials_that_were_over(tmp_path: Path) -> None:
    records, runs = write_records(tmp_path / "records"), tmp_path / "runs"
    training = {"epochs": 4, "checkpoint_every_s": 0.4, "callbacks": ["tests.slow.pace:slow_steps"]}
    jobs = {name: small_job(name, records, runs, **training) | {"sweep": SWEEP} for name in ("unharmed", "killed")}
    run_runner("submit", write_job(tmp_path / "unharmed.yaml", jobs["unharmed"]), TEST_STEP_PAUSE_S="0")
    trials = [runs / f"killed-{number:03d}" for number in range(TRIALS)]

    def over() -> list[Path]:
        return [trial for trial in trials if status_of(trial).get("state") == "done"]

    process = start_runner("submit", write_job(tmp_path / "killed.yaml", jobs["killed"]), TEST_STEP_PAUSE_S="0.05")
    wait_for(lambda: over() and any(status_of(trial).get("state") == "training" for trial in trials))
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = {trial: (trial / "status.json").read_bytes() for trial in over()}
    assert before
    assert len(before) < TRIALS
    run_runner("resume", runs / "killed", TEST_STEP_PAUSE_S="0")
    for trial, status in before.items():
        assert (trial / "status.json").read_bytes() == status, "this trial was over"
    for number, trial in enumerate(trials):
        unharmed = runs / f"unharmed-{number:03d}"
        assert weights_of(trial) == weights_of(unharmed)
        assert history_of(trial) == history_of(unharmed)
    figures = [
        [line.split(",")[2:5] for line in (runs / name / "sweep.csv").read_text().splitlines()]
        for name in ("killed", "unharmed")
    ]
    assert figures[0] == figures[1]
    assert (runs / "killed" / "model" / "weights.safetensors").read_bytes() == (
        runs / "unharmed" / "model" / "weights.safetensors"
    ).read_bytes()
