"""A job on a Kubernetes cluster, through its API server: what creates, follows and removes a RayJob.

api = connect(namespace=None)      # the current context of the kubeconfig, or the account of the pod we are in
send(plan, api)
follow_job(api, plan, directory, quiet=False)
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from runner.errors import ClusterError, last_line
from runner.run_directory import RunDirectory
from runner.submit.follow import follow_run
from runner.submit.kubernetes import Manifest
from runner.submit.plan import Plan

GROUP, VERSION, PLURAL = "ray.io", "v1", "rayjobs"
FINAL = ("Complete", "Failed")
CHECK_EVERY_S = 2.0
TIMEOUT_S = (10.0, 30.0)
"""For a connection to the API server, and for an answer."""


@dataclass(frozen=True)
class Api:
    """The two APIs that are used, and the namespace that they are used in. `is_inside`: this is a pod there."""

    core: Any
    custom: Any
    namespace: str
    is_inside: bool = False

    @property
    def server(self) -> str:
        """The API server's address, as this process knows it."""
        return self.core.api_client.configuration.host

    def submission(self, name: str) -> dict[str, str]:
        """What a run remembers of its RayJob. A pod knows the server by an address that only pods know."""
        server = {} if self.is_inside else {"server": self.server}
        return {"namespace": self.namespace, "id": name} | server


def connect(namespace: str | None, *, server: str | None = None) -> Api:
    """The API server of the current context, or of the cluster that this process runs in.

    `server`: the address that it must have, where that can be told.

    Raises:
        ClusterError: there is no such context, it is another cluster's, or nothing answers.
    """
    from kubernetes import client

    api = _load_api(namespace)
    if server is not None and not api.is_inside and server != api.server:
        raise ClusterError(
            f"the job was sent to {server}, but the current context is that of {api.server}; "
            "choose another with `kubectl config use-context`, or set KUBECONFIG"
        )
    with _in_one_line(api):
        client.VersionApi(api.core.api_client).get_code(_request_timeout=TIMEOUT_S)
    return api


def _load_api(namespace: str | None) -> Api:
    from kubernetes import client, config
    from kubernetes.config import ConfigException
    from kubernetes.config.kube_config import list_kube_config_contexts

    is_inside = False
    try:
        config.load_kube_config()
        here = list_kube_config_contexts()[1]["context"].get("namespace")
    except ConfigException as error:
        try:
            config.load_incluster_config()
        except ConfigException:
            raise ClusterError(
                f"no Kubernetes cluster is set up: {last_line(error)}; set KUBECONFIG, and try `kubectl get pods`"
            ) from error
        here = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace").read_text()
        is_inside = True
    except (OSError, ValueError, LookupError, TypeError, AttributeError, yaml.YAMLError) as error:
        path = os.environ.get("KUBECONFIG", "~/.kube/config")
        raise ClusterError(f"{path}: not a kubeconfig: {last_line(error)}; try `kubectl config view`") from error
    return Api(client.CoreV1Api(), client.CustomObjectsApi(), namespace or here or "default", is_inside)


def send(plan: Plan, api: Api) -> None:
    """Create the RayJob, and the ConfigMap as a part of it: who deletes the RayJob deletes both.

    Raises:
        ClusterError: the cluster does not take it; nothing of it is left there, or the message says what may be.
    """
    job, run = plan.manifests
    strictly = {"field_validation": "Strict", "_request_timeout": TIMEOUT_S}
    made = None
    try:
        with _in_one_line(api):
            made = api.custom.create_namespaced_custom_object(GROUP, VERSION, api.namespace, PLURAL, run, **strictly)
            api.core.create_namespaced_config_map(api.namespace, _owned_by(made, job), **strictly)
    except BaseException as error:
        # Where only the answer was lost, the server has kept what it was sent.
        if made is not None or not _is_refusal(error):
            _take_back(api, run["metadata"]["name"], error)
        raise


def _owned_by(owner: Manifest, manifest: Manifest) -> Manifest:
    reference = {
        "apiVersion": owner["apiVersion"],
        "kind": owner["kind"],
        "name": owner["metadata"]["name"],
        "uid": owner["metadata"]["uid"],
    }
    return manifest | {"metadata": manifest["metadata"] | {"ownerReferences": [reference]}}


def _take_back(api: Api, name: str, why: BaseException) -> None:
    """Remove a RayJob that could not be sent whole.

    Raises:
        ClusterError: that failed, too; it says `why` first.
    """
    try:
        delete_job(api, name)
    except ClusterError:
        raise ClusterError(
            f"{str(why) or 'interrupted'}; RayJob {name} may be left there: {how_to_remove(api.namespace, name)}"
        ) from why


def how_to_remove(namespace: str, name: str) -> str:
    """What the user can do where we cannot."""
    return f"`kubectl --namespace {namespace} delete rayjob {name}` removes it"


def follow_job(api: Api, plan: Plan, directory: RunDirectory, *, quiet: bool) -> None:
    """Show the run's progress, and what its pods wait for, until the RayJob has ended.

    Raises:
        ClusterError: it ended without leaving a word in the run directory.
    """
    checked_at, shown = 0.0, ""
    status: Manifest = {}

    def is_over() -> bool:
        nonlocal checked_at, shown, status
        if time.monotonic() - checked_at > CHECK_EVERY_S:
            with _in_one_line(api):
                status = job_status(api, str(plan.submission_id))
                waiting = "" if quiet else waits_for(api, status)
            if waiting not in ("", shown):
                print(waiting, file=sys.stderr, flush=True)
            shown, checked_at = waiting, time.monotonic()
        return status.get("jobDeploymentStatus") in FINAL

    follow_run(directory, is_over, quiet=quiet)
    left = directory.status()
    if left is None or left.state not in ("done", "stopped", "failed"):
        said = status.get("message") or status.get("reason") or "no reason given"
        raise ClusterError(f"{api.namespace}/{plan.submission_id}: ended as {status['jobDeploymentStatus']}: {said}")


def job_status(api: Api, name: str) -> Manifest:
    """The RayJob's status, as the operator keeps it; empty before it has seen the job."""
    job = api.custom.get_namespaced_custom_object(GROUP, VERSION, api.namespace, PLURAL, name)
    return job.get("status") or {}


def waits_for(api: Api, status: Manifest) -> str:
    """Why pods of the job do not run yet, in one line; empty when they do, or nothing is known."""
    if status.get("jobDeploymentStatus") not in ("Initializing", "Waiting") or not status.get("rayClusterName"):
        return ""
    pods = api.core.list_namespaced_pod(api.namespace, label_selector=f"ray.io/cluster={status['rayClusterName']}")
    reasons: dict[str, int] = {}
    for pod in pods.items:
        containers = [each.state.waiting for each in pod.status.container_statuses or () if each.state.waiting]
        conditions = [
            each for each in pod.status.conditions or () if each.type == "PodScheduled" and each.status == "False"
        ]
        for reason in [each.message or each.reason for each in (*containers, *conditions)]:
            reasons[reason] = reasons.get(reason, 0) + 1
    return "; ".join(f"{count} pod{'s wait' if count > 1 else ' waits'}: {why}" for why, count in reasons.items())


def delete_job(api: Api, name: str) -> bool:
    """Remove the RayJob, and with it its cluster, pods and ConfigMap; False: it was not there."""
    from kubernetes.client import ApiException

    with _in_one_line(api):
        try:
            api.custom.delete_namespaced_custom_object(
                GROUP,
                VERSION,
                api.namespace,
                PLURAL,
                name,
                propagation_policy="Background",
                _request_timeout=TIMEOUT_S,
            )
        except ApiException as error:
            if error.status != 404:
                raise
            return False
        return True


@contextmanager
def _in_one_line(api: Api) -> Iterator[None]:
    """The API server's refusals, and the network's, as one line that says what to do."""
    from kubernetes.client import ApiException
    from urllib3.exceptions import HTTPError

    try:
        yield
    except ApiException as error:
        raise ClusterError(f"{api.server}: {_explain(error, api.namespace)}") from error
    except HTTPError as error:
        raise ClusterError(
            f"{api.server}: no Kubernetes API server answers here; try `kubectl get pods`: {last_line(error)}"
        ) from error


def _code_of(error: BaseException) -> int:
    """The HTTP code of an answer that became this error; 0: there was no answer."""
    return getattr(error.__cause__, "status", None) or 0


def _is_refusal(error: BaseException) -> bool:
    """Whether the server said no: it has kept nothing."""
    return 400 <= _code_of(error) < 500


def _explain(error: Any, namespace: str) -> str:
    try:
        said = json.loads(error.body)["message"]
    except (TypeError, ValueError, KeyError):
        said = (error.body or error.reason or "").strip() or f"HTTP {error.status}"
    if error.status == 401:
        return "the cluster does not accept your credentials; log in again, and try `kubectl get pods`"
    if error.status == 403:
        return f"you may not do this in namespace {namespace}: {said}"
    if (error.status == 404 and "could not find the requested resource" in said) or said == "404 page not found":
        return "this cluster has no RayJobs; install the KubeRay operator, version 1.5.1 or later"
    if fields := re.findall(r'unknown field "([^"]+)"', said):
        return (
            f"this cluster's KubeRay is too old: it does not know {', '.join(fields)}; "
            f"install version 1.5.1 or later: {said}"
        )
    return said
