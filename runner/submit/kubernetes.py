"""A job as Kubernetes objects: a KubeRay RayJob, and a ConfigMap with the job's file.

    print(to_yaml(manifests(config, object_name(config.name, "1a2b3c4d"))))

Pure: `runner submit --on kubernetes --dry-run` prints them, `kuberay.py` sends them. The chart `helm/runner` renders
the same objects; a test holds the two together.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import yaml

from runner.config import NAMESPACE_VARIABLE, JobConfig, KubernetesConfig, PodConfig
from runner.config.document import Dumper, represent_text
from runner.errors import ConfigError

Manifest = dict[str, Any]

JOB_FOLDER = "/etc/runner"
DRIVE_JOB = f"python -m runner.scheduled {JOB_FOLDER}/job.yaml"
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
LABELS = {"app.kubernetes.io/name": "runner", "app.kubernetes.io/managed-by": "runner"}
DISK = "ephemeral-storage"
PREEMPT = ["python", "-m", "runner.train.preempt"]
GRACE_S = 120
"""What a worker's pod gets to leave a checkpoint, where its provider allows as much."""

SUBMITTER_MAY_USE: Manifest = {"cpu": "1", "memory": "1Gi"}
SUBMITTER_ASKS_FOR: Manifest = {"cpu": "0.1", "memory": "0.25Gi"}
"""It only follows the job's log."""
SUBMITTER_RETRIES = 20
"""An evicted submitter follows its job again; with KubeRay's default, 2, the third eviction would end the cluster."""

POD_LABELS = {"app.kubernetes.io/part-of": "runner"}
"""KubeRay gives pods a name label of its own, which the head's Service selects them by."""
NAME_LENGTH = 47
"""KubeRay's limit: it puts suffixes of its own behind a RayJob's name."""


@dataclass(frozen=True)
class SpotNodes:
    """How a provider marks nodes that may be taken away: with a label, and maybe a taint of the same name."""

    label: str
    value: str
    has_taint: bool


SPOT = {
    "gke": SpotNodes("cloud.google.com/gke-spot", "true", has_taint=True),
    "eks": SpotNodes("eks.amazonaws.com/capacityType", "SPOT", has_taint=False),
    "aks": SpotNodes("kubernetes.azure.com/scalesetpriority", "spot", has_taint=True),
    "karpenter": SpotNodes("karpenter.sh/capacity-type", "spot", has_taint=False),
}


def object_name(run: str, suffix: str) -> str:
    """A name that Kubernetes accepts for a run's objects.

    >>> object_name("My_run.002", "1a2b3c4d")
    'runner-my-run-002-1a2b3c4d'
    """
    words = re.sub("[^a-z0-9]+", "-", run.lower())
    room = NAME_LENGTH - len(f"runner--{suffix}")
    return f"runner-{words[:room].strip('-')}-{suffix}"


def manifests(config: JobConfig, name: str, entrypoint: str = DRIVE_JOB) -> tuple[Manifest, Manifest]:
    """The ConfigMap with the job and the RayJob that runs it, both called `name`.

    Raises:
        ConfigError: records, runs or a tokenizer are in a folder that pods do not see.
    """
    settings = config.kubernetes or KubernetesConfig()
    _check_uris(config, settings, trains=entrypoint == DRIVE_JOB)
    job = config_map(name, {"job.yaml": config.to_yaml()})
    run = ray_job(config, name, entrypoint)
    if settings.namespace is not None:
        for manifest in (job, run):
            manifest["metadata"]["namespace"] = settings.namespace
    return job, run


def to_yaml(objects: Iterable[Manifest]) -> str:
    """The objects as `kubectl create -f -` takes them; files in them stay readable."""
    return yaml.dump_all(objects, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


class _Dumper(Dumper):
    pass


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, "|") if "\n" in text else represent_text(dumper, text)


_Dumper.add_representer(str, _represent_text)


def config_map(name: str, files: Mapping[str, str]) -> Manifest:
    """Files that pods see under `/etc/runner`."""
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": _metadata(name), "data": dict(files)}


def ray_job(config: JobConfig, name: str, entrypoint: str) -> Manifest:
    """The RayJob: a head that drives and as many workers as the job asks for, all from one image.

    A lost worker is Ray Train's to replace, a lost head KubeRay's, and the submitter hands it the job again. A job that
    fails costs the cluster, and `retries` makes a new one. All of them resume the run.
    """
    settings = config.kubernetes or KubernetesConfig()
    resources = config.resources
    concurrent = (config.sweep.max_concurrent or 1) if config.sweep is not None else 1
    workers = resources.workers * concurrent
    head = _container(settings, "ray-head", _size(settings.head.cpus, settings.head))
    worker_size = _size(resources.cpus_per_worker or 1, settings.worker, resources.gpus_per_worker)
    before_end = {"lifecycle": {"preStop": {"exec": {"command": PREEMPT}}}}
    worker = _container(settings, "ray-worker", worker_size) | before_end
    worker_fields = _worker_nodes(settings) | {"terminationGracePeriodSeconds": GRACE_S}
    submitter = _container(settings, "ray-job-submitter", SUBMITTER_MAY_USE, SUBMITTER_ASKS_FOR)
    spec: Manifest = {
        "entrypoint": entrypoint,
        "submissionMode": "K8sJobMode",
        "backoffLimit": settings.retries,
        "shutdownAfterJobFinishes": True,
        "ttlSecondsAfterFinished": settings.keep_cluster_s,
        "rayClusterSpec": {
            "rayVersion": version("ray"),
            "authOptions": {"mode": "token"},
            "headGroupSpec": {
                "rayStartParams": {"num-cpus": "0", "dashboard-host": "0.0.0.0"},  # noqa: S104 - in its pod
                "template": _pod(settings, name, head, _head_nodes(settings)),
            },
            "workerGroupSpecs": [
                {
                    "groupName": "workers",
                    "replicas": workers,
                    "minReplicas": workers,
                    "maxReplicas": workers,
                    "rayStartParams": {},
                    "template": _pod(settings, name, worker, worker_fields),
                }
            ],
        },
        "submitterConfig": {"backoffLimit": SUBMITTER_RETRIES},
        "submitterPodTemplate": _pod(settings, name, submitter, _head_nodes(settings) | {"restartPolicy": "Never"}),
    }
    optional: Manifest = {"activeDeadlineSeconds": settings.deadline_s, "suspend": settings.queue is not None}
    spec |= {field: value for field, value in optional.items() if value}
    labels = {QUEUE_LABEL: settings.queue} if settings.queue is not None else {}
    return {"apiVersion": "ray.io/v1", "kind": "RayJob", "metadata": _metadata(name, labels), "spec": spec}


def _metadata(name: str, more_labels: Mapping[str, str] | None = None) -> Manifest:
    return {"name": name, "labels": LABELS | {"app.kubernetes.io/instance": name} | dict(more_labels or {})}


def _size(cpus: float, kind: PodConfig, gpus: int = 0) -> Manifest:
    size: Manifest = {"cpu": f"{cpus:g}", "memory": f"{kind.memory_gib:g}Gi"}
    if kind.disk_gib is not None:
        size[DISK] = f"{kind.disk_gib:g}Gi"
    return size | ({"nvidia.com/gpu": gpus} if gpus else {})


def _container(settings: KubernetesConfig, name: str, limits: Manifest, requests: Manifest | None = None) -> Manifest:
    """A container of the job's image; without `requests` it asks for all that it may have."""
    container: Manifest = {
        "name": name,
        "image": settings.image,
        "imagePullPolicy": settings.image_pull_policy,
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "env": [
            {"name": NAMESPACE_VARIABLE, "valueFrom": {"fieldRef": {"fieldPath": "metadata.namespace"}}},
            *({"name": name, "value": value} for name, value in sorted(settings.environment.items())),
        ],
        "resources": {"requests": dict(requests or limits), "limits": dict(limits)},
        "volumeMounts": [
            {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108 - the pod's own
            {"name": "job", "mountPath": JOB_FOLDER, "readOnly": True},
            *({"name": volume, "mountPath": folder} for volume, _, folder in _claims(settings)),
        ],
    }
    if settings.secrets:
        container["envFrom"] = [{"secretRef": {"name": secret}} for secret in settings.secrets]
    return container


def _claims(settings: KubernetesConfig) -> list[tuple[str, str, str]]:
    """The pods' names of volumes, their claims, and the folders where they are mounted."""
    claims = sorted(settings.volume_claims.items())
    return [(f"claim-{number}", claim, folder) for number, (claim, folder) in enumerate(claims)]


def _pod(settings: KubernetesConfig, job: str, container: Manifest, fields: Manifest) -> Manifest:
    """A pod that the `restricted` Pod Security profile admits: no root, no privileges, nothing to write but /tmp."""
    limits = container["resources"]["limits"]
    spec: Manifest = {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 1000,
            "runAsGroup": 0,
            "fsGroup": 0,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [container],
        "volumes": [
            {"name": "tmp", "emptyDir": {"sizeLimit": limits[DISK]} if DISK in limits else {}},
            {"name": "job", "configMap": {"name": job}},
            *(
                {"name": volume, "persistentVolumeClaim": {"claimName": claim}}
                for volume, claim, _ in _claims(settings)
            ),
        ],
    }
    optional: Manifest = {
        "imagePullSecrets": [{"name": secret} for secret in settings.image_pull_secrets],
        "serviceAccountName": settings.service_account,
        "priorityClassName": settings.priority_class,
    }
    given = {field: value for field, value in (optional | fields).items() if value}
    return {"metadata": {"labels": dict(POD_LABELS)}, "spec": spec | given}


def _head_nodes(settings: KubernetesConfig) -> Manifest:
    """The fields of a pod that say where it may run, for head and submitter: never where workers may be taken away."""
    fields = _nodes(settings.head)
    if settings.worker.spot is not None:
        spot = SPOT[settings.worker.spot]
        is_kept = {"key": spot.label, "operator": "NotIn", "values": [spot.value]}  # also true without the label
        required = {"nodeSelectorTerms": [{"matchExpressions": [is_kept]}]}
        fields["affinity"] = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}}
    return fields


def _worker_nodes(settings: KubernetesConfig) -> Manifest:
    """The same for workers."""
    fields = _nodes(settings.worker)
    if settings.worker.spot is not None:
        spot = SPOT[settings.worker.spot]
        fields["nodeSelector"][spot.label] = spot.value
        if spot.has_taint:
            taint = {"key": spot.label, "operator": "Equal", "value": spot.value, "effect": "NoSchedule"}
            fields["tolerations"].append(taint)
    return fields


def _nodes(kind: PodConfig) -> Manifest:
    tolerations = [each.model_dump(exclude_none=True) for each in kind.tolerations]
    return {"nodeSelector": dict(kind.node_selector), "tolerations": tolerations}


def _check_uris(config: JobConfig, settings: KubernetesConfig, *, trains: bool) -> None:
    folders = [folder.rstrip("/") for folder in settings.volume_claims.values()]
    uris = {"data.uri": config.data.uri, "storage.uri": config.storage.uri}
    if trains and config.tokenizer.uri is not None:  # What generates takes it from the run.
        uris["tokenizer.uri"] = config.tokenizer.uri
    for field, uri in uris.items():
        if "://" not in uri and not any(f"{uri}/".startswith(f"{folder}/") for folder in folders):
            raise ConfigError(
                f"{field}: pods do not see {uri}; use s3://bucket/prefix, or a folder of a volume in "
                "kubernetes.volume_claims"
            )
