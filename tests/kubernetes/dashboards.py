"""Stand-ins for the Ray dashboards of a cluster whose pods are only played.

KubeRay's operator asks a dashboard how a job is. Its requests come here as to an HTTP proxy, and are answered from what
a test says; nothing else of Ray is played.
"""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

from tests.kubernetes.processes import HOST

JOBS = "/api/jobs/"


@dataclass(frozen=True)
class Request:
    """What the operator asked."""

    method: str
    host: str  # As in "<service>.<namespace>.svc.cluster.local:8265".
    path: str
    authorization: str | None  # As the operator shows it, in a header of Ray's own.
    body: dict[str, Any] = field(default_factory=dict)


class Dashboards:
    """Answers for every Ray cluster; starts at once, in a thread of its own."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self._jobs: dict[str, dict[str, Any]] = {}
        self._server = ThreadingHTTPServer((HOST, 0), self._make_handler())
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        """The proxy's address."""
        return f"http://{HOST}:{self._server.server_port}"

    def set_job(self, submission_id: str, status: str, message: str = "") -> None:
        """What to say about a job, such as "RUNNING" or "SUCCEEDED"; one that was never set is not found."""
        self._jobs[submission_id] = {
            "submission_id": submission_id,
            "job_id": "01000000",
            "status": status,
            "message": message,
            "type": "SUBMISSION",
            "entrypoint": "",
            "start_time": 1_700_000_000_000,
        }

    def stop(self) -> None:
        """Stop answering."""
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, request: Request) -> tuple[int, Any]:
        self.requests.append(request)
        if request.method == "POST" and request.path == JOBS:
            submission_id = request.body["submission_id"]
            self.set_job(submission_id, "PENDING")
            return 200, {"job_id": submission_id, "submission_id": submission_id}
        submission_id, _, verb = request.path.removeprefix(JOBS).partition("/")
        job = self._jobs.get(submission_id)
        if job is None:
            return 404, f"Job {submission_id} does not exist"
        if verb == "stop":
            job["status"] = "STOPPED"
            return 200, {"stopped": True}
        return 200, job

    def _make_handler(self) -> type[BaseHTTPRequestHandler]:
        dashboards = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._handle()

            def do_POST(self) -> None:
                self._handle()

            def _handle(self) -> None:
                url = urlsplit(self.path)  # A proxy is asked for whole addresses.
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                request = Request(
                    self.command,
                    url.netloc,
                    url.path,
                    self.headers.get("x-ray-authorization"),
                    json.loads(body) if body.strip() else {},
                )
                status, answer = dashboards._answer(request)
                content = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
                """Write nothing: `requests` has it all."""

        return Handler
