"""The section `kubernetes`: the pods that a job runs in."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from runner.config.section import Section

Name = Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[a-z0-9]+([.-]+[a-z0-9]+)*$")]
"""The name of a Kubernetes object."""


class TolerationConfig(Section):
    """A taint that pods put up with."""

    key: str | None = Field(default=None, min_length=1, description="the taint's key; null: every one")
    operator: Literal["Equal", "Exists"] = Field(default="Exists", description="Equal compares value, Exists does not")
    value: str | None = Field(default=None, description="the taint's value")
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = Field(
        default=None, description="the taint's effect; null: every one"
    )


class PodConfig(Section):
    """A kind of pod. Its CPUs, memory and disk are both what it asks for and what it may have."""

    memory_gib: float = Field(default=8, gt=0, le=65_536, description="memory")
    disk_gib: float | None = Field(
        default=None,
        gt=0,
        le=65_536,
        description="disk for logs and /tmp, where workers keep tokens of up to data.cache_gib; null: not stated",
    )
    node_selector: dict[str, str] = Field(default={}, description="labels of the nodes it may run on")
    tolerations: tuple[TolerationConfig, ...] = Field(default=(), description="taints of nodes that it puts up with")


class HeadConfig(PodConfig):
    """The head: it drives the run, and trains nothing. The pod that submits the job runs on the same nodes."""

    cpus: float = Field(default=1, ge=0.1, le=1024, description="CPUs")
    memory_gib: float = Field(default=4, gt=0, le=65_536, description="memory")


class WorkerConfig(PodConfig):
    """A worker: its CPUs and GPUs are those of `resources`."""

    spot: Literal["gke", "eks", "aks", "karpenter"] | None = Field(
        default=None,
        description="run on nodes that may be taken away, as this provider labels them, and keep all other pods off "
        "such nodes; null: do not ask",
    )


class KubernetesConfig(Section):
    """How a job becomes a KubeRay RayJob."""

    namespace: Name | None = Field(default=None, description="null: that of the current context")
    image: str = Field(default="runner:0.1.0", min_length=1, description="an image of this project")
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] = Field(
        default="IfNotPresent", description="when nodes fetch the image"
    )
    image_pull_secrets: tuple[Name, ...] = Field(default=(), description="Secrets with credentials of the registry")
    service_account: Name | None = Field(
        default=None, description="ServiceAccount of the pods, for a cloud identity; null: the namespace's default"
    )
    secrets: tuple[Name, ...] = Field(
        default=(), description="Secrets whose keys become environment variables, as AWS_ACCESS_KEY_ID"
    )
    environment: dict[str, str] = Field(default={}, description="environment variables that are no secrets")
    volume_claims: dict[Name, str] = Field(
        default={}, description="from a PersistentVolumeClaim to the folder where pods see it"
    )
    head: HeadConfig = Field(default_factory=HeadConfig, description="the pod that drives the run")
    worker: WorkerConfig = Field(default_factory=WorkerConfig, description="the pods that train")
    queue: Name | None = Field(default=None, description="Kueue LocalQueue that admits the job; null: starts at once")
    priority_class: Name | None = Field(default=None, description="PriorityClass of the pods")
    retries: int = Field(
        default=3, ge=0, le=1000, description="new clusters after one whose job failed; each resumes the run"
    )
    deadline_s: int | None = Field(
        default=None,
        ge=1,
        description="give up after so many seconds, waiting for nodes included; each of retries has the whole time "
        "again; null: never",
    )
    keep_cluster_s: int = Field(
        default=60,
        ge=0,
        le=31_536_000,
        description="seconds that head and workers stay after the end; the RayJob, its ConfigMap and the finished "
        "submitter stay until runner stop",
    )

    @model_validator(mode="after")
    def _volumes_are_mounted_at_folders(self) -> KubernetesConfig:
        for claim, folder in self.volume_claims.items():
            if not folder.startswith("/") or folder.rstrip("/") in ("", "/tmp", "/etc/runner"):  # noqa: S108
                raise ValueError(f"volume_claims.{claim}: {folder} cannot be mounted on; name a folder such as /data")
        return self
