"""Hosts of a Ray cluster on one machine: network namespaces on a bridge, which can be killed and cut off.

    with hosts(workers=3) as cluster:           # cluster.address: the head's Jobs API, which wants AUTH
        cluster.cut_link(cluster.workers[0])    # its processes live, and no packet comes or goes
        cluster.kill_host(cluster.workers[1])   # kill -9 of all its processes
        cluster.restore()                       # all links up, a live Ray node on each host

Every host has an address, a name and a folder for Ray's files of its own; the disk is shared, as a network file
system would be. Needs root, for `ip netns` and `unshare`.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tests.ray.cluster import AUTH
from tests.runs import wait_for

OBJECT_STORE_BYTES = 100_000_000
NODE_STARTS = 3
NODE_STARTS_WITHIN_S = 240.0

QUICKLY_MISSED = {
    # The head pings each node; as Ray has it (every 3 s, up to 10 s each, 5 failures) a cut link shows after 70 s.
    "RAY_health_check_initial_delay_ms": "5000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "4000",
    "RAY_health_check_failure_threshold": "3",
    # A node that misses its head ends after 60 s as Ray has it; here what is cut off has time to do harm.
    "RAY_gcs_rpc_server_reconnect_timeout_s": "600",
}

AGENT_PORT = 52365
FIXED_PORTS = {
    "dashboard-agent-listen-port": AGENT_PORT,
    "dashboard-agent-grpc-port": 52366,
    "metrics-export-port": 52367,
    "runtime-env-agent-port": 52368,
}
"""Else a node waits 30 s for its agents to say which ports they found, and gives up: too short on a busy machine."""

IN_HOST = 'hostname "$1" && mount --bind "$2" "$3" && shift 3 && exec "$@"'
"""What a host's first process does before it becomes Ray: its name, and a folder of its own at the common path."""


@dataclass
class Host:
    """A network namespace; `link` is the bridge's end of its cable. `node`: its `ray start`, once there is one."""

    name: str
    address: str
    namespace: str
    link: str
    folder: Path
    node: subprocess.Popen[bytes] | None = None
    node_id: str = ""

    def pids(self) -> list[int]:
        """All its processes."""
        return [int(pid) for pid in ip("netns", "pids", self.namespace).split()]

    def pids_of(self, word: str) -> list[int]:
        """Its processes with `word` in their command lines."""
        return [pid for pid in self.pids() if word in command_line(pid)]

    def log(self) -> str:
        """What `ray start` and the node said."""
        files = [self.folder / "ray.log", *self.folder.glob("session_2*/logs/raylet.err")]
        return "\n".join(f"{self.name} {file.name}: {file.read_text()}" for file in files)

    def is_up(self) -> bool:
        """Whether its Ray node runs: `ray start --block` ends when a part of it does."""
        return self.node is not None and self.node.poll() is None


class Hosts:
    """A head without CPUs, as on Kubernetes, and workers with one each."""

    def __init__(self, folder: Path, subnet: int, workers: int, environment: dict[str, str]) -> None:
        """`subnet` is the third number of all addresses, and in the names of what is made."""
        self.folder = folder
        self.environment = environment
        self.bridge = bridge_name(subnet)
        self.gateway = f"10.123.{subnet}.254"
        self.all = [
            Host(
                f"host{number}",
                f"10.123.{subnet}.{number + 1}",
                f"{self.bridge}-{number}",
                f"{self.bridge}-{number}",
                folder / f"host{number}",
            )
            for number in range(workers + 1)
        ]
        self.head, *self.workers = self.all
        self.address = f"http://{self.head.address}:8265"

    def lay_cables(self) -> None:
        """Make the namespaces and their links to the bridge, which is there."""
        ip("addr", "add", f"{self.gateway}/24", "dev", self.bridge)
        ip("link", "set", self.bridge, "up")
        (self.folder / "ray").mkdir()
        for host in self.all:
            host.folder.mkdir()
            ip("netns", "add", host.namespace)
            ip("link", "add", host.link, "type", "veth", "peer", "name", "eth0", "netns", host.namespace)
            ip("link", "set", host.link, "master", self.bridge, "up")
            ip("-n", host.namespace, "addr", "add", f"{host.address}/24", "dev", "eth0")
            for device in ("lo", "eth0"):
                ip("-n", host.namespace, "link", "set", device, "up")
            ip("-n", host.namespace, "route", "add", "default", "via", self.gateway)

    def remove(self) -> None:
        """End everything in the namespaces, by process id, and remove them and the bridge."""
        for host in self.all:
            with suppress(subprocess.CalledProcessError):  # Never made.
                self.kill_host(host)
            for what in (("link", "del", host.link), ("netns", "del", host.namespace)):
                with suppress(subprocess.CalledProcessError):
                    ip(*what)
        with suppress(subprocess.CalledProcessError):
            ip("link", "del", self.bridge)

    def kill_host(self, host: Host) -> None:
        """SIGKILL to all its processes, until there are none."""

        def all_gone() -> bool:
            pids = host.pids()
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            return not pids

        wait_for(all_gone, timeout_s=30, every_s=0.2)
        if host.node is not None:
            host.node.wait(30)
            host.node = None

    def cut_link(self, host: Host) -> None:
        """Pull the cable: nothing comes through, and nobody is told."""
        ip("link", "set", host.link, "down")

    def mend_link(self, host: Host) -> None:
        ip("link", "set", host.link, "up")

    def restore(self) -> None:
        """Bring the cluster to its first state: a lost worker gets a new node, a lost head a new cluster."""
        for host in self.all:
            self.mend_link(host)
        for host in self.all:
            # A worker that was cut off knows of it when its own head tells it, or gives up: no test waits for that.
            if not (self.head.is_up() and host.is_up() and host.address in self.live_nodes()):
                self.kill_host(host)
        self._start_nodes(self.head)
        self._start_nodes(*self.workers)

    def live_nodes(self) -> dict[str, str]:
        """The names of the hosts whose nodes the head counts as alive, by address."""
        nodes = [node["raylet"] for node in self.get("/nodes?view=summary")["data"]["summary"]]
        return {node["nodeManagerAddress"]: node["nodeManagerHostname"] for node in nodes if node["state"] == "ALIVE"}

    def get(self, path: str) -> dict[str, Any]:
        """What the head's dashboard answers to a call with the token."""
        request = urllib.request.Request(
            f"{self.address}{path}", headers={"Authorization": f"Bearer {self.environment['RAY_AUTH_TOKEN']}"}
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.load(answer)

    def _start_nodes(self, *chosen: Host) -> None:
        """Nodes on these hosts, where there are none; Ray gives up on a slow start, so once more if need be."""
        for _ in range(NODE_STARTS):
            for host in chosen:
                if not host.is_up():
                    self.kill_host(host)
                    self._start_node(host)
            if wait_for(lambda: self._are_live(chosen), NODE_STARTS_WITHIN_S, every_s=0.5) == "all":
                return
        raise AssertionError("\n".join(host.log() for host in chosen if not host.is_up()))

    def _are_live(self, chosen: Sequence[Host]) -> Literal["all", "one has ended", ""]:
        if not all(host.is_up() for host in chosen):
            return "one has ended"
        for host in chosen:
            for session in host.folder.glob("session_2*"):  # This port a node waits for though it was told.
                (session / f"dashboard_agent_listen_port_{host.node_id}").write_text(str(AGENT_PORT))
        with suppress(OSError):
            return "all" if {host.address for host in chosen} <= self.live_nodes().keys() else ""
        return ""

    def _start_node(self, host: Host) -> None:
        options: dict[str, Any] = {
            "node-ip-address": host.address,
            "object-store-memory": OBJECT_STORE_BYTES,
            "temp-dir": self.folder / "ray",
            "include-log-monitor": "false",
        } | FIXED_PORTS
        if host is self.head:
            options |= {"port": 6379, "num-cpus": 0, "dashboard-host": host.address, "dashboard-port": 8265}
        else:
            options |= {"address": f"{self.head.address}:6379", "num-cpus": 1}
        shutil.rmtree(host.folder)
        host.folder.mkdir()
        host.node_id = secrets.token_hex(28)
        ray = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats"]
        ray += ["--head"] if host is self.head else []
        command = ["ip", "netns", "exec", host.namespace, "unshare", "--uts", "--mount"]
        command += ["sh", "-c", IN_HOST, "sh", host.name, host.folder, self.folder / "ray"]
        command += ray + [f"--{name}={value}" for name, value in options.items()]
        with (host.folder / "ray.log").open("wb") as log:
            host.node = subprocess.Popen(
                command, cwd=self.folder, env=self._environment(host), stdout=log, stderr=log, start_new_session=True
            )

    def _environment(self, host: Host) -> dict[str, str]:
        """A host's: the tests' own, with the cluster's token, and Ray's wishes."""
        kept = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "RAY_ADDRESS")}
        return (
            kept
            | QUICKLY_MISSED
            | {
                "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
                "TMPDIR": str(self.folder / "ray"),
                "RAY_worker_niceness": "0",
                "RAY_OVERRIDE_NODE_ID_FOR_TESTING": host.node_id,
                "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
            }
            | self.environment
        )


@contextmanager
def hosts(workers: int, **environment: str) -> Iterator[Hosts]:
    """A cluster of a head and so many workers, with `environment` in all its processes; gone at the end."""
    # A short path: Ray's sockets are in it, and theirs may have 107 characters.
    folder = Path(tempfile.mkdtemp(prefix="hosts-"))
    cluster = Hosts(folder, take_subnet(), workers, AUTH | environment)
    try:
        cluster.lay_cables()
        cluster.restore()
        yield cluster
    finally:
        cluster.remove()
        shutil.rmtree(folder, ignore_errors=True)


def take_subnet() -> int:
    """A subnet that no other run of these tests has: of several, one gets to make its bridge."""
    for subnet in range(256):
        made = subprocess.run(
            ["ip", "link", "add", bridge_name(subnet), "type", "bridge"], capture_output=True, text=True
        )
        if made.returncode == 0:
            return subnet
        assert "File exists" in made.stderr, f"no network namespaces here: {made.stderr}"
    raise AssertionError("all subnets are taken: `ip link show type bridge` lists what killed tests left")


def bridge_name(subnet: int) -> str:
    return f"rhosts{subnet}"


def ip(*arguments: str) -> str:
    """What `ip ...` prints."""
    return subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True).stdout


def command_line(pid: int) -> str:
    """Empty for a process that has just ended."""
    with suppress(OSError):
        return (Path("/proc") / str(pid) / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    return ""
