"""Manifests of the smallest objects that do what a test is about."""

from __future__ import annotations

from typing import Any

from tests.kubernetes.nodes import GPU

IMAGE = "registry.example/runner:test"


def pod(name: str, *, gpus: int = 0, privileged: bool = False) -> dict[str, Any]:
    """A pod with one container; with GPUs it tolerates the taint of their nodes."""
    container: dict[str, Any] = {"name": "main", "image": IMAGE}
    spec: dict[str, Any] = {"containers": [container]}
    if gpus:
        container["resources"] = {"limits": {GPU: str(gpus)}}
        spec["tolerations"] = [{"key": GPU, "operator": "Exists"}]
    if privileged:
        container["securityContext"] = {"privileged": True}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}


def restricted_pod(name: str) -> dict[str, Any]:
    """A pod that the strictest Pod Security profile, "restricted", lets in."""
    manifest = pod(name)
    manifest["spec"]["securityContext"] = {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    manifest["spec"]["containers"][0]["securityContext"] = {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
    }
    return manifest


def ray_job(name: str, *, workers: int = 2, token_secret: str | None = None) -> dict[str, Any]:
    """A RayJob with a head and some workers, whose job is submitted by a pod of its own."""

    def template(container: str) -> dict[str, Any]:
        resources = {"cpu": "1", "memory": "1Gi"}
        return {
            "spec": {
                "containers": [
                    {"name": container, "image": IMAGE, "resources": {"requests": resources, "limits": resources}}
                ]
            }
        }

    cluster: dict[str, Any] = {
        "rayVersion": "2.60.0",
        "headGroupSpec": {"rayStartParams": {}, "template": template("ray-head")},
        "workerGroupSpecs": [
            {
                "groupName": "workers",
                "replicas": workers,
                "minReplicas": workers,
                "maxReplicas": workers,
                "rayStartParams": {},
                "template": template("ray-worker"),
            }
        ],
    }
    if token_secret is not None:
        cluster["authOptions"] = {"mode": "token", "secretName": token_secret}
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayJob",
        "metadata": {"name": name},
        "spec": {"entrypoint": "python -c 'print(1)'", "rayClusterSpec": cluster},
    }
