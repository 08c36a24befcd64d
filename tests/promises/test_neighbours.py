"""Promise 3 for whole runs: with the same randomness, emptying a record changes sums before noise, and nothing else.

The records that are emptied are the longest, which is the first; one with a character or a value that no other has,
which is the last; and one whose gradient is not finite (see `tests.promises.neighbours`).

On one replica. `python -m tests.promises.neighbours 2` compares runs on several; no test does. The scene
`draws` is in no test: its comparison does not pass.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.promises.neighbours import FIRST, LAST, SCENES

EMPTIED = {"killed": (FIRST, LAST), "limited": (FIRST,), "series": (LAST,), "sweep": (LAST,)}


@pytest.mark.parametrize("scene", EMPTIED)
def test_03_runs_on_neighbours_differ_in_sums_before_noise_alone(scene: str, tmp_path: Path) -> None:
    first = SCENES[scene].record(tmp_path)
    for emptied in EMPTIED[scene]:
        assert "\n".join(SCENES[scene].differences(tmp_path, emptied, first)) == ""
        assert any(first.drawn(emptied - SCENES[scene].begins_at)) or not first.steps, "the record was in a batch"
