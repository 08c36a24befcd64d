"""Whose folder it is: what counts as a run, what a run may replace, and where a job may not write."""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runner.config import JobConfig, parse_job
from runner.driver import check_apart, check_free, claim, release
from runner.errors import ConfigError, DataError, RunExistsError, StorageError
from runner.run_directory import RunDirectory, list_runs
from runner.run_files import RUN_FILES, UNBEGUN, WRITER, find_run_around
from runner.storage import LocalFolder, open_folder
from runner.submit.launch import Launch
from runner.submit.start import start_run
from runner.sweep.space import trial_job
from runner.sweep.table import read_trials
from runner.train.checkpoint import checkpoint_steps, prune_checkpoints, save_checkpoint
from runner.train.facade import CheckedJob, drive_run
from tests.foreign_files import stand_ins

PARQUET = b"PAR1 the only copy PAR1"
GRID = {"parameters": {"training.seed": {"choice": [1, 2]}}, "search": "grid"}


def config_of(storage: Path | str, data: Path | str = "records", *, overwrite: bool = False, **job: Any) -> JobConfig:
    document = {"name": "claims", "data": {"uri": str(data)}, "storage": {"uri": str(storage), "overwrite": overwrite}}
    return parse_job(document | job, environment={})


def claimed(config: JobConfig, **status: Any) -> RunDirectory:
    directory = RunDirectory.of(config)
    directory.claim(config, "local")
    directory.update_status(state="done", **status)
    return directory


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def put(path: Path, data: bytes = b"mine") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def die_at(monkeypatch: pytest.MonkeyPatch, call: int, dies: type[BaseException]) -> None:
    """Have the folders' write number `call` fail, and all that come later."""
    calls = 0

    def dying(original: Callable[..., Any]) -> Callable[..., Any]:
        def method(self: LocalFolder, *arguments: Any, **options: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls >= call:
                raise dies("killed")
            return original(self, *arguments, **options)

        return method

    for name in ("write", "create", "remove", "delete"):
        monkeypatch.setattr(LocalFolder, name, dying(getattr(LocalFolder, name)))


# What is no run


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("name", ["thesis.txt", "deep/er/x.parquet", ".hidden", "job.yaml", "status.json", "writer"])
def test_a_folder_that_is_not_empty_and_no_run_is_refused_also_to_overwrite(
    tmp_path: Path, name: str, overwrite: bool
) -> None:
    put(tmp_path / "claims" / name, b"name: claims\n")
    before = tree(tmp_path)
    config = config_of(tmp_path, overwrite=overwrite)
    with pytest.raises(RunExistsError, match=rf"claims: not empty and no run: it holds {name}; choose another") as told:
        RunDirectory.of(config).claim(config, "local")
    assert tree(tmp_path) == before
    assert told.value.exit_code == 2
    assert list_runs(str(tmp_path)) == []


@pytest.mark.parametrize("files", [{"job.yaml", "status.json"}, {"job.yaml", "writer"}, {"status.json", "writer"}])
def test_files_of_our_names_that_are_not_as_we_write_them_make_no_run(tmp_path: Path, files: set[str]) -> None:
    for content in (b"", b"[]", b'{"state": "done"}', b"\xff", b"[" * 100_000, b"1 nobody"):
        for name in files:
            put(tmp_path / "claims" / name, content)
        config = config_of(tmp_path, overwrite=True)
        with pytest.raises(RunExistsError, match="not empty and no run"):
            RunDirectory.of(config).claim(config, "local")
        assert {(tmp_path / "claims" / name).read_bytes() for name in files} == {content}


def test_a_name_that_cannot_be_printed_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "claims").mkdir()
    (tmp_path / "claims" / os.fsdecode(b"caf\xe9\n")).write_bytes(b"")
    with pytest.raises(RunExistsError) as told:
        claimed(config_of(tmp_path))
    assert r"'caf\udce9\n'" in str(told.value)
    str(told.value).encode()


def test_a_run_with_a_damaged_status_is_listed_beside_the_others(tmp_path: Path) -> None:
    for name in ("a", "b"):
        claimed(config_of(tmp_path / "runs", name=name))
    (tmp_path / "runs" / "a" / "status.json").write_text("")
    (bad, status), (good, _) = list_runs(str(tmp_path / "runs"))
    assert (bad.uri.rpartition("/")[2], good.uri.rpartition("/")[2], status.state) == ("a", "b", "lost")
    assert "status.json is damaged" in status.message


def test_a_link_in_the_folder_is_a_file_of_the_user_s(tmp_path: Path) -> None:
    (tmp_path / "claims").mkdir()
    (tmp_path / "claims/job.yaml").symlink_to(tmp_path / "nowhere")
    with pytest.raises(RunExistsError, match=r"it holds job.yaml"):
        claimed(config_of(tmp_path))


@pytest.mark.parametrize("missing", ["status.json", "writer"])
def test_a_run_of_an_earlier_version_is_a_run(tmp_path: Path, missing: str) -> None:
    directory = claimed(config_of(tmp_path))
    directory.folder.delete(missing)
    assert RunDirectory.find(directory.uri).exists()
    with pytest.raises(RunExistsError, match="this run exists"):
        RunDirectory.of(config_of(tmp_path)).check_free(overwrite=False)
    claimed(config_of(tmp_path, overwrite=True))


# Claims, and what they replace


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("dies", [KeyboardInterrupt, StorageError])
def test_a_claim_that_is_cut_off_anywhere_can_be_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, overwrite: bool, dies: type[BaseException]
) -> None:
    for call in range(1, 20):
        storage = tmp_path / str(call)
        config = config_of(storage, overwrite=overwrite)
        if overwrite:
            claimed(config).folder.write("history.csv", b"")
            put(storage / "claims/notes.txt")
        with monkeypatch.context() as patch:
            die_at(patch, call, dies)
            try:
                RunDirectory.of(config).claim(config, "local")
                break
            except dies:
                pass
        again = RunDirectory.of(config)
        if again.exists():  # Lost, before its first status: to overwrite, or to resume.
            status = again.status()
            if status is not None and status.is_active:
                again.update_status(state="failed")
            config = config_of(storage, overwrite=True)
        again.claim(config, "local")
        assert again.current_status().state == "pending"
        assert set(tree(storage / "claims")) - {"notes.txt"} == {"job.yaml", "status.json", "writer"}
        assert not overwrite or (storage / "claims/notes.txt").read_bytes() == b"mine"
    assert 3 < call < 19


def test_a_run_that_is_overwritten_leaves_the_user_s_files_in_its_directory(tmp_path: Path) -> None:
    run = claimed(config_of(tmp_path)).folder
    ours = ["history.csv", "logs/20260101T000000-driver.log", "checkpoints/step-000000000012/state.json"]
    mine = [
        "notes.txt",
        "logs/my.log",
        "checkpoints/step-000000000012/notes",
        "checkpoints/step-12/state.json",
        "model/x",
    ]
    for name in ours + mine:
        run.write(name, b"1")
    claimed(config_of(tmp_path, overwrite=True))
    assert set(tree(tmp_path / "claims")) == {"job.yaml", "status.json", "writer", *mine}


def test_what_is_left_of_a_run_without_its_job_is_replaced_only_when_asked(tmp_path: Path) -> None:
    run = claimed(config_of(tmp_path)).folder
    run.write("history.csv", b"1")
    run.delete("job.yaml")
    with pytest.raises(RunExistsError, match=r"holds what is left of a run, such as history.csv; storage"):
        claimed(config_of(tmp_path))
    claimed(config_of(tmp_path, overwrite=True))
    assert not run.exists("history.csv")


def test_what_lies_behind_a_link_is_not_removed(tmp_path: Path) -> None:
    claimed(config_of(tmp_path))
    elsewhere = put(tmp_path / "elsewhere/weights.safetensors").parent
    (tmp_path / "claims/model").symlink_to(elsewhere)
    with pytest.raises(StorageError, match=r"claims/model is a link to another folder: nothing is removed there"):
        claimed(config_of(tmp_path, overwrite=True))
    assert tree(elsewhere) == {"weights.safetensors": b"mine"}


def test_a_released_directory_is_gone_and_what_the_user_put_there_is_not(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    directory = RunDirectory.of(config)
    for extra in (None, "notes.txt"):
        directory.claim(config, "local")
        directory.folder.write("history.csv", b"1")
        if extra:
            directory.folder.write(extra, b"mine")
        directory.release()
        assert set(tree(tmp_path)) == (set() if extra is None else {"claims/notes.txt", "claims/writer"})
        assert (tmp_path / "claims").exists() == bool(extra)
    directory.claim(config, "local")


def test_a_run_whose_ledger_has_begun_is_not_released(tmp_path: Path) -> None:
    """It has been charged for: what a resume needs of it would be gone, and the budget spent for nothing."""
    config = config_of(tmp_path / "runs")
    directory = claimed(config)
    directory.folder.write("private/ledger.json", b"{}")
    release(config, directory)
    assert directory.folder.exists("private/ledger.json")
    assert directory.exists()


def test_a_run_that_another_s_job_came_into_does_not_train(tmp_path: Path) -> None:
    """Of two that overwrite at once, one may create the job and the other begin the last attempt."""
    mine, other = (config_of(tmp_path / "runs", training={"seed": seed}) for seed in (1, 2))
    directory = RunDirectory.of(mine)
    directory.claim(mine, "local")
    directory.write_config(other)
    with pytest.raises(RunExistsError, match="another submission took this name"):
        drive_run(directory.uri, threading.Event(), checked=CheckedJob(mine, "", "", None, None, ()))


def test_files_of_the_user_s_among_checkpoints_stay(tmp_path: Path) -> None:
    folder = open_folder(str(tmp_path))
    for step in range(1, 5):
        save_checkpoint(folder, step, {}, {}, ends_epoch=False)
    put(tmp_path / "step-000000000001/notes.txt")
    put(tmp_path / "step-7/state.json")
    prune_checkpoints(folder, 4, keep_epochs=False)
    assert checkpoint_steps(folder) == [1, 3, 4]
    kept = {
        f"step-{step:012d}/{name}" for step in (3, 4) for name in ("manifest.json", "state.json", "tensors.safetensors")
    }
    assert set(tree(tmp_path)) == kept | {"step-000000000001/notes.txt", "step-7/state.json"}


# Submitting


def submit(config: JobConfig, ending: Any = "done") -> None:
    with stand_ins(ending):
        start_run(config, Launch(quiet=True))


def test_records_under_the_run_s_name_survive_a_job_that_only_tokenizing_can_refuse(tmp_path: Path) -> None:
    put(tmp_path / "claims/part-0.parquet", PARQUET)
    for overwrite in (False, True):
        with pytest.raises(ConfigError, match=rf"data.uri: .* is in {tmp_path}/claims, where this job writes"):
            submit(config_of(tmp_path, tmp_path / "claims", overwrite=overwrite), "refused")
    assert tree(tmp_path) == {"claims/part-0.parquet": PARQUET}


def test_a_job_that_only_tokenizing_can_refuse_takes_back_its_directory_and_nothing_else(tmp_path: Path) -> None:
    put(tmp_path / "records/a.parquet", PARQUET)
    with pytest.raises(DataError, match="too few"):
        submit(config_of(tmp_path / "runs", tmp_path / "records"), "refused")
    assert not (tmp_path / "runs/claims").exists()
    claimed(config_of(tmp_path / "runs"))
    put(tmp_path / "runs/claims/notes.txt")
    with pytest.raises(DataError, match="too few"):
        submit(config_of(tmp_path / "runs", tmp_path / "records", overwrite=True), "refused")
    assert set(tree(tmp_path / "runs/claims")) == {"notes.txt", "writer"}
    assert tree(tmp_path / "records") == {"a.parquet": PARQUET}


def test_a_run_is_replaced_only_by_a_job_whose_tokens_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    claimed(config_of(tmp_path / "runs"))
    put(tmp_path / "runs/claims/model/weights.safetensors", b"hours of training")
    before = tree(tmp_path / "runs")

    def too_few(*_: Any, **__: Any) -> Any:
        raise DataError("6 examples, but training.batch_size 64 needs 128")

    monkeypatch.setattr("runner.driver.check", lambda config: CheckedJob(config, "", "", None, None, ()))
    monkeypatch.setattr("runner.train.facade.make_tokens", too_few)
    with pytest.raises(DataError, match="6 examples"):
        start_run(config_of(tmp_path / "runs", overwrite=True), Launch(quiet=True))
    assert tree(tmp_path / "runs") == before


def test_a_sweep_to_overwrite_is_refused_where_a_trial_s_name_is_no_run(tmp_path: Path) -> None:
    config = config_of(tmp_path, overwrite=True, sweep=GRID)
    claimed(config)
    put(tmp_path / "claims-001/notes.txt")
    before = tree(tmp_path)
    with pytest.raises(RunExistsError, match=r"claims-001: not empty and no run: it holds notes.txt"):
        submit(config)
    assert tree(tmp_path) == before


def test_a_sweep_that_is_overwritten_leaves_the_user_s_files_in_its_trials(tmp_path: Path) -> None:
    submit(config_of(tmp_path, sweep=GRID))
    put(tmp_path / "claims-001/checkpoints/notes.txt")
    (tmp_path / "claims-001/history.csv").write_bytes(b"old")
    submit(config_of(tmp_path, overwrite=True, sweep=GRID))
    assert (tmp_path / "claims-001/checkpoints/notes.txt").read_bytes() == b"mine"
    assert (tmp_path / "claims-001/history.csv").read_bytes() != b"old"


def test_a_sweep_that_is_killed_while_it_overwrites_another_takes_none_of_its_trials(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.fsync", lambda _: None)
    for call in range(1, 30):
        old, new = (config_of(tmp_path / str(call), overwrite=overwrite, sweep=GRID) for overwrite in (False, True))
        claimed(old)
        for number in range(2):
            claimed(trial_job(old, number, {"training.seed": number}))
        with monkeypatch.context() as patch:
            die_at(patch, call, KeyboardInterrupt)
            try:
                claim(new, "local")
                break
            except KeyboardInterrupt:
                pass
        directory = RunDirectory.of(new)
        if directory.exists() and directory.read_config() == new:
            assert read_trials(new) == []
            directory.update_status(state="failed")
        check_free(new)
        claim(new, "local")
        assert read_trials(new) == []
    assert 5 < call < 29


def test_trials_without_their_sweep_are_removed_when_asked(tmp_path: Path) -> None:
    submit(config_of(tmp_path, sweep=GRID))
    shutil.rmtree(tmp_path / "claims")
    config = config_of(tmp_path, overwrite=True, sweep=GRID)
    directory = claim(config, "local")
    assert read_trials(config) == []
    assert directory.current_status().state == "pending"


def test_a_sweep_that_a_trial_s_refusal_ends_keeps_its_directory(tmp_path: Path) -> None:
    with pytest.raises(DataError):
        submit(config_of(tmp_path, sweep=GRID), "refused")
    assert not (tmp_path / "claims").exists()
    config = config_of(tmp_path, sweep=GRID)
    trial = RunDirectory(open_folder(str(tmp_path)).child("claims-000"))
    trial.claim(config.model_copy(update={"sweep": None}), "local")
    trial.update_status(state="failed")
    directory = RunDirectory.of(config)
    directory.claim(config, "local")
    from runner.driver import release

    release(config, directory)
    assert directory.exists()


# Folders that contain one another


@pytest.mark.parametrize(
    ("data", "storage"),
    [
        ("{w}/claims", "{w}"),
        ("{w}/claims/records", "{w}"),
        ("file://{w}/claims", "{w}/x/.."),
        ("{w}/link", "{w}"),
        ("{w}", "{w}/runs"),
        ("{w}", "{w}"),
        ("{w}/.cache/tokens", "{w}"),
        ("{w}/.privacy", "{w}"),
        ("s3://bucket/claims/", "s3://bucket"),
        ("s3://bucket/", "s3://bucket/runs"),
        ("s3://bucket/runs/claims/x", "s3://bucket/runs/"),
    ],
)
def test_records_where_the_job_writes_or_around_it_are_refused(tmp_path: Path, data: str, storage: str) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "claims")
    config = config_of(storage.format(w=tmp_path), data.format(w=tmp_path))
    with pytest.raises(ConfigError, match=r"where this job writes.*; choose another storage.uri") as told:
        check_apart(config)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("data", "storage"),
    [
        ("{w}/records", "{w}/runs"),
        ("{w}/records", "{w}"),
        ("{w}/claims-2024", "{w}"),
        ("{w}/claims.old", "{w}"),
        ("{w}", "{w}/.runs"),
        ("{w}", "{w}/_out/runs"),
        ("s3://bucket/claims2", "s3://bucket"),
        ("s3://other/claims", "s3://bucket"),
        ("/claims", "s3://bucket"),
    ],
)
def test_records_beside_what_the_job_writes_are_fine(tmp_path: Path, data: str, storage: str) -> None:
    check_apart(config_of(storage.format(w=tmp_path), data.format(w=tmp_path)))


def test_records_in_a_trial_s_directory_are_refused(tmp_path: Path) -> None:
    check_apart(config_of(tmp_path, tmp_path / "claims-001"))
    with pytest.raises(ConfigError, match="claims-001, where this job writes"):
        check_apart(config_of(tmp_path, tmp_path / "claims-001", sweep=GRID))


def test_a_tokenizer_in_the_run_s_own_directory_is_refused(tmp_path: Path) -> None:
    def with_tokenizer(run: str) -> JobConfig:
        tokenizer = {"kind": "sentencepiece", "uri": f"{tmp_path}/{run}/tokenizer/sentencepiece.model"}
        return config_of(tmp_path, tmp_path / "records", tokenizer=tokenizer)

    check_apart(with_tokenizer("earlier"))
    with pytest.raises(ConfigError, match=r"tokenizer.uri: .* where this job writes"):
        check_apart(with_tokenizer("claims"))


def test_a_run_does_not_replace_the_one_it_goes_on_from(tmp_path: Path) -> None:
    document = config_of(tmp_path, overwrite=True).model_dump(mode="json")
    config = parse_job(document, ["data.since=claims"], environment={})
    with pytest.raises(ConfigError, match=r"data.since: claims is the run's own name"):
        check_apart(config)


def test_a_run_is_found_from_any_place_in_its_directory(tmp_path: Path) -> None:
    directory = claimed(config_of(tmp_path))
    for below in ("", "/x", "/model/deep/er"):
        assert find_run_around(directory.uri + below) == directory.uri
    assert find_run_around(str(tmp_path)) is None


def test_the_first_mark_of_a_run_sorts_before_every_attempt(tmp_path: Path) -> None:
    directory = claimed(config_of(tmp_path))
    assert UNBEGUN.decode().split()[0] < directory.term
    assert json.loads(directory.folder.read("status.json"))["state"] == "done"
    assert WRITER in RUN_FILES
