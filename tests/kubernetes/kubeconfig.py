"""Kubeconfig files, complete in themselves: they can be copied into a container."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import yaml

from tests.kubernetes.certificates import KeyPair


def write_kubeconfig(path: Path, server: str, authority: Path, user: dict[str, Any], namespace: str) -> Path:
    """Write a kubeconfig with one cluster and one user, that only this user of the machine can read."""
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "test", "cluster": {"server": server, "certificate-authority-data": _base64(authority)}}],
        "users": [{"name": "user", "user": user}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "user", "namespace": namespace}}],
        "current-context": "test",
    }
    path.touch(mode=0o600)
    path.write_text(yaml.safe_dump(config))
    return path


def certificate_user(pair: KeyPair) -> dict[str, Any]:
    """A kubeconfig's user who shows a client certificate."""
    return {"client-certificate-data": _base64(pair.certificate), "client-key-data": _base64(pair.key)}


def _base64(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()
