"""Real runs among files of the user's: what they take, replace and take back is theirs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from runner.config import parse_job
from runner.errors import ConfigError, DataError, RunExistsError
from runner.submit.launch import Launch
from runner.submit.start import start_run
from tests.runs import names_of_no_run, small_job, status_of, write_records


def submit(job: dict[str, Any], **sections: Any) -> None:
    start_run(parse_job(job | sections, environment={}), Launch(quiet=True))


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def too_few(name: str, data: Path, runs: Path) -> dict[str, Any]:
    """A job that only tokenizing can refuse: 70 short records fill too few windows."""
    examples = {"packing": "stream", "seq_length": 64}
    return small_job(name, data, runs, epochs=1) | {"examples": examples}


def test_records_under_the_run_s_name_are_kept_though_tokenizing_refuses_the_job(tmp_path: Path) -> None:
    write_records(tmp_path / "claims", count=70, files=2)
    before = files_of(tmp_path)
    for overwrite in (False, True):
        with pytest.raises(ConfigError, match="where this job writes"):
            submit(
                too_few("claims", tmp_path / "claims", tmp_path),
                storage={"uri": str(tmp_path), "overwrite": overwrite},
            )
    assert files_of(tmp_path) == before


def test_a_run_that_tokenizing_refuses_is_taken_back_and_what_is_beside_it_is_not(tmp_path: Path) -> None:
    records = write_records(tmp_path / "records", count=30, files=2)
    before = files_of(tmp_path)
    with pytest.raises(DataError, match=r"examples, but training.batch_size 32 needs 64"):
        submit(too_few("claims", records, tmp_path))
    left = files_of(tmp_path)
    assert {name: left[name] for name in before} == before
    assert not (tmp_path / "claims").exists()


def test_a_run_overwrites_a_run_but_for_what_the_user_put_there_and_never_another_folder(
    records: Path, tmp_path: Path
) -> None:
    job = small_job("claims", records, tmp_path, epochs=1)
    job["storage"]["overwrite"] = True
    thesis = tmp_path / "claims" / "thesis.txt"
    thesis.parent.mkdir()
    thesis.write_text("the only copy")
    with pytest.raises(RunExistsError, match=r"not empty and no run: it holds thesis.txt"):
        submit(job)
    thesis.unlink()
    submit(job)
    mine = ["checkpoints/notes.txt", "model/production.txt", "thesis.txt"]
    for name in mine:
        (tmp_path / "claims" / name).write_text("the only copy")
    submit(job)
    assert status_of(tmp_path / "claims")["state"] == "done"
    assert names_of_no_run(tmp_path / "claims") == mine
    assert {(tmp_path / "claims" / name).read_text() for name in mine} == {"the only copy"}
