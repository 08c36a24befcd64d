"""A throw-away Docker engine (Debian's) on a socket of its own, and a stand-in for the image python:3.11-slim.

It changes no firewall rule and no network of this machine, so a build has the machine's own network, and a container
that or none. No image is pulled: the stand-in is made of Debian's packages.

Needs root and the Debian packages that `.ci/install-debian-packages` installs.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

DOCKER = "/usr/bin/docker"  # Debian's: a newer client would ask for a plugin to build with.
PROGRAMS = (DOCKER, "containerd", "dockerd", "mmdebstrap", "runc", "setpriv")
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 60.0

STAND_IN = "python:3.11-slim"
DEBIAN = "bookworm"  # The release that has Python 3.11.
DEBIAN_PACKAGES = "ca-certificates,python3,python3-pip,python3-venv"
CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"
INDEX_ARGUMENTS = ("PIP_INDEX_URL", "UV_DEFAULT_INDEX")  # The Dockerfile's.
INDEX_SETTINGS = ("PIP_EXTRA_INDEX_URL", "UV_INDEX")


class Engine:
    """A running engine; made by `running_engine`."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._host = f"unix://{directory}/docker.sock"
        self._daemon: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the engine; returns when it answers."""
        folders = ("--data-root", self._directory / "data", "--exec-root", self._directory / "exec")
        no_network = ("--bridge", "none", "--iptables=false", "--ip6tables=false")
        # setpriv: the engine ends, and ends its containers, with this process, even a killed one.
        command = ["setpriv", "--pdeathsig", "TERM", "dockerd", *folders, *no_network]
        command += ["--host", self._host, "--pidfile", self._directory / "pid"]
        with self._log.open("wb") as log:
            self._daemon = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        give_up_at = time.monotonic() + START_TIMEOUT_S
        while self.call("info").returncode != 0:
            if self._daemon.poll() is not None or time.monotonic() > give_up_at:
                raise RuntimeError(f"dockerd does not start:\n{self._log.read_text()[-2000:]}")
            time.sleep(0.1)

    def stop(self) -> None:
        """End the containers and the engine."""
        if self._daemon is None:
            return
        self._daemon.terminate()
        try:
            self._daemon.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._daemon.kill()
            self._daemon.wait()

    def call(self, *arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
        """What `docker ARGUMENTS` says and its exit code."""
        return subprocess.run(
            [DOCKER, "--host", self._host, *arguments],
            env=os.environ | environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )

    def docker(self, *arguments: str | Path, **environment: str) -> str:
        """What `docker ARGUMENTS` prints; it must succeed."""
        done = self.call(*arguments, **environment)
        assert done.returncode == 0, (
            f"docker {' '.join(map(str, arguments))}:\n{done.stdout[-5000:]}{done.stderr[-5000:]}"
        )
        return done.stdout

    def build(self, tag: str, folder: Path, *options: str) -> None:
        """Build a folder's Dockerfile. With BuildKit, as every engine does that is newer than Debian 12's."""
        index = [word for name in INDEX_ARGUMENTS if name in os.environ for word in ("--build-arg", name)]
        self.docker("build", "--network", "host", "--tag", tag, *index, *options, folder, DOCKER_BUILDKIT="1")

    def make_stand_in(self) -> None:
        """Make the image STAND_IN: Debian's Python with this machine's authorities and further package indexes."""
        archive = self._directory / "stand-in.tar"
        hooks = [
            f"copy-in {CERTIFICATES} {Path(CERTIFICATES).parent}",
            'rm "$1/usr/lib/python3.11/EXTERNALLY-MANAGED"',
            *(f'ln -s /usr/bin/{program}3 "$1/usr/local/bin/{program}"' for program in ("python", "pip")),
        ]
        command = ["mmdebstrap", "--variant=minbase", f"--include={DEBIAN_PACKAGES}", "--dpkgopt=force-unsafe-io"]
        command += [f"--customize-hook={hook}" for hook in hooks]
        shared_memory = Path("/dev/shm")  # Much faster than a disk for many small files.
        environment = os.environ | ({"TMPDIR": str(shared_memory)} if shared_memory.is_dir() else {})
        made = subprocess.run([*command, DEBIAN, archive], env=environment, capture_output=True, text=True, check=False)
        if made.returncode:
            raise RuntimeError(f"mmdebstrap failed:\n{made.stderr[-2000:]}")
        settings = {name: os.environ[name] for name in INDEX_SETTINGS if name in os.environ}
        settings |= {"PIP_CERT": CERTIFICATES, "SSL_CERT_FILE": CERTIFICATES}
        changes = [word for name, value in settings.items() for word in ("--change", f"ENV {name}={value}")]
        self.docker("import", *changes, archive, STAND_IN)
        archive.unlink()

    @property
    def _log(self) -> Path:
        return self._directory / "dockerd.log"


@contextmanager
def running_engine() -> Generator[Engine]:
    """An engine without images for the length of the block."""
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if missing:
        raise RuntimeError(f"no {', '.join(missing)}: run .ci/install-debian-packages")
    if os.geteuid() != 0:
        raise RuntimeError("only root can start dockerd")
    # In /tmp whatever TMPDIR says: the path of a Unix socket has at most 107 characters.
    with tempfile.TemporaryDirectory(prefix="docker-", dir="/tmp", ignore_cleanup_errors=True) as directory:
        engine = Engine(Path(directory))
        try:
            engine.start()
            yield engine
        finally:
            engine.stop()
