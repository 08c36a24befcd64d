"""What a RayJob waits for, in one line, from what the API server says of it and its pods.

Pure: `kuberay.py` asks the server, and tells the user.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from runner.submit.kubernetes import QUEUE_LABEL, Manifest

FINAL = ("Complete", "Failed", "ValidationFailed")
"""States of a RayJob that no other follows. KubeRay looks at an invalid one no more until someone changes it."""


def state_of(job: Manifest) -> str:
    """KubeRay's word for where a RayJob is; empty before an operator has seen it."""
    return (job.get("status") or {}).get("jobDeploymentStatus", "")


def why_it_waits(job: Manifest, pods: Iterable[Any]) -> str:
    """Why a RayJob does not go on, where one can tell; empty when it does, or has ended.

    `pods`: those of its Ray cluster, as the Kubernetes client has them.
    """
    state = state_of(job)
    if state in FINAL:
        return ""
    if state == "":
        return "no KubeRay operator has taken up the RayJob yet; `kubectl get pods -A | grep kuberay`"
    if state in ("Suspending", "Suspended"):
        return _why_suspended(job["metadata"])
    return "; ".join(filter(None, (_why_no_pods(job["status"]), _why_pods_wait(pods))))


def _why_suspended(metadata: Manifest) -> str:
    queue = (metadata.get("labels") or {}).get(QUEUE_LABEL)
    if queue is None:
        return "the RayJob is suspended until someone sets its spec.suspend to false"
    namespace = metadata["namespace"]
    return f"Kueue has not admitted the RayJob to queue {queue} yet; `kubectl --namespace {namespace} get workloads`"


def _why_no_pods(status: Manifest) -> str:
    """What the server says to pods that KubeRay wants to create; without their names, which are new each time."""
    conditions = (status.get("rayClusterStatus") or {}).get("conditions") or ()
    for each in conditions:
        if each["type"] == "ReplicaFailure" and each["status"] == "True":
            said = re.sub(r'(?s).*\b[Pp]ods? "[^"]*" is (forbidden|invalid): ', r"\1: ", each["message"])
            return f"KubeRay cannot create pods: {' '.join(said.split())}"
    return ""


def _why_pods_wait(pods: Iterable[Any]) -> str:
    reasons: dict[str, int] = {}
    for reason in filter(None, map(_why_pod_waits, pods)):
        reasons[reason] = reasons.get(reason, 0) + 1
    return "; ".join(f"{count} pod{'s wait' if count > 1 else ' waits'}: {why}" for why, count in reasons.items())


def _why_pod_waits(pod: Any) -> str:
    if pod.metadata.deletion_timestamp is not None:
        return ""
    unscheduled = [
        each for each in pod.status.conditions or () if each.type == "PodScheduled" and each.status == "False"
    ]
    containers = (*(pod.status.init_container_statuses or ()), *(pod.status.container_statuses or ()))
    waiting = [each.state.waiting for each in containers if each.state.waiting is not None]
    return next((each.message or each.reason for each in (*unscheduled, *waiting)), "") or ""
