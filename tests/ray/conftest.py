"""Records, and one storage folder for all runs of a module, so that tokens are prepared once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.ray.cluster import cluster, cluster_python
from tests.runs import write_records

__all__ = ["cluster", "cluster_python"]


@pytest.fixture(scope="session", autouse=True)
def one_ray_for_all_tests() -> Iterator[None]:
    """Runs in this process use the Ray they find; starting one for each would take minutes."""
    from runner.train.local_ray import start_local_ray

    start_local_ray()
    yield
    import ray

    ray.shutdown()


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_records(tmp_path_factory.mktemp("records"))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs with spaces, 'quotes' and ünicode")
