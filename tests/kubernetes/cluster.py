"""A throw-away Kubernetes cluster on loopback: a real control plane, KubeRay's real operator, and played nodes.

Users, rights, quotas, admission, schemas, controllers and the scheduler are what a production cluster has. Pods get
nodes and become "Running", but no container runs: KWOK plays the kubelets, and `dashboards` the Ray clusters in them.

    python -m tests.kubernetes.cluster          # or: make cluster; prints the environment to use it

Needs the programs that `make kubernetes-tools` builds.
"""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import uuid
from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import yaml

from tests.kubernetes.api import CORE, RBAC, Api
from tests.kubernetes.control_plane import ADMINS, ControlPlane, is_ready
from tests.kubernetes.dashboards import Dashboards
from tests.kubernetes.kubeconfig import write_kubeconfig
from tests.kubernetes.nodes import node_manifests, start_kwok
from tests.kubernetes.processes import HOST, Processes, free_port
from tests.kubernetes.tools import build_all
from tests.kubernetes.tools import path as tool

TOOLS = (
    "etcd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kubectl",
    "kuberay-operator",
    "kwok",
)
DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
OPERATOR = "kuberay-operator"  # The operator's namespace, service account and process.


class Cluster:
    """A running cluster; made by `running_cluster`."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._processes = Processes(directory)
        self._control_plane = ControlPlane(directory, self._processes)
        self.dashboards = Dashboards()
        self.admin_kubeconfig = self._control_plane.issue_kubeconfig("admin", ADMINS)
        self.admin = self._control_plane.api("admin", ADMINS)

    @property
    def url(self) -> str:
        """The API server's address."""
        return self._control_plane.url

    def start(self) -> None:
        """Start everything; returns when nodes and operator are ready."""
        self._control_plane.start()
        definitions = (tool("kuberay-operator").parent / "config/crd/bases").glob("*.yaml")
        with ThreadPoolExecutor() as pool:  # The server takes seconds for each: their schemas are large.
            made = list(pool.map(lambda path: self.admin.create(DEFINITIONS, path.read_text()), definitions))
        names = {definition["metadata"]["name"] for definition in made}
        self._processes.wait_until(lambda: names <= self._known_resources(), "Ray's resources in the API's lists")
        self._start_nodes()
        self._give_operator_its_rights()
        self.start_operator()
        self._processes.wait_until(self._nodes_are_ready, "nodes")

    def stop(self) -> None:
        """End everything."""
        self.dashboards.stop()
        self._processes.stop_all()

    def kubectl(self, *arguments: str, kubeconfig: Path | None = None, stdin: str | None = None) -> str:
        """What kubectl prints for a user, by default the admin."""
        command = [tool("kubectl"), f"--kubeconfig={kubeconfig or self.admin_kubeconfig}", *arguments]
        # A cache of this cluster's own: by default it is shared by all whose server ever had this port.
        environment = {**os.environ, "KUBECACHEDIR": str(self._directory / "kubectl-cache")}
        done = subprocess.run(
            command, input=stdin, capture_output=True, text=True, timeout=120, check=False, env=environment
        )
        if done.returncode:
            raise RuntimeError(f"kubectl {' '.join(arguments)} failed:\n{done.stdout}{done.stderr}")
        return done.stdout

    def create_namespace(self, name: str | None = None, labels: dict[str, str] | None = None) -> str:
        """A new namespace, with the service account that pods have by default; by default with a name of its own."""
        name = name or f"test-{uuid.uuid4().hex[:8]}"
        self.admin.create(f"{CORE}/namespaces", {"metadata": {"name": name, "labels": labels or {}}})
        account = f"{CORE}/namespaces/{name}/serviceaccounts/default"
        self._processes.wait_until(lambda: self.admin.exists(account), "default service account")
        return name

    def issue_kubeconfig(self, user: str, group: str | None = None, namespace: str = "default") -> Path:
        """A kubeconfig of a user who shows a client certificate."""
        return self._control_plane.issue_kubeconfig(user, group, namespace)

    def issue_token(self, namespace: str, service_account: str) -> str:
        """A token of a service account for a day; creates the account if there is none."""
        accounts = f"{CORE}/namespaces/{namespace}/serviceaccounts"
        if not self.admin.exists(f"{accounts}/{service_account}"):
            self.admin.create(accounts, {"metadata": {"name": service_account}})
        request = {"spec": {"expirationSeconds": 86_400}}
        return self.admin.create(f"{accounts}/{service_account}/token", request)["status"]["token"]

    def write_kubeconfig(self, token: str, namespace: str = "default") -> Path:
        """A kubeconfig that shows this token, right or wrong."""
        path = self._directory / f"token-{uuid.uuid4().hex}.kubeconfig"
        return write_kubeconfig(path, self.url, self._control_plane.ca_certificate, {"token": token}, namespace)

    def api(self, token: str | None) -> Api:
        """The API for one who shows this token, right or wrong, or none."""
        return Api(self.url, self._control_plane.ca_certificate, token=token)

    def finish_pod(self, namespace: str, name: str, exit_code: int) -> None:
        """Let a pod's containers end, as its kubelet would report it."""
        path = f"{CORE}/namespaces/{namespace}/pods/{name}"
        ended = {"terminated": {"exitCode": exit_code, "reason": "Error" if exit_code else "Completed"}}
        statuses = [
            {**status, "ready": False, "started": False, "state": ended}
            for status in self.admin.get(path)["status"]["containerStatuses"]
        ]
        status = {"phase": "Failed" if exit_code else "Succeeded", "containerStatuses": statuses}
        self.admin.patch(f"{path}/status", {"status": status})

    def log(self, server: str) -> str:
        """What one of the servers wrote: etcd, kube-apiserver, ..., kwok, kuberay-operator."""
        return self._processes.log(server)

    def stop_operator(self) -> None:
        """Kill KubeRay's operator."""
        self._processes.stop(OPERATOR)

    def start_operator(self) -> None:
        """Start KubeRay's operator, also again after `stop_operator`; returns when it is ready."""
        kubeconfig = self.write_kubeconfig(self.issue_token(OPERATOR, OPERATOR))
        probes = f"{HOST}:{free_port()}"
        command = [
            tool("kuberay-operator"),
            "-enable-leader-election=false",
            "-metrics-addr=0",
            f"-health-probe-bind-address={probes}",
            "-feature-gates=RayCronJob=true",
        ]
        # Names of services mean nothing outside a cluster: a proxy answers for the Ray dashboards behind them.
        environment = {"KUBECONFIG": str(kubeconfig), "HTTP_PROXY": self.dashboards.url, "NO_PROXY": HOST}
        self._start_operator(command, environment)
        self._processes.wait_until(lambda: is_ready(f"http://{probes}"), "operator")

    def _start_operator(self, command: Sequence[str | Path], environment: Mapping[str, str]) -> None:
        self._processes.start(OPERATOR, command, environment)

    def _start_nodes(self) -> None:
        for node in node_manifests():
            self.admin.create(f"{CORE}/nodes", node)
        start_kwok(self._processes, self._control_plane.issue_kubeconfig("kwok", ADMINS), self._directory)

    def _give_operator_its_rights(self) -> None:
        """Those that its own manifests ask for, and no others."""
        self.create_namespace(OPERATOR)
        rights = tool("kuberay-operator").parent / "config" / "rbac"
        self.admin.create(f"{RBAC}/clusterroles", (rights / "role.yaml").read_text())
        binding = yaml.safe_load((rights / "role_binding.yaml").read_text())
        for subject in binding["subjects"]:
            subject["namespace"] = OPERATOR
        self.admin.create(f"{RBAC}/clusterrolebindings", binding)

    def _known_resources(self) -> set[str]:
        """What kubectl finds by its name: the server lists a new definition some time after it has taken it."""
        return set(self.kubectl("api-resources", "--output=name").split())

    def _nodes_are_ready(self) -> bool:
        """Whether pods can run on them: new nodes have a taint for a moment."""
        nodes = self.admin.get(f"{CORE}/nodes")["items"]
        taints = [taint["key"] for node in nodes for taint in node["spec"].get("taints", ())]
        return not any(key.startswith("node.kubernetes.io/") for key in taints) and all(
            any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)
            for conditions in (node["status"].get("conditions", ()) for node in nodes)
        )


@contextmanager
def running_cluster() -> Generator[Cluster]:
    """A cluster for the length of the block."""
    build_all(TOOLS)
    # In /tmp whatever TMPDIR says: the path of a Unix socket has at most 107 characters.
    with tempfile.TemporaryDirectory(prefix="kubernetes-", dir="/tmp", ignore_cleanup_errors=True) as directory:
        cluster = Cluster(Path(directory))
        try:
            cluster.start()
            yield cluster
        finally:
            cluster.stop()


def main() -> None:
    """Start a cluster, print its environment, and wait for Ctrl-C or SIGTERM."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with running_cluster() as cluster:
            print(f"export KUBECONFIG={cluster.admin_kubeconfig}")
            print(f"export PATH={tool('kubectl').parent}:$PATH")
            print(f"# process {os.getpid()}, Ctrl-C ends it", flush=True)
            signal.pause()
    except KeyboardInterrupt:
        print("# ended")


if __name__ == "__main__":
    main()
