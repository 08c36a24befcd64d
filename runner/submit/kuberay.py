"""A job on a Kubernetes cluster, through its API server: what creates, follows and removes a RayJob.

api = connect(namespace=None)      # the current context of the kubeconfig, or the account of the pod we are in
send(plan, api)
follow_job(api, plan, directory, quiet=False)
"""

from __future__ import annotations

import json
import logging
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from runner.errors import ClusterError, last_line
from runner.run_directory import RunDirectory
from runner.screen import tell
from runner.submit.follow import follow_run
from runner.submit.kubernetes import Manifest
from runner.submit.plan import Plan
from runner.submit.waiting import FINAL, state_of, why_it_waits

GROUP, VERSION, PLURAL = "ray.io", "v1", "rayjobs"
CHECK_EVERY_S = 2.0
TIMEOUT_S = (10.0, 30.0)
"""For a connection to the API server, and for an answer."""
AWAY_FOR_S = 300.0
"""How long a job is followed while its API server does not answer."""
WAITS_QUIETLY_S = 4.0
"""A job that has waited for longer is told of: pods need a moment in any case."""
TAKEN_UP_WITHIN_S = 30.0
"""The same, for an operator that has not seen the job yet."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Api:
    """The two APIs that are used, and the namespace that they are used in. `is_inside`: this is a pod there."""

    core: Any
    custom: Any
    namespace: str
    is_inside: bool = False

    @property
    def server(self) -> str:
        """The API server's address, as this process knows it."""
        return self.core.api_client.configuration.host

    def submission(self, name: str) -> dict[str, str]:
        """What a run remembers of its RayJob. A pod knows the server by an address that only pods know."""
        server = {} if self.is_inside else {"server": self.server}
        return {"namespace": self.namespace, "id": name} | server


def connect(namespace: str | None, *, server: str | None = None) -> Api:
    """The API server of the current context, or of the cluster that this process runs in.

    `server`: the address that it must have, where that can be told.

    Raises:
        ClusterError: there is no such context, it is another cluster's, or nothing answers.
    """
    from kubernetes import client

    api = _load_api(namespace)
    if server is not None and not api.is_inside and server != api.server:
        raise ClusterError(
            f"the job was sent to {server}, but the current context is that of {api.server}; "
            "choose another with `kubectl config use-context`, set KUBECONFIG, or use kubectl there"
        )
    with _in_one_line(api):
        client.VersionApi(api.core.api_client).get_code(_request_timeout=TIMEOUT_S)
    return api


def _load_api(namespace: str | None) -> Api:
    from kubernetes import client, config
    from kubernetes.config import ConfigException
    from kubernetes.config.kube_config import list_kube_config_contexts

    is_inside = False
    try:
        config.load_kube_config()
        here = list_kube_config_contexts()[1]["context"].get("namespace")
    except ConfigException as error:
        try:
            config.load_incluster_config()
        except ConfigException:
            raise ClusterError(
                f"no Kubernetes cluster is set up: {last_line(error)}; set KUBECONFIG, and try `kubectl get pods`"
            ) from error
        here = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace").read_text()
        is_inside = True
    except (OSError, ValueError, LookupError, TypeError, AttributeError, yaml.YAMLError) as error:
        path = os.environ.get("KUBECONFIG", "~/.kube/config")
        raise ClusterError(f"{path}: not a kubeconfig: {last_line(error)}; try `kubectl config view`") from error
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)  # It tells of every retry.
    return Api(client.CoreV1Api(), client.CustomObjectsApi(), namespace or here or "default", is_inside)


def send(plan: Plan, api: Api) -> None:
    """Create the RayJob, and the ConfigMap as a part of it: who deletes the RayJob deletes both.

    Raises:
        ClusterError: the cluster does not take it; nothing of it is left there, or the message says what may be.
    """
    job, run = plan.manifests
    strictly = {"field_validation": "Strict", "_request_timeout": TIMEOUT_S}
    made = None
    try:
        with _in_one_line(api):
            made = api.custom.create_namespaced_custom_object(GROUP, VERSION, api.namespace, PLURAL, run, **strictly)
            api.core.create_namespaced_config_map(api.namespace, _owned_by(made, job), **strictly)
    except BaseException as error:
        # Where only the answer was lost, the server has kept what it was sent.
        if made is not None or not _is_refusal(error):
            _take_back(api, run["metadata"]["name"], error)
        raise


def _owned_by(owner: Manifest, manifest: Manifest) -> Manifest:
    reference = {
        "apiVersion": owner["apiVersion"],
        "kind": owner["kind"],
        "name": owner["metadata"]["name"],
        "uid": owner["metadata"]["uid"],
    }
    return manifest | {"metadata": manifest["metadata"] | {"ownerReferences": [reference]}}


def _take_back(api: Api, name: str, why: BaseException) -> None:
    """Remove a RayJob that could not be sent whole.

    Raises:
        ClusterError: that failed, too; it says `why` first.
    """
    try:
        delete_job(api, name)
    except ClusterError:
        raise ClusterError(
            f"{str(why) or 'interrupted'}; RayJob {name} may be left there: {how_to_remove(api.namespace, name)}"
        ) from why


def how_to_remove(namespace: str, name: str) -> str:
    """What the user can do where we cannot."""
    return f"`kubectl --namespace {namespace} delete rayjob {name}` removes it"


def follow_job(api: Api, plan: Plan, directory: RunDirectory, *, quiet: bool) -> None:
    """Show the run's progress, and what its pods wait for, until the RayJob has ended or is gone.

    Raises:
        ClusterError: it ended without leaving a word in the run directory, or cannot be followed any more.
    """
    watch = _Watch(api, str(plan.submission_id), quiet=quiet)
    try:
        follow_run(directory, watch.is_over, quiet=quiet)
    except ClusterError as error:
        raise ClusterError(f"{error}; the job goes on, `runner status {plan.run_uri}` shows how far it is") from error
    _judge(api, plan, directory, watch)


def _judge(api: Api, plan: Plan, directory: RunDirectory, watch: _Watch) -> None:
    """See that the run directory says how the run ended; where its driver never ran, that is for us to say."""
    left = directory.status()
    if left is not None and left.state in ("done", "stopped", "failed"):
        return
    said = f"{api.namespace}/{plan.submission_id}: {watch.last_words()}"
    mine = {"namespace": api.namespace, "id": str(plan.submission_id)}
    if left is not None and left.state == "pending" and mine.items() <= left.submission.items():
        if watch.is_gone and directory.stop_requested():
            directory.update_status(state="stopped", message="withdrawn before it began")
            return
        directory.write_failure(ClusterError(said))
    raise ClusterError(said)


class _Watch:
    """A RayJob as it is followed: it is asked for every few seconds, and what it waits for is told."""

    def __init__(self, api: Api, name: str, *, quiet: bool) -> None:
        self.is_gone = False
        self._api = api
        self._name = name
        self._quiet = quiet
        self._job: Manifest = {}
        self._asked_at = float("-inf")
        self._away_since: float | None = None
        self._waits_since = time.monotonic()
        self._told = ""

    def is_over(self) -> bool:
        """Whether the RayJob has ended, or somebody has removed it.

        Raises:
            ClusterError: the API server refuses to tell, or has been away for too long.
        """
        if not self.is_gone and time.monotonic() - self._asked_at > CHECK_EVERY_S:
            self._ask()
            self._asked_at = time.monotonic()
        return self.is_gone or state_of(self._job) in FINAL

    def last_words(self) -> str:
        """How it ended, and why."""
        if self.is_gone:
            return "removed from the cluster before the run had ended"
        status = self._job["status"]
        said = status.get("message") or status.get("reason") or "no reason given"
        return f"ended as {state_of(self._job)}: {said}"

    def _ask(self) -> None:
        try:
            with _in_one_line(self._api):
                job = get_job(self._api, self._name)
                waits_for = "" if self._quiet else why_it_waits(job, _list_pods(self._api, job))
        except ClusterError as error:
            self._bear(error)
        else:
            self._away_since = None
            if state_of(job) != state_of(self._job):
                self._waits_since = time.monotonic()
            self._job = job
            self._tell(waits_for)

    def _bear(self, error: ClusterError) -> None:
        """Put up with a server that is away for a while; any other error is raised again."""
        code = _code_of(error)
        if code == 404:
            self.is_gone = True
        elif 400 <= code < 500 and code != 429:
            raise error
        elif self._away_since is None:
            self._away_since = time.monotonic()
            log.warning("%s; asking again for %.0f minutes", error, AWAY_FOR_S / 60)
        elif time.monotonic() - self._away_since > AWAY_FOR_S:
            raise error

    def _tell(self, waits_for: str) -> None:
        """Print what the job waits for, once it has waited for a while."""
        if not waits_for:
            self._waits_since, self._told = time.monotonic(), ""
        patience = WAITS_QUIETLY_S if state_of(self._job) else TAKEN_UP_WITHIN_S
        if waits_for != self._told and time.monotonic() - self._waits_since >= patience:
            tell(waits_for)
            self._told = waits_for


def get_job(api: Api, name: str) -> Manifest:
    """The RayJob, with its status as the operator keeps it."""
    return api.custom.get_namespaced_custom_object(
        GROUP, VERSION, api.namespace, PLURAL, name, _request_timeout=TIMEOUT_S
    )


def _list_pods(api: Api, job: Manifest) -> list[Any]:
    """The pods of the RayJob's Ray cluster, and the one that submits to it; none for a user who may not list them."""
    from kubernetes.client import ApiException

    status = job.get("status") or {}
    if not status.get("rayClusterName") or state_of(job) in FINAL:
        return []
    selectors = [f"ray.io/cluster={status['rayClusterName']}"]
    if not status.get("jobStatus"):
        selectors.append(f"job-name={job['metadata']['name']}")
    try:
        return [pod for selector in selectors for pod in _select_pods(api, selector)]
    except ApiException as error:
        if error.status != 403:
            raise
        return []


def _select_pods(api: Api, selector: str) -> list[Any]:
    return api.core.list_namespaced_pod(api.namespace, label_selector=selector, _request_timeout=TIMEOUT_S).items


def delete_job(api: Api, name: str) -> bool:
    """Remove the RayJob, and with it its cluster, pods and ConfigMap; False: it was not there."""
    from kubernetes.client import ApiException

    with _in_one_line(api):
        try:
            api.custom.delete_namespaced_custom_object(
                GROUP,
                VERSION,
                api.namespace,
                PLURAL,
                name,
                propagation_policy="Background",
                _request_timeout=TIMEOUT_S,
            )
        except ApiException as error:
            if error.status != 404:
                raise
            return False
        return True


@contextmanager
def _in_one_line(api: Api) -> Iterator[None]:
    """The API server's refusals, and the network's, as one line that says what to do."""
    from kubernetes.client import ApiException
    from urllib3.exceptions import HTTPError

    try:
        yield
    except ApiException as error:
        raise ClusterError(f"{api.server}: {_explain(error, api.namespace)}") from error
    except HTTPError as error:
        raise ClusterError(
            f"{api.server}: no Kubernetes API server answers here; try `kubectl get pods`: {last_line(error)}"
        ) from error


def _code_of(error: BaseException) -> int:
    """The HTTP code of an answer that became this error; 0: there was no answer."""
    return getattr(error.__cause__, "status", None) or 0


def _is_refusal(error: BaseException) -> bool:
    """Whether the server said no: it has kept nothing."""
    return 400 <= _code_of(error) < 500


def _explain(error: Any, namespace: str) -> str:
    try:
        said = json.loads(error.body)["message"]
    except (TypeError, ValueError, KeyError):
        said = (error.body or error.reason or "").strip() or f"HTTP {error.status}"
    if error.status == 401:
        return "the cluster does not accept your credentials; log in again, and try `kubectl get pods`"
    if error.status == 403:
        return f"you may not do this in namespace {namespace}: {said}"
    if (error.status == 404 and "could not find the requested resource" in said) or said == "404 page not found":
        return "this cluster has no RayJobs; install the KubeRay operator, version 1.5.1 or later"
    if fields := re.findall(r'unknown field "([^"]+)"', said):
        return (
            f"this cluster's KubeRay is too old: it does not know {', '.join(fields)}; "
            f"install version 1.5.1 or later: {said}"
        )
    return said
