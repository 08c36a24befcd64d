"""Promise 3 for whole runs: with the same randomness, emptying a record changes sums before noise, and nothing else.

The records that are emptied are the longest, which is the first; one with a character or a value that no other has,
which is the last; and one whose gradient is not finite (see `tests.promises.scenes`).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.promises.scenes import FIRST, LAST, SCENES, TRAINED_ON
from tests.runs import ROOT

EMPTIED = {
    "killed": (FIRST, LAST),
    "limited": (FIRST,),
    "persons": (TRAINED_ON,),
    "series": (LAST,),
    "sweep": (LAST,),
    "draws": (LAST,),
}


@pytest.mark.parametrize("scene", EMPTIED)
def test_03_runs_on_neighbours_differ_in_sums_before_noise_alone(scene: str, tmp_path: Path) -> None:
    first = SCENES[scene].record(tmp_path)
    for emptied in EMPTIED[scene]:
        assert "\n".join(SCENES[scene].differences(tmp_path, emptied, first)) == ""
        was_counted = any(release.exact for release in first.releases)
        assert any(first.drawn(emptied - SCENES[scene].begins_at)) or was_counted or scene == "limited"
    assert len(first.steps.get(0, [])) == len(first.positions)


@pytest.mark.parametrize("replicas", [2, 4])
def test_03_neighbours_on_replicas_differ_in_sums_before_noise_alone(replicas: int) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.promises.scenes", str(replicas)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout.splitlines()[-1]) == {"replicas": [*range(replicas)], "differences": []}
