"""Nodes whose pods are only played: KWOK sets the status that a kubelet would, and runs nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.kubernetes.processes import HOST, Processes, free_port
from tests.kubernetes.tools import path as tool

POD_NETWORK = "10.244.0.0/16"
GPU = "nvidia.com/gpu"
CPU_NODES = ("cpu-1", "cpu-2")
GPU_NODE = "gpu-1"
# The container of the pod that tells Ray to start a RayJob's job. Its end is up to the tests: the real one ends with
# the job that it follows.
SUBMITTER = "ray-job-submitter"


def node_manifests() -> list[dict[str, Any]]:
    """Two nodes with 16 cores each, and one with 4 GPUs, which has the usual taint of such nodes."""
    cpu = {"cpu": "16", "memory": "64Gi", "ephemeral-storage": "100Gi", "pods": "110"}
    gpu_taint = [{"key": GPU, "value": "present", "effect": "NoSchedule"}]
    nodes = [_node(name, cpu, []) for name in CPU_NODES]
    return [*nodes, _node(GPU_NODE, {**cpu, GPU: "4"}, gpu_taint)]


def _node(name: str, resources: dict[str, str], taints: list[dict[str, str]]) -> dict[str, Any]:
    labels = {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64"}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": labels},
        "spec": {"taints": taints},
        "status": {"capacity": resources, "allocatable": resources},
    }


def start_kwok(processes: Processes, kubeconfig: Path, directory: Path) -> None:
    """Let KWOK play the kubelet of every node."""
    stages = tool("kwok").parent / "kustomize" / "stage"
    documents = [
        (stages / name).read_text()
        for name in (
            "node/fast/node-initialize.yaml",
            "node/heartbeat-with-lease/node-heartbeat-with-lease.yaml",
            "pod/fast/pod-ready.yaml",
            "pod/fast/pod-delete.yaml",
        )
    ]
    documents.append(_without_submitters((stages / "pod/fast/pod-complete.yaml").read_text()))
    config = directory / "kwok.yaml"
    config.write_text("\n---\n".join(documents))
    command = [
        tool("kwok"),
        f"--config={config}",
        f"--kubeconfig={kubeconfig}",
        "--manage-all-nodes=true",
        f"--cidr={POD_NETWORK}",
        "--node-lease-duration-seconds=40",
        f"--server-address={HOST}:{free_port()}",
    ]
    processes.start("kwok", command)


def _without_submitters(stage: str) -> str:
    """KWOK's stage that ends the pods of Jobs, but not those that submit a Ray job."""
    selector = "    matchExpressions:\n"
    assert stage.count(selector) == 1
    exception = f"""\
    - key: '.spec.containers.[].name'
      operator: 'NotIn'
      values:
      - '{SUBMITTER}'
"""
    return stage.replace(selector, selector + exception)
