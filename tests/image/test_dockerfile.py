"""The Dockerfile without an engine: hadolint has nothing to say, old builders read it, it knows no one's servers."""

from __future__ import annotations

import re
import subprocess
import sysconfig
import tomllib
from itertools import pairwise
from pathlib import Path

import pytest

from runner.privacy.isolated import find_uv

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text()


def stages() -> list[list[str]]:
    """The instructions of each stage, from its FROM on; what is before the first is not among them."""
    instructions = [line for line in re.sub(r"\\\n", " ", DOCKERFILE).splitlines() if re.match("[A-Z]+ ", line)]
    begins = [number for number, line in enumerate(instructions) if line.startswith("FROM ")]
    return [instructions[begin:end] for begin, end in pairwise([*begins, len(instructions)])]


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


def test_what_a_base_sets_for_its_containers_is_undone() -> None:
    """Its user, whose rights may not do for a build, its entry point, and its command, which the other resets."""
    on_the_base = [stage for stage in stages() if stage[0].startswith("FROM ${BASE_IMAGE}")]
    assert len(on_the_base) == 2
    assert {stage[1] for stage in on_the_base} == {"USER 0"}
    last = [line for line in on_the_base[-1] if re.match("USER|ENTRYPOINT|CMD", line)]
    assert last == ["USER 0", "USER 1000:0", "ENTRYPOINT []", 'CMD ["runner", "--help"]']


def test_it_knows_no_ones_servers() -> None:
    assert not re.search(r"https?://|index-url|trusted-host", DOCKERFILE)


@pytest.mark.parametrize("address", ["PIP_INDEX_URL", "UV_DEFAULT_INDEX"])
def test_the_address_of_an_index_does_not_stay_in_the_image(address: str) -> None:
    """It may hold a password. Arguments stay in the history of their stage; the last stage is the image."""
    *builds, image = stages()
    assert all(f"ARG {address}" in stage for stage in builds if any("uv pip" in line for line in stage))
    assert not any(address in line for line in image)
    assert not re.search(rf"^(ENV|LABEL)\b.*{address}|\${{?{address}", DOCKERFILE.replace("\\\n", ""), re.MULTILINE)


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
