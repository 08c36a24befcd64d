"""The Kubernetes API as plain JSON over HTTPS, for tests that look at its answers.

Not with the Python client that the product uses: what that one would mend or refuse by itself must reach the server.
"""

from __future__ import annotations

import json
import ssl
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from tests.kubernetes.certificates import KeyPair

TIMEOUT_S = 60.0

CORE = "/api/v1"
APPS = "/apis/apps/v1"
BATCH = "/apis/batch/v1"
POLICY = "/apis/policy/v1"
RAY = "/apis/ray.io/v1"
RBAC = "/apis/rbac.authorization.k8s.io/v1"
NOT_YET = 429


class ApiError(Exception):
    """The server refused a request: its HTTP status, and what it says."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status
        self.message = message


class Api:
    """A user of an API server, who shows a client certificate, a token, or nothing."""

    def __init__(
        self, url: str, ca_certificate: Path, *, pair: KeyPair | None = None, token: str | None = None
    ) -> None:
        self._url = url
        self._token = token
        self._context = ssl.create_default_context(cafile=str(ca_certificate))
        if pair is not None:
            self._context.load_cert_chain(pair.certificate, pair.key)

    def get(self, path: str) -> Any:
        """Read an object or a list."""
        return self._request("GET", path)

    def exists(self, path: str) -> bool:
        """Whether there is such an object."""
        try:
            self.get(path)
        except ApiError as error:
            if error.status != 404:
                raise
            return False
        return True

    def create(self, path: str, manifest: dict[str, Any] | str, *, dry_run: bool = False) -> Any:
        """Create an object from a manifest, or a YAML text; fields that its schema lacks are an error."""
        query = "?fieldValidation=Strict" + ("&dryRun=All" if dry_run else "")
        if isinstance(manifest, str):
            return self._request("POST", path + query, manifest, "application/yaml")
        return self._request("POST", path + query, json.dumps(manifest))

    def patch(self, path: str, patch: dict[str, Any]) -> Any:
        """Change an object: a merge patch."""
        return self._request("PATCH", path, json.dumps(patch), "application/merge-patch+json")

    def delete(self, path: str) -> Any:
        """Delete an object."""
        return self._request("DELETE", path)

    def _request(
        self, method: str, path: str, body: str | None = None, content: str = "application/json", patience_s: int = 60
    ) -> Any:
        headers = {"Accept": "application/json", "Content-Type": content}
        if self._token is not None:
            headers["Authorization"] = f"Bearer {self._token}"
        data = body.encode() if body is not None else None
        request = urllib.request.Request(self._url + path, data, headers, method=method)
        # No proxies: the server is on loopback.
        opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=self._context)
        )
        try:
            with opener.open(request, timeout=TIMEOUT_S) as answer:
                content_type = answer.headers.get_content_type()
                text = answer.read().decode()
        except urllib.error.HTTPError as error:
            message = _message(error.read().decode(errors="replace"))
            if error.code == NOT_YET and "initializing" in message and patience_s > 0:  # A resource that is new.
                time.sleep(1)
                return self._request(method, path, body, content, patience_s - 1)
            raise ApiError(error.code, message) from error
        return json.loads(text) if content_type == "application/json" else text


def _message(answer: str) -> str:
    try:
        return json.loads(answer)["message"]
    except (ValueError, KeyError, TypeError):
        return answer
