"""Whole runs with records, token cache and run directory on a real S3 server."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from runner.generation.records import RecordMaker
from runner.generation.settings import SamplingSettings
from runner.generation.shards import make_shard
from runner.model.artifact import load_model
from runner.run_directory import RunDirectory
from runner.storage import Folder, open_folder
from tests.generation import make_run
from tests.runs import (
    history_of,
    race_for_the_budget,
    run_runner,
    small_job,
    start_runner,
    wait_for,
    weights_of,
    write_job,
    write_records,
)
from tests.s3.flaky_proxy import FlakyProxy
from tests.s3.radosgw import STRANGER, Radosgw

OUTAGE_S = 20.0


@pytest.fixture(scope="module")
def at_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run on local disk: what S3 must not change. Its records are beside it."""
    folder = tmp_path_factory.mktemp("home")
    write_records(folder / "records")
    job = small_job("demo", folder / "records", folder / "runs", epochs=3)
    run_runner("submit", write_job(folder / "job.yaml", job))
    return folder


@pytest.fixture
def s3_job(bucket: str, at_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The job of `at_home`, on S3, with an empty local cache."""
    folder = open_folder(f"s3://{bucket}/records")
    for path in (at_home / "records").iterdir():
        folder.write(path.name, path.read_bytes())
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return small_job("demo", f"s3://{bucket}/records", f"s3://{bucket}/runs", epochs=3)


def downloaded(run: Folder, target: Path) -> Path:
    for entry in run.list():
        path = target / entry.name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(run.read(entry.name))
    return target


def assert_same_run(run: Folder, at_home: Path, tmp_path: Path) -> None:
    copy = downloaded(run, tmp_path / "copy")
    assert weights_of(copy) == weights_of(at_home / "runs" / "demo")
    assert history_of(copy) == history_of(at_home / "runs" / "demo")


@pytest.mark.parametrize("cache_gib", [50, 0], ids=["local copy", "read by ranges"])
def test_a_run_on_s3_ends_with_the_weights_of_a_local_one_and_generates_to_s3(
    s3_job: dict[str, Any], bucket: str, at_home: Path, tmp_path: Path, cache_gib: int
) -> None:
    s3_job["data"]["cache_gib"] = cache_gib
    run_runner("submit", write_job(tmp_path / "job.yaml", s3_job))
    run = open_folder(f"s3://{bucket}/runs/demo")
    assert_same_run(run, at_home, tmp_path)
    assert bool(list((tmp_path / "cache").rglob("*.ids"))) == (cache_gib > 0)
    assert "demo: done" in run_runner("list", f"s3://{bucket}/runs").stdout
    assert "all epochs done" in run_runner("logs", run.uri).stdout
    run_runner("generate", run.uri, "-n", "7", "-o", f"s3://{bucket}/out/synthetic.parquet")
    (tmp_path / "synthetic.parquet").write_bytes(open_folder(f"s3://{bucket}/out").read("synthetic.parquet"))
    assert pq.read_table(tmp_path / "synthetic.parquet").num_rows == 7
    if cache_gib:
        synthetic = f"s3://{bucket}/out/synthetic.parquet"
        assert f"{run.uri}/report.html" in run_runner("report", run.uri, "--synthetic", synthetic).stdout
        assert b"7 synthetic records" in run.read("report.html")


@pytest.mark.timeout(400)
def test_a_server_away_for_20_seconds_in_mid_run_costs_nothing(
    s3_job: dict[str, Any], bucket: str, at_home: Path, tmp_path: Path, s3_server: Radosgw
) -> None:
    s3_job["training"] |= {"checkpoint_every_s": 0.5, "callbacks": ["tests.slow.pace:slow_steps"]}
    process = start_runner("submit", write_job(tmp_path / "job.yaml", s3_job), TEST_STEP_PAUSE_S="0.3")
    run = open_folder(f"s3://{bucket}/runs/demo")
    directory = RunDirectory(run)

    def steps() -> int:
        status = directory.status() if run.exists("status.json") else None
        return status.progress.get("total_steps", 0) if status else 0

    wait_for(lambda: process.poll() is not None or steps() > 2, every_s=0.5)
    before = steps()
    s3_server.stop_gateway()
    time.sleep(OUTAGE_S)
    s3_server.start_gateway()
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, f"{out}\n{err}"
    assert before < 69, "the outage was in mid-run"
    assert_same_run(run, at_home, tmp_path)


def test_a_run_with_one_in_twenty_requests_refused_ends_the_same(
    s3_job: dict[str, Any], bucket: str, at_home: Path, tmp_path: Path, flaky_s3: FlakyProxy
) -> None:
    s3_job["data"]["cache_gib"] = 0
    run_runner("submit", write_job(tmp_path / "job.yaml", s3_job))
    assert flaky_s3.faults > 0
    assert_same_run(open_folder(f"s3://{bucket}/runs/demo"), at_home, tmp_path)


def test_two_submitters_of_one_name_get_one_run(s3_job: dict[str, Any], bucket: str, tmp_path: Path) -> None:
    from runner.config import parse_job
    from runner.errors import RunExistsError

    config = parse_job(s3_job, environment={})
    outcomes: list[bool] = []

    def claim() -> None:
        try:
            RunDirectory.of(config).claim(config, "local")
            outcomes.append(True)
        except RunExistsError:
            outcomes.append(False)

    threads = [threading.Thread(target=claim) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == [False] * 5 + [True]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"AWS_ACCESS_KEY_ID": "nobody", "AWS_SECRET_ACCESS_KEY": "nothing"}, "keys"),
        ({"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}, "credentials"),
        ({"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, "reach"),
    ],
    ids=["wrong keys", "no keys", "no server"],
)
def test_storage_that_refuses_is_one_line_and_exit_code_3(
    s3_job: dict[str, Any], tmp_path: Path, change: dict[str, str], says: str
) -> None:
    done = run_runner("submit", write_job(tmp_path / "job.yaml", s3_job), expect=3, timeout_s=60, **change)
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert says in line


def test_a_bucket_that_does_not_exist_is_one_line(s3_job: dict[str, Any], tmp_path: Path) -> None:
    for section, field in (("data", "uri"), ("storage", "uri")):
        job = json.loads(json.dumps(s3_job))
        job[section][field] = "s3://no-such-bucket-here/x"
        done = run_runner("submit", write_job(tmp_path / "job.yaml", job), expect=3)
        (line,) = done.stderr.splitlines()
        assert "no-such-bucket-here" in line


def test_records_of_someone_else_s_bucket_are_refused(
    s3_job: dict[str, Any], s3_server: Radosgw, tmp_path: Path
) -> None:
    environment = STRANGER.environment(s3_server.endpoint)
    done = run_runner("validate", write_job(tmp_path / "job.yaml", s3_job), expect=3, **environment)
    (line,) = done.stderr.splitlines()
    assert "denied" in line


def test_of_two_private_runs_that_race_for_a_budget_on_s3_one_is_refused(
    s3_job: dict[str, Any], bucket: str, tmp_path: Path
) -> None:
    winner, told = race_for_the_budget(tmp_path, s3_job["data"]["uri"], s3_job["storage"]["uri"])
    assert "privacy.max_epsilon 1.2 does not pay for a single step" in told
    run = open_folder(f"s3://{bucket}/runs/{winner}")
    claim = json.loads(run.read("privacy.json"))
    assert claim["epsilon"] <= 1.2
    assert b"Privacy statement of run" in run.read("privacy.md")
    assert run.child("model").read("privacy.json") == run.read("privacy.json")
    assert [RunDirectory(open_folder(f"s3://{bucket}/runs/{name}")).exists() for name in ("first", "second")].count(
        True
    ) == 1


@pytest.mark.timeout(600)
def test_shards_on_s3_are_those_made_at_home_and_a_lost_one_is_made_again(
    bucket: str, tmp_path: Path, flaky_s3: FlakyProxy
) -> None:
    """With one in twenty requests refused."""
    run = make_run(tmp_path)
    arguments = ["generate", run.uri, "-n", "60", "--rows-per-shard", "20", "--quiet", "-o", f"s3://{bucket}/out/"]
    run_runner(*arguments, timeout_s=500)
    out, home = open_folder(f"s3://{bucket}/out"), open_folder(str(tmp_path / "out"))
    maker = RecordMaker(load_model(run.folder.child("model")), SamplingSettings(records_per_prompt=60))
    names = [f"part-{number:05d}.parquet" for number in range(3)]
    for number, name in enumerate(names):
        make_shard(maker, home, 20, number)
        assert out.read(name) == home.read(name)
    out.delete(names[1])
    run_runner(*arguments)
    assert out.read(names[1]) == home.read(names[1])
    assert flaky_s3.faults > 0
    out.child("_generation").delete("settings.json")
    done = run_runner(*arguments, expect=2)
    assert "holds other files, such as _generation/" in done.stderr
