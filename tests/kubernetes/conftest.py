"""A Kubernetes cluster for the tests, and namespaces in it."""

from __future__ import annotations

from collections.abc import Generator

import pytest

from tests.kubernetes.cluster import Cluster, running_cluster


@pytest.fixture(scope="session")
def cluster() -> Generator[Cluster]:
    """A cluster, shared by all tests of the session."""
    with running_cluster() as running:
        yield running


@pytest.fixture
def namespace(cluster: Cluster) -> str:
    """The name of an empty namespace of this test's own."""
    return cluster.create_namespace()
