"""A Kubernetes API server that keeps what it is sent, and fails as a test says."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import yaml

Answer = tuple[int, dict[str, Any]]
VERSION = (
    "major",
    "minor",
    "gitVersion",
    "gitCommit",
    "gitTreeState",
    "buildDate",
    "goVersion",
    "compiler",
    "platform",
)
CUT: Answer = (0, {})
"""An answer: the connection is closed without one."""


class ApiServer:
    """Answers for one namespace, in threads of its own."""

    def __init__(self) -> None:
        self.requests: list[str] = []
        self.objects: dict[str, dict[str, Any]] = {}
        self.pods: list[dict[str, Any]] = []
        self.next_answers: dict[str, list[Answer]] = {}
        self.is_slow_to: str | None = None
        server = self

        class Handler(BaseHTTPRequestHandler):
            def handle_request(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                code, answer = server._answer(self.command, self.path, json.loads(body) if body else {})
                if code == 0:
                    self.connection.close()
                    return
                content = json.dumps(answer).encode()
                self.send_response(code)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                with contextlib.suppress(BrokenPipeError):
                    self.wfile.write(content)

            def do_GET(self) -> None:
                self.handle_request()

            def do_POST(self) -> None:
                self.handle_request()

            def do_DELETE(self) -> None:
                self.handle_request()

            def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
                """Write nothing: `requests` has it all."""

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._http.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_port}"

    def stop(self) -> None:
        self._http.shutdown()
        self._http.server_close()

    def write_kubeconfig(self, path: Path, namespace: str = "team") -> Path:
        """A kubeconfig whose current context is this server's."""
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "test", "cluster": {"server": self.url}}],
            "users": [{"name": "user", "user": {}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "user", "namespace": namespace}}],
            "current-context": "test",
        }
        path.write_text(yaml.safe_dump(config))
        return path

    def fail_next(self, request: str, *answers: Answer) -> None:
        """What to answer to the next requests such as "POST rayjobs", whatever they come to."""
        self.next_answers.setdefault(request, []).extend(answers)

    def _answer(self, method: str, target: str, body: dict[str, Any]) -> Answer:
        self.requests.append(f"{method} {target}")
        path = urlsplit(target).path
        words = path.split("/")
        kind = next((each for each in ("rayjobs", "configmaps", "pods") if each in words), "version")
        answer = self._list_pods(target) if kind == "pods" else self._keep(method, kind, words[-1], body)
        request = f"{method} {kind}"
        if self.is_slow_to == request:
            time.sleep(2)
        return self.next_answers[request].pop(0) if self.next_answers.get(request) else answer

    def _list_pods(self, target: str) -> Answer:
        label, _, value = parse_qs(urlsplit(target).query)["labelSelector"][0].partition("=")
        items = [pod for pod in self.pods if pod["metadata"]["labels"].get(label) == value]
        return 200, {"kind": "PodList", "apiVersion": "v1", "items": items}

    def _keep(self, method: str, kind: str, name: str, body: dict[str, Any]) -> Answer:
        if kind == "version":
            return 200, dict.fromkeys(VERSION, "1")
        if method == "POST":
            name = body["metadata"]["name"]
            self.objects[f"{kind}/{name}"] = body | {"metadata": body["metadata"] | {"uid": "1", "namespace": "team"}}
            return 201, self.objects[f"{kind}/{name}"]
        found = self.objects.get(f"{kind}/{name}")
        if found is None:
            return refusal(404, f'{kind} "{name}" not found')
        if method == "DELETE":
            del self.objects[f"{kind}/{name}"]
        return 200, found


def refusal(code: int, message: str) -> Answer:
    """A server's no."""
    return code, {"kind": "Status", "status": "Failure", "message": message, "code": code}
