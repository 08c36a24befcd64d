"""etcd and the Kubernetes control plane on loopback: real ones, as in any cluster, without nodes."""

from __future__ import annotations

import urllib.error
import urllib.request
from pathlib import Path
from ssl import create_default_context

from tests.kubernetes.api import Api
from tests.kubernetes.certificates import CertificateAuthority, write_private_key
from tests.kubernetes.kubeconfig import certificate_user, write_kubeconfig
from tests.kubernetes.processes import HOST, Processes, free_port
from tests.kubernetes.tools import path as tool

SERVICE_NETWORK = "10.96.0.0/16"
ISSUER = "https://kubernetes.default.svc.cluster.local"
ADMINS = "system:masters"  # The group that may do everything, whatever RBAC says.


class ControlPlane:
    """A running etcd, API server, controller manager and scheduler; state and logs are below the directory."""

    def __init__(self, directory: Path, processes: Processes) -> None:
        self._directory = directory
        self._processes = processes
        self._port = free_port()
        self._pki = directory / "pki"
        self._pki.mkdir(mode=0o700)
        self._authority = CertificateAuthority(self._pki)
        self._service_account_key = write_private_key(self._pki / "service-accounts.key")

    @property
    def url(self) -> str:
        """The API server's address."""
        return f"https://{HOST}:{self._port}"

    @property
    def ca_certificate(self) -> Path:
        """What signs the API server's certificate, and those of its users."""
        return self._authority.certificate

    def start(self) -> None:
        """Start all; returns when the API server is ready."""
        self._start_etcd()
        self._start_api_server()
        self._processes.wait_until(lambda: is_ready(self.url, self.ca_certificate), "API server")
        self._start_controller_manager()
        self._start_scheduler()

    def issue_kubeconfig(self, user: str, group: str | None = None, namespace: str = "default") -> Path:
        """A kubeconfig of a user with a client certificate."""
        pair = self._authority.issue(user, organization=group)
        path = self._directory / f"{user.replace(':', '-')}.kubeconfig"
        return write_kubeconfig(path, self.url, self.ca_certificate, certificate_user(pair), namespace)

    def api(self, user: str, group: str | None = None) -> Api:
        """The API for a user with a client certificate."""
        return Api(self.url, self.ca_certificate, pair=self._authority.issue(user, organization=group))

    def _start_etcd(self) -> None:
        data = self._directory / "etcd"
        command = [
            tool("etcd"),
            f"--data-dir={data}",
            # Sockets of the file system: nobody else on the machine may read a cluster's secrets.
            f"--listen-client-urls={self._etcd_url}",
            "--advertise-client-urls=http://localhost:2379",  # Asked for, but nobody reads it.
            f"--listen-peer-urls=unix://{self._directory}/etcd-peer.sock",
            # A throw-away cluster need not outlive a power cut.
            "--unsafe-no-fsync",
            "--log-level=warn",
        ]
        self._processes.start("etcd", command)

    @property
    def _etcd_url(self) -> str:
        return f"unix://{self._directory}/etcd.sock"

    def _start_api_server(self) -> None:
        names = ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "localhost", HOST, "10.96.0.1"]
        serving = self._authority.issue("kube-apiserver", hosts=names)
        command = [
            tool("kube-apiserver"),
            f"--etcd-servers={self._etcd_url}",
            f"--advertise-address={HOST}",  # Else it looks for a default route, which a machine need not have.
            f"--bind-address={HOST}",
            f"--secure-port={self._port}",
            f"--tls-cert-file={serving.certificate}",
            f"--tls-private-key-file={serving.key}",
            f"--client-ca-file={self.ca_certificate}",
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            f"--service-account-issuer={ISSUER}",
            f"--service-account-signing-key-file={self._service_account_key}",
            f"--service-account-key-file={self._service_account_key}",
            f"--service-cluster-ip-range={SERVICE_NETWORK}",
            # Loopback cannot be an endpoint of the service "kubernetes", and nobody asks for it.
            "--endpoint-reconciler-type=none",
            "--allow-privileged=true",
            "--event-ttl=1h",
            "--profiling=false",
        ]
        self._processes.start("kube-apiserver", command)

    def _start_controller_manager(self) -> None:
        name = "system:kube-controller-manager"
        command = [
            tool("kube-controller-manager"),
            f"--kubeconfig={self.issue_kubeconfig(name)}",
            f"--bind-address={HOST}",
            f"--secure-port={free_port()}",
            f"--root-ca-file={self.ca_certificate}",
            f"--service-account-private-key-file={self._service_account_key}",
            "--use-service-account-credentials=true",
            "--leader-elect=false",
        ]
        self._processes.start("kube-controller-manager", command)

    def _start_scheduler(self) -> None:
        command = [
            tool("kube-scheduler"),
            f"--kubeconfig={self.issue_kubeconfig('system:kube-scheduler')}",
            f"--bind-address={HOST}",
            f"--secure-port={free_port()}",
            "--leader-elect=false",
        ]
        self._processes.start("kube-scheduler", command)


def is_ready(url: str, ca_certificate: Path | None = None) -> bool:
    """Whether a server says of itself that it is ready."""
    context = create_default_context(cafile=str(ca_certificate)) if ca_certificate is not None else None
    try:
        with urllib.request.urlopen(f"{url}/readyz", timeout=5, context=context):
            return True
    except OSError:
        return False
