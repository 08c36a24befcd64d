"""Promise 3 for whole runs: with the same randomness, emptying a record changes sums before noise, and nothing else.

The records that are emptied are the longest, which is the first; one with a character or a value that no other has,
which is the last; and one whose gradient is not finite (see `tests.promises.neighbours`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from subprocess import Popen

import pytest

from tests.promises.neighbours import FIRST, LAST, SCENES, start_replicas

EMPTIED = {"killed": (FIRST, LAST), "limited": (FIRST,), "series": (LAST,), "sweep": (LAST,), "draws": (LAST,)}


@pytest.mark.parametrize("scene", SCENES)
def test_03_runs_on_neighbours_differ_in_sums_before_noise_alone(scene: str, tmp_path: Path) -> None:
    first = SCENES[scene].record(tmp_path)
    for emptied in EMPTIED[scene]:
        assert "\n".join(SCENES[scene].differences(tmp_path, emptied, first)) == ""
        assert any(first.drawn(emptied - SCENES[scene].begins_at)) or not first.steps, "the record was in a batch"


@pytest.fixture(scope="module")
def on_replicas() -> Iterator[dict[int, Popen[str]]]:
    """Processes with 2 and 4 replicas, at once."""
    with ExitStack() as stack:
        yield {replicas: stack.enter_context(start_replicas(replicas)) for replicas in (2, 4)}


def test_03_neighbours_on_replicas_differ_in_sums_before_noise_alone(on_replicas: dict[int, Popen[str]]) -> None:
    for replicas, process in on_replicas.items():
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0, err[-3000:]
        found = json.loads(out.splitlines()[-1])
        assert found == {"replicas": [*range(replicas)], "differences": []}
