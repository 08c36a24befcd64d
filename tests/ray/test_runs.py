"""Whole runs on one local worker: what they leave behind, how they end, how they go on."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load

from runner.config import JobConfig, parse_job
from runner.errors import ConfigError, DataError, JobFailedError, TokenizerError
from runner.run_directory import RunDirectory
from runner.submit.launch import Launch
from runner.submit.start import resume_run, start_run
from tests.ray import observers
from tests.runs import history_of, names_of_no_run, small_job, status_of, weights_of, write_records


def config_of(job: dict[str, Any], **sections: Any) -> JobConfig:
    return parse_job(job | sections, environment={})


def train(job: dict[str, Any], **sections: Any) -> Path:
    """Run a job here; its run directory."""
    config = config_of(job, **sections)
    start_run(config, Launch(quiet=True))
    return Path(config.storage.uri) / config.name


def resume(run: Path, *overrides: str) -> None:
    directory = RunDirectory.find(str(run))
    resume_run(directory, overrides, Launch(quiet=True))


def generate(run: Path, n: int, **settings: Any) -> Any:
    """Records of a run's model."""
    from runner.generation.records import RecordMaker
    from runner.generation.settings import SamplingSettings
    from runner.model.artifact import load_model

    model = load_model(RunDirectory.find(str(run)).folder.child("model"))
    return RecordMaker(model, SamplingSettings(**settings, records_per_prompt=n)).make(n)


@pytest.fixture(scope="module")
def trained(records: Path, runs: Path) -> Path:
    return train(small_job("trained", records, runs, epochs=3))


def test_a_run_leaves_all_it_promises(trained: Path) -> None:
    for name in (
        "job.yaml",
        "status.json",
        "history.csv",
        "tokenizer/tokenizer.json",
        "model/weights.safetensors",
        "model/model.json",
        "model/tokenizer.json",
        "model/manifest.json",
    ):
        assert (trained / name).is_file(), name
    assert list((trained / "logs").glob("*.log"))
    assert len(list((trained / "checkpoints").iterdir())) == 2
    assert status_of(trained)["state"] == "done"
    assert names_of_no_run(trained) == []


def test_history_has_a_row_an_epoch_and_one_best_row(trained: Path) -> None:
    rows = history_of(trained)
    assert [row["epoch"] for row in rows] == ["0", "1", "2"]
    assert sorted(row["best"] for row in rows) == ["0", "0", "1"]
    losses = [float(row["loss"]) for row in rows]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.8 * math.log(24), "three epochs must beat guessing among the characters"
    best = min(rows, key=lambda row: float(row["val_loss"]))
    assert best["best"] == "1"


def test_with_a_moving_average_the_model_holds_it_and_training_goes_on_from_the_weights(
    records: Path, runs: Path
) -> None:
    def train_averaged(name: str, momentum: float | None) -> tuple[Path, list[dict[str, Any]]]:
        observers.seen_weights.clear()
        optimizer = {"name": "adam", "learning_rate": 0.01, "ema_momentum": momentum}
        callbacks = ["tests.ray.observers:see_weights"]
        run = train(small_job(name, records, runs, save_best=False, optimizer=optimizer, callbacks=callbacks))
        return run, list(observers.seen_weights)

    plain, weights = train_averaged("unaveraged", None)
    averaged, same_weights = train_averaged("averaged", 0.8)
    model = load((averaged / "model" / "weights.safetensors").read_bytes())
    for name, expected in weights[0].items():
        for step, later in enumerate(weights):
            assert np.array_equal(same_weights[step][name], later[name])
            expected = later[name] if step == 0 else 0.8 * expected + 0.2 * later[name]
        assert np.abs(model[name] - expected).max() < 1e-6
    assert [row["loss"] for row in history_of(plain)] == [row["loss"] for row in history_of(averaged)]
    assert [row["val_loss"] for row in history_of(plain)] != [row["val_loss"] for row in history_of(averaged)]


def test_nothing_measured_on_the_records_is_in_the_model(trained: Path) -> None:
    loss = history_of(trained)[-1]["loss"]
    for file in (trained / "model").iterdir():
        content = file.read_bytes()
        assert loss.encode() not in content
        assert b'"loss"' not in content


def test_the_same_job_gives_the_same_weights_bit_for_bit(trained: Path, records: Path, runs: Path) -> None:
    again = train(small_job("again", records, runs, epochs=3))
    assert weights_of(again) == weights_of(trained)
    assert history_of(again) == history_of(trained)


def test_another_seed_gives_other_weights(trained: Path, records: Path, runs: Path) -> None:
    assert weights_of(train(small_job("seeded", records, runs, epochs=3, seed=5))) != weights_of(trained)


def test_tokens_are_prepared_once_for_all_runs_that_share_them(trained: Path, records: Path, runs: Path) -> None:
    cache = runs / ".cache" / "tokens"
    before = {path: path.stat().st_mtime_ns for path in cache.rglob("*")}
    train(small_job("shared", records, runs, epochs=1, batch_size=64))
    assert {path: path.stat().st_mtime_ns for path in cache.rglob("*")} == before


def test_a_damaged_token_cache_is_made_again(records: Path, tmp_path: Path) -> None:
    job = small_job("damaged", records, tmp_path, epochs=1)
    train(job)
    next((tmp_path / ".cache").rglob("*.ids")).unlink()
    train(job, storage={"uri": str(tmp_path), "overwrite": True})
    assert list((tmp_path / ".cache").rglob("*.ids"))


def test_resume_after_every_checkpoint_was_damaged_but_one_goes_on_from_that(
    trained: Path, records: Path, runs: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = train(small_job("flipped", records, runs, epochs=2))
    older, newest = sorted((run / "checkpoints").iterdir())
    tensors = newest / "tensors.safetensors"
    content = bytearray(tensors.read_bytes())
    content[-1] ^= 1
    tensors.write_bytes(content)
    resume(run, "training.epochs=3")
    assert f"skipping the checkpoint of step {int(newest.name[5:])}" in caplog.text
    assert f"continuing from step {int(older.name[5:])}" in caplog.text
    assert weights_of(run) == weights_of(trained)
    assert history_of(run) == history_of(trained)


def test_resume_of_a_finished_run_changes_nothing(trained: Path) -> None:
    before = weights_of(trained), history_of(trained)
    resume(trained)
    assert (weights_of(trained), history_of(trained)) == before


def test_resume_refuses_what_the_weights_depend_on(trained: Path) -> None:
    with pytest.raises(ConfigError, match="a resume cannot change this"):
        resume(trained, "model.rnn_units=99")


def test_resume_refuses_changed_records(tmp_path: Path) -> None:
    records = write_records(tmp_path / "records", count=200)
    run = train(small_job("changed", records, tmp_path / "runs", epochs=1))
    write_records(tmp_path / "records", count=210)
    with pytest.raises(DataError, match="the records changed"):
        resume(run, "training.epochs=2")
    assert status_of(run)["state"] == "failed"


def test_the_epoch_callback_hears_every_epoch(records: Path, runs: Path) -> None:
    observers.heard.clear()
    run = train(small_job("heard", records, runs, epochs=2, epoch_callback="tests.ray.observers:listen"))
    rows = history_of(run)
    assert [repr(state.val_loss) for state in observers.heard] == [row["val_loss"] for row in rows]
    assert [state.epoch for state in observers.heard] == [0, 1]
    assert observers.heard[0].epsilon is None


def test_a_run_that_fails_leaves_the_epochs_and_the_model_that_it_had(records: Path, runs: Path) -> None:
    whole = train(small_job("unfailed", records, runs, epochs=3))
    job = small_job("raising", records, runs, epochs=9, epoch_callback="tests.ray.observers:complain_later")
    line = "training.epoch_callback raised ValueError: no more; model/ has epoch 2"
    with pytest.raises(JobFailedError, match=line):
        train(job)
    run = runs / "raising"
    assert (status_of(run)["state"], status_of(run)["error"]) == ("failed", line)
    assert not status_of(run)["may_pass"]
    assert history_of(run) == history_of(whole)
    assert weights_of(run) == weights_of(whole)
    assert len(generate(run, 5).rows) == 5


def test_weights_spoiled_in_an_epoch_s_last_step_are_not_in_the_model(records: Path, runs: Path) -> None:
    job = small_job("spoiled", records, runs, epochs=2, callbacks=["tests.ray.observers:poison_last_step"])
    with pytest.raises(JobFailedError, match=r"no longer finite after epoch 1; .*; model/ has epoch 0"):
        train(job)
    only = train(small_job("unspoiled", records, runs, epochs=1))
    assert [row["epoch"] for row in history_of(runs / "spoiled")] == ["0"]
    assert weights_of(runs / "spoiled") == weights_of(only)


def test_weights_that_a_callback_restores_at_the_end_are_in_the_model(records: Path, runs: Path) -> None:
    first = train(small_job("first-epoch", records, runs, epochs=1))
    run = train(small_job("restored", records, runs, callbacks=["tests.ray.observers:restore_first"]))
    assert [row["best"] for row in history_of(run)] == ["1", "0"]
    assert weights_of(run) == weights_of(first)
    assert json.loads((run / "model" / "manifest.json").read_text())["info"] == {"epoch": 0}


def test_a_resume_that_finds_nothing_to_train_says_what_would_go_on(records: Path, runs: Path) -> None:
    run = train(small_job("over", records, runs, epochs=1))
    resume(run, "training.early_stopping.metric=accuracy")
    assert status_of(run)["message"] == "all epochs done; training.epochs above 1 goes on"


def test_keras_callbacks_change_the_learning_rate_and_end_the_run(records: Path, runs: Path) -> None:
    callbacks = ["tests.ray.observers:lower_rate", "tests.ray.observers:end_after_two"]
    run = train(small_job("keras", records, runs, epochs=9, callbacks=callbacks))
    assert len(history_of(run)) == 2
    assert status_of(run)["message"] == "ended by a callback"
    newest = sorted((run / "checkpoints").iterdir())[-1]
    tensors = load((newest / "tensors.safetensors").read_bytes())
    rate = next(value for name, value in tensors.items() if "learning_rate" in name)
    assert float(rate) == pytest.approx(0.01 * 0.5**2)


def test_a_callback_that_watches_a_metric_goes_on_counting_after_a_resume(records: Path, runs: Path) -> None:
    callbacks = ["tests.slow.pace:plateau"]
    whole = train(small_job("plateau", records, runs, epochs=4, callbacks=callbacks))
    run = train(small_job("plateau-2", records, runs, epochs=2, callbacks=callbacks))
    resume(run, "training.epochs=4")
    assert weights_of(run) == weights_of(whole)
    assert weights_of(whole) != weights_of(train(small_job("flat", records, runs, epochs=4)))


def test_a_time_limit_closes_the_epoch_it_falls_in(records: Path, runs: Path) -> None:
    run = train(small_job("limited", records, runs, epochs=50, max_training_time_s=0.001))
    assert status_of(run)["message"] == "time limit"
    rows = history_of(run)
    assert len(rows) == 1
    assert 1 <= int(rows[0]["steps"]) < 10
    resume(run, "training.max_training_time_s=null", "training.epochs=2")
    assert len(history_of(run)) == 2


def test_early_stopping_leaves_the_best_epoch_s_weights(records: Path, runs: Path) -> None:
    stopping = {"patience": 1, "min_delta": 0.5, "metric": "val_loss"}
    run = train(small_job("early", records, runs, epochs=30, early_stopping=stopping))
    rows = history_of(run)
    assert status_of(run)["message"] == "early stopping"
    assert len(rows) < 30
    best = next(int(row["epoch"]) for row in rows if row["best"] == "1")
    only = train(small_job("only", records, runs, epochs=best + 1, early_stopping={"enabled": False}))
    assert weights_of(run) == weights_of(only)


def test_without_save_best_the_last_epoch_is_kept(records: Path, runs: Path) -> None:
    job = small_job("last", records, runs, epochs=2, save_best=False, early_stopping={"enabled": False})
    job["training"]["optimizer"] = {"name": "sgd", "learning_rate": 1e-9}
    assert [row["best"] for row in history_of(train(job))] == ["0", "1"]


def test_a_loss_that_is_not_finite_ends_the_run_with_advice(records: Path, runs: Path) -> None:
    job = small_job("diverged", records, runs, callbacks=["tests.ray.observers:poison"])
    with pytest.raises(JobFailedError, match=r"nan at step 4 .* lower training.optimizer.learning_rate"):
        train(job)


@pytest.mark.parametrize("kind", ["byte", "sentencepiece"])
@pytest.mark.parametrize("packing", ["records", "stream"])
def test_every_tokenizer_and_packing_trains_and_generates(
    records: Path, runs: Path, tmp_path: Path, kind: str, packing: str
) -> None:
    job = small_job(f"{kind}-{packing}", records, runs, epochs=1)
    run = train(job, tokenizer={"kind": kind, "vocab_size": 400}, examples={"packing": packing, "seq_length": 24})
    generated = generate(run, 5, seed=1)
    assert len(generated.rows) == 5
    assert generated.rows == generate(run, 5, seed=1).rows
    assert generated.rows != generate(run, 5, seed=2).rows


def test_validation_off_trains_on_every_record(records: Path, runs: Path) -> None:
    stopping = {"metric": "loss"}
    run = train(small_job("all", records, runs, epochs=1, validation_split=False, early_stopping=stopping))
    (row,) = history_of(run)
    assert row["val_loss"] == ""
    assert int(row["steps"]) == math.ceil(900 / 32)


def test_a_vocabulary_too_small_for_the_records_is_refused_and_nothing_is_written(
    records: Path, tmp_path: Path
) -> None:
    job = small_job("tiny", records, tmp_path)
    with pytest.raises(TokenizerError, match="vocab"):
        train(job, tokenizer={"kind": "sentencepiece", "vocab_size": 20})
    assert not list(tmp_path.iterdir())


def test_a_stream_too_short_for_a_batch_leaves_no_run(tmp_path: Path) -> None:
    records = write_records(tmp_path / "records", count=200)
    job = small_job("short", records, tmp_path / "runs")
    with pytest.raises(DataError, match="lower training"):
        train(job, examples={"packing": "stream", "seq_length": 1000})
    assert not (tmp_path / "runs" / "short").exists()


def test_columns_are_joined_for_training_and_come_back_as_columns(tmp_path: Path) -> None:
    import pyarrow as pa

    from runner.generation.output import write_records as write_generated

    (tmp_path / "records").mkdir()
    table = pa.table({"a": [1, 2] * 200, "b": ["x", "y"] * 200, "unused": [0.5] * 400})
    pq.write_table(table, tmp_path / "records" / "part.parquet")
    job = small_job("columns", tmp_path / "records", tmp_path / "runs", epochs=6)
    job["data"] = {"uri": str(tmp_path / "records"), "columns": ["a", "b"], "field_delimiter": "|"}
    run = train(job)
    generated = generate(run, 20, temperature=0.1)
    assert generated.columns == ("a", "b")
    write_generated(str(tmp_path / "out.parquet"), generated)
    write_generated(str(tmp_path / "out.jsonl"), generated)
    write_generated(str(tmp_path / "out.csv"), generated)
    read = pq.read_table(tmp_path / "out.parquet").to_pylist()
    assert [tuple(row.values()) for row in read] == generated.rows
    assert [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()] == read
    assert (tmp_path / "out.csv").read_text().splitlines()[0] == "a,b"
    assert set(generated.rows) <= {("1", "x"), ("2", "y"), ("1", "y"), ("2", "x")}
