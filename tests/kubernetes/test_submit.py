"""`runner submit --on kubernetes` on a real API server, with KubeRay's operator and runs on a real S3 server.

The pods' containers are played: what the head would run, a test runs in a process of its own.
"""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import boto3
import pytest
import yaml

from runner.run_directory import RunDirectory
from runner.scheduled import submission_of
from tests.kubernetes.api import CORE, RAY, ApiError
from tests.kubernetes.cluster import DEFINITIONS, Cluster
from tests.kubernetes.test_chart import CHART, CI_VALUES, the
from tests.kubernetes.tools import build
from tests.runs import ROOT, run_runner, small_job, start_runner, wait_for, write_job, write_records

RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted"}


@dataclass(frozen=True)
class Team:
    """A namespace that the chart has made ready for jobs, and a user who may submit them there."""

    cluster: Cluster
    namespace: str
    kubeconfig: Path

    def list(self, kind: str, selector: str = "") -> list[dict[str, Any]]:
        group = RAY if kind.startswith("ray") else CORE
        return self.cluster.admin.get(f"{group}/namespaces/{self.namespace}/{kind}?labelSelector={selector}")["items"]

    def the_job(self) -> dict[str, Any]:
        [job] = self.list("rayjobs")
        return job

    def submit(self, job: Path, *options: str) -> subprocess.Popen[str]:
        return start_runner("submit", job, "--on", "kubernetes", *options, KUBECONFIG=str(self.kubeconfig))

    def run(self, *arguments: Any, expect: int = 0) -> subprocess.CompletedProcess[str]:
        return run_runner(*arguments, expect=expect, KUBECONFIG=str(self.kubeconfig))

    def is_empty(self) -> bool:
        """Whether nothing of a job is left."""
        files = [each for each in self.list("configmaps") if each["metadata"]["name"] != "kube-root-ca.crt"]
        return not (self.list("rayjobs") or self.list("rayclusters") or self.list("pods") or files)


@pytest.fixture
def team(cluster: Cluster) -> Team:
    namespace = cluster.create_namespace(labels=RESTRICTED)
    values = {"rbac": {"submitters": [{"kind": "User", "name": f"user-of-{namespace}"}]}}
    install(cluster, namespace, values)
    return Team(cluster, namespace, cluster.issue_kubeconfig(f"user-of-{namespace}", namespace=namespace))


def install(cluster: Cluster, namespace: str, values: dict[str, Any], release: str = "runner") -> None:
    command = [build("helm"), "install", release, CHART, "--namespace", namespace, "--values", "-"]
    subprocess.run(
        [*command, "--kubeconfig", cluster.admin_kubeconfig],
        input=yaml.safe_dump(values),
        text=True,
        check=True,
        stdout=subprocess.DEVNULL,
    )


@pytest.fixture
def job(tmp_path: Path, bucket: str) -> Callable[..., Path]:
    """Writes a job file whose runs are on S3."""

    def write(**sections: Any) -> Path:
        records = write_records(tmp_path / "records")
        document = small_job("demo", f"s3://{bucket}/records", f"s3://{bucket}/runs", epochs=2)
        upload(records, bucket)
        document["kubernetes"] = {"service_account": "runner"}
        for name, section in sections.items():
            document[name] = document.get(name, {}) | section
        return write_job(tmp_path / "job.yaml", document)

    return write


def upload(records: Path, bucket: str) -> None:
    client = cast(Any, boto3).client("s3", region_name="us-east-1")
    for file in records.iterdir():
        client.upload_file(str(file), bucket, f"records/{file.name}")


def drive_as_head(team: Team, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    """What the head's entrypoint does, in its pod's environment, on a Ray of its own."""
    job = team.the_job()
    wait_for(lambda: job_status(team).get("rayClusterName"))
    [files] = [each for each in team.list("configmaps") if each["metadata"]["name"] == job["metadata"]["name"]]
    (tmp_path / "mounted.yaml").write_text(files["data"]["job.yaml"])
    words = job["spec"]["entrypoint"].replace("/etc/runner/job.yaml", str(tmp_path / "mounted.yaml")).split()
    return subprocess.run(
        [sys.executable, *words[1:]],
        cwd=ROOT,
        env=os.environ
        | {
            "RAY_ADDRESS": "local",
            "RUNNER_NAMESPACE": team.namespace,
            "RAY_CLUSTER_NAME": job_status(team)["rayClusterName"],
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def job_status(team: Team) -> dict[str, Any]:
    return team.the_job().get("status", {})


def end_job(team: Team, state: str) -> None:
    """Let Ray's job end, and the pod that follows its log, which ends well either way."""
    selector = f"job-name={team.the_job()['metadata']['name']}"
    [submitter] = wait_for(lambda: [pod for pod in team.list("pods", selector) if "containerStatuses" in pod["status"]])
    team.cluster.dashboards.set_job(job_status(team)["jobId"], state)
    team.cluster.finish_pod(team.namespace, submitter["metadata"]["name"], exit_code=0)


# A whole run


def test_a_submitted_job_trains_in_admitted_pods_is_followed_and_leaves_nothing(
    team: Team, job: Callable[..., Path], tmp_path: Path, bucket: str
) -> None:
    submitting = team.submit(job(resources={"workers": 2, "cpus_per_worker": 1}))
    wait_for(lambda: team.list("rayjobs"))
    assert len(wait_for(lambda: len(found := team.list("pods", "ray.io/is-ray-node=yes")) == 3 and found)) == 3
    [head] = team.list("pods", "ray.io/node-type=head")
    [policy] = [each for each in policies(team) if "head" in each["metadata"]["name"]]
    assert policy["spec"]["podSelector"]["matchLabels"].items() <= head["metadata"]["labels"].items()
    assert {"name": "RAY_AUTH_MODE", "value": "token"} in head["spec"]["containers"][0]["env"]

    done = drive_as_head(team, tmp_path)
    assert done.returncode == 0, done.stderr
    end_job(team, "SUCCEEDED")
    out, err = submitting.communicate(timeout=120)
    assert submitting.returncode == 0, err
    run = f"s3://{bucket}/runs/demo"
    assert f"all epochs done: {run}" in out
    assert "demo: done" in team.run("status", run).stdout
    assert "all epochs done" in team.run("logs", run).stdout
    assert "removed runner-demo-" in team.run("stop", run).stdout
    wait_for(team.is_empty)


def policies(team: Team) -> list[dict[str, Any]]:
    path = f"/apis/networking.k8s.io/v1/namespaces/{team.namespace}/networkpolicies"
    return team.cluster.admin.get(path)["items"]


def test_a_lost_head_is_followed_by_another_whose_driver_knows_the_run(
    team: Team, job: Callable[..., Path], bucket: str
) -> None:
    team.run("submit", job(), "--on", "kubernetes", "--detach")
    wait_for(lambda: job_status(team).get("rayClusterName"))
    first = job_status(team)["rayClusterName"]
    end_job(team, "FAILED")
    second = wait_for(lambda: (name := job_status(team).get("rayClusterName")) not in (None, "", first) and name)
    [head] = wait_for(lambda: team.list("pods", f"ray.io/node-type=head,ray.io/cluster={second}"))
    [variable] = [each for each in head["spec"]["containers"][0]["env"] if each["name"] == "RAY_CLUSTER_NAME"]
    assert variable["valueFrom"]["fieldRef"]["fieldPath"] == "metadata.labels['ray.io/cluster']"
    status = RunDirectory.find(f"s3://{bucket}/runs/demo").current_status()
    for name in (first, second):
        environment = {"RUNNER_NAMESPACE": team.namespace, "RAY_CLUSTER_NAME": name}
        assert submission_of(environment).items() <= status.submission.items()


def test_a_job_that_waits_is_withdrawn(team: Team, job: Callable[..., Path], bucket: str) -> None:
    team.run("submit", job(), "--on", "kubernetes", "--detach")
    wait_for(lambda: team.list("pods"))
    assert "withdrawn before it began" in team.run("stop", f"s3://{bucket}/runs/demo").stdout
    wait_for(team.is_empty)
    assert "stopped" in team.run("status", f"s3://{bucket}/runs/demo").stdout


def test_the_user_hears_what_pods_wait_for(team: Team, job: Callable[..., Path], bucket: str) -> None:
    submitting = team.submit(job(resources={"gpus_per_worker": 8}))
    assert submitting.stderr is not None
    line = next(line for line in submitting.stderr if "Insufficient nvidia.com/gpu" in line)
    assert line.startswith("1 pod waits: ")
    team.run("stop", f"s3://{bucket}/runs/demo")
    assert submitting.stderr.read().endswith(
        f"error: s3://{bucket}/runs/demo: stopped; `runner resume s3://{bucket}/runs/demo` continues it\n"
    )
    assert submitting.wait(120) == 1


def test_the_user_hears_that_pods_are_refused(team: Team, job: Callable[..., Path], bucket: str) -> None:
    quota = {"metadata": {"name": "none"}, "spec": {"hard": {"pods": "0"}}}
    team.cluster.admin.create(f"{CORE}/namespaces/{team.namespace}/resourcequotas", quota)
    submitting = team.submit(job())
    assert submitting.stderr is not None
    line = next(line for line in submitting.stderr if "cannot create pods" in line)
    assert line.startswith("KubeRay cannot create pods: forbidden: exceeded quota: none, requested: pods=1")
    team.run("stop", f"s3://{bucket}/runs/demo")
    submitting.communicate(timeout=120)


def test_the_user_hears_that_a_queue_has_not_admitted_the_job(
    team: Team, job: Callable[..., Path], bucket: str
) -> None:
    submitting = team.submit(job(kubernetes={"queue": "gpus"}))
    assert submitting.stderr is not None
    assert next(line for line in submitting.stderr if "Kueue has not admitted the RayJob to queue gpus yet" in line)
    team.run("stop", f"s3://{bucket}/runs/demo")
    submitting.communicate(timeout=120)


def test_a_job_that_kuberay_finds_invalid_has_failed(team: Team, job: Callable[..., Path], bucket: str) -> None:
    submitting = team.submit(job())
    wait_for(lambda: team.list("rayjobs"))
    rayjob = f"{RAY}/namespaces/{team.namespace}/rayjobs/{team.the_job()['metadata']['name']}"
    team.cluster.admin.patch(rayjob, {"spec": {"shutdownAfterJobFinishes": False}})
    _, err = submitting.communicate(timeout=120)
    assert submitting.returncode == 3
    assert "ended as ValidationFailed: " in err.splitlines()[-1]
    status = RunDirectory.find(f"s3://{bucket}/runs/demo").current_status()
    assert status.state == "failed"
    assert "ValidationFailed" in str(status.error)


def test_a_resumed_run_has_one_rayjob_and_a_stop_names_the_wrong_cluster(
    team: Team, job: Callable[..., Path], bucket: str, tmp_path: Path
) -> None:
    run = f"s3://{bucket}/runs/demo"
    team.run("submit", job(), "--on", "kubernetes", "--detach")
    first = team.the_job()["metadata"]["name"]
    RunDirectory.find(run).update_status(state="failed", host="", pid=0)
    team.run("resume", run, "--on", "kubernetes", "--detach")
    wait_for(lambda: len(team.list("rayjobs")) == 1)
    second = team.the_job()["metadata"]["name"]
    assert second != first
    assert RunDirectory.find(run).current_status().submission == {
        "namespace": team.namespace,
        "id": second,
        "server": team.cluster.url,
    }

    config = yaml.safe_load(team.kubeconfig.read_text())
    config["clusters"][0]["cluster"]["server"] = "https://127.0.0.1:9"
    (tmp_path / "other").write_text(yaml.safe_dump(config))
    refused = run_runner("stop", run, expect=3, KUBECONFIG=str(tmp_path / "other"))
    assert refusal(refused).startswith(f"error: the job was sent to {team.cluster.url}, but the current context is ")
    assert team.the_job()["metadata"]["name"] == second
    assert f"removed {second} from the cluster" in team.run("stop", run).stdout
    wait_for(team.is_empty)


# Refusals: one line, and nothing left


def refusal(done: subprocess.CompletedProcess[str]) -> str:
    [line] = done.stderr.splitlines()
    assert line.startswith("error: ")
    return line


def test_wrong_credentials_are_refused_before_anything_is_written(
    team: Team, job: Callable[..., Path], bucket: str
) -> None:
    kubeconfig = str(team.cluster.write_kubeconfig("nonsense", team.namespace))
    done = run_runner("submit", job(), "--on", "kubernetes", expect=3, KUBECONFIG=kubeconfig)
    assert "the cluster does not accept your credentials" in refusal(done)
    run_runner("status", f"s3://{bucket}/runs/demo", expect=2)


def test_a_user_without_rights_is_told_so_and_leaves_nothing(
    team: Team, job: Callable[..., Path], tmp_path: Path
) -> None:
    kubeconfig = str(team.cluster.issue_kubeconfig("nobody", namespace=team.namespace))
    done = run_runner("submit", job(), "--on", "kubernetes", expect=3, KUBECONFIG=kubeconfig)
    assert f"you may not do this in namespace {team.namespace}: " in refusal(done)
    assert team.is_empty()


def test_no_cluster_and_none_that_answers_are_told_apart(job: Callable[..., Path], tmp_path: Path, team: Team) -> None:
    done = run_runner("submit", job(), "--on", "kubernetes", expect=3, KUBECONFIG=str(tmp_path / "none"))
    assert "no Kubernetes cluster is set up" in refusal(done)
    config = yaml.safe_load(team.kubeconfig.read_text())
    config["clusters"][0]["cluster"]["server"] = "https://127.0.0.1:9"
    (tmp_path / "away").write_text(yaml.safe_dump(config))
    done = run_runner("submit", job(), "--on", "kubernetes", expect=3, KUBECONFIG=str(tmp_path / "away"))
    assert "https://127.0.0.1:9: no Kubernetes API server answers here" in refusal(done)


def test_a_namespace_that_is_not_there_is_named(cluster: Cluster, job: Callable[..., Path]) -> None:
    path = job(kubernetes={"namespace": "nowhere"})
    done = run_runner("submit", path, "--on", "kubernetes", expect=3, KUBECONFIG=str(cluster.admin_kubeconfig))
    assert 'namespaces "nowhere" not found' in refusal(done)


@pytest.fixture
def old_kuberay(team: Team) -> Generator[None]:
    """The cluster as an operator older than 1.5.1 leaves it: its RayJobs have no `authOptions`."""
    admin, definition = team.cluster.admin, f"{DEFINITIONS}/rayjobs.ray.io"
    versions = admin.get(definition)["spec"]["versions"]
    older = copy.deepcopy(versions)
    for version in older:
        spec = version["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]
        spec["rayClusterSpec"]["properties"].pop("authOptions", None)

    def knows_it() -> bool:
        cluster = {"authOptions": {"mode": "token"}}
        made = {"apiVersion": "ray.io/v1", "kind": "RayJob", "metadata": {"name": "asks"}}
        try:
            admin.create(
                f"{RAY}/namespaces/{team.namespace}/rayjobs", made | {"spec": {"rayClusterSpec": cluster}}, dry_run=True
            )
        except ApiError as error:
            return "authOptions" not in error.message
        return True

    admin.patch(definition, {"spec": {"versions": older}})
    wait_for(lambda: not knows_it())
    yield
    admin.patch(definition, {"spec": {"versions": versions}})
    wait_for(knows_it)


@pytest.mark.usefixtures("old_kuberay")
def test_a_kuberay_that_would_leave_out_the_token_is_too_old(team: Team, job: Callable[..., Path]) -> None:
    done = team.run("submit", job(), "--on", "kubernetes", expect=3)
    assert "this cluster's KubeRay is too old: it does not know spec.rayClusterSpec.authOptions" in refusal(done)
    assert team.is_empty()


def test_a_submitter_may_submit_and_nothing_else(team: Team) -> None:
    may = {"create rayjobs.ray.io", "get rayjobs.ray.io", "delete rayjobs.ray.io", "create configmaps", "list pods"}
    may_not = {
        "get secrets",
        "list secrets",
        "get configmaps",
        "create pods",
        "get pods --subresource=log",
        "create pods --subresource=exec",
        "update rayjobs.ray.io",
        "create rolebindings",
    }
    for question in may | may_not:
        done = subprocess.run(
            [build("kubectl"), f"--kubeconfig={team.kubeconfig}", "auth", "can-i", *question.split()],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.stdout.strip() == ("yes" if question in may else "no"), question


# The chart and the plain manifests


@pytest.mark.parametrize("values", CI_VALUES, ids=lambda path: path.name)
def test_the_server_admits_the_chart(cluster: Cluster, values: Path) -> None:
    """With every field known, every rule kept, and every pod as the restricted profile wants it."""
    namespace = cluster.create_namespace(labels=RESTRICTED)
    install(cluster, namespace, yaml.safe_load(values.read_text()))
    command = [build("helm"), "get", "manifest", "runner", "--namespace", namespace]
    command += ["--kubeconfig", cluster.admin_kubeconfig]
    objects = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    answer = cluster.kubectl("apply", "--dry-run=server", "--validate=strict", "-f", "-", stdin=objects)
    assert "Warning" not in answer
    if "schedule" in values.name:
        cluster.kubectl("-n", namespace, "create", "job", "--from=cronjob/runner", "now")
        [pod] = wait_for(lambda: cluster.admin.get(f"{CORE}/namespaces/{namespace}/pods")["items"])
        account = f"system:serviceaccount:{namespace}:{pod['spec']['serviceAccountName']}"
        may = cluster.kubectl("-n", namespace, "auth", "can-i", "create", "rayjobs.ray.io", f"--as={account}")
        assert may.strip() == "yes"
    else:
        of_ray = f"{CORE}/namespaces/{namespace}/pods?labelSelector=ray.io/is-ray-node=yes"
        wait_for(lambda: len(cluster.admin.get(of_ray)["items"]) == 3)


@pytest.mark.parametrize("overlay", ["cpu", "gpu", "spot"])
def test_the_server_admits_the_plain_manifests(cluster: Cluster, overlay: str) -> None:
    built = subprocess.run(
        [build("kustomize"), "build", ROOT / "k8s/overlays" / overlay], capture_output=True, text=True, check=True
    ).stdout
    the("RayJob", [each for each in yaml.safe_load_all(built) if each])
    if not cluster.admin.exists(f"{CORE}/namespaces/runner"):
        cluster.create_namespace("runner", RESTRICTED)
    answer = cluster.kubectl("apply", "--dry-run=server", "--validate=strict", "-f", "-", stdin=built)
    assert "Warning" not in answer
