"""A job and a target to the exact request, before anything is sent.

    plan = plan_submission(config, "ray", address="http://head:8265")
    print(plan.to_yaml())          # what `runner submit --dry-run` shows
    ray_jobs.send(plan)            # sending only sends

Planning is pure: nothing is imported, read or written, but for the environment variables handed in.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from runner.config import JobConfig, KubernetesConfig, write_document
from runner.errors import ConfigError
from runner.storage.location import expand_user
from runner.submit.kubernetes import DRIVE_JOB, manifests, object_name, to_yaml

Target = Literal["local", "ray", "kubernetes"]

log = logging.getLogger(__name__)

PACKAGE_FOLDER = str(Path(__file__).resolve().parent.parent)
"""The `runner` package itself: it travels with the job, so that the cluster runs the code that planned it."""


@dataclass(frozen=True)
class Plan:
    """A submission. For `ray`: the Jobs API's `address`, `submission_id`, `entrypoint` and `runtime_env`; for
    `kubernetes`: the `manifests` of the objects to create, of which the RayJob is called `submission_id`."""

    target: Target
    run_uri: str
    job: dict[str, Any]
    address: str | None = None
    submission_id: str | None = None
    entrypoint: str | None = None
    runtime_env: dict[str, Any] = field(default_factory=dict[str, Any])
    manifests: tuple[dict[str, Any], ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {name: value for name, value in asdict(self).items() if value not in (None, {}, ())}

    def to_yaml(self) -> str:
        """For people; for `kubernetes` what `kubectl create -f -` takes."""
        if self.manifests:
            return to_yaml(self.manifests)
        return write_document(self.to_dict())


def plan_submission(
    config: JobConfig,
    target: str,
    *,
    address: str | None = None,
    environment: Mapping[str, str],
    modules: tuple[str, ...] = (),
) -> Plan:
    """The request for a job. `modules`: folders or files with the user's callbacks, which travel to Ray clusters too.

    Raises:
        ConfigError: an unknown target, or no address for a cluster.
    """
    job = config.model_dump(mode="json")
    run_uri = f"{config.storage.uri.rstrip('/')}/{config.name}"
    suffix = uuid.uuid4().hex[:8]
    if target == "local":
        return Plan("local", run_uri, job)
    if target == "kubernetes":
        _warn_of_modules(config, modules)
        return _on_kubernetes(config, address, run_uri, job, object_name(config.name, suffix), DRIVE_JOB)
    return Plan(
        "ray",
        run_uri,
        job,
        address=_jobs_api(target, address, environment),
        submission_id=f"runner-{config.name}-{suffix}",
        entrypoint=f"python -m runner.driver {_quoted(run_uri)}",
        runtime_env={"py_modules": [PACKAGE_FOLDER, *modules]},
    )


def plan_generation(
    config: JobConfig,
    output: str,
    generation: Mapping[str, Any],
    target: str,
    *,
    address: str | None = None,
    environment: Mapping[str, str],
    modules: tuple[str, ...] = (),
) -> Plan:
    """What generating from a run of `config` into the folder `output` comes to; errors as for `plan_submission`."""
    suffix, entrypoint = uuid.uuid4().hex[:8], f"python -m runner.generation.drive {_quoted(output)}"
    if target == "local":
        return Plan("local", output, dict(generation))
    if target == "kubernetes":
        _warn_of_modules(config, modules)
        name = object_name(f"generate-{config.name}", suffix)
        return _on_kubernetes(config, address, output, dict(generation), name, entrypoint)
    return Plan(
        "ray",
        output,
        dict(generation),
        address=_jobs_api(target, address, environment),
        submission_id=f"runner-generate-{config.name}-{suffix}",
        entrypoint=entrypoint,
        runtime_env={"py_modules": [PACKAGE_FOLDER, *modules]},
    )


def _on_kubernetes(
    config: JobConfig, address: str | None, uri: str, job: dict[str, Any], name: str, entrypoint: str
) -> Plan:
    if address is not None:
        raise ConfigError("--address is for --on ray; --on kubernetes uses the current context (`kubectl config`)")
    objects = manifests(config, name, entrypoint)
    return Plan("kubernetes", uri, job, submission_id=name, entrypoint=entrypoint, manifests=objects)


def _warn_of_modules(config: JobConfig, modules: tuple[str, ...]) -> None:
    """Pods import the user's modules from their image: whether it has them cannot be seen from here."""
    if modules:
        log.warning(
            "%s: not sent to Kubernetes; the image %s must have it installed (docs/kubernetes.md)",
            ", ".join(Path(module).name for module in modules),
            (config.kubernetes or KubernetesConfig()).image,
        )


def _jobs_api(target: str, address: str | None, environment: Mapping[str, str]) -> str:
    """The address of the cluster's Jobs API."""
    if target != "ray":
        raise ConfigError(f"--on {target}: no such target; choose local, ray or kubernetes")
    address = address or environment.get("RAY_API_SERVER_ADDRESS") or environment.get("RAY_ADDRESS")
    if not address:
        raise ConfigError("--on ray: no cluster named; give --address http://HEAD:8265 or set RAY_ADDRESS")
    if not address.startswith(("http://", "https://")):
        raise ConfigError(
            f"--address {address}: the Jobs API speaks HTTP; write it as http://HEAD:8265 (the dashboard's port)"
        )
    return address


def with_absolute_paths(config: JobConfig, folder: Path) -> JobConfig:
    """The job with local paths made absolute: a cluster's job, and a resume, run in other folders."""

    def absolute(uri: str) -> str:
        if "://" in uri:
            return uri
        return str((folder / expand_user(uri)).resolve())

    changes: dict[str, Any] = {
        "data": config.data.model_copy(update={"uri": absolute(config.data.uri)}),
        "storage": config.storage.model_copy(update={"uri": absolute(config.storage.uri)}),
    }
    if config.tokenizer.uri is not None:
        changes["tokenizer"] = config.tokenizer.model_copy(update={"uri": absolute(config.tokenizer.uri)})
    return config.model_copy(update=changes)


def _quoted(text: str) -> str:
    import shlex

    return shlex.quote(text)
