"""What takes minutes with two workers: another number of workers on resume, and an error in one of them."""

from __future__ import annotations

from pathlib import Path

from tests.ray.test_workers import CALM, assert_same_curves, submit
from tests.runs import run_runner, small_job, status_of, write_job, write_records


def test_a_run_begun_on_one_worker_goes_on_on_two(tmp_path: Path) -> None:
    records, runs = write_records(tmp_path / "records"), tmp_path / "runs"
    on_one_worker = submit(tmp_path, small_job("one", records, runs, **CALM))
    run = submit(tmp_path, small_job("grown", records, runs, **(CALM | {"epochs": 2})))
    run_runner("resume", run, "--set", "training.epochs=3", "--set", "resources.workers=2")
    assert_same_curves(run, on_one_worker)


def test_a_user_s_error_on_two_workers_ends_the_run_with_one_line(tmp_path: Path) -> None:
    records, runs = write_records(tmp_path / "records"), tmp_path / "runs"
    job = small_job("raising2", records, runs, epoch_callback="tests.ray.observers:complain")
    job["resources"] = {"workers": 2}
    done = run_runner("submit", write_job(tmp_path / "job.yaml", job), expect=1)
    errors = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert errors == ["error: training.epoch_callback raised ValueError: no more"]
    assert status_of(runs / "raising2")["state"] == "failed"


def test_more_workers_than_this_machine_has_cores_for_are_refused(tmp_path: Path) -> None:
    job = small_job("crowd", write_records(tmp_path / "records"), tmp_path / "runs") | {"resources": {"workers": 999}}
    done = run_runner("submit", write_job(tmp_path / "job.yaml", job), expect=3)
    assert "999 workers of 1 CPUs need 999, but this machine has" in done.stderr
    assert "lower resources.workers" in done.stderr
