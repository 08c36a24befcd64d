"""Asking the isolated script: where uv is looked for, and what the user reads when it fails."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from runner.errors import JobFailedError, ResourceError
from runner.privacy import isolated
from runner.privacy.isolated import ask_second_opinion, find_uv

RUN = {"n": 10, "batch_size": 2, "noise_multiplier": 1.0, "steps": 3, "delta": 0.01}


@pytest.fixture(autouse=True)
def no_uv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without uv."""
    monkeypatch.delenv("UV", raising=False)
    monkeypatch.setenv("PATH", f"{tmp_path / 'path'}:/usr/bin:/bin")
    monkeypatch.setattr(isolated, "UV_FOLDERS", (str(tmp_path / "beside python"), str(tmp_path / "checkout")))


def put_uv(folder: Path, *lines: str) -> Path:
    """A program named uv in the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    uv = folder / "uv"
    uv.write_text("\n".join(["#!/bin/sh", *lines, ""]))
    uv.chmod(0o755)
    return uv


def test_missing_uv_is_one_line_that_says_how_to_install_it() -> None:
    with pytest.raises(ResourceError) as error:
        ask_second_opinion("epsilon", RUN)
    assert str(error.value) == (
        "the second opinion of tensorflow-privacy needs uv, but it is not installed; run: pip install uv"
    )


def test_uv_that_the_environment_names_must_be_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    put_uv(tmp_path / "path")
    monkeypatch.setenv("UV", "/no/such/uv")
    with pytest.raises(ResourceError, match="UV names /no/such/uv, which cannot be run"):
        find_uv()


def test_uv_is_found_in_the_order_that_the_docs_say(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for folder in ("checkout", "beside python", "path"):
        found = put_uv(tmp_path / folder)
        assert find_uv() == str(found)
    named = put_uv(tmp_path / "elsewhere")
    monkeypatch.setenv("UV", str(named))
    assert find_uv() == str(named)


def test_a_failing_script_is_told_by_its_last_line(tmp_path: Path) -> None:
    put_uv(tmp_path / "path", "echo 'Installed 43 packages' >&2", "echo 'epsilon: missing: steps' >&2", "exit 2")
    with pytest.raises(JobFailedError) as error:
        ask_second_opinion("epsilon", RUN)
    assert str(error.value) == "the second opinion of tensorflow-privacy failed: epsilon: missing: steps"


def test_a_script_that_dies_without_a_word_is_told_by_its_exit_code(tmp_path: Path) -> None:
    put_uv(tmp_path / "path", "exit 7")
    with pytest.raises(JobFailedError, match="exit code 7"):
        ask_second_opinion("epsilon", RUN)


def test_the_locked_script_is_asked_and_its_answer_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/this/process/only")
    # Arguments: run --locked --script SCRIPT COMMAND IN OUT.
    put_uv(
        tmp_path / "path",
        f'echo "$1 $2 $3 $4 $5 ${{PYTHONPATH-unset}}" > "{tmp_path}/asked"',
        'cp "$6" "$7"',
    )
    assert ask_second_opinion("epsilon", RUN) == RUN
    script = Path(isolated.__file__).with_name("second_opinion.py")
    assert (tmp_path / "asked").read_text() == f"run --locked --script {script} epsilon unset\n"


def test_arrays_go_and_come_back_as_they_are(tmp_path: Path) -> None:
    put_uv(tmp_path / "path", 'cp "$6" "$7"')
    arrays = {"inputs": np.arange(6, dtype=np.int32).reshape(2, 3), "clip": np.float32(0.5)}
    answer = ask_second_opinion("clipped-sum", arrays)
    assert answer.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(answer[name], array)
        assert answer[name].dtype == array.dtype


def test_losses_go_as_arrays_and_figures_come_back(tmp_path: Path) -> None:
    put_uv(tmp_path / "path", f'cp "$6" "{tmp_path}/question.npz"', """echo '{"auc": 0.5}' > "$7" """)
    assert ask_second_opinion("membership", {"loss_train": [1.0], "loss_validation": [2.0]}) == {"auc": 0.5}
    with np.load(tmp_path / "question.npz") as question:
        assert set(question) == {"loss_train", "loss_validation"}


def test_the_script_and_its_lock_are_there() -> None:
    assert isolated.SCRIPT.is_file()
    lock = isolated.SCRIPT.with_name("second_opinion.py.lock").read_text()
    for name, version in {"tensorflow-privacy": "0.9.0", "tensorflow-cpu": "2.15.1"}.items():
        assert f'name = "{name}"\nversion = "{version}"' in lock
