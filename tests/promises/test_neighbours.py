"""Promise 3 for whole runs: with the same randomness, emptying a record changes sums before noise, and nothing else."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.promises.neighbours import FIRST, LAST, SCENES

EMPTIED = {"killed": (FIRST, LAST), "limited": (FIRST,), "series": (LAST,), "sweep": (LAST,), "draws": (LAST,)}


@pytest.mark.parametrize("scene", SCENES)
def test_03_what(scene: str, tmp_path: Path) -> None:
    t = time.process_time()
    first = SCENES[scene].record(tmp_path)
    print("CPU", time.process_time() - t, len(first.steps.get(0, ())), first.outcomes)
    for emptied in EMPTIED[scene]:
        t = time.process_time()
        found = SCENES[scene].differences(tmp_path, emptied, first)
        print("CPU", time.process_time() - t)
        Path(f"/tmp/gate-{scene}-{emptied}.txt").write_text("\n".join(found))
        assert "\n".join(found) == ""
        assert any(first.drawn(emptied)) or not first.steps
