"""The plain manifests in k8s/ are in step with chart and code, and kustomize builds them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.kubernetes import tools
from tests.runs import ROOT

OVERLAYS = sorted(path.parent.name for path in (ROOT / "k8s" / "overlays").glob("*/kustomization.yaml"))


def test_the_manifests_are_in_step_with_chart_and_code(tmp_path: Path) -> None:
    command = [sys.executable, "k8s/write_manifests.py", "--helm", tools.build("helm"), "--into", tmp_path]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    written = {str(path.relative_to(tmp_path)): path.read_text() for path in tmp_path.rglob("*.yaml")}
    kept = {str(path.relative_to(ROOT / "k8s")): path.read_text() for path in (ROOT / "k8s").rglob("*.yaml")}
    assert written == kept, "run `python k8s/write_manifests.py`"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_kustomize_builds_every_overlay(overlay: str) -> None:
    command = [tools.build("kustomize"), "build", ROOT / "k8s" / "overlays" / overlay]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    objects = list(yaml.safe_load_all(done.stdout))
    kinds = {each["kind"] for each in objects}
    assert {"Namespace", "ServiceAccount", "Role", "NetworkPolicy", "ConfigMap", "RayJob"} <= kinds
    assert {each["metadata"].get("namespace", "runner") for each in objects} == {"runner"}
