"""What the image promises: all that `runner` does works in it, as any user, read-only and offline."""

from __future__ import annotations

import json
import re
import tarfile
import time
from pathlib import Path
from typing import Any

import pytest

from tests.image.conftest import REVISION, ROOT, STRANGER, Image, Work
from tests.image.engine import Engine

pytestmark = pytest.mark.timeout(1800)

COMPILER = (
    r".*/([a-z0-9_]+-linux-gnu[a-z0-9]*-)?"
    r"(cc|gcc|g\+\+|c\+\+|cpp|c89|c99|clang|clang\+\+|tcc|as|ld|collect2|cc1|cc1plus|lto1|f951|gfortran|lld|ld\.(bfd|gold|lld)"
    r"|make|cmake|ninja|rustc|cargo|go|nvcc|cicc|ptxas|nvlink)(-[0-9.]+)?"
)
"""The paths of compilers, and of what else builds programs, in find's extended expressions and in Python's."""
IMPATIENT = ("--health-interval=1s", "--health-start-period=1s")
# KubeRay's, without and with the one endpoint that Ray has for it since 2.53.
PROBES = (
    "wget --tries 1 -T 2 -q -O- http://localhost:52365/api/local_raylet_healthz | grep success"
    " && wget --tries 1 -T 2 -q -O- http://localhost:8265/api/gcs_healthz | grep success",
    "wget -q -O- http://localhost:52365/api/healthz",
)


def configuration(image: Image) -> dict[str, Any]:
    """What the image says of itself."""
    return json.loads(image.engine.docker("image", "inspect", image.tag))[0]["Config"]


def wait_for_health(image: Image, container: str, wanted: str) -> None:
    """Return when the engine, which runs the image's own check, calls the container what is wanted."""
    give_up_at = time.monotonic() + 300
    health: dict[str, Any] = {}
    while health.get("Status") != wanted:
        assert time.monotonic() < give_up_at, (health, image.engine.call("logs", container))
        time.sleep(0.5)
        health = json.loads(image.engine.docker("inspect", "--format", "{{json .State.Health}}", container))


def test_the_quickstart_trains_and_generates(trained: Work) -> None:
    records = trained.run("runner", "generate", "runs/randhie", "-n", "5").splitlines()
    assert len(records) == 6  # One of them names the columns.
    assert trained.run("runner", "status", "runs/randhie").startswith("randhie: done")
    assert {path.stat().st_uid for path in (trained.folder / "runs").rglob("*")} == {STRANGER}


def test_a_run_is_audited_offline(trained: Work) -> None:
    assert "tensorflow-privacy's membership inference" in trained.run("runner", "audit", "runs/randhie")


def test_what_is_beside_uv_runs_the_second_opinion_only(image: Image) -> None:
    with pytest.raises(AssertionError, match="this image has no uv"):
        image.run("sh", "-c", "$UV pip list")


def test_the_version_is_the_projects(image: Image) -> None:
    assert (
        image.run("runner", "--version").split()[-1]
        == configuration(image)["Labels"]["org.opencontainers.image.version"]
    )


def test_doctor_finds_all_well(work: Work) -> None:
    lines = work.run("runner", "doctor").splitlines()
    assert lines
    assert all(line.startswith("ok ") for line in lines), lines


def test_extras_that_a_user_could_not_add_are_there(image: Image) -> None:
    image.run("python", "-c", "import mlflow, optuna")


def test_a_ray_node_starts_and_is_healthy(image: Image) -> None:
    command = ("ray", "start", "--head", "--block", "--num-cpus=1", "--object-store-memory=100000000")
    with image.running(*command, options=IMPATIENT) as node:
        wait_for_health(image, node, "healthy")
        for probe in PROBES:
            assert "success" in image.engine.docker("exec", node, "bash", "-c", probe)
        page = image.engine.docker("exec", node, "wget", "-q", "-O-", "http://127.0.0.1:8265/")
        assert "<title>Ray Dashboard</title>" in page


def test_a_ray_node_without_its_agent_is_not_healthy(image: Image) -> None:
    waiting = ("sh", "-c", "sleep 600; ray start --head")
    with image.running(*waiting, options=IMPATIENT) as node:
        wait_for_health(image, node, "unhealthy")


def test_any_other_command_is_healthy(image: Image) -> None:
    with image.running("sleep", "600", options=IMPATIENT) as container:
        wait_for_health(image, container, "healthy")


def test_a_command_is_healthy_only_if_runner_starts(image: Image) -> None:
    with image.running("sleep", "600", options=(*IMPATIENT, "--tmpfs=/opt/runner/bin")) as container:
        wait_for_health(image, container, "unhealthy")


def test_labels_and_user_are_what_clusters_look_for(image: Image) -> None:
    config = configuration(image)
    labels = {name.removeprefix("org.opencontainers.image."): value for name, value in config["Labels"].items()}
    assert labels.keys() >= {"title", "description", "version", "revision", "licenses"}
    assert labels["revision"] == REVISION
    assert config["User"] == "1000:0"  # By number: Kubernetes cannot see that a name is not root's.
    assert image.run("id", "-u").strip() == str(STRANGER)


def test_no_compiler_is_left(image: Image) -> None:
    executable = ("-perm", "/111", "!", "-type", "d")
    assert image.find(*executable, "-regextype", "posix-extended", "-regex", COMPILER) == []


@pytest.mark.parametrize(
    "path",
    [
        "/usr/bin/cc",
        "/usr/bin/gcc-12",
        "/usr/bin/x86_64-linux-gnu-gcc-12",
        "/usr/bin/aarch64-linux-gnu-g++",
        "/usr/bin/arm-linux-gnueabihf-as",
        "/usr/lib/gcc/x86_64-linux-gnu/12/cc1plus",
        "/usr/bin/clang-14",
        "/usr/lib/llvm-14/bin/clang++",
        "/usr/bin/ld.gold",
        "/opt/runner/lib/python3.11/site-packages/nvidia/cuda_nvcc/bin/ptxas",
    ],
)
def test_compilers_are_known_by_their_paths(path: str) -> None:
    assert re.fullmatch(COMPILER, path)


def test_no_program_lends_rights(image: Image) -> None:
    assert image.find("-type", "f", "-perm", "/6000") == []


def test_a_stranger_may_change_runs_and_no_programs(image: Image) -> None:
    for_all = ("/tmp", "/var/tmp", "/run/lock", "/proc", "/dev")
    writable = image.find("-writable", "!", "-type", "l", user=f"{STRANGER}:0")
    assert {path for path in writable if not path.startswith(for_all)} == {"/work"}


@pytest.mark.parametrize("path", ["*/.git", "*/uv.lock", "/src", "/opt/uv", "*/site-packages/tensorflow/include"])
def test_what_only_builds_need_is_left_out(image: Image, path: str) -> None:
    assert image.find("-path", path) == []


@pytest.mark.parametrize("folder", ["/tmp", "/root/.cache", "/var/cache/apt", "/var/lib/apt/lists"])
def test_no_cache_is_left(image: Image, folder: str) -> None:
    assert image.find("-path", f"{folder}/*", "-type", "f") == []


def test_the_image_is_no_larger_than_the_docs_say(image: Image) -> None:
    assert int(image.engine.docker("image", "inspect", "--format", "{{.Size}}", image.tag)) < 4.05e9


def test_secrets_in_a_checkout_do_not_reach_the_engine(engine: Engine, tmp_path: Path) -> None:
    wanted = {"LICENSE", "README.md", "pyproject.toml", "uv.lock", "image/healthy", "image/uv"}
    wanted |= {"runner/driver.py", "runner/cli/start.py", "runner/report/page.html.j2", "runner/privacy/own.py.lock"}
    secrets = {".env", ".git/config", ".netrc", "id_rsa", "job.yaml", "records/part.parquet", "runs/claims/private/key"}
    secrets |= {"runner/.env", "runner/key.pem", "runner/cli/job.yaml", "image/.env"}
    leftovers = {".venv/bin/python", "runner/__pycache__/cli.cpython-311.pyc", "tests/test.py", "runner/driver.pyc"}
    for name in wanted | secrets | leftovers:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("here")
    (tmp_path / ".dockerignore").write_text((ROOT / ".dockerignore").read_text())
    (tmp_path / "Dockerfile").write_text("FROM scratch\nCOPY . /context/\n")
    archive = tmp_path / "context.tar"
    engine.docker("build", "--output", f"type=tar,dest={archive}", tmp_path, DOCKER_BUILDKIT="1")
    with tarfile.open(archive) as files:
        got = {file.name.removeprefix("context/") for file in files if file.isfile()}
    assert got == wanted
