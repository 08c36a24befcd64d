"""What `runner plan` says before a run, beside what the run then does."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

from runner.config import parse_job
from runner.errors import ConfigError
from runner.submit.launch import Launch
from runner.submit.start import start_run
from runner.train.cost import check_cost, describe_cost, estimate_cost, in_lines
from runner.train.facade import check_job
from runner.train.findings import describe_check
from tests.runs import small_job
from tests.table_records import DECLARED, FIELDS, table_job, write_table

PRIVATE = {"enabled": True, "noise_multiplier": 1.0, "delta": 1e-4, "l2_norm_clip": 1.0}


def estimate(job: dict[str, Any]) -> dict[str, Any]:
    return describe_cost(estimate_cost(check_job(parse_job(job, environment={})), 4), 1, None)


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_table(tmp_path_factory.mktemp("people"))


def test_a_run_takes_the_steps_tokens_and_weights_that_were_estimated(records: Path, tmp_path: Path) -> None:
    job = small_job("planned", records, tmp_path / "runs", epochs=3)
    found = estimate(job)
    assert not (tmp_path / "runs").exists(), "an estimate writes nothing"
    start_run(parse_job(job, environment={}), Launch(quiet=True))
    run = tmp_path / "runs" / "planned"
    with (run / "history.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    weights = load_file(run / "model" / "weights.safetensors")
    assert found["steps"] == sum(int(row["steps"]) for row in rows)
    assert found["parameters"] == sum(weight.size for weight in weights.values())
    tokens = sum(float(row["tokens_per_second"]) * float(row["seconds"]) for row in rows) / found["steps"]
    assert found["tokens_of_a_step"] == pytest.approx(tokens, rel=0.05)
    assert estimate(job)["steps"] == found["steps"], "of tokens that are there the answer is the same"


@pytest.mark.parametrize(
    ("fields", "privacy"),
    [
        ({name: field for name, field in DECLARED.items() if name != "note"}, {"method": "marginals", "draws": 1000}),
        (DECLARED, {"method": "marginals"}),
        (DECLARED, {"method": "steps"}),
        (DECLARED, {"method": "steps", "unit": "customer", "max_records_per_unit": 2}),
    ],
    ids=["draws", "texts", "steps", "persons"],
)
def test_a_private_job_is_estimated_and_nothing_is_charged(
    people: Path, tmp_path: Path, fields: dict[str, Any], privacy: dict[str, Any]
) -> None:
    job = table_job("private", people, tmp_path / "runs") | {"fields": fields}
    if privacy["method"] == "marginals":
        job["privacy"] = {"enabled": True, "target_epsilon": 8.0, "delta": 1e-4, **privacy}
    else:
        job["privacy"] = PRIVATE | privacy
    found = estimate(job)
    assert not (tmp_path / "runs").exists()
    checked = describe_check(check_job(parse_job(job, environment={})))
    assert ("before_s" in found) == ("planned_steps" in checked and privacy["method"] == "marginals")
    if "planned_steps" in checked:
        assert found["steps"] == checked["planned_steps"], "what the accountant is asked for"
    else:
        batches = -(-1000 // 32)
        assert found["steps"] == 2 * (batches - -(-batches // 5))
    assert found["step_s"] > 0


def test_a_schema_that_is_bought_is_not_known(people: Path, tmp_path: Path) -> None:
    job = table_job("bought", people, tmp_path / "runs") | {
        "fields": DECLARED | {"plan": FIELDS["plan"]},
        "privacy": {"enabled": True, "target_epsilon": 8.0, "delta": 1e-4},
    }
    with pytest.raises(ConfigError, match="declare it for an estimate"):
        estimate(job)


def test_replicas_share_a_batch(records: Path, tmp_path: Path) -> None:
    job = small_job("shared", records, tmp_path / "runs") | {"resources": {"workers": 4}}
    found = estimate(job)
    assert (found["replicas"], found["rows_of_a_replica"]) == (4, 8)
    assert found["worker_hours"] == pytest.approx(found["seconds"] * 4 / 3600)


FOUND: dict[str, Any] = {
    "machine": "a processor",
    "parameters": 226_775,
    "replicas": 2,
    "rows_of_a_replica": 128,
    "microbatch_size": 64,
    "memory_bytes": 3 << 29,
    "tokens_of_a_step": 3134,
    "steps": 1260,
    "validation_batches": 320,
    "step_s": 0.0846,
    "validation_batch_s": 0.0747,
    "trials": 10,
    "seconds": 130.5,
    "worker_hours": 0.725,
    "gpu_hours": 1.45,
    "price": 1.8125,
}


def test_a_reader_sees_each_figure() -> None:
    assert list(in_lines(FOUND)) == [
        "timed on: a processor",
        "parameters: 226,775",
        "a step: 128 records on each of 2 replicas, 64 of them at once",
        "memory: 1.50 GiB at most",
        "steps: 1,260 of 84.6 ms and 3,134 tokens",
        "validation: 320 batches of 74.7 ms",
        "a run: 0:02:10 at most, from its first step to its last",
        "trials: 10, as long as this run each",
        "hours of workers: 0.72",
        "hours of GPUs: 1.45",
        "price: 1.81",
    ]


def test_a_job_above_its_most_cost_is_refused() -> None:
    check_cost(FOUND, None)
    check_cost(FOUND, 1.9)
    with pytest.raises(ConfigError, match=r"would cost 1\.81, more than resources\.max_cost 1\.8;"):
        check_cost(FOUND, 1.8)
    with pytest.raises(ConfigError, match="give --price-per-hour"):
        check_cost({name: value for name, value in FOUND.items() if name != "price"}, 1.8)
