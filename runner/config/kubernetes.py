"""The section `kubernetes`: the pods that a job runs in."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Field, field_validator, model_validator

from runner.config.section import IMAGE, WITHOUT_NUL, Section, differ

DOMAIN = r"[a-z0-9]+(-+[a-z0-9]+)*(\.[a-z0-9]+(-+[a-z0-9]+)*)*"
Name = Annotated[str, Field(min_length=1, max_length=253, pattern=f"^{DOMAIN}$")]
"""The name of a Kubernetes object."""
Names = Annotated[
    tuple[Name, ...], Field(max_length=100, json_schema_extra={"uniqueItems": True}), AfterValidator(differ)
]
"""Names of different ones."""

LABEL_KEY = f"({DOMAIN}/)?[A-Za-z0-9]([-A-Za-z0-9_.]{{0,61}}[A-Za-z0-9])?"
LABEL_VALUE = "([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?"
VARIABLE = "[A-Za-z_][A-Za-z0-9_]*"
FOLDER = "(/[^/:]+)+/?"
NAMESPACE_VARIABLE = "RUNNER_NAMESPACE"
"""Tells pods their namespace, and that they are a RayJob's."""
TAKEN_VARIABLES = (
    "FQ_RAY_IP",
    "KUBERAY_GEN_RAY_START_CMD",
    "RAY_ADDRESS",
    "RAY_AUTH_MODE",
    "RAY_AUTH_TOKEN",
    "RAY_CLOUD_INSTANCE_ID",
    "RAY_CLUSTER_NAME",
    "RAY_CLUSTER_NAMESPACE",
    "RAY_DASHBOARD_ADDRESS",
    "RAY_IP",
    "RAY_JOB_SUBMISSION_ID",
    "RAY_NODE_TYPE_NAME",
    "RAY_PORT",
    NAMESPACE_VARIABLE,
)
"""Environment variables that the pods get from their manifest, or from KubeRay."""
TAKEN_FOLDERS = ("/tmp", "/etc/runner")  # noqa: S108
"""Where the pods' manifest mounts volumes of its own."""

HAS_KEY: dict[str, Any] = {"required": ["key"], "properties": {"key": {"type": "string"}}}
HAS_VALUE: dict[str, Any] = {"required": ["value"], "properties": {"value": {"type": "string"}}}
IS_EQUAL: dict[str, Any] = {"required": ["operator"], "properties": {"operator": {"const": "Equal"}}}


class TolerationConfig(Section):
    """A taint that pods put up with."""

    # For editors and the chart: what `_is_one_that_a_pod_may_have` says.
    model_config = ConfigDict(
        json_schema_extra={
            "allOf": [
                {"if": HAS_VALUE, "then": {"properties": {"operator": {"const": "Equal"}}}},
                {"if": {"anyOf": [HAS_VALUE, IS_EQUAL]}, "then": HAS_KEY},
            ]
        }
    )

    key: str | None = Field(
        default=None,
        min_length=1,
        max_length=317,  # a domain of 253, a slash and 63
        description="the taint's key; null: every one",
        json_schema_extra={"pattern": f"^{LABEL_KEY}$"},
    )
    operator: Literal["Equal", "Exists"] = Field(
        default="Exists", description="Equal compares value, and is the default where one is given; Exists does not"
    )
    value: str | None = Field(
        default=None, description="the taint's value", json_schema_extra={"pattern": f"^{LABEL_VALUE}$"}
    )
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = Field(
        default=None, description="the taint's effect; null: every one"
    )

    @model_validator(mode="before")
    @classmethod
    def _a_value_is_compared(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("value") is not None:
            return {"operator": "Equal"} | values
        return values

    @model_validator(mode="after")
    def _is_one_that_a_pod_may_have(self) -> TolerationConfig:
        if self.operator == "Exists" and self.value is not None:
            raise ValueError(f"operator Exists compares no value; leave out value {self.value}, or use Equal")
        if self.operator == "Equal" and self.key is None:
            raise ValueError("operator Equal needs a key; name the taint's, or use Exists for every taint")
        if self.key is not None:
            check_label(self.key, self.value or "")
        return self


def check_label(key: str, value: str) -> None:
    """Raises ValueError: Kubernetes has no such label or taint."""
    if not re.fullmatch(LABEL_KEY, key):
        raise ValueError(f"{key!r} is not the key of a label or taint; write it as name or example.com/name")
    if not re.fullmatch(LABEL_VALUE, value):
        raise ValueError(
            f"{key}: {value!r} is not the value of a label or taint: at most 63 letters, digits, '.', '_' and '-', "
            "with a letter or digit at both ends"
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
    node_selector: dict[str, str] = Field(
        default={},
        max_length=100,
        description="labels of the nodes it may run on",
        json_schema_extra={
            "propertyNames": {"pattern": f"^{LABEL_KEY}$"},
            "additionalProperties": {"type": "string", "pattern": f"^{LABEL_VALUE}$"},
        },
    )
    tolerations: tuple[TolerationConfig, ...] = Field(
        default=(), max_length=100, description="taints of nodes that it puts up with"
    )

    @field_validator("node_selector")
    @classmethod
    def _nodes_can_have_the_labels(cls, labels: dict[str, str]) -> dict[str, str]:
        for key, value in labels.items():
            check_label(key, value)
        return labels


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
    image: str = Field(default="runner:0.1.0", max_length=1000, pattern=IMAGE, description="an image of this project")
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] = Field(
        default="IfNotPresent", description="when nodes fetch the image"
    )
    image_pull_secrets: Names = Field(default=(), description="Secrets with credentials of the registry")
    service_account: Name | None = Field(
        default=None, description="ServiceAccount of the pods, for a cloud identity; null: the namespace's default"
    )
    secrets: Names = Field(
        default=(), description="Secrets whose keys become environment variables, as AWS_ACCESS_KEY_ID"
    )
    # All of an object has 1 MiB in Kubernetes' store.
    environment: dict[str, Annotated[str, Field(max_length=100_000, pattern=WITHOUT_NUL)]] = Field(
        default={},
        max_length=1000,
        description="environment variables that are no secrets",
        json_schema_extra={"propertyNames": {"pattern": f"^{VARIABLE}$", "not": {"enum": list(TAKEN_VARIABLES)}}},
    )
    volume_claims: dict[Name, Annotated[str, Field(max_length=4096)]] = Field(
        default={},
        max_length=100,
        description="from a PersistentVolumeClaim to the folder where pods see it",
        json_schema_extra={
            "patternProperties": {f"^{DOMAIN}$": {"type": "string", "maxLength": 4096, "pattern": f"^{FOLDER}$"}},
            "additionalProperties": False,
        },
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
        le=2**31 - 1,
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

    @field_validator("environment")
    @classmethod
    def _variables_are_free(cls, environment: dict[str, str]) -> dict[str, str]:
        for name in environment:
            if not re.fullmatch(VARIABLE, name):
                raise ValueError(f"{name!r} is not a variable's name: letters, digits and '_', with no digit first")
            if name in TAKEN_VARIABLES:
                raise ValueError(f"pods get {name} from their manifest or from KubeRay; leave it out")
        return environment

    @field_validator("volume_claims")
    @classmethod
    def _volumes_are_mounted_at_folders(cls, claims: dict[str, str]) -> dict[str, str]:
        mounted: dict[str, str] = {}
        for claim, folder in claims.items():
            place = folder.rstrip("/")
            if not re.fullmatch(FOLDER, folder) or place in TAKEN_FOLDERS:
                raise ValueError(f"{claim}: {folder} cannot be mounted on; name a folder such as /data")
            if place in mounted:
                raise ValueError(f"{claim}: {mounted[place]} is mounted on {folder} already; name another folder")
            mounted[place] = claim
        return claims
