"""A machine that is taken away: its workers hear of it, and are waited for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.runs import ROOT


def start(title: str, mark: Path) -> subprocess.Popen[str]:
    """A process with Ray's kind of title that takes a moment to end."""
    program = f'trap "sleep 0.5; touch {mark}; exit 0" TERM; echo ready; while :; do sleep 0.05; done'
    process = subprocess.Popen(
        ["bash", "-c", f"exec -a '{title}' bash -c '{program}'"], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    process.stdout.readline()
    return process


def test_workers_end_in_their_own_time_and_others_are_left_alone(tmp_path: Path) -> None:
    worker = start("ray::RayTrainWorker.execute", tmp_path / "ended")
    other = start("ray::SomeActor", tmp_path / "other")
    try:
        subprocess.run([sys.executable, "-m", "runner.train.preempt"], cwd=ROOT, check=True, timeout=60)
        assert (tmp_path / "ended").exists(), "the hook waits for the checkpoint"
        assert other.poll() is None
    finally:
        worker.kill()
        other.kill()
        worker.wait()
        other.wait()


def test_a_machine_without_workers_is_not_held(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "runner.train.preempt"], cwd=ROOT, check=True, timeout=30)
