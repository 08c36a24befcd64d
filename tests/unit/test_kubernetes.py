"""A job as Kubernetes objects."""

from __future__ import annotations

import re
import string
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from runner.config import JobConfig, parse_job
from runner.errors import ConfigError
from runner.submit.kubernetes import SPOT, Manifest, manifests, object_name
from runner.submit.plan import plan_submission

ON_S3: dict[str, Any] = {"name": "demo", "data": {"uri": "s3://b/records"}, "storage": {"uri": "s3://b/runs"}}


def job(**sections: Any) -> JobConfig:
    return parse_job(ON_S3 | sections, environment={})


def pods(run: Manifest) -> list[Manifest]:
    cluster = run["spec"]["rayClusterSpec"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    return [run["spec"]["submitterPodTemplate"]["spec"], *(group["template"]["spec"] for group in groups)]


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
