"""The test cluster refuses what a real one refuses, and its controllers do what real ones do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.kubernetes.api import BATCH, CORE, RAY, Api, ApiError
from tests.kubernetes.cluster import Cluster
from tests.kubernetes.manifests import pod, ray_job, restricted_pod
from tests.kubernetes.nodes import CPU_NODES, GPU_NODE, SUBMITTER
from tests.runs import wait_for

RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted"}


def pods(namespace: str) -> str:
    return f"{CORE}/namespaces/{namespace}/pods"


def ray_jobs(namespace: str) -> str:
    return f"{RAY}/namespaces/{namespace}/rayjobs"


def refusal(request: Callable[[], Any]) -> ApiError:
    with pytest.raises(ApiError) as error:
        request()
    return error.value


def test_server_tells_the_version_of_its_kubernetes(cluster: Cluster) -> None:
    version = cluster.admin.get("/version")
    assert version["gitVersion"].startswith("v1.")
    assert f"v{version['major']}.{version['minor']}." in version["gitVersion"]
    assert version["gitVersion"] in cluster.kubectl("version")


def test_wrong_token_is_refused(cluster: Cluster, namespace: str) -> None:
    right = cluster.issue_token(namespace, "someone")
    for wrong in ("nonsense", right[:-8] + "AAAAAAAA"):
        assert refusal(lambda wrong=wrong: cluster.api(wrong).get(pods(namespace))).status == 401
    with pytest.raises(RuntimeError, match="must be logged in"):
        cluster.kubectl("get", "pods", kubeconfig=cluster.write_kubeconfig("nonsense"))


def test_who_shows_no_token_sees_nothing(cluster: Cluster, namespace: str) -> None:
    assert refusal(lambda: cluster.api(None).get(pods(namespace))).status == 403


def test_service_account_without_rights_is_refused_until_it_has_them(cluster: Cluster, namespace: str) -> None:
    someone = cluster.api(cluster.issue_token(namespace, "someone"))
    error = refusal(lambda: someone.get(ray_jobs(namespace)))
    assert error.status == 403
    assert f"system:serviceaccount:{namespace}:someone" in error.message
    role = ["create", "role", "ray", "--verb=get,list,create", "--resource=rayjobs.ray.io"]
    cluster.kubectl("-n", namespace, *role)
    cluster.kubectl(
        "-n", namespace, "create", "rolebinding", "ray", "--role=ray", f"--serviceaccount={namespace}:someone"
    )
    wait_for(lambda: _is_allowed(someone, ray_jobs(namespace)))
    assert refusal(lambda: someone.get(pods(namespace))).status == 403
    assert refusal(lambda: someone.get(ray_jobs("default"))).status == 403


def _is_allowed(api: Api, path: str) -> bool:
    try:
        api.get(path)
    except ApiError as error:
        if error.status != 403:
            raise
        return False
    return True


def test_user_with_a_certificate_has_no_rights_of_its_own(cluster: Cluster, namespace: str) -> None:
    kubeconfig = cluster.issue_kubeconfig("anna", "developers", namespace)
    assert (
        cluster.kubectl("auth", "whoami", "-o", "jsonpath={.status.userInfo.username}", kubeconfig=kubeconfig) == "anna"
    )
    with pytest.raises(RuntimeError, match='User "anna" cannot list resource "pods"'):
        cluster.kubectl("get", "pods", kubeconfig=kubeconfig)


def test_restricted_namespace_refuses_privileged_pod(cluster: Cluster) -> None:
    namespace = cluster.create_namespace(labels=RESTRICTED)
    error = refusal(lambda: cluster.admin.create(pods(namespace), pod("bad", privileged=True)))
    assert error.status == 403
    assert 'violates PodSecurity "restricted:latest"' in error.message
    assert "privileged" in error.message
    cluster.admin.create(pods(namespace), restricted_pod("good"))


def test_quota_is_kept(cluster: Cluster, namespace: str) -> None:
    quotas = f"{CORE}/namespaces/{namespace}/resourcequotas"
    cluster.admin.create(quotas, {"metadata": {"name": "one"}, "spec": {"hard": {"pods": "1"}}})
    wait_for(lambda: "hard" in cluster.admin.get(f"{quotas}/one").get("status", {}))
    cluster.admin.create(pods(namespace), pod("first"))
    error = refusal(lambda: cluster.admin.create(pods(namespace), pod("second")))
    assert error.status == 403
    assert "exceeded quota: one" in error.message


def test_pod_gets_a_node_and_runs(cluster: Cluster, namespace: str) -> None:
    cluster.admin.create(pods(namespace), pod("small"))
    wait_for(lambda: _phase(cluster, namespace, "small") == "Running")
    assert cluster.admin.get(f"{pods(namespace)}/small")["spec"]["nodeName"] in CPU_NODES


def test_pod_with_gpus_gets_the_node_that_has_them(cluster: Cluster, namespace: str) -> None:
    cluster.admin.create(pods(namespace), pod("two", gpus=2))
    wait_for(lambda: _phase(cluster, namespace, "two") == "Running")
    assert cluster.admin.get(f"{pods(namespace)}/two")["spec"]["nodeName"] == GPU_NODE
    cluster.admin.create(pods(namespace), pod("eight", gpus=8))
    wait_for(lambda: "Insufficient nvidia.com/gpu" in _reason_to_wait(cluster, namespace, "eight"))


def _phase(cluster: Cluster, namespace: str, name: str) -> str:
    return cluster.admin.get(f"{pods(namespace)}/{name}")["status"]["phase"]


def _reason_to_wait(cluster: Cluster, namespace: str, name: str) -> str:
    conditions = cluster.admin.get(f"{pods(namespace)}/{name}")["status"].get("conditions", [])
    return " ".join(condition.get("message", "") for condition in conditions)


def test_schema_refuses_rayjob_with_wrong_field(cluster: Cluster, namespace: str) -> None:
    misspelt = ray_job("misspelt")
    misspelt["spec"]["entrypont"] = "true"
    error = refusal(lambda: cluster.admin.create(ray_jobs(namespace), misspelt, dry_run=True))
    assert error.status == 400
    assert 'unknown field "spec.entrypont"' in error.message
    wrong_type = ray_job("wrong-type")
    wrong_type["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["replicas"] = "two"
    error = refusal(lambda: cluster.admin.create(ray_jobs(namespace), wrong_type))
    assert error.status == 422
    assert "must be of type integer" in error.message


def test_rule_in_schema_refuses_rayjob(cluster: Cluster, namespace: str) -> None:
    """A rule in the Common Expression Language, which no JSON Schema check knows."""
    contradictory = ray_job("contradictory")
    contradictory["spec"]["managedBy"] = "someone-else"
    error = refusal(lambda: cluster.admin.create(ray_jobs(namespace), contradictory))
    assert error.status == 422
    assert "managedBy field value must be either" in error.message


def test_operator_refuses_what_the_schema_lets_through(cluster: Cluster, namespace: str) -> None:
    job = ray_job("deadline")
    job["spec"]["activeDeadlineSeconds"] = -1
    cluster.admin.create(ray_jobs(namespace), job)
    wait_for(lambda: _status(cluster, namespace, "deadline").get("jobDeploymentStatus") == "ValidationFailed")
    assert "activeDeadlineSeconds must be a positive integer" in _status(cluster, namespace, "deadline")["message"]


def test_rayjob_runs_to_its_end(cluster: Cluster, namespace: str) -> None:
    """The operator makes the Ray cluster, then the pod that submits, then follows the job."""
    secret = {"metadata": {"name": "ray-token"}, "stringData": {"auth_token": "0123456789abcdef"}}
    cluster.admin.create(f"{CORE}/namespaces/{namespace}/secrets", secret)
    cluster.admin.create(ray_jobs(namespace), ray_job("training", token_secret="ray-token"))

    wait_for(lambda: len(_pods_of(cluster, namespace, "ray.io/node-type=worker")) == 2)
    (head,) = _pods_of(cluster, namespace, "ray.io/node-type=head")
    (container,) = head["spec"]["containers"]
    token = {"secretKeyRef": {"name": "ray-token", "key": "auth_token"}}
    assert {"name": "RAY_AUTH_TOKEN", "valueFrom": token} in container["env"]

    wait_for(lambda: len(_pods_of(cluster, namespace, "job-name=training")) == 1)
    (submitter,) = _pods_of(cluster, namespace, "job-name=training")
    assert submitter["spec"]["containers"][0]["name"] == SUBMITTER

    status = _status(cluster, namespace, "training")
    cluster.dashboards.set_job(status["jobId"], "RUNNING")
    wait_for(lambda: _status(cluster, namespace, "training").get("jobStatus") == "RUNNING")
    host = f"{status['rayClusterName']}-head-svc.{namespace}.svc.cluster.local:8265"
    asked = [request for request in cluster.dashboards.requests if request.host == host]
    assert asked
    assert {request.authorization for request in asked} == {"Bearer 0123456789abcdef"}

    cluster.dashboards.set_job(status["jobId"], "SUCCEEDED", "Job finished successfully.")
    cluster.finish_pod(namespace, submitter["metadata"]["name"], exit_code=0)
    wait_for(lambda: _status(cluster, namespace, "training").get("jobDeploymentStatus") == "Complete")
    assert cluster.admin.get(f"{BATCH}/namespaces/{namespace}/jobs/training")["status"]["succeeded"] == 1


def _status(cluster: Cluster, namespace: str, name: str) -> dict[str, Any]:
    return cluster.admin.get(f"{ray_jobs(namespace)}/{name}").get("status", {})


def _pods_of(cluster: Cluster, namespace: str, selector: str) -> list[dict[str, Any]]:
    return cluster.admin.get(f"{pods(namespace)}?labelSelector={selector}")["items"]


def test_failed_submission_fails_the_rayjob(cluster: Cluster, namespace: str) -> None:
    job = ray_job("failing", workers=1)
    job["spec"]["submitterConfig"] = {"backoffLimit": 0}
    cluster.admin.create(ray_jobs(namespace), job)
    wait_for(lambda: _status(cluster, namespace, "failing").get("jobDeploymentStatus") == "Running")
    wait_for(lambda: [_phase_of(pod) for pod in _pods_of(cluster, namespace, "job-name=failing")] == ["Running"])
    (submitter,) = _pods_of(cluster, namespace, "job-name=failing")
    cluster.finish_pod(namespace, submitter["metadata"]["name"], exit_code=1)
    wait_for(lambda: _status(cluster, namespace, "failing").get("jobDeploymentStatus") == "Failed")
    assert _status(cluster, namespace, "failing")["reason"] == "SubmissionFailed"


def _phase_of(manifest: dict[str, Any]) -> str:
    return manifest["status"].get("phase", "")


def test_deleted_rayjob_takes_its_pods_along(cluster: Cluster, namespace: str) -> None:
    cluster.admin.create(ray_jobs(namespace), ray_job("short-lived", workers=1))
    wait_for(lambda: len(_pods_of(cluster, namespace, "ray.io/is-ray-node=yes")) == 2)
    cluster.admin.delete(f"{ray_jobs(namespace)}/short-lived")
    wait_for(lambda: not cluster.admin.get(pods(namespace))["items"])
