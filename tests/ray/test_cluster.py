"""A job on a cluster that was started with `ray start`, through the Jobs API with token authentication."""

from __future__ import annotations

import json
import subprocess
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from runner.privacy.budget import SpendingLedger
from runner.storage import open_folder
from tests.generation import make_run
from tests.ray.cluster import AUTH, TOKEN, free_port
from tests.runs import ROOT, history_of, run_runner, small_job, wait_for, weights_of, write_job
from tests.table_records import DECLARED, table_job, write_table


def test_the_cluster_lacks_the_package(cluster_python: Path, tmp_path: Path) -> None:
    """Else the tests below would not show that it travels."""
    done = subprocess.run([cluster_python, "-c", "import ray, runner"], cwd=tmp_path, capture_output=True, text=True)
    assert "No module named 'runner'" in done.stderr


def test_a_job_on_a_cluster_trains_to_a_model_and_status_and_logs_outlive_it(
    cluster: str, records: Path, runs: Path, tmp_path: Path
) -> None:
    job = write_job(tmp_path / "job.yaml", small_job("remote", records, runs, epochs=2))
    done = run_runner("submit", job, "--on", "ray", "--address", cluster, "--json", **AUTH)
    answer = json.loads(done.stdout)
    assert answer["state"] == "done"
    run = runs / "remote"
    assert weights_of(run)
    assert len(history_of(run)) == 2
    assert "done" in run_runner("status", run).stdout
    assert "all epochs done" in run_runner("logs", run).stdout
    assert "remote: done" in run_runner("list", runs).stdout


def test_a_callback_of_the_user_s_travels_with_the_job(cluster: str, records: Path, runs: Path, tmp_path: Path) -> None:
    heard = tmp_path / "heard"
    (tmp_path / "my_callbacks.py").write_text(
        f"def listen(state):\n    open({str(heard)!r}, 'a').write(f'{{state.epoch}} ')\n"
    )
    job = small_job("travelled", records, runs, epochs=2, epoch_callback="my_callbacks:listen")
    run_runner("submit", write_job(tmp_path / "job.yaml", job), "--on", "ray", "--address", cluster, **AUTH)
    assert heard.read_text() == "0 1 "


KILLED_ONCE = """
import os, shutil, signal
from pathlib import Path

def kill_once(state):
    run, before = Path({run!r}), Path({before!r})
    if state.epoch == 1 and not before.exists():
        shutil.copytree(run / "private", before)
        os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_run_on_draws_draws_its_noise_once_on_two_workers_of_which_one_is_killed(
    cluster: str, tmp_path: Path
) -> None:
    """Killed in its second epoch, brought back by the cluster, and resumed by the user for one more."""
    run, before = tmp_path / "runs" / "drawn", tmp_path / "before"
    (tmp_path / "my_killer.py").write_text(KILLED_ONCE.format(run=str(run), before=str(before)))
    table = write_table(tmp_path / "records")
    job = table_job("drawn", table, tmp_path / "runs", epochs=2, epoch_callback="my_killer:kill_once")
    job["fields"] = {name: field for name, field in DECLARED.items() if name != "note"}
    job["training"] |= {"early_stopping": {"enabled": False}, "save_best": False}
    job |= {"privacy": {"enabled": True, "target_epsilon": 4.0, "draws": 1000}, "resources": {"workers": 2}}
    there = ("--on", "ray", "--address", cluster)
    slow: dict[str, Any] = {"cwd": tmp_path, "timeout_s": 900, **AUTH}
    run_runner("submit", write_job(tmp_path / "job.yaml", job), *there, **slow)
    drawn = {file.name: file.read_bytes() for file in before.iterdir()}
    assert {"columns.json", "pairs.json", "ledger.json", "key"} <= set(drawn)
    assert len(history_of(run)) == 2
    run_runner("resume", run, "--set", "training.epochs=3", *there, **slow)
    assert len(history_of(run)) == 3
    for name in ("columns.json", "pairs.json", "key"):
        assert (run / "private" / name).read_bytes() == drawn[name], f"{name} was drawn twice"
    report = json.loads((run / "privacy.json").read_text())
    assert [release["name"] for release in report["releases"]] == ["columns", "pairs"]
    assert 3.99 < report["epsilon"] <= 4.0
    entries = SpendingLedger(open_folder(str(run.parent))).read()
    assert {entry.run_id for entry in entries} == {entries[0].run_id}
    assert len(entries[-1].releases) == 2


@pytest.mark.parametrize(
    ("environment", "says"),
    [
        ({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "f" * 32}, "refused the token"),
        ({}, "refused the token"),
    ],
    ids=["wrong token", "no token"],
)
def test_a_cluster_that_refuses_the_token_is_one_line_and_nothing_is_written(
    cluster: str, records: Path, tmp_path: Path, environment: dict[str, str], says: str
) -> None:
    job = write_job(tmp_path / "job.yaml", small_job("refused", records, tmp_path / "runs"))
    done = run_runner("submit", job, "--on", "ray", "--address", cluster, expect=3, **environment)
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert says in line
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("records_uri", "ends_as", "says"),
    [
        ("s3://bucket/away/", "FAILED", "check the network and AWS_ENDPOINT_URL"),
        ("none/", "STOPPED", "error: none/: no Parquet files"),
    ],
    ids=["what may pass", "what stays wrong"],
)
def test_a_rayjob_s_driver_fails_only_where_another_cluster_may_help(
    cluster: str, tmp_path: Path, records_uri: str, ends_as: str, says: str
) -> None:
    """KubeRay starts a job anew that ended as FAILED, and not one that ended as STOPPED."""
    job = write_job(tmp_path / "job.yaml", small_job("driven", records_uri, tmp_path / "runs"))
    nowhere = {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{free_port()}"}
    keys = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_EC2_METADATA_DISABLED": "true"}
    variables = {"RUNNER_NAMESPACE": "team", "PYTHONPATH": str(ROOT), **nowhere, **keys}
    asked = {"entrypoint": f"python -m runner.scheduled {job}", "runtime_env": {"env_vars": variables}}
    submitted = call_jobs_api(cluster, "", asked)["submission_id"]
    wait_for(lambda: call_jobs_api(cluster, submitted)["status"] not in ("PENDING", "RUNNING"))
    assert call_jobs_api(cluster, submitted)["status"] == ends_as
    assert says in call_jobs_api(cluster, f"{submitted}/logs")["logs"]


def call_jobs_api(cluster: str, path: str, body: dict[str, Any] | None = None) -> Any:
    request = urllib.request.Request(
        f"{cluster}/api/jobs/{path}",
        json.dumps(body).encode() if body else None,
        {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


def test_shards_made_on_a_cluster_are_those_made_here(cluster: str, tmp_path: Path) -> None:
    run = make_run(tmp_path)
    (tmp_path / "my_rules.py").write_text("def no_x(record):\n    return None if record['x'] else 'x is empty'\n")
    arguments = ["generate", run.uri, "-n", 150, "--rows-per-shard", 50, "--json"]
    arguments += ["--set", "generation.validator=my_rules:no_x", "--set", "generation.max_invalid=0.99"]
    on_cluster = ["-o", tmp_path / "there", "--on", "ray", "--address", cluster]
    answer = json.loads(run_runner(*arguments, *on_cluster, cwd=tmp_path, **AUTH).stdout)
    assert (answer["records"], answer["shards"]) == (150, 3)
    assert "done - 150 records in 3 files" in run_runner("status", tmp_path / "there").stdout
    run_runner(*arguments, "-o", tmp_path / "here", cwd=tmp_path)
    for number in range(3):
        name = f"part-{number:05d}.parquet"
        assert (tmp_path / "there" / name).read_bytes() == (tmp_path / "here" / name).read_bytes()
