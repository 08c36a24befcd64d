"""A node, storage that its pods reach, a team's namespace, and the run that no cluster has seen."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import pytest

from tests.kubernetes.cluster import Cluster
from tests.kubernetes.test_submit import RESTRICTED, Team, install
from tests.pods.network import ADDRESS
from tests.pods.node import NodeCluster, real_node
from tests.runs import run_runner, small_job, write_job, write_records
from tests.s3.radosgw import OWNER, running_radosgw

BUCKET = "team"
SECRET = "s3-keys"
RECORDS = 3000
EPOCHS = 8


@dataclass(frozen=True)
class Storage:
    """A bucket on an S3 server: what a user's shell sets to reach it, and what of that is no secret."""

    environment: dict[str, str]

    @property
    def secrets(self) -> dict[str, str]:
        return {name: value for name, value in self.environment.items() if "_KEY" in name}

    @property
    def settings(self) -> dict[str, str]:
        return {name: value for name, value in self.environment.items() if name not in self.secrets}

    def client(self) -> Any:
        keys = {"aws_access_key_id": OWNER.access_key, "aws_secret_access_key": OWNER.secret_key}
        return boto3.client(  # pyright: ignore[reportUnknownMemberType]
            "s3", region_name="us-east-1", endpoint_url=self.environment["AWS_ENDPOINT_URL"], **keys
        )

    def download(self, run: str, folder: Path) -> Path:
        """A run's directory as files of this machine."""
        client = self.client()
        prefix = f"runs/{run}/"
        for page in client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix):
            for entry in page.get("Contents", ()):
                target = folder / run / entry["Key"].removeprefix(prefix)
                target.parent.mkdir(parents=True, exist_ok=True)
                client.download_file(BUCKET, entry["Key"], str(target))
        return folder / run


def training(name: str, data: Path | str, runs: Path | str) -> dict[str, Any]:
    """A job for one worker with one core, which takes it a minute or two: long enough to be struck."""
    job = small_job(name, data, runs, epochs=EPOCHS, checkpoint_every_s=5)
    job["examples"] = {"seq_length": 32}
    job["model"] = {"embedding_dim": 32, "rnn_units": 256, "layers": 2}
    job["resources"] = {"workers": 1, "cpus_per_worker": 1}
    return job


@pytest.fixture(scope="session")
def at_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The training on this machine, without a cluster: its run, with its records beside the runs."""
    folder = tmp_path_factory.mktemp("home")
    write_records(folder / "records", RECORDS)
    job = write_job(folder / "job.yaml", training("whole", folder / "records", folder / "runs"))
    run_runner("submit", job, timeout_s=1200)
    return folder / "runs" / "whole"


@pytest.fixture(scope="session")
def node(at_home: Path) -> Generator[NodeCluster]:
    """A node that runs pods, shared by all tests. In its network there is no more than that: home is trained first."""
    with real_node() as running:
        yield running


@pytest.fixture(scope="session")
def storage(node: NodeCluster, at_home: Path) -> Generator[Storage]:
    """The bucket, where pods reach it too, with the records of the training."""
    with running_radosgw(ADDRESS) as server:
        storage = Storage(OWNER.environment(server.endpoint))
        client = storage.client()
        client.create_bucket(Bucket=BUCKET)
        for file in (at_home.parents[1] / "records").iterdir():
            client.upload_file(str(file), BUCKET, f"records/{file.name}")
        yield storage


@pytest.fixture(scope="session")
def team(node: Cluster, storage: Storage) -> Team:
    """A namespace of the restricted profile that the chart has made ready, with the bucket's keys, and its user."""
    namespace = node.create_namespace("team", labels=RESTRICTED)
    install(node, namespace, {"rbac": {"submitters": [{"kind": "User", "name": "submitter"}]}})
    keys = [f"--from-literal={name}={value}" for name, value in storage.secrets.items()]
    node.kubectl("-n", namespace, "create", "secret", "generic", SECRET, *keys)
    return Team(node, namespace, node.issue_kubeconfig("submitter", namespace=namespace))


@pytest.fixture(autouse=True)
def user_environment(storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the user's shell knows: the storage, and nothing that the machine knows otherwise."""
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL_S3", "AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    for name, value in storage.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "no-aws-config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "no-aws-credentials"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
