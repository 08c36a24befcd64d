"""A throw-away S3 server: one-node Ceph (monitor, disk, gateway) on free loopback ports, state under /tmp.

It is a real one: it checks signatures and bucket owners, and answers conditional writes as S3 does.

    python -m tests.s3.radosgw          # starts one in about 15 s and prints the environment to use it

Needs the Debian packages that `.ci/install-debian-packages` installs.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

PROGRAMS = ("ceph", "ceph-authtool", "ceph-mon", "ceph-osd", "monmaptool", "radosgw", "radosgw-admin")
HOST = "127.0.0.1"
START_TIMEOUT_S = 90.0

CEPH_CONF = """\
[global]
fsid = {fsid}
mon_initial_members = a
mon_host = {monitor}
public_addr = {host}
cluster_addr = {host}
auth_cluster_required = cephx
auth_service_required = cephx
auth_client_required = cephx
auth_allow_insecure_global_id_reclaim = false
osd_pool_default_size = 1
osd_pool_default_min_size = 1
osd_pool_default_pg_num = 1
osd_pool_default_pgp_num = 1
osd_pool_default_pg_autoscale_mode = off
osd_crush_chooseleaf_type = 0
osd_objectstore = bluestore
osd_memory_target = 939524096
bluestore_block_size = 4294967296
mon_allow_pool_size_one = true
mon_data_avail_warn = 1
mon_data_avail_crit = 1
mon_data = {directory}/mon
osd_data = {directory}/osd
keyring = {directory}/keyring
crash_dir = {directory}/crash
run_dir = {directory}
admin_socket = {directory}/$name.asok
log_file = {directory}/$name.log
mon_cluster_log_file = {directory}/cluster.log
rgw_frontends = beast endpoint={gateway}:{port}
rgw_thread_pool_size = 64
debug_mon = 0
"""


@dataclass(frozen=True)
class User:
    """An account of the server; each owns its buckets and sees no others."""

    access_key: str
    secret_key: str

    def environment(self, endpoint: str) -> dict[str, str]:
        """The variables with which AWS clients reach the server as this user."""
        return {
            "AWS_ENDPOINT_URL": endpoint,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            # Ceph 16 does not know the checksums that newer clients add to uploads (it answers 411).
            "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
            "AWS_EC2_METADATA_DISABLED": "true",
        }


OWNER = User("test", "testsecret")
STRANGER = User("stranger", "strangersecret")


class Radosgw:
    """A running server; made by `running_radosgw`."""

    def __init__(self, directory: Path, host: str = HOST) -> None:
        self._directory = directory
        self._host = host
        self._port = free_port()
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}
        self._launcher = ThreadPoolExecutor(1)  # One thread that lives as long as the daemons may.

    @property
    def endpoint(self) -> str:
        """The server's address, the same after the gateway was away."""
        return f"http://{self._host}:{self._port}"

    def start(self) -> None:
        """Create the cluster and start it; returns when it answers requests of both users."""
        fsid = str(uuid.uuid4())
        monitor = f"[v2:{HOST}:{free_port()},v1:{HOST}:{free_port()}]"
        conf = CEPH_CONF.format(
            fsid=fsid, monitor=monitor, host=HOST, gateway=self._host, port=self._port, directory=self._directory
        )
        (self._directory / "ceph.conf").write_text(conf)
        for name in ("mon", "osd", "crash"):
            (self._directory / name).mkdir()
        self._create_keyring()
        self._run("monmaptool", "--create", "--addv", "a", monitor, "--fsid", fsid, self._path("monmap"))
        self._run("ceph-mon", "--mkfs", "-i", "a", "--monmap", self._path("monmap"))
        self._start_daemon("ceph-mon", "-i", "a")
        osd_id = str(uuid.uuid4())
        self._run("ceph", "osd", "new", osd_id)
        self._run("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", osd_id)
        self._start_daemon("ceph-osd", "-i", "0")
        self._wait_until(lambda: " 1 up" in self._run("ceph", "osd", "stat"), "the disk")
        self.start_gateway()
        for name, user in (("owner", OWNER), ("stranger", STRANGER)):
            keys = ("--access-key", user.access_key, "--secret-key", user.secret_key)
            self._run("radosgw-admin", "user", "create", "--uid", name, "--display-name", name, *keys)

    def stop(self) -> None:
        """End everything."""
        for daemon in reversed(self._daemons.values()):
            daemon.kill()
            daemon.wait()
        self._launcher.shutdown()

    def start_gateway(self) -> None:
        """Start the part that speaks HTTP; returns when it answers."""
        self._start_daemon("radosgw", "-n", "client.rgw.a")
        self._wait_until(self._is_answering, "the gateway")

    def stop_gateway(self) -> None:
        """Kill the part that speaks HTTP: connections are refused until `start_gateway`; objects are kept."""
        self._daemons["radosgw"].kill()
        self._daemons["radosgw"].wait()

    def freeze_gateway(self) -> None:
        """Stop answering without closing connections, until `thaw_gateway`."""
        self._daemons["radosgw"].send_signal(signal.SIGSTOP)

    def thaw_gateway(self) -> None:
        """Go on answering."""
        self._daemons["radosgw"].send_signal(signal.SIGCONT)

    def _create_keyring(self) -> None:
        everything = ("--cap", "mon", "allow *", "--cap", "osd", "allow *", "--cap", "mgr", "allow *")
        capabilities = {
            "mon.": ("--cap", "mon", "allow *"),
            "client.admin": everything,
            "client.rgw.a": ("--cap", "mon", "allow rwx", "--cap", "osd", "allow rwx"),
            "osd.0": ("--cap", "mon", "allow profile osd", "--cap", "osd", "allow *"),
        }
        self._run("ceph-authtool", "--create-keyring", self._path("keyring"))
        for name, capability in capabilities.items():
            self._run("ceph-authtool", self._path("keyring"), "--gen-key", "-n", name, *capability)

    def _path(self, name: str) -> str:
        return str(self._directory / name)

    def _run(self, program: str, *arguments: str) -> str:
        command = [program, "-c", self._path("ceph.conf"), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=START_TIMEOUT_S, check=False)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
        return done.stdout

    def _start_daemon(self, program: str, *arguments: str) -> None:
        # setpriv: a daemon ends with the thread that starts it, so with this process, even a killed one.
        command = ["setpriv", "--pdeathsig", "KILL", program, "-f", "-c", self._path("ceph.conf"), *arguments]
        with (self._directory / f"{program}.out").open("ab") as output:
            self._daemons[program] = self._launcher.submit(
                subprocess.Popen,
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            ).result()

    def _wait_until(self, is_ready: Callable[[], bool], what: str) -> None:
        give_up_at = time.monotonic() + START_TIMEOUT_S
        while not is_ready():
            ended = [program for program, daemon in self._daemons.items() if daemon.poll() is not None]
            if ended or time.monotonic() > give_up_at:
                logs = "\n".join(path.read_text()[-2000:] for path in sorted(self._directory.glob("*.out")))
                raise RuntimeError(f"{what} does not start (ended: {ended}):\n{logs}")
            time.sleep(0.1)

    def _is_answering(self) -> bool:
        try:
            with urllib.request.urlopen(self.endpoint, timeout=5):
                return True
        except urllib.error.HTTPError:
            return True
        except OSError:
            return False


@contextmanager
def running_radosgw(host: str = HOST) -> Generator[Radosgw]:
    """A server for the length of the block, with the users OWNER and STRANGER and no buckets.

    It answers at the address `host` of this machine; all else of it stays on loopback.
    """
    missing = [program for program in (*PROGRAMS, "setpriv") if shutil.which(program) is None]
    if missing:
        raise RuntimeError(f"no {', '.join(missing)}: run .ci/install-debian-packages")
    # In /tmp whatever TMPDIR says: the path of a Unix socket has at most 107 characters.
    with tempfile.TemporaryDirectory(prefix="radosgw-", dir="/tmp", ignore_cleanup_errors=True) as directory:
        server = Radosgw(Path(directory), host)
        try:
            server.start()
            yield server
        finally:
            server.stop()


def free_port() -> int:
    """A loopback port that nobody listens on now.

    Below those that the kernel hands to clients: while the gateway is away, a client that retries could be
    given the gateway's own port, connect to itself and keep the port taken.
    """
    while True:
        port = random.randint(20_000, 32_000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind((HOST, port))
            return port


def main() -> None:
    """Start a server, print its environment, and wait for Ctrl-C or SIGTERM."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with running_radosgw() as server:
            for name, value in OWNER.environment(server.endpoint).items():
                print(f"export {name}={value}", flush=True)
            print(f"# process {os.getpid()}, Ctrl-C ends it", flush=True)
            signal.pause()
    except KeyboardInterrupt:
        print("# ended")


if __name__ == "__main__":
    main()
