"""The pages whose commands need a server: S3, a Ray cluster, Kubernetes. Their buckets are called `bucket`."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any, cast

import boto3
import pytest

from tests.docs.newcomer import SMALL, Newcomer, write_claims
from tests.docs.pages import ROOT, page_named
from tests.kubernetes.api import CORE
from tests.kubernetes.cluster import Cluster, running_cluster
from tests.kubernetes.test_submit import Team, drive_as_head, end_job
from tests.kubernetes.tools import build
from tests.ray.cluster import AUTH, cluster, cluster_python
from tests.runs import wait_for
from tests.s3.radosgw import OWNER, Radosgw

__all__ = ["cluster", "cluster_python"]

S3_KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL")
MAKE_JOB = """\
runner import claims.csv s3://bucket/records/
runner init job.yaml --name claims --data s3://bucket/records/ --columns age,code,amount --field-delimiter ,
sed -i 's|uri: runs/|uri: s3://bucket/runs/|' job.yaml
"""


@pytest.fixture(scope="module", autouse=True)
def s3(s3_server: Radosgw) -> Iterator[dict[str, str]]:
    """The variables with which this process, its servers and newcomers reach S3."""
    with pytest.MonkeyPatch.context() as patch:
        variables = OWNER.environment(s3_server.endpoint)
        for name, value in variables.items():
            patch.setenv(name, value)
        yield variables


@pytest.fixture
def newcomer(s3: dict[str, str], tmp_path: Path) -> Iterator[Newcomer]:
    """Someone with `claims.csv`, credentials, and an empty bucket called `bucket`."""
    folder = tmp_path / "here"
    folder.mkdir()
    write_claims(folder / "claims.csv")
    bucket = cast(Any, boto3).resource("s3", region_name="us-east-1").Bucket("bucket")
    bucket.create()
    yield Newcomer(folder, variables=SMALL | s3)
    bucket.objects.all().delete()
    bucket.delete()


def test_s3(newcomer: Newcomer) -> None:
    newcomer.run(MAKE_JOB)
    newcomer.replaced = {"-n 1000000 ": "-n 3000 --rows-per-shard 1000 "}
    newcomer.follow(page_named("s3.md"))


def test_a_ray_cluster(newcomer: Newcomer, cluster: str) -> None:
    newcomer.run(MAKE_JOB)
    newcomer.variables |= AUTH
    newcomer.replaced = {"http://head:8265": cluster, "-n 10000000 ": "-n 3000 --rows-per-shard 1000 "}
    newcomer.follow(page_named("ray-cluster.md"))


@pytest.fixture(scope="module")
def kubernetes() -> Iterator[Cluster]:
    with running_cluster() as running:
        yield running


@pytest.mark.timeout(1800)
def test_kubernetes(newcomer: Newcomer, kubernetes: Cluster, tmp_path: Path) -> None:
    """In a checkout, as the page says. No container runs: the test does what the head's would."""
    for folder in ("helm", "k8s"):
        shutil.copytree(ROOT / folder, newcomer.folder / folder)
    (newcomer.folder / "s3.env").write_text("".join(f"{name}={newcomer.variables[name]}\n" for name in S3_KEYS))
    tools = {str(build(tool).parent) for tool in ("helm", "kubectl")}
    newcomer.variables |= {
        "KUBECONFIG": str(kubernetes.admin_kubeconfig),
        "PATH": ":".join([*tools, newcomer.variables["PATH"]]),
    }
    newcomer.replaced = {"{workers: 2, cpus_per_worker: 2}": "{workers: 1, cpus_per_worker: 1}"}
    team = Team(kubernetes, "team", kubernetes.admin_kubeconfig)

    all_ran = Event()

    def play_the_head() -> None:
        """When the page has come to its job, however long that takes."""

        def has_come() -> bool:
            return kubernetes.admin.exists(f"{CORE}/namespaces/team") and bool(team.list("rayjobs"))

        wait_for(lambda: all_ran.is_set() or has_come(), timeout_s=math.inf)
        if all_ran.is_set():  # One of the commands before it failed.
            return
        done = drive_as_head(team, tmp_path)
        assert done.returncode == 0, done.stderr
        end_job(team, "SUCCEEDED")

    with ThreadPoolExecutor(1) as pool:
        head = pool.submit(play_the_head)
        try:
            newcomer.follow(page_named("kubernetes.md"))
        finally:
            all_ran.set()
            head.result()  # If it failed, then the page's commands waited for it in vain.
    newcomer.follow(page_named("kubernetes-cost.md"))
    newcomer.follow(page_named("kubernetes-security.md"))
