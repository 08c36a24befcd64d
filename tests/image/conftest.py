"""An engine, the image built from this checkout, and containers as a careful cluster starts them."""

from __future__ import annotations

import shutil
import subprocess
import sys
import uuid
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.image.engine import Engine, running_engine

ROOT = Path(__file__).resolve().parents[2]
REVISION = "0123456789abcdef"
STRANGER = 123456  # No user of the image.
RESTRICTED = (
    "--init",
    "--network=none",
    "--read-only",
    "--tmpfs=/tmp",
    "--shm-size=1g",
    "--cap-drop=ALL",
    "--security-opt=no-new-privileges",
    f"--user={STRANGER}:0",
)


@dataclass(frozen=True)
class Image:
    """The built image. Containers have no network, a read-only file system, and a user that nobody knows."""

    engine: Engine
    tag: str

    def run(self, *command: str, options: tuple[str, ...] = ()) -> str:
        """What a command prints in a container of its own; it must succeed."""
        return self.engine.docker("run", "--rm", *RESTRICTED, *options, self.tag, *command)

    def find(self, *expression: str, user: str = "0:0") -> list[str]:
        """The paths for which `find` says so when that user asks, on a file system that is not read-only."""
        command = ("run", "--rm", "--network=none", f"--user={user}", self.tag, "find", "/", "-xdev")
        done = self.engine.call(*command, *expression)
        assert done.returncode == 0 or "Permission denied" in done.stderr, done.stderr
        return done.stdout.splitlines()

    @contextmanager
    def running(self, *command: str, options: tuple[str, ...] = ()) -> Generator[str]:
        """The name of a container that runs the command for the length of the block."""
        name = f"test-{uuid.uuid4()}"
        self.engine.docker("run", "--detach", "--name", name, *RESTRICTED, *options, self.tag, *command)
        try:
            yield name
        finally:
            self.engine.docker("rm", "--force", name)


@dataclass(frozen=True)
class Work:
    """A folder with the quickstart and its records, where a container's /work is mounted from."""

    image: Image
    folder: Path

    def run(self, *command: str) -> str:
        """What a command prints in a container with this folder."""
        return self.image.run(*command, options=(f"--volume={self.folder}:/work",))


@pytest.fixture(scope="session")
def engine() -> Generator[Engine]:
    """A Docker engine, shared by all tests of the session."""
    with running_engine() as engine:
        yield engine


@pytest.fixture(scope="session")
def image(engine: Engine) -> Image:
    """The image of this checkout, on the stand-in for its base."""
    engine.make_stand_in()
    engine.build("runner", ROOT, "--build-arg", f"REVISION={REVISION}")
    return Image(engine, "runner")


@pytest.fixture(scope="session")
def work(image: Image, tmp_path_factory: pytest.TempPathFactory) -> Work:
    """As a checkout of the README's reader: the job and the records. The group 0 may write, and so the stranger."""
    folder = tmp_path_factory.mktemp("work")
    examples = folder / "examples"
    examples.mkdir()
    shutil.copy(ROOT / "examples" / "quickstart.yaml", examples)
    subprocess.run([sys.executable, ROOT / "examples" / "make_demo_data.py", examples / "data" / "randhie"], check=True)
    folder.chmod(0o775)
    return Work(image, folder)


@pytest.fixture(scope="session")
def trained(work: Work) -> Work:
    """The folder with a trained run."""
    work.run("runner", "submit", "examples/quickstart.yaml", "--set", "training.epochs=1")
    return work
