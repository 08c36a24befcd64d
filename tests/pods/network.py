"""A network namespace for a test: what runs in it sees nothing of the machine's network, and is not seen there."""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

BRIDGE = "pods0"
ADDRESS = "10.244.1.1"  # The node's on the bridge, and of what pods reach there: names and storage.
POD_NETWORK = "10.244.1.0/24"

_NEW_NETWORK = 0x40000000  # CLONE_NEWNET; os.unshare is there from Python 3.12 on.
_libc = ctypes.CDLL(None, use_errno=True)


@contextmanager
def private_network() -> Generator[None]:
    """A network with loopback and a bridge for pods, for the length of the block.

    This thread is in it, and the processes and threads that it starts. It goes with the last of them.
    """
    if os.geteuid() != 0:
        raise RuntimeError("only root can make a network namespace")
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    try:
        _check(_libc.unshare(_NEW_NETWORK), "unshare")
        try:
            _ip("link", "set", "lo", "up")
            # With an address of its own: else the bridge takes one of a pod, and loses it with that pod.
            _ip("link", "add", BRIDGE, "address", "02:00:0a:f4:01:01", "type", "bridge")
            _ip("address", "add", f"{ADDRESS}/{POD_NETWORK.partition('/')[2]}", "dev", BRIDGE)
            _ip("link", "set", BRIDGE, "up")
            yield
        finally:
            _check(_libc.setns(before, _NEW_NETWORK), "setns")
    finally:
        os.close(before)


def cni_settings(state: Path) -> dict[str, object]:
    """How containerd connects pods to the bridge."""
    return {
        "cniVersion": "0.4.0",
        "name": "pods",
        "plugins": [
            {
                "type": "bridge",
                "bridge": BRIDGE,
                "isGateway": True,
                "hairpinMode": True,
                "ipam": {
                    "type": "host-local",
                    "dataDir": str(state),
                    "ranges": [[{"subnet": POD_NETWORK, "gateway": ADDRESS}]],
                    "routes": [{"dst": "0.0.0.0/0"}],
                },
            }
        ],
    }


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
