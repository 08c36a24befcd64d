"""The Dockerfile without an engine: hadolint has nothing to say, old builders read it, it knows no one's servers."""

from __future__ import annotations

import re
import subprocess
import sysconfig
import tomllib
from pathlib import Path

import pytest

from runner.privacy.isolated import find_uv

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text()


def default(argument: str) -> str:
    """What a build argument is when nobody sets it."""
    found = re.search(rf"^ARG {argument}=(.+)$", DOCKERFILE, re.MULTILINE)
    assert found, argument
    return found[1]


def packages(*options: str) -> dict[str, str]:
    """The locked versions by name."""
    command = [find_uv(), "export", "--locked", "--no-dev", "--no-emit-project", "--no-hashes", "--no-annotate"]
    done = subprocess.run([*command, *options], cwd=ROOT, capture_output=True, text=True, check=True)
    return dict(line.split(" ;")[0].split("==") for line in done.stdout.splitlines() if "==" in line.split(" ;")[0])


def test_hadolint_has_nothing_to_say() -> None:
    hadolint = Path(sysconfig.get_path("scripts"), "hadolint")
    done = subprocess.run([hadolint, "--no-color", "Dockerfile"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_what_hadolint_is_not_to_say_is_explained() -> None:
    lines = DOCKERFILE.splitlines()
    for number, line in enumerate(lines):
        if "hadolint ignore" in line:
            assert re.match(r"# .*\w{3}.*\.$", lines[number - 1]), line


@pytest.mark.parametrize("newer", [r"^# *syntax=", r"<<-?['\"]?EOF", r"--mount=", r"--link", r"--chmod="])
def test_builders_without_newer_syntax_read_it(newer: str) -> None:
    assert not re.search(newer, DOCKERFILE, re.MULTILINE | re.IGNORECASE)


def test_it_knows_no_ones_servers() -> None:
    assert not re.search(r"https?://|index-url|trusted-host", DOCKERFILE)


def test_its_defaults_are_the_projects() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert default("VERSION") == project["version"]
    assert default("BASE_IMAGE") == "python:3.11-slim"
    assert f'licenses="{project["license"]}"' in DOCKERFILE


def test_a_gpu_adds_cudas_libraries_and_changes_nothing_else() -> None:
    without, with_gpu = packages(), packages("--extra", "gpu")
    assert with_gpu.items() >= without.items()
    added = with_gpu.keys() - without.keys()
    assert "nvidia-cudnn-cu12" in added
    assert all(name.startswith("nvidia-") for name in added)
