"""The plain manifests in k8s/ are in step with chart and code, and kustomize builds them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from runner.config import parse_job
from runner.submit.kubernetes import manifests, to_yaml
from tests.kubernetes import tools
from tests.runs import ROOT

OVERLAYS = sorted(path.parent.name for path in (ROOT / "k8s" / "overlays").glob("*/kustomization.yaml"))


def test_the_manifests_are_in_step_with_chart_and_code(tmp_path: Path) -> None:
    command = [sys.executable, "k8s/write_manifests.py", "--helm", tools.build("helm"), "--into", tmp_path]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    written = {str(path.relative_to(tmp_path)): path.read_text() for path in tmp_path.rglob("*.yaml")}
    kept = {str(path.relative_to(ROOT / "k8s")): path.read_text() for path in (ROOT / "k8s").rglob("*.yaml")}
    assert written == kept, "run `python k8s/write_manifests.py`"


def test_a_dry_runs_texts_are_texts_to_tools_in_go_too(tmp_path: Path) -> None:
    """Their YAML knows numbers that Python's takes for texts."""
    texts = ["1e3", "1.5e3", ".1e1", "0o17", "0x1f", "1_000", "012", "12:30", ".5", "y", "off", "null", "2001-01-01"]
    environment = {f"TEXT_{number}": text for number, text in enumerate(texts)}
    job = {"name": "demo", "data": {"uri": "s3://b/r"}, "storage": {"uri": "s3://b/r"}}
    config = parse_job(job | {"kubernetes": {"environment": environment}}, environment={})
    (tmp_path / "job.yaml").write_text(to_yaml(manifests(config, "demo")))
    (tmp_path / "kustomization.yaml").write_text("resources: [job.yaml]")
    done = subprocess.run([tools.build("kustomize"), "build", tmp_path], check=True, capture_output=True, text=True)
    [run] = [each for each in yaml.safe_load_all(done.stdout) if each["kind"] == "RayJob"]
    [container] = run["spec"]["submitterPodTemplate"]["spec"]["containers"]
    assert {each["name"]: each.get("value") for each in container["env"][1:]} == environment


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_kustomize_builds_every_overlay(overlay: str) -> None:
    command = [tools.build("kustomize"), "build", ROOT / "k8s" / "overlays" / overlay]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    objects = list(yaml.safe_load_all(done.stdout))
    kinds = {each["kind"] for each in objects}
    assert {"Namespace", "ServiceAccount", "Role", "NetworkPolicy", "ConfigMap", "RayJob"} <= kinds
    assert {each["metadata"].get("namespace", "runner") for each in objects} == {"runner"}
