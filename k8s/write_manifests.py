"""Write the plain manifests: the base from the chart, the overlays' jobs from what `runner submit` would send.

    python k8s/write_manifests.py [--helm HELM] [--into k8s/]

The overlays' jobs are those of `helm/runner/ci/`. `tests/kubernetes/test_manifests.py` fails when the files here are
out of step with chart and code.
"""

from __future__ import annotations

import argparse
import subprocess
from pathlib import Path
from typing import Any

import yaml

from runner.config import parse_job
from runner.submit.kubernetes import manifests, to_yaml

HERE = Path(__file__).resolve().parent
CHART = HERE.parent / "helm" / "runner"
NAME = "runner"
"""Of the namespace, and of the account that pods have."""

OVERLAYS = ("cpu", "gpu", "spot")
WRITTEN = "# Written by `python k8s/write_manifests.py`. In a copy of your own, change what is yours.\n"


def base(helm: str) -> str:
    """What jobs need in their namespace: account, role, NetworkPolicy, PodDisruptionBudget."""
    command = [helm, "template", NAME, str(CHART), "--namespace", NAME]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    objects = [each for each in yaml.safe_load_all(done.stdout) if each]
    for each in objects:
        labels = each["metadata"]["labels"]
        del labels["helm.sh/chart"]
        labels["app.kubernetes.io/managed-by"] = "kustomize"
    return WRITTEN + to_yaml([namespace(), *objects])


def namespace() -> dict[str, Any]:
    """A namespace that admits restricted pods alone."""
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAME, "labels": labels}}


def overlay(kind: str) -> str:
    """The RayJob of a kind of machine, and the ConfigMap with its job."""
    job = yaml.safe_load((CHART / "ci" / f"{kind}-values.yaml").read_text())["job"]
    job["kubernetes"] |= {"namespace": NAME, "service_account": NAME}
    files, run = manifests(parse_job(job, environment={}), f"{job['name']}-{kind}")
    files["data"]["job.yaml"] = to_yaml([job])  # without the defaults
    return WRITTEN + to_yaml([files, run])


def kustomization(resources: list[str]) -> str:
    head = {"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization", "namespace": NAME}
    return to_yaml([head | {"resources": resources}])


def files(helm: str) -> dict[str, str]:
    """The content of every file, by its path."""
    found = {"base/setup.yaml": base(helm), "base/kustomization.yaml": kustomization(["setup.yaml"])}
    for kind in OVERLAYS:
        found[f"overlays/{kind}/job.yaml"] = overlay(kind)
        found[f"overlays/{kind}/kustomization.yaml"] = kustomization(["../../base", "job.yaml"])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--helm", default="helm")
    parser.add_argument("--into", type=Path, default=HERE)
    options = parser.parse_args()
    for name, text in files(options.helm).items():
        path: Path = options.into / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        print(f"wrote {path}")


if __name__ == "__main__":
    main()
