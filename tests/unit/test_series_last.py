"""A series goes on from the newest run that ended well."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from runner.config import parse_job
from runner.errors import ConfigError
from runner.run_directory import RunDirectory
from runner.train.series import with_definite_since


def job(runs: Path, name: str = "claims") -> Any:
    document = {"name": name, "data": {"uri": str(runs / "records"), "since": "last"}, "storage": {"uri": str(runs)}}
    return parse_job(document, environment={})


def leave_run(runs: Path, name: str, state: str) -> None:
    """A run with a model."""
    directory = RunDirectory.of(job(runs, name))
    directory.claim(job(runs, name), "local")
    directory.update_status(state=state)
    directory.folder.write("model/manifest.json", b"{}")


@pytest.mark.parametrize("state", ["failed", "lost"])
def test_it_passes_over_a_run_that_failed_though_it_left_a_model(tmp_path: Path, state: str) -> None:
    """Such a run has trained on its files in part only: they are new once more. Resumed and killed, it is lost."""
    leave_run(tmp_path, "claims", "done")
    leave_run(tmp_path, "claims.002", state)
    found = with_definite_since(job(tmp_path))
    assert (found.name, found.data.since) == ("claims.003", "claims")


def test_it_looks_at_no_run_before_the_one_that_it_goes_on_from(tmp_path: Path) -> None:
    """Neither are requests made for them, nor does a damaged one matter."""
    for name in ("claims", "claims.002", "claims.003"):
        leave_run(tmp_path, name, "done")
    (tmp_path / "claims" / "status.json").write_text("")
    found = with_definite_since(job(tmp_path))
    assert (found.name, found.data.since) == ("claims.004", "claims.003")


def test_it_asks_for_a_resume_where_the_only_run_failed(tmp_path: Path) -> None:
    leave_run(tmp_path, "claims", "failed")
    with pytest.raises(ConfigError, match="resume it first"):
        with_definite_since(job(tmp_path))
