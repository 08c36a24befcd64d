"""A job as Kubernetes objects, and what its driver makes of it there."""

from __future__ import annotations

import re
import string
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from runner import scheduled
from runner.config import JobConfig, parse_job
from runner.errors import ConfigError, JobStoppedError, OvertakenError
from runner.run_directory import RunDirectory, Status
from runner.submit.kubernetes import SPOT, Manifest, manifests, object_name
from runner.submit.plan import plan_submission

ON_S3: dict[str, Any] = {"name": "demo", "data": {"uri": "s3://b/records"}, "storage": {"uri": "s3://b/runs"}}


def job(**sections: Any) -> JobConfig:
    return parse_job(ON_S3 | sections, environment={})


def pods(run: Manifest) -> list[Manifest]:
    cluster = run["spec"]["rayClusterSpec"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    return [run["spec"]["submitterPodTemplate"]["spec"], *(group["template"]["spec"] for group in groups)]


# The objects


@given(st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", fullmatch=True))
def test_every_runs_name_makes_a_name_that_kubernetes_accepts(run: str) -> None:
    name = object_name(run, "1a2b3c4d")
    assert re.fullmatch("[a-z]([-a-z0-9]*[a-z0-9])?", name)
    assert len(name) <= 47


def test_every_pod_has_what_the_restricted_profile_asks_for() -> None:
    for pod in pods(manifests(job(), "demo")[1]):
        assert pod["securityContext"]["runAsNonRoot"]
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not pod["automountServiceAccountToken"]
        [container] = pod["containers"]
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert container["resources"].keys() == {"requests", "limits"}


def test_workers_are_what_the_job_asks_for_and_the_head_trains_nothing() -> None:
    resources = {"workers": 3, "cpus_per_worker": 4, "gpus_per_worker": 2}
    cluster = manifests(job(resources=resources), "demo")[1]["spec"]["rayClusterSpec"]
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    [group] = cluster["workerGroupSpecs"]
    assert group["replicas"] == group["minReplicas"] == group["maxReplicas"] == 3
    limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert limits == {"cpu": "4", "memory": "8Gi", "nvidia.com/gpu": 2}


def test_a_pod_asks_for_its_disk_and_may_fill_no_more() -> None:
    kinds = {"head": {"disk_gib": 2.5}, "worker": {"disk_gib": 60}}
    submitter, head, worker = pods(manifests(job(kubernetes=kinds), "demo")[1])
    for pod, size in ((head, "2.5Gi"), (worker, "60Gi")):
        resources = pod["containers"][0]["resources"]
        assert resources["requests"]["ephemeral-storage"] == resources["limits"]["ephemeral-storage"] == size
        assert pod["volumes"][0] == {"name": "tmp", "emptyDir": {"sizeLimit": size}}
    for pod in (submitter, *pods(manifests(job(), "demo")[1])):
        assert pod["volumes"][0] == {"name": "tmp", "emptyDir": {}}
        assert "ephemeral-storage" not in pod["containers"][0]["resources"]["requests"]


def test_evictions_of_the_submitter_do_not_end_the_cluster() -> None:
    assert manifests(job(), "demo")[1]["spec"]["submitterConfig"]["backoffLimit"] >= 20


def test_every_cluster_asks_for_its_token() -> None:
    assert manifests(job(), "demo")[1]["spec"]["rayClusterSpec"]["authOptions"] == {"mode": "token"}


def test_a_queue_holds_the_job_until_it_is_admitted() -> None:
    run = manifests(job(kubernetes={"queue": "team"}), "demo")[1]
    assert run["spec"]["suspend"]
    assert run["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "team"


@pytest.mark.parametrize("provider", SPOT)
def test_workers_are_on_spot_nodes_and_no_other_pod_is(provider: str) -> None:
    submitter, head, worker = pods(manifests(job(kubernetes={"worker": {"spot": provider}}), "demo")[1])
    [(label, value)] = worker["nodeSelector"].items()
    assert "affinity" not in worker
    for pod in (head, submitter):
        [term] = pod["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
        assert term == {"matchExpressions": [{"key": label, "operator": "NotIn", "values": [value]}]}
        assert "nodeSelector" not in pod


def test_a_spot_nodes_taint_is_tolerated_by_workers_alone() -> None:
    submitter, head, worker = pods(manifests(job(kubernetes={"worker": {"spot": "aks"}}), "demo")[1])
    assert [each["key"] for each in worker["tolerations"]] == ["kubernetes.azure.com/scalesetpriority"]
    assert "tolerations" not in head | submitter


def test_the_submitter_runs_where_the_head_may() -> None:
    nodes = {"node_selector": {"kubernetes.io/arch": "amd64"}, "tolerations": [{"key": "infra"}]}
    submitter, head, worker = pods(manifests(job(kubernetes={"head": nodes}), "demo")[1])
    for field in ("nodeSelector", "tolerations"):
        assert submitter[field] == head[field]
        assert field not in worker


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ({"key": "a", "value": "b"}, {"key": "a", "operator": "Equal", "value": "b"}),
        ({"key": "a", "value": ""}, {"key": "a", "operator": "Equal", "value": ""}),
        ({"key": "a"}, {"key": "a", "operator": "Exists"}),
        ({"effect": "NoExecute"}, {"operator": "Exists", "effect": "NoExecute"}),
    ],
)
def test_a_toleration_with_a_value_compares_it(given: dict[str, str], sent: dict[str, str]) -> None:
    for pod in pods(
        manifests(job(kubernetes={kind: {"tolerations": [given]} for kind in ("head", "worker")}), "demo")[1]
    ):
        assert pod["tolerations"] == [sent]


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"worker": {"tolerations": [{"key": "a", "operator": "Exists", "value": "b"}]}}, "Exists compares no value"),
        ({"worker": {"tolerations": [{"value": "b"}]}}, "Equal needs a key"),
        ({"worker": {"tolerations": [{"operator": "Equal"}]}}, "Equal needs a key"),
        ({"worker": {"tolerations": [{"key": "a b"}]}}, "'a b' is not the key of a label or taint"),
        ({"worker": {"tolerations": [{"key": "a", "value": "b c"}]}}, "a: 'b c' is not the value of a label or taint"),
        ({"head": {"node_selector": {"pool/": "a"}}}, "'pool/' is not the key of a label or taint"),
        ({"head": {"node_selector": {"a..b/pool": "a"}}}, r"'a\.\.b/pool' is not the key of a label or taint"),
        ({"head": {"node_selector": {"pool": "-a"}}}, "pool: '-a' is not the value of a label or taint"),
        ({"head": {"node_selector": {"pool": "a" * 64}}}, "is not the value of a label or taint"),
        ({"environment": {"1A": "x"}}, "'1A' is not a variable's name"),
        ({"environment": {"A=B": "x"}}, "'A=B' is not a variable's name"),
        ({"environment": {"RUNNER_NAMESPACE": "x"}}, "pods get RUNNER_NAMESPACE from their manifest"),
        ({"environment": {"RAY_AUTH_TOKEN": "x"}}, "pods get RAY_AUTH_TOKEN from their manifest"),
        ({"secrets": ["a..b"]}, "'a..b' does not have the form"),
        ({"volume_claims": {"a": "/data", "b": "/data/"}}, "b: a is mounted on /data/ already"),
        ({"volume_claims": {"a": "/tmp/"}}, "a: /tmp/ cannot be mounted on"),
        ({"volume_claims": {"a": "/etc/runner"}}, "a: /etc/runner cannot be mounted on"),
        ({"volume_claims": {"a": "data"}}, "a: data cannot be mounted on"),
        ({"volume_claims": {"a": "/data:ro"}}, "a: /data:ro cannot be mounted on"),
    ],
)
def test_what_no_pod_can_have_is_refused_in_one_line(settings: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigError, match=line) as error:
        job(kubernetes=settings)
    assert len(str(error.value).splitlines()) == 1


@given(st.text(max_size=70))
def test_a_label_that_is_accepted_is_one_of_kubernetes(text: str) -> None:
    """Its own rules, of `k8s.io/apimachinery/pkg/util/validation`, in other words."""
    try:
        job(kubernetes={"head": {"node_selector": {"key": text}}})
    except ConfigError:
        return
    assert len(text) <= 63
    assert not set(text) - set(string.ascii_letters + string.digits + "-_.")
    assert not text or (text[0].isalnum() and text[-1].isalnum())


def test_secrets_are_named_and_never_held() -> None:
    _, run = manifests(job(kubernetes={"secrets": ["s3"]}), "demo")
    for pod in pods(run):
        assert pod["containers"][0]["envFrom"] == [{"secretRef": {"name": "s3"}}]


@pytest.mark.parametrize("section", ["data", "storage"])
def test_a_folder_that_pods_do_not_see_is_refused(section: str) -> None:
    with pytest.raises(ConfigError, match=rf"{section}\.uri: pods do not see runs/; use s3://"):
        manifests(job(**{section: {"uri": "runs/"}}), "demo")
    claim = {"volume_claims": {"disk": "/disk"}}
    manifests(job(**{section: {"uri": "/disk/x"}, "kubernetes": claim}), "demo")
    with pytest.raises(ConfigError, match="pods do not see"):
        manifests(job(**{section: {"uri": "/diskette/x"}, "kubernetes": claim}), "demo")


def test_a_dry_run_prints_what_kubectl_takes() -> None:
    plan = plan_submission(job(kubernetes={"namespace": "team"}), "kubernetes", environment={})
    files, run = yaml.safe_load_all(plan.to_yaml())
    assert (files["kind"], run["kind"]) == ("ConfigMap", "RayJob")
    assert files["metadata"]["name"] == run["metadata"]["name"] == plan.submission_id
    assert files["metadata"]["namespace"] == run["metadata"]["namespace"] == "team"
    assert parse_job(yaml.safe_load(files["data"]["job.yaml"]), environment={}) == job(kubernetes={"namespace": "team"})
    with pytest.raises(ConfigError, match="--address is for --on ray"):
        plan_submission(job(), "kubernetes", address="http://head:8265", environment={})


# The driver in the cluster


Bring = Callable[..., Status | None]
HERE = {"namespace": "team", "id": "demo-1"}


@pytest.fixture
def driven(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The runs that were driven, each at once to its end."""
    seen: list[str] = []

    def drive(run_uri: str, stop: threading.Event, *, local: bool) -> Status:
        assert not local
        directory = RunDirectory(scheduled.RunDirectory.find(run_uri).folder)
        seen.append(f"{directory.current_status().state} {run_uri.rpartition('/')[2]}")
        directory.folder.write("model/manifest.json", b"{}")
        return directory.update_status(state="done")

    monkeypatch.setattr(scheduled, "drive", drive)
    return seen


@pytest.fixture
def bring(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bring:
    """Runs the driver of a job in a RayJob's pod."""
    (tmp_path / "records").mkdir()
    table = pa.table({"text": [f"record {number}" for number in range(300)]})
    pq.write_table(table, tmp_path / "records/a.parquet")
    monkeypatch.setenv("RUNNER_NAMESPACE", HERE["namespace"])
    monkeypatch.setattr(scheduled, "LOST_AFTER_S", -19.5)  # a moment

    def run(attempt: str = "x7f2q", job_id: str = HERE["id"], **sections: Any) -> Status | None:
        monkeypatch.setenv("RAY_CLUSTER_NAME", f"{job_id}-{attempt}")
        document = {
            "name": "demo",
            "data": {"uri": str(tmp_path / "records")},
            "storage": {"uri": str(tmp_path / "runs")},
        }
        (tmp_path / "job.yaml").write_text(yaml.safe_dump(document | sections))
        return scheduled.bring_about(str(tmp_path / "job.yaml"), threading.Event())

    return run


def change(tmp_path: Path, **changes: Any) -> RunDirectory:
    directory = RunDirectory.find("demo", str(tmp_path / "runs"))
    directory.write_status(replace(directory.current_status(), **changes))
    return directory


def test_a_run_that_is_not_there_is_begun_and_one_that_is_done_is_left_alone(
    bring: Bring, driven: list[str], tmp_path: Path
) -> None:
    status = bring()
    assert status is not None
    assert (status.state, status.submission) == ("done", HERE)
    bring("aaaaa")
    assert driven == ["pending demo"]


def test_a_run_that_was_killed_goes_on(bring: Bring, driven: list[str], tmp_path: Path) -> None:
    bring()
    sent = HERE | {"server": "https://1.2.3.4"}
    change(tmp_path, state="training", host="elsewhere", heartbeat=time.time() - 1000, submission=sent)
    status = bring("aaaaa")
    assert status is not None
    assert (status.attempt, status.submission) == (2, sent)
    assert driven == ["pending demo", "pending demo"]


@pytest.mark.parametrize("server", [{}, {"server": "https://from-outside"}], ids=["in a pod", "outside"])
def test_a_run_that_a_submitter_claimed_is_begun(
    bring: Bring, driven: list[str], tmp_path: Path, server: dict[str, str]
) -> None:
    bring()
    change(tmp_path, state="pending", submission=HERE | server, pid=0)
    status = bring()
    assert status is not None
    assert status.attempt == 1
    assert driven == ["pending demo", "pending demo"]


def test_more_epochs_go_on_and_another_model_is_refused(bring: Bring, driven: list[str]) -> None:
    bring()
    bring(training={"epochs": 30})
    assert driven == ["pending demo", "pending demo"]
    with pytest.raises(ConfigError, match=r"model\.layers: a resume cannot change this"):
        bring(training={"epochs": 30}, model={"layers": 3})


def test_a_job_whose_run_was_continued_since_comes_too_late(bring: Bring, driven: list[str], tmp_path: Path) -> None:
    bring()
    bring(job_id="demo-2", training={"epochs": 30})
    change(tmp_path, state="training", host="elsewhere", heartbeat=time.time() - 1000)
    with pytest.raises(OvertakenError, match="the run was continued by demo-2 after demo-1 had it"):
        bring("aaaaa")
    bring("aaaaa", job_id="demo-2", training={"epochs": 30})
    directory = change(tmp_path, state="failed")
    directory.begin_again("local")
    change(tmp_path, state="failed")
    with pytest.raises(OvertakenError, match="the run was continued elsewhere after demo-2 had it"):
        bring("bbbbb", job_id="demo-2", training={"epochs": 30})
    assert len(driven) == 3
    assert directory.read_config().training.epochs == 30


def test_what_a_user_stopped_stays_stopped(
    bring: Bring, driven: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bring()
    directory = change(tmp_path, state="training", host="elsewhere", heartbeat=time.time() - 1000)
    directory.request_stop()
    status = bring("aaaaa")
    assert status is not None
    assert status.state == "stopped"
    assert driven == ["pending demo"]


@pytest.mark.parametrize("is_asked_to", [True, False])
def test_a_stop_fails_the_job_only_when_nobody_asked_for_it(
    bring: Bring, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_asked_to: bool
) -> None:
    """A job that has failed is started again: right after a preemption, wrong after `runner stop`."""

    def drive(run_uri: str, stop: threading.Event, *, local: bool) -> Status:
        directory = RunDirectory.find(run_uri)
        if is_asked_to:
            directory.request_stop()
        directory.update_status(state="stopped")
        raise JobStoppedError("stopped")

    monkeypatch.setattr(scheduled, "drive", drive)
    if is_asked_to:
        status = bring()
        assert status is not None
        assert status.state == "stopped"
    else:
        with pytest.raises(JobStoppedError):
            bring()


def test_a_scheduled_job_trains_on_what_is_new_and_its_retry_is_the_same_run(
    bring: Bring, driven: list[str], tmp_path: Path
) -> None:
    since = {"data": {"uri": str(tmp_path / "records"), "since": "last"}}
    bring(job_id="demo-1", **since)
    (tmp_path / "runs/demo/files.json").write_text('{"before": [], "own": []}')
    bring("aaaaa", job_id="demo-1", **since)
    assert driven == ["pending demo"]


def test_nothing_new_is_no_failure(bring: Bring, driven: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def check(config: JobConfig) -> None:
        raise scheduled.NothingNewError("no files")

    monkeypatch.setattr(scheduled, "check", check)
    assert bring() is None
    assert driven == []
