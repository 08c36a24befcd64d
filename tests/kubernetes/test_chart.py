"""The chart: what it renders is what `runner submit --on kubernetes` sends, and it says no to what a job file would."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from runner.config import KubernetesConfig, ResourcesConfig, parse_job
from runner.submit.kubernetes import Manifest, manifests
from tests.kubernetes import tools
from tests.kubernetes.api import CORE, POLICY, ApiError
from tests.kubernetes.cluster import Cluster
from tests.runs import ROOT, wait_for

CHART = ROOT / "helm" / "runner"
CI_VALUES = sorted((CHART / "ci").glob("*-values.yaml"))
JOB: dict[str, Any] = {"name": "demo", "data": {"uri": "s3://b/records/"}, "storage": {"uri": "s3://b/runs/"}}


def kubernetes(**settings: Any) -> dict[str, Any]:
    """Values of a release that runs a job with such pods."""
    return {"run": "now", "job": JOB | {"kubernetes": settings}}


def helm(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([tools.build("helm"), *arguments], capture_output=True, text=True, check=False)


def render(values: dict[str, Any], folder: Path, *, release: str = "demo", namespace: str = "team") -> list[Manifest]:
    """The objects of a release."""
    file = folder / "values.yaml"
    file.write_text(json.dumps(values))  # which is YAML, too, in which every text has quotes
    done = helm("template", release, CHART, "--namespace", namespace, "--values", file)
    assert done.returncode == 0, done.stderr
    return [document for document in yaml.safe_load_all(done.stdout) if document]


def the(kind: str, objects: list[Manifest]) -> Manifest:
    [found] = [each for each in objects if each["kind"] == kind]
    return found


VARIATIONS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "gpus": {"resources": {"workers": 4, "cpus_per_worker": 8, "gpus_per_worker": 2}},
    "spot gke": {"kubernetes": {"worker": {"spot": "gke", "node_selector": {"pool": "a"}}}},
    "spot eks": {"kubernetes": {"worker": {"spot": "eks"}, "head": {"node_selector": {"disk": "ssd"}}}},
    "spot aks": {
        "kubernetes": {"worker": {"spot": "aks", "tolerations": [{"key": "k", "value": "v", "effect": None}]}}
    },
    "spot karpenter": {"kubernetes": {"worker": {"spot": "karpenter"}}},
    "kueue": {"kubernetes": {"queue": "team-queue", "priority_class": "low"}},
    "limits": {"kubernetes": {"retries": 0, "deadline_s": 31536000, "keep_cluster_s": 31536000}},
    "account": {"kubernetes": {"service_account": "cloud", "image_pull_secrets": ["registry"], "secrets": ["s3", "t"]}},
    "environment": {"kubernetes": {"environment": {"AWS_REGION": "eu-central-1", "FLAG": "true", "NUMBER": "012"}}},
    "volumes": {
        "data": {"uri": "/data/records"},
        "storage": {"uri": "/runs"},
        "kubernetes": {"volume_claims": {"b": "/runs", "a": "/data"}},
    },
    "texts that YAML reads as something else": {
        "data": {"uri": "/data, readOnly/records"},
        "storage": {"uri": "/#runs"},
        "kubernetes": {
            "service_account": "007",
            "priority_class": "0x1f",
            "image_pull_secrets": ["1.5"],
            "secrets": ["123", "null", "true"],
            "queue": "123",
            "environment": {"true": "yes", "QUOTES": "\"'\\ {{ }}", "LINES": "a\nb: c", "TIME": "12:30"},
            "volume_claims": {"c": "/data, readOnly", "1": "/#runs", "0b1": "/{{ x }}"},
            "head": {"node_selector": {"1": "1", "on": "off"}, "tolerations": [{"key": "1", "value": "1"}]},
            "worker": {"node_selector": {"1": "1e3"}, "tolerations": [{"key": "null", "value": "null"}]},
        },
    },
    "nodes": {
        "kubernetes": {
            "image": "registry.example/runner@sha256:" + 64 * "0",
            "image_pull_policy": "Always",
            "head": {
                "cpus": 0.25,
                "memory_gib": 2.5,
                "node_selector": {"disk": "ssd"},
                "tolerations": [{"key": "a"}, {}, {"key": "a", "operator": "Equal"}, {"key": "a", "value": ""}],
            },
            "worker": {"memory_gib": 0.5, "tolerations": [{"key": "nvidia.com/gpu", "effect": "NoSchedule"}]},
        }
    },
    "disks": {"kubernetes": {"head": {"disk_gib": 2.5}, "worker": {"disk_gib": 65536}}},
    "a sweep": {
        "resources": {"workers": 2},
        "sweep": {"parameters": {"model.rnn_units": {"choice": [8, 16]}}, "max_concurrent": 3},
    },
    "large numbers": {"data": {"uri": "s3://b/r", "max_records": 50_000_000}, "training": {"seed": 4_000_000_000}},
    "texts": {"data": {"uri": "s3://b/ä ö", "field_delimiter": "|"}, "training": {"epoch_callback": "a.b:c"}},
}


@pytest.mark.parametrize("changes", VARIATIONS.values(), ids=list(VARIATIONS))
def test_the_chart_renders_what_submit_sends(changes: dict[str, Any], tmp_path: Path) -> None:
    objects = render({"run": "now", "job": JOB | changes}, tmp_path)
    rendered = the("RayJob", objects)
    name = rendered["metadata"]["name"]
    kubernetes = {"namespace": "team", "service_account": "demo-runner"} | changes.get("kubernetes", {})
    config = parse_job(JOB | changes | {"kubernetes": kubernetes}, environment={})
    files, sent = manifests(config, name)
    assert rendered["spec"] == sent["spec"]
    for key in ("apiVersion", "kind"):
        assert rendered[key] == sent[key]
    queue = "kueue.x-k8s.io/queue-name"
    assert rendered["metadata"]["namespace"] == sent["metadata"]["namespace"] == "team"
    assert rendered["metadata"]["labels"].get(queue) == sent["metadata"]["labels"].get(queue)
    held = the("ConfigMap", objects)
    assert (held["metadata"]["name"], held["data"].keys()) == (name, files["data"].keys())
    job = parse_job(yaml.safe_load(held["data"]["job.yaml"]), environment={})
    assert job == config


def test_the_charts_defaults_are_those_of_a_job_file() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())["job"]
    defaults = KubernetesConfig().model_dump(mode="json", exclude={"namespace"})
    assert values["kubernetes"] == defaults
    resources = ResourcesConfig().model_dump()
    assert values["resources"] == {name: resources[name] for name in values["resources"]}


def test_another_job_is_another_rayjob(tmp_path: Path) -> None:
    names = {
        the("RayJob", render({"run": "now", "job": JOB | {"training": {"epochs": epochs}}}, tmp_path))["metadata"][
            "name"
        ]
        for epochs in (1, 2)
    }
    assert len(names) == 2


@pytest.mark.parametrize("release", ["2024.claims", "7", "a.b-runner", "x" + 40 * "-" + "y", 52 * "1", 53 * "a"])
def test_every_releases_name_makes_names_that_kuberay_accepts(release: str, tmp_path: Path) -> None:
    """A DNS-1035 label of at most 47 characters, in KubeRay's `ValidateRayJobMetadata`."""
    name = the("RayJob", render(kubernetes(), tmp_path, release=release))["metadata"]["name"]
    assert re.fullmatch("[a-z]([-a-z0-9]*[a-z0-9])?", name)
    assert len(name) <= 47
    cron = the("CronJob", render(kubernetes() | {"run": "schedule"}, tmp_path, release=release))["metadata"]["name"]
    assert re.fullmatch("[a-z]([-a-z0-9]*[a-z0-9])?", cron)


def test_without_an_account_of_its_own_a_release_has_the_namespaces(tmp_path: Path) -> None:
    for run in ("now", "schedule"):
        objects = render(kubernetes() | {"run": run, "serviceAccount": {"create": False}}, tmp_path)
        job = parse_job(yaml.safe_load(the("ConfigMap", objects)["data"]["job.yaml"]), environment={})
        assert job.kubernetes is not None
        assert job.kubernetes.service_account == "default"
        assert the("Pod", objects)["spec"]["serviceAccountName"] == "default"


def test_names_that_look_like_numbers_stay_names(tmp_path: Path) -> None:
    values = {
        "serviceAccount": {"name": "007"},
        "networkPolicy": {"operatorNamespace": "1e3"},
        "rbac": {
            "submitters": [{"kind": "User", "name": "42"}, {"kind": "ServiceAccount", "name": "1", "namespace": "2"}]
        },
        "schedule": {"time_zone": "123"},
    }
    objects = render(kubernetes() | values | {"run": "schedule"}, tmp_path, release="7", namespace="123")
    assert {each["metadata"]["namespace"] for each in objects} == {"123"}
    assert {each["metadata"]["labels"]["app.kubernetes.io/instance"] for each in objects} == {"7"}
    assert "007" in {each["metadata"]["name"] for each in objects if each["kind"] == "ServiceAccount"}
    assert the("CronJob", objects)["spec"]["timeZone"] == "123"
    user, account, *_ = the("RoleBinding", objects)["subjects"]
    assert (user["name"], account["name"], account["namespace"]) == ("42", "1", "2")
    peers = [peer for each in network_policies(objects) for peer in each["spec"]["ingress"][-1]["from"]]
    assert {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "1e3"}}} in peers


@pytest.mark.parametrize("values", CI_VALUES, ids=lambda path: path.name)
def test_the_chart_passes_lint(values: Path) -> None:
    done = helm("lint", CHART, "--strict", "--values", values)
    assert done.returncode == 0, done.stdout


def test_the_chart_packages(tmp_path: Path) -> None:
    assert helm("package", CHART, "--destination", tmp_path).returncode == 0
    assert [file.name for file in tmp_path.iterdir()] == ["runner-0.1.0.tgz"]


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({"run": "now"}, "'/job/data/uri': minLength"),
        ({"run": "now", "job": JOB | {"trainin": {}}}, "'/job': additional properties 'trainin' not allowed"),
        ({"run": "now", "job": JOB | {"training": {"epochs": 0}}}, "'/job/training/epochs': minimum"),
        ({"run": "now", "job": JOB | {"kubernetes": {"worker": {"spot": "ovh"}}}}, "'/job/kubernetes"),
        (
            kubernetes(head={"tolerations": [{"key": "a", "operator": "Exists", "value": "b"}]}),
            "0/operator': value must",
        ),
        (kubernetes(head={"tolerations": [{"operator": "Equal"}]}), "tolerations/0': missing property 'key'"),
        (kubernetes(head={"tolerations": [{"value": "b"}]}), "tolerations/0': missing property 'key'"),
        (kubernetes(head={"tolerations": [{"key": "a b"}]}), "tolerations/0/key': 'a b' does not match pattern"),
        (kubernetes(head={"node_selector": {"a b": "c"}}), "invalid propertyName 'a b'"),
        (kubernetes(head={"node_selector": {"a": "b c"}}), "node_selector/a': 'b c' does not match pattern"),
        (kubernetes(environment={"1A": "x"}), "invalid propertyName '1A'"),
        (kubernetes(environment={"RUNNER_NAMESPACE": "x"}), "invalid propertyName 'RUNNER_NAMESPACE'"),
        (kubernetes(volume_claims={"a": "data"}), "volume_claims/a': 'data' does not match pattern"),
        (kubernetes(volume_claims={"A": "/data"}), "volume_claims': additional properties 'A' not allowed"),
        (kubernetes(volume_claims={"a": "/tmp/"}), "volume_claims.a: /tmp/ is mounted on already"),
        (kubernetes(volume_claims={"a": "/data", "b": "/data/"}), "volume_claims.b: /data/ is mounted on already"),
        (kubernetes(namespace="elsewhere"), "runs in default, its release's namespace, not in elsewhere"),
        ({"networkPolicy": {"alsoFrom": [{"podSelecter": {}}]}}, "alsoFrom/0': additional properties 'podSelecter'"),
        ({"networkPolicy": {"alsoFrom": [{}]}}, "alsoFrom/0': minProperties"),
        ({"run": "later"}, "'/run': value must be one of"),
        ({"run": "schedule", "job": JOB, "schedule": {"cron": "every day"}}, "'/schedule/cron': "),
        ({"networkPolicy": {"enable": True}}, "'/networkPolicy': additional properties 'enable' not allowed"),
    ],
)
def test_the_chart_refuses_wrong_values(values: dict[str, Any], line: str, tmp_path: Path) -> None:
    file = tmp_path / "values.yaml"
    file.write_text(yaml.safe_dump(values))
    done = helm("template", "demo", CHART, "--values", file)
    assert done.returncode != 0
    assert line in done.stderr


def test_a_schedule_submits_the_job_with_the_rights_for_it(tmp_path: Path) -> None:
    objects = render({"run": "schedule", "job": JOB, "schedule": {"time_zone": "Europe/Berlin"}}, tmp_path)
    cron = the("CronJob", objects)["spec"]
    assert (cron["schedule"], cron["timeZone"], cron["concurrencyPolicy"]) == ("0 3 * * *", "Europe/Berlin", "Forbid")
    pod = cron["jobTemplate"]["spec"]["template"]["spec"]
    assert pod["containers"][0]["command"] == ["runner", "submit", "/etc/runner/job.yaml", "--on", "kubernetes"]
    assert (pod["serviceAccountName"], pod["automountServiceAccountToken"]) == ("demo-runner-schedule", True)
    job = parse_job(yaml.safe_load(the("ConfigMap", objects)["data"]["job.yaml"]), environment={})
    assert job.data.since == "last"
    [subject] = the("RoleBinding", objects)["subjects"]
    assert subject == {"kind": "ServiceAccount", "name": pod["serviceAccountName"], "namespace": "team"}
    assert job.kubernetes is not None
    assert job.kubernetes.service_account == "demo-runner"  # has no rights: it is the account of the pods that train


@pytest.mark.parametrize("creates", [True, False])
def test_a_schedule_has_an_account_of_its_own_and_its_cloud_identity(creates: bool, tmp_path: Path) -> None:
    annotations = {"eks.amazonaws.com/role-arn": "arn:aws:iam::123456789012:role/runner"}
    account = {"create": creates, "name": "mine", "annotations": annotations}
    values = {"run": "schedule", "job": JOB | {"kubernetes": {"service_account": "theirs"}}, "serviceAccount": account}
    accounts = [each for each in render(values, tmp_path) if each["kind"] == "ServiceAccount"]
    names = {each["metadata"]["name"] for each in accounts}
    assert names == ({"mine", "demo-runner-schedule"} if creates else {"demo-runner-schedule"})
    for each in accounts:
        assert each["metadata"]["annotations"] == annotations
        assert each["automountServiceAccountToken"] is False
    now = render(values | {"run": "now"}, tmp_path)
    assert "demo-runner-schedule" not in {each["metadata"]["name"] for each in now}


def test_all_pods_but_workers_run_on_the_heads_nodes(tmp_path: Path) -> None:
    nodes = {
        "node_selector": {"kubernetes.io/arch": "amd64"},
        "tolerations": [{"key": "infra", "effect": "NoSchedule"}],
    }
    job = JOB | {"kubernetes": {"head": nodes, "worker": {"spot": "eks"}}}
    now, scheduled = (render({"run": run, "job": job}, tmp_path) for run in ("now", "schedule"))
    head = the("RayJob", now)["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    submits = the("CronJob", scheduled)["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    for pod in (submits, the("Pod", now)["spec"], the("Pod", scheduled)["spec"]):
        for field in ("nodeSelector", "tolerations", "affinity"):
            assert pod[field] == head[field]


def test_whoever_else_is_named_reaches_metrics_and_dashboard_and_nothing_else(tmp_path: Path) -> None:
    peers = [{"namespaceSelector": {"matchLabels": {"a": "b"}}, "podSelector": {}}, {"ipBlock": {"cidr": "10.0.0.0/8"}}]
    without, given = (render({"networkPolicy": {"alsoFrom": also}}, tmp_path) for also in ([], peers))
    for node, ports in (("head", [8080, 8265]), ("worker", [8080])):
        before, after = (
            next(each["spec"]["ingress"] for each in objects if each["metadata"]["name"] == f"demo-runner-{node}")
            for objects in (network_policies(without), network_policies(given))
        )
        assert after == [*before, {"from": peers, "ports": [{"protocol": "TCP", "port": port} for port in ports]}]


def network_policies(objects: list[Manifest]) -> list[Manifest]:
    return [each for each in objects if each["kind"] == "NetworkPolicy"]


def test_a_job_may_name_the_releases_own_namespace(tmp_path: Path) -> None:
    the("RayJob", render(kubernetes(namespace="team"), tmp_path))


def test_no_job_no_rayjob(tmp_path: Path) -> None:
    kinds = {each["kind"] for each in render({}, tmp_path)}
    assert kinds == {"ServiceAccount", "Role", "NetworkPolicy", "PodDisruptionBudget"}


def test_no_drain_takes_the_head_of_a_run_and_none_is_confused(
    cluster: Cluster, namespace: str, tmp_path: Path
) -> None:
    """Two releases in a namespace, as the documentation has them: what jobs need, and a job."""
    for release, values in (("runner", {}), ("claims", kubernetes())):
        objects = render(values, tmp_path, release=release, namespace=namespace)
        cluster.kubectl(
            "create", "-f", "-", stdin=yaml.safe_dump_all(each for each in objects if each["kind"] != "Pod")
        )
    pods, budgets = f"{CORE}/namespaces/{namespace}/pods", f"{POLICY}/namespaces/{namespace}/poddisruptionbudgets"

    def ready(kind: str) -> list[str]:
        found = cluster.admin.get(f"{pods}?labelSelector=ray.io/node-type={kind}")["items"]
        return [each["metadata"]["name"] for each in found if each["status"]["phase"] == "Running"]

    def evict(pod: str) -> None:
        eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod}}
        cluster.admin.create(f"{pods}/{pod}/eviction", eviction)

    [head] = wait_for(lambda: ready("head"))
    [worker] = wait_for(lambda: ready("worker"))
    [budget] = cluster.admin.get(budgets)["items"]
    path = f"{budgets}/{budget['metadata']['name']}"
    status = wait_for(lambda: (found := cluster.admin.get(path)["status"]).get("currentHealthy") == 1 and found)
    assert [each["reason"] for each in status["conditions"]] == ["InsufficientPods"]
    with pytest.raises(ApiError, match="would violate the pod's disruption budget") as refusal:
        evict(head)
    assert refusal.value.status == 429
    evict(worker)


def test_no_secret_is_in_what_is_rendered(tmp_path: Path) -> None:
    """The chart takes Secrets by name only."""
    for run in ("now", "schedule"):
        objects = render({"run": run, "job": JOB | {"kubernetes": {"secrets": ["s3"]}}}, tmp_path)
        assert not [each for each in objects if each["kind"] == "Secret"]
