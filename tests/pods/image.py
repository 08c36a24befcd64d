"""The container image of this checkout, unpacked for containerd.

It takes minutes to build and to unpack, so it is kept beside the tools (`tests.kubernetes.tools`) until what it is
made of changes: several GB. Who runs pods takes a copy, in which files are links to the kept ones.

    python -m tests.pods.image          # builds it if it is not there yet, and prints where it is
"""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from tests.image.engine import running_engine
from tests.kubernetes.processes import Processes
from tests.kubernetes.tools import path as tool

ROOT = Path(__file__).resolve().parents[2]
MADE_OF = (
    "Dockerfile",
    "pyproject.toml",
    "uv.lock",
    "README.md",
    "LICENSE",
    "runner",
    "image",
)  # As .dockerignore has it.
IMAGE = "docker.io/library/runner:pods"
PAUSE = "docker.io/library/runner-pause:pods"  # What holds a pod's network: the same image, asleep.
DOCKERFILE_OF_PAUSE = 'FROM runner:pods\nENTRYPOINT ["sleep", "infinity"]\n'
CONTAINERD_NAMESPACE = "k8s.io"  # The one that kubelets see.
DATABASES = "*.db"  # What containerd writes in place; all its other files are replaced, never changed.


@contextmanager
def containerd_root(directory: Path) -> Generator[Path]:
    """A root folder for containerd that has the image, for the length of the block.

    Not below `directory` but beside the kept image, as links must be; `directory` has the logs of making it.
    """
    kept = keep_image(directory)
    with tempfile.TemporaryDirectory(prefix="in-use-", dir=kept.parent, ignore_cleanup_errors=True) as folder:
        copy = Path(folder) / "root"
        subprocess.run(["cp", "--archive", "--link", kept, copy], check=True)
        for original in kept.rglob(DATABASES):
            linked = copy / original.relative_to(kept)
            linked.unlink()
            shutil.copy2(original, linked)
        yield copy


def keep_image(directory: Path) -> Path:
    """Where the image is unpacked; builds it first when what it is made of has changed."""
    cache = tool("kubelet").parents[1] / "pods-image"
    kept = cache / fingerprint()
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not kept.exists():
            for stale in cache.iterdir():
                if stale.is_dir() and not stale.name.startswith("in-use-"):
                    shutil.rmtree(stale)
            print("building the image and unpacking it: minutes, once", file=sys.stderr, flush=True)
            with tempfile.TemporaryDirectory(prefix="new-", dir=cache, ignore_cleanup_errors=True) as scratch:
                _build(Path(scratch) / "image.tar")
                _unpack(Path(scratch) / "image.tar", Path(scratch) / "root", directory)
                (Path(scratch) / "root").rename(kept)
    return kept


def fingerprint() -> str:
    """A hash of what the image is made of."""
    digest = hashlib.sha256(DOCKERFILE_OF_PAUSE.encode())
    for name in MADE_OF:
        files = sorted((ROOT / name).rglob("*")) if (ROOT / name).is_dir() else [ROOT / name]
        for file in files:
            if file.is_file() and "__pycache__" not in file.parts:
                digest.update(f"{file.relative_to(ROOT)}\0{file.stat().st_mode:o}\0".encode())
                digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()[:16]


def _build(archive: Path) -> None:
    with running_engine() as engine, tempfile.TemporaryDirectory() as folder:
        engine.make_stand_in()
        engine.build("runner:pods", ROOT)
        (Path(folder) / "Dockerfile").write_text(DOCKERFILE_OF_PAUSE)
        engine.build("runner-pause:pods", Path(folder))
        began = time.monotonic()
        engine.docker("save", "--output", archive, "runner:pods", "runner-pause:pods")
        print(f"saved {archive.stat().st_size / 2**30:.1f} GiB in {time.monotonic() - began:.0f} s", file=sys.stderr)


def _unpack(archive: Path, root: Path, directory: Path) -> None:
    socket = directory / "importing.sock"
    config = directory / "importing.toml"
    config.write_text(
        f'version = 2\nroot = "{root}"\nstate = "{directory}/importing"\n'
        f'disabled_plugins = ["io.containerd.grpc.v1.cri"]\n[grpc]\n  address = "{socket}"\n'
    )
    processes = Processes(directory)
    try:
        processes.start("importing-containerd", ["containerd", "--config", config])
        processes.wait_until(socket.exists, "containerd")
        began = time.monotonic()
        ctr = ["ctr", "--address", str(socket), "--namespace", CONTAINERD_NAMESPACE]
        done = subprocess.run([*ctr, "images", "import", archive], capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(
                f"ctr images import:\n{done.stdout}{done.stderr}\n{processes.log('importing-containerd')}"
            )
        print(f"unpacked it in {time.monotonic() - began:.0f} s", file=sys.stderr)
    finally:
        processes.stop_all()


def main() -> None:
    """Make the image if it is not there yet."""
    with tempfile.TemporaryDirectory(prefix="pods-", dir="/tmp", ignore_cleanup_errors=True) as directory:
        print(keep_image(Path(directory)))


if __name__ == "__main__":
    main()
