"""The settings that `runner init` picks for a table make a job that can be trained, whatever its size."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from runner.cli import cli
from runner.config import load_job, parse_job
from runner.data.batches import BatchPlan
from runner.table_settings import EPOCHS, STEPS, TIMES_FOR_TEXTS, table_settings


@given(st.integers(1, 10**9), st.booleans())
def test_any_table_can_be_trained_on_and_validated_with(rows: int, has_texts: bool) -> None:
    sections = table_settings(rows, has_texts=has_texts)
    settings = parse_job({"name": "x", "data": {"uri": "x"}} | sections, environment={}).training
    assert settings.validation_split
    assert settings.save_best
    assert settings.batch_size <= 1024
    if rows < 2:
        return
    assert 2 * settings.batch_size <= rows
    if rows > 10**6:
        return  # The plan counts all of them.
    plan = BatchPlan(rows, settings.batch_size, settings.seed, settings.validation_split)
    assert plan.training_steps
    assert plan.validation_steps
    times = TIMES_FOR_TEXTS if has_texts else 1
    planned = settings.epochs * plan.training_steps
    assert settings.epochs in EPOCHS or STEPS[0] * 0.7 <= planned / times <= STEPS[1] * 1.3


@pytest.mark.parametrize(("rows", "batch_size"), [(200, 16), (20_000, 256)])
def test_init_writes_the_settings_of_the_table_that_it_finds(tmp_path: Path, rows: int, batch_size: int) -> None:
    (tmp_path / "records").mkdir()
    table = pa.table({"sex": ["f", "m"] * (rows // 2), "age": [20 + row % 70 for row in range(rows)]})
    pq.write_table(table, tmp_path / "records" / "a.parquet")
    job = tmp_path / "job.yaml"
    done = CliRunner().invoke(cli, ["init", str(job), "--data", str(tmp_path / "records")])
    assert done.exit_code == 0, done.output
    config = load_job(job, environment={})
    assert config.training.batch_size == batch_size
    assert config.training.optimizer.schedule is not None
    texts = CliRunner().invoke(cli, ["init", str(job), "--force", "--data", str(tmp_path / "nothing")])
    assert texts.exit_code == 0, texts.output
    assert load_job(job, environment={}) == parse_job(
        {"name": "my-run", "data": {"uri": str(tmp_path / "nothing")}}, environment={}
    )
