"""Starting, continuing and stopping runs: what `runner submit`, `resume` and `stop` do."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import sysconfig
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from runner.config import NAMESPACE_VARIABLE, JobConfig, parse_job
from runner.errors import ClusterError, ConfigError, JobStoppedError, NothingNewError, RunnerError, StorageError
from runner.run_directory import JOB_FOLDER_VARIABLE, KILLED_RUN_ENDS_WITHIN_S, RunDirectory, Status
from runner.submit.launch import Launch
from runner.submit.plan import Plan, plan_submission, with_absolute_paths

STOPS_WITHIN_S = 300.0
"""What `runner stop` waits for the last checkpoint of a run on Kubernetes."""

Answer = tuple[dict[str, Any], str]

log = logging.getLogger(__name__)


def start_run(config: JobConfig, launch: Launch) -> Answer:
    """Check a job, claim its run directory and train it.

    Raises:
        RunnerError: in one line; nothing is written when the job itself, its records or the cluster are at fault.
    """
    in_pods = launch.target == "kubernetes"
    if not in_pods:
        config = with_absolute_paths(config, Path.cwd())
    if config.data.since is not None and not (in_pods and _is_unseen(config.storage.uri)):
        from runner.train.series import with_definite_since

        config = with_definite_since(config)
    plan = _plan(config, launch)
    if launch.dry_run:
        return plan.to_dict(), plan.to_yaml().rstrip()

    from runner.driver import check, check_apart, check_free, release

    client = connect_to(plan)
    if in_pods and _is_unseen(config.storage.uri):
        check_apart(config)
        return _send_unseen(plan, client, launch)
    check_free(config)
    try:
        checked = None if in_pods and _has_unseen_inputs(config) else check(config)
    except NothingNewError as nothing:
        return {"run": None, "state": "nothing new", "message": str(nothing)}, f"nothing to do: {nothing}"
    if checked is not None and plan.target == "local" and config.sweep is None and RunDirectory.of(config).exists():
        from runner.train.facade import with_tokens

        checked = with_tokens(checked)
    directory = _claim(config, launch.target)
    if plan.target == "local":
        from runner.driver import drive
        from runner.submit.local import run_here

        try:
            status = run_here(directory, lambda stop: drive(directory.uri, stop, checked=checked), quiet=launch.quiet)
            return _finished(directory, status)
        except RunnerError as error:
            if error.exit_code == 2:  # Only tokenizing could tell; nothing was trained.
                with contextlib.suppress(StorageError):  # What is wrong with the job is to be told.
                    release(config, directory)
            raise
    answer = run_on_cluster(plan, client, directory, launch)
    return answer or _finished(directory, directory.current_status())


def resume_run(directory: RunDirectory, overrides: Sequence[str], launch: Launch) -> Answer:
    """Continue a run from its newest good checkpoint, on this target or another.

    Raises:
        ConfigError: an override changes what the weights depend on.
        RunExistsError: the run is still alive.
    """
    from runner.driver import check_changes

    os.environ.setdefault(JOB_FOLDER_VARIABLE, directory.current_status().job_folder)
    before = directory.read_config()
    document = before.model_dump(mode="json")
    config = parse_job(document, overrides, environment={}, source=directory.uri)
    check_changes(before, config)
    plan = _plan(config, launch)
    if launch.dry_run:
        return plan.to_dict(), plan.to_yaml().rstrip()
    directory.wait_until_left(KILLED_RUN_ENDS_WITHIN_S)
    status = directory.current_status()
    if status.state == "done" and config == before:
        return _finished(directory, status)
    client = connect_to(plan)
    remove_earlier(status)
    directory.wait_until_left(KILLED_RUN_ENDS_WITHIN_S)  # It may have come back just before.
    if config != before:
        directory.write_config(config)
    directory.begin_again(launch.target)
    if plan.target == "local":
        from runner.driver import drive
        from runner.submit.local import run_here

        return _finished(directory, run_here(directory, lambda stop: drive(directory.uri, stop), quiet=launch.quiet))
    answer = run_on_cluster(plan, client, directory, launch)
    return answer or _finished(directory, directory.current_status())


def _claim(config: JobConfig, target: str) -> RunDirectory:
    """Take the run's name, also from a run that `storage.overwrite` replaces.

    Raises:
        RunExistsError: another submitter was faster.
    """
    from runner.driver import claim

    earlier = RunDirectory.of(config).status() if config.storage.overwrite else None
    if earlier is not None:
        remove_earlier(earlier)
    return claim(config, target)


def remove_earlier(status: Status) -> None:
    """Remove the RayJob of a run's earlier attempt: with retries left it would take the run over.

    It may be on a cluster that is out of reach from here; that is a warning.
    """
    if "namespace" not in status.submission:
        return
    try:
        _withdraw(status)
    except ClusterError as error:
        from runner.submit.kuberay import how_to_remove

        namespace, name = status.submission["namespace"], status.submission["id"]
        log.warning(
            "the run's earlier RayJob %s/%s may be left on its cluster, and would take the run over: %s; %s",
            namespace,
            name,
            error,
            how_to_remove(namespace, name),
        )


def _is_unseen(uri: str) -> bool:
    """Whether this is a folder of a volume, and we are not in a pod that mounts it."""
    return "://" not in uri and NAMESPACE_VARIABLE not in os.environ


def _has_unseen_inputs(config: JobConfig) -> bool:
    return _is_unseen(config.data.uri) or (config.tokenizer.uri is not None and _is_unseen(config.tokenizer.uri))


def _send_unseen(plan: Plan, client: Any, launch: Launch) -> Answer:
    """Send a job whose run directory only its pods see: they claim it, and tell of it."""
    from runner.submit import kuberay

    if not launch.detach:
        raise ConfigError(
            f"storage.uri: {plan.run_uri} is on a volume that only the pods see, so this run cannot be followed from "
            "here; add --detach, or use s3://bucket/prefix"
        )
    kuberay.send(plan, client)
    return client.submission(str(plan.submission_id)) | {"run": plan.run_uri}, (
        f"submitted as {plan.submission_id}; `kubectl --namespace {client.namespace} get rayjob {plan.submission_id}` "
        "shows how far it is"
    )


def stop_run(directory: RunDirectory, status: Status) -> str:
    """Ask a run to stop at its next step, a generation after its next shard; a cluster's job that has not begun is
    withdrawn, and one on Kubernetes is removed once it has stopped."""
    on_kubernetes = "namespace" in status.submission
    if not status.is_active:
        withdrawn = f"; {_withdraw(status)}" if on_kubernetes else ""
        return f"{directory.uri}: nothing to stop, the run is {status.state}{withdrawn}"
    directory.request_stop()
    if status.state == "pending" and status.submission:
        withdrawn = f"; {_withdraw(status)}"
        directory.update_status(state="stopped", message="withdrawn before it began")
        return f"{directory.uri}: withdrawn before it began{withdrawn}"
    again = (
        "the same command continues it" if directory.is_generation else f"`runner resume {directory.uri}` continues it"
    )
    if on_kubernetes:
        directory.wait_until_left(STOPS_WITHIN_S)
        return f"{directory.uri}: stopped; {_withdraw(status)}; {again}"
    step = "shard" if directory.is_generation else "step"
    return f"{directory.uri}: stops {'after' if directory.is_generation else 'at'} its next {step}; {again}"


def _withdraw(status: Status) -> str:
    """Take a job from its cluster; returns what came of it, in words.

    Raises:
        ClusterError: the current context is another cluster's, or the cluster does not let us.
    """
    submission = status.submission
    if "namespace" not in submission:
        from runner.submit import ray_jobs

        ray_jobs.stop_job(submission["address"], submission["id"])
        return f"stopped {submission['id']} on the cluster"
    from runner.submit import kuberay

    namespace, name = submission["namespace"], submission["id"]
    api = kuberay.connect(namespace, server=submission.get("server"))
    if kuberay.delete_job(api, name):
        return f"removed {name} from the cluster"
    return f"RayJob {name} was not there: namespace {namespace} of {api.server}"


def _plan(config: JobConfig, launch: Launch) -> Plan:
    return plan_submission(
        config, launch.target, address=launch.address, environment=os.environ, modules=_user_modules(config)
    )


def connect_to(plan: Plan) -> Any:
    """A client of the cluster that the plan is for; None on this machine."""
    if plan.target == "kubernetes":
        from runner.submit import kuberay

        return kuberay.connect(plan.manifests[0]["metadata"].get("namespace"))
    if plan.target == "ray":
        from runner.submit import ray_jobs

        return ray_jobs.connect(str(plan.address))
    return None


def run_on_cluster(plan: Plan, client: Any, directory: RunDirectory, launch: Launch) -> Answer | None:
    """Send a planned job and follow it; None: it has ended, else the answer for a job that goes on alone."""
    if plan.target == "kubernetes":
        from runner.submit import kuberay as cluster

        submission = client.submission(str(plan.submission_id))
    else:
        from runner.submit import ray_jobs as cluster

        submission = {"address": str(plan.address), "id": str(plan.submission_id)}
    # Before the job can write a status of its own; from here on this process's end says nothing about the run.
    directory.update_status(submission=submission, host="", pid=0)
    try:
        cluster.send(plan, client)
    except BaseException as error:
        directory.update_status(state="failed", error=str(error) or "interrupted before it was sent")
        raise
    if launch.detach:
        return submission | {"run": plan.run_uri}, (
            f"submitted as {plan.submission_id}; `runner status {plan.run_uri}` shows how far it is"
        )
    try:
        cluster.follow_job(client, plan, directory, quiet=launch.quiet)
    except KeyboardInterrupt:
        follows = "status" if directory.is_generation else "logs -f"
        return submission | {"run": plan.run_uri}, (
            f"detached; the job goes on. `runner {follows} {plan.run_uri}` follows it, "
            f"`runner stop {plan.run_uri}` ends it"
        )
    return None


def _finished(directory: RunDirectory, status: Status) -> Answer:
    """The answer for a run that has ended.

    Raises:
        JobStoppedError, RunnerError: it did not end well.
    """
    if status.state == "stopped":
        raise JobStoppedError(f"{directory.uri}: stopped; `runner resume {directory.uri}` continues it")
    if status.state != "done":
        raise status.to_error(f"{directory.uri}: ")
    text = f"{status.message}: {directory.uri}\nrunner generate {directory.uri} -n 1000 -o synthetic.parquet"
    return {"run": directory.uri, **asdict(status)}, text


def _user_modules(config: JobConfig) -> tuple[str, ...]:
    """Folders and files of the user's callbacks and validator, for a cluster that does not have them."""
    settings = config.training
    references = [(settings.epoch_callback, "training.epoch_callback")]
    references += [(reference, "training.callbacks") for reference in settings.callbacks]
    references += [(config.generation.validator, "generation.validator")]
    return modules_of([(reference, setting) for reference, setting in references if reference is not None])


def modules_of(references: Sequence[tuple[str, str]]) -> tuple[str, ...]:
    """Folders and files of `package.module:name` references, each with the setting that has it.

    Installed packages do not travel: the cluster has its own.
    """
    from runner.train.callbacks import import_object

    installed = [Path(sysconfig.get_path(kind)) for kind in ("stdlib", "platstdlib", "purelib", "platlib")]
    found: list[str] = []
    for reference, setting in references:
        import_object(reference, setting)
        top = reference.partition(":")[0].partition(".")[0]
        spec = importlib.util.find_spec(top)
        if spec is None:
            continue
        places = spec.submodule_search_locations or ([spec.origin] if spec.has_location and spec.origin else [])
        paths = [Path(place) for place in places]
        found += [str(path) for path in paths if not any(path.is_relative_to(folder) for folder in installed)]
    return tuple(dict.fromkeys(found))
