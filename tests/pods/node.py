"""A node that runs pods: a real kubelet with containerd, on the control plane and KubeRay operator of tests/kubernetes.

    with real_node() as node:      # in a network of its own, with the image of this checkout
        node.kubectl("get", "nodes")

Nothing of it is left when the block, or this process, ends: the node's processes have a process namespace, which ends
with the first of them, and mounts of their own, which go with them. Needs root, the Debian packages that
`.ci/install-debian-packages` installs, and the programs that `make kubernetes-tools` builds.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import tempfile
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import yaml

from tests.kubernetes.api import CORE
from tests.kubernetes.cluster import TOOLS, Cluster
from tests.kubernetes.tools import build_all
from tests.kubernetes.tools import path as tool
from tests.pods.dns import DOMAIN, Names, endpoints
from tests.pods.image import PAUSE, containerd_root
from tests.pods.network import ADDRESS, cni_settings, private_network

PROGRAMS = ("containerd", "ctr", "ip", "mount", "runc", "setpriv", "unshare")
CNI_PLUGINS = Path("/usr/lib/cni")
NODE = "node-1"
CGROUPS = Path("/sys/fs/cgroup")
CGROUP = "kubepods"  # The kubelet's, below the root or below that of each controller.
CGROUPS_TIMEOUT_S = 60.0

# What a kubelet sets for the whole machine. It sees these values in files of its own, so it changes nothing.
KERNEL_SETTINGS = {
    "vm/overcommit_memory": 1,
    "vm/panic_on_oom": 0,
    "kernel/panic": 10,
    "kernel/panic_on_oops": 1,
    "kernel/keys/root_maxkeys": 1_000_000,
    "kernel/keys/root_maxbytes": 25_000_000,
}

CONTAINERD = """\
version = 2
root = "{root}"
state = "/run/containerd"
[grpc]
  address = "{directory}/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause}"
  restrict_oom_score_adj = true
  disable_hugetlb_controller = true
  disable_tcp_service = true
  stream_server_address = "127.0.0.1"
  netns_mounts_under_state_dir = true
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{plugins}"
    conf_dir = "{directory}/cni"
"""

# The first process of the node. What its programs write to /run and /var stays its own.
BOOT = """\
set -eu
mount --make-rshared /
mount -t tmpfs tmpfs /run
mount -t overlay -o lowerdir=/var,upperdir={directory}/var,workdir={directory}/var-work overlay /var
cd {directory}/settings
for setting in */* */*/*; do
    [ ! -f "$setting" ] || mount --bind "$setting" "/proc/sys/$setting"
done
cd /
containerd --config {directory}/containerd.toml >>{directory}/containerd.log 2>&1 &
until [ -S {directory}/containerd.sock ]; do sleep 0.1; done
{kubelet} >>{directory}/kubelet.log 2>&1 &
wait
"""


class NodeCluster(Cluster):
    """A running cluster whose one node is this machine; made by `real_node`."""

    def __init__(self, directory: Path, containerd_root: Path) -> None:
        super().__init__(directory)
        self._containerd_root = containerd_root
        self._names = Names(ADDRESS, lambda name: endpoints(self.admin, name))
        self._resolv_conf = directory / "resolv.conf"
        self._resolv_conf.write_text(f"nameserver {ADDRESS}\nsearch svc.{DOMAIN} {DOMAIN}\noptions ndots:5\n")

    def stop(self) -> None:
        """End everything."""
        super().stop()
        self._names.stop()
        _remove_cgroups()

    def container_logs(self, namespace: str) -> str:
        """What the containers in a namespace wrote, as far as their pods are still there."""
        files = sorted((self._directory / "pod-logs").glob(f"{namespace}_*/*/*.log"))
        return "\n".join(f"--- {file.relative_to(self._directory)}\n{file.read_text()}" for file in files)

    def crash(self, pod: dict[str, Any]) -> None:
        """Kill all processes of a pod's containers, as when memory runs out: no hook runs, nobody is told before."""
        ids = [each["containerID"].rpartition("/")[2] for each in pod["status"]["containerStatuses"]]
        groups = [group for each in ids for group in CGROUPS.glob(f"**/{CGROUP}/**/{each}/cgroup.procs")]
        for process in {int(line) for group in groups for line in group.read_text().split()}:
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)

    def _start_nodes(self) -> None:
        self._write_settings()
        kubelet = [tool("kubelet"), f"--config={self._directory}/kubelet.yaml"]
        kubelet += [f"--kubeconfig={self.issue_kubeconfig(f'system:node:{NODE}', 'system:nodes')}"]
        kubelet += [f"--hostname-override={NODE}", f"--node-ip={ADDRESS}"]
        kubelet += [f"--root-dir={self._directory}/kubelet", f"--cert-dir={self._directory}/kubelet-pki"]
        script = BOOT.format(directory=self._directory, kubelet=shlex.join(map(str, kubelet)))
        private = ["unshare", "--mount", "--propagation", "private", "--pid", "--kill-child", "--mount-proc"]
        self._processes.start("node", [*private, "sh", "-c", script])
        self._processes.wait_until(lambda: self.admin.exists(f"{CORE}/nodes/{NODE}"), "node")

    def _start_operator(self, command: Sequence[str | Path], environment: Mapping[str, str]) -> None:
        """With the cluster's names, as in a pod."""
        script = f'mount --bind {self._resolv_conf} /etc/resolv.conf && exec "$@"'
        wrapped = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "operator", *command]
        proxies = ("HTTP_PROXY", "NO_PROXY")  # They are for dashboards that are played.
        super()._start_operator(wrapped, {key: value for key, value in environment.items() if key not in proxies})

    def _write_settings(self) -> None:
        for folder in ("cni", "var", "var-work", "pod-logs"):
            (self._directory / folder).mkdir()
        for name, value in KERNEL_SETTINGS.items():
            file = self._directory / "settings" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(f"{value}\n")
        cni = cni_settings(self._directory / "addresses")
        (self._directory / "cni" / "10-pods.conflist").write_text(json.dumps(cni))
        (self._directory / "containerd.toml").write_text(
            CONTAINERD.format(root=self._containerd_root, directory=self._directory, pause=PAUSE, plugins=CNI_PLUGINS)
        )
        (self._directory / "kubelet.yaml").write_text(yaml.safe_dump(self._kubelet_settings()))

    def _kubelet_settings(self) -> dict[str, object]:
        return {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "failCgroupV1": False,
            "cgroupDriver": "cgroupfs",
            "featureGates": {"KubeletInUserNamespace": True},  # Puts up with what a container may not set.
            "address": ADDRESS,
            "healthzPort": 0,
            "authentication": {
                "anonymous": {"enabled": False},
                "webhook": {"enabled": True},
                "x509": {"clientCAFile": str(self._control_plane.ca_certificate)},
            },
            "authorization": {"mode": "Webhook"},
            "containerRuntimeEndpoint": f"unix://{self._directory}/containerd.sock",
            "clusterDNS": [ADDRESS],
            "clusterDomain": DOMAIN,
            "failSwapOn": False,
            "enforceNodeAllocatable": [],
            "makeIPTablesUtilChains": False,
            "resolvConf": str(self._resolv_conf),
            "podLogsDir": str(self._directory / "pod-logs"),
            # Not by the disk: what others keep on it is none of the node's business.
            "evictionHard": {"memory.available": "100Mi"},
            "imageGCHighThresholdPercent": 100,
        }


def _remove_cgroups() -> None:
    """Take away the kubelet's control groups; their processes have been killed, but may take a moment to end."""
    give_up_at = time.monotonic() + CGROUPS_TIMEOUT_S
    while roots := [root for pattern in (CGROUP, f"*/{CGROUP}") for root in CGROUPS.glob(pattern)]:
        for root in roots:
            for group, _, _ in os.walk(root, topdown=False):
                with suppress(OSError):
                    Path(group).rmdir()
        if time.monotonic() > give_up_at:
            raise RuntimeError(f"control groups have processes still: {', '.join(map(str, roots))}")
        time.sleep(0.1)


@contextmanager
def real_node() -> Generator[NodeCluster]:
    """A cluster with a node that runs pods, for the length of the block, in which this thread is in its network."""
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if missing or not (CNI_PLUGINS / "bridge").exists():
        raise RuntimeError(f"no {', '.join(missing or [str(CNI_PLUGINS)])}: run .ci/install-debian-packages")
    tools = [name for name in TOOLS if name != "kwok"] + ["kubelet"]
    build_all(tools)
    # In /tmp whatever TMPDIR says: the path of a Unix socket has at most 107 characters.
    with (
        tempfile.TemporaryDirectory(prefix="node-", dir="/tmp", ignore_cleanup_errors=True) as directory,
        containerd_root(Path(directory)) as root,
        private_network(),
    ):
        cluster = NodeCluster(Path(directory), root)
        try:
            cluster.start()
            yield cluster
        finally:
            cluster.stop()
