"""What becomes of a RayJob when the API server, the network or the user does not play along."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from runner.config import JobConfig, parse_job
from runner.errors import ClusterError, ConfigError, JobStoppedError
from runner.generation.settings import SamplingSettings
from runner.generation.shards import Generation, claim_folder
from runner.run_directory import GENERATION, RunDirectory, Status
from runner.storage import open_folder
from runner.submit import generate, kuberay, start
from runner.submit.kuberay import Api
from runner.submit.kubernetes import manifests
from runner.submit.launch import Launch
from runner.submit.plan import Plan, plan_submission
from runner.submit.waiting import why_it_waits
from tests.unit.api_server import CUT, ApiServer, refusal

KUBECONFIG = "kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION"
ON_S3: dict[str, Any] = {"name": "demo", "data": {"uri": "s3://b/records"}, "storage": {"uri": "s3://b/runs"}}
JOB = parse_job(ON_S3, environment={})
MINE = {"namespace": "team", "id": "demo-1"}
REMOVES_IT = "`kubectl --namespace team delete rayjob demo-1` removes it"


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[ApiServer]:
    """An API server, which the current context names."""
    running = ApiServer()
    monkeypatch.setattr(KUBECONFIG, str(running.write_kubeconfig(tmp_path / "kubeconfig")))
    monkeypatch.setattr(kuberay, "CHECK_EVERY_S", 0.0)
    monkeypatch.setattr(kuberay, "WAITS_QUIETLY_S", 0.0)
    yield running
    running.stop()


@pytest.fixture
def api(server: ApiServer) -> Api:
    return kuberay.connect(None)


@pytest.fixture
def plan() -> Plan:
    return Plan("kubernetes", "s3://b/runs/demo", {}, submission_id="demo-1", manifests=manifests(JOB, "demo-1"))


@pytest.fixture
def directory(tmp_path: Path) -> RunDirectory:
    """A run that waits for its RayJob."""
    found = RunDirectory(open_folder(str(tmp_path / "runs/demo")))
    found.folder.create("job.yaml", JOB.to_yaml().encode())
    found.write_status(Status("demo", "pending", "kubernetes", submission=MINE))
    return found


def status_of(directory: RunDirectory) -> Status:
    status = directory.status()
    assert status is not None
    return status


# Which cluster it is


@pytest.mark.parametrize("text", ["clusters: [", "words", "clusters: 3\ncurrent-context: a", "\x00", None])
def test_what_is_no_kubeconfig_is_said_in_one_line(
    text: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "kubeconfig"
    path.mkdir() if text is None else path.write_text(text)
    monkeypatch.setattr(KUBECONFIG, str(path))
    monkeypatch.setenv("KUBECONFIG", str(path))
    with pytest.raises(ClusterError) as error:
        kuberay.connect(None)
    assert str(error.value).startswith(f"{path}: not a kubeconfig: ")
    assert "\n" not in str(error.value)


def test_a_job_of_another_cluster_is_not_looked_for_in_this_one(server: ApiServer, api: Api) -> None:
    kuberay.connect("team", server=api.server)
    with pytest.raises(ClusterError, match=rf"sent to https://other, but the current context is that of {server.url}"):
        kuberay.connect("team", server="https://other")


def test_a_run_knows_its_server_unless_a_pod_has_sent_it(server: ApiServer, api: Api) -> None:
    assert api.submission("demo-1") == MINE | {"server": server.url}
    assert replace(api, is_inside=True).submission("demo-1") == MINE


# Sending


def test_what_is_sent_is_checked_strictly_and_goes_with_the_rayjob(server: ApiServer, api: Api, plan: Plan) -> None:
    kuberay.send(plan, api)
    [owner] = server.objects["configmaps/demo-1"]["metadata"]["ownerReferences"]
    assert owner == {"apiVersion": "ray.io/v1", "kind": "RayJob", "name": "demo-1", "uid": "1"}
    posts = [request for request in server.requests if request.startswith("POST")]
    assert len(posts) == 2
    assert all("fieldValidation=Strict" in request for request in posts)


def test_a_refused_rayjob_is_all_that_is_said(server: ApiServer, api: Api, plan: Plan) -> None:
    server.objects.clear()
    server.fail_next("POST rayjobs", refusal(403, "no rights"))
    server.fail_next("DELETE rayjobs", refusal(403, "no rights"))
    with pytest.raises(ClusterError, match=r"you may not do this in namespace team: no rights$"):
        kuberay.send(plan, api)


@pytest.mark.parametrize("answer", [CUT, refusal(504, "timeout"), refusal(403, "no rights")])
def test_a_config_map_that_fails_takes_its_rayjob_along(
    answer: tuple[int, dict[str, Any]], server: ApiServer, api: Api, plan: Plan
) -> None:
    server.fail_next("POST configmaps", answer)
    with pytest.raises(ClusterError):
        kuberay.send(plan, api)
    assert "rayjobs/demo-1" not in server.objects


@pytest.mark.parametrize("answer", [CUT, refusal(504, "timeout")])
def test_a_rayjob_whose_answer_is_lost_is_removed(
    answer: tuple[int, dict[str, Any]], server: ApiServer, api: Api, plan: Plan
) -> None:
    server.fail_next("POST rayjobs", answer)
    with pytest.raises(ClusterError):
        kuberay.send(plan, api)
    assert "DELETE" in server.requests[-1]
    assert server.objects == {}


def test_a_rayjob_whose_answer_is_late_is_removed(
    server: ApiServer, api: Api, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kuberay, "TIMEOUT_S", (1.0, 0.5))
    server.is_slow_to = "POST rayjobs"
    with pytest.raises(ClusterError, match="no Kubernetes API server answers here"):
        kuberay.send(plan, api)
    assert server.objects == {}


def test_ctrl_c_between_the_two_leaves_nothing(
    server: ApiServer, api: Api, plan: Plan, directory: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(api.core, "create_namespaced_config_map", interrupt)
    with pytest.raises(KeyboardInterrupt):
        start.run_on_cluster(plan, api, directory, Launch("kubernetes"))
    assert server.objects == {}
    assert (status_of(directory).state, status_of(directory).error) == ("failed", "interrupted before it was sent")


def test_what_cannot_be_cleaned_up_is_named_after_the_error_itself(server: ApiServer, api: Api, plan: Plan) -> None:
    server.fail_next("POST configmaps", refusal(403, "no rights"))
    server.fail_next("DELETE rayjobs", refusal(500, "no leader"))
    with pytest.raises(ClusterError) as error:
        kuberay.send(plan, api)
    assert str(error.value) == (
        f"{server.url}: you may not do this in namespace team: no rights; RayJob demo-1 may be left there: {REMOVES_IT}"
    )


def test_a_cluster_that_is_too_old_is_told_from_a_mistake(server: ApiServer, api: Api, plan: Plan) -> None:
    said = 'strict decoding error: unknown field "spec.rayClusterSpec.authOptions"'
    server.fail_next("POST rayjobs", refusal(400, said))
    with pytest.raises(ClusterError) as error:
        kuberay.send(plan, api)
    assert str(error.value) == (
        f"{server.url}: this cluster's KubeRay is too old: it does not know spec.rayClusterSpec.authOptions; "
        f"install version 1.5.1 or later: {said}"
    )


# Following


def put(server: ApiServer, state: str, **status: Any) -> None:
    """Let the RayJob have this state."""
    server.objects["rayjobs/demo-1"] = {
        "metadata": {"name": "demo-1", "namespace": "team"},
        "status": {"jobDeploymentStatus": state, **status},
    }


@pytest.mark.parametrize("state", ["Failed", "ValidationFailed", "Complete"])
def test_a_job_that_ends_before_its_driver_ran_has_failed(
    state: str, server: ApiServer, api: Api, plan: Plan, directory: RunDirectory
) -> None:
    put(server, state, message="spec is wrong")
    with pytest.raises(ClusterError) as error:
        kuberay.follow_job(api, plan, directory, quiet=True)
    assert str(error.value) == f"team/demo-1: ended as {state}: spec is wrong"
    status = status_of(directory)
    assert (status.state, status.error, status.exit_code) == ("failed", str(error.value), 3)


@pytest.mark.parametrize(
    "changes", [{"submission": MINE | {"id": "demo-2"}}, {"submission": {}}, {"state": "training"}], ids=str
)
def test_a_run_that_is_anothers_or_has_begun_is_left_as_it_is(
    changes: dict[str, Any], server: ApiServer, api: Api, plan: Plan, directory: RunDirectory
) -> None:
    directory.write_status(replace(status_of(directory), **changes))
    before = directory.status()
    put(server, "Failed", reason="DeadlineExceeded")
    with pytest.raises(ClusterError, match="ended as Failed: DeadlineExceeded"):
        kuberay.follow_job(api, plan, directory, quiet=True)
    assert directory.status() == before


def test_a_server_that_is_away_for_a_while_is_one_warning(
    server: ApiServer, api: Api, plan: Plan, directory: RunDirectory, caplog: pytest.LogCaptureFixture
) -> None:
    put(server, "Complete")
    directory.update_status(state="done")
    server.fail_next("GET rayjobs", refusal(503, "restarting"), refusal(429, "too many"), refusal(500, "leader"))
    kuberay.follow_job(api, plan, directory, quiet=False)
    assert caplog.messages == [f"{server.url}: restarting; asking again for 5 minutes"]


def test_a_lost_connection_is_borne(
    server: ApiServer, api: Api, plan: Plan, directory: RunDirectory, caplog: pytest.LogCaptureFixture
) -> None:
    put(server, "Complete")
    directory.update_status(state="done")
    server.fail_next("GET rayjobs", *([CUT] * 8))  # The client itself asks four times.
    kuberay.follow_job(api, plan, directory, quiet=True)
    assert len(caplog.messages) == 1


def test_a_server_that_stays_away_ends_the_following_and_not_the_job(
    server: ApiServer, api: Api, plan: Plan, directory: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kuberay, "AWAY_FOR_S", 0.2)
    server.fail_next("GET rayjobs", *([refusal(503, "restarting")] * 1000))
    with pytest.raises(ClusterError, match="restarting; the job goes on, `runner status s3://b/runs/demo` shows"):
        kuberay.follow_job(api, plan, directory, quiet=True)
    assert status_of(directory).state == "pending"


def test_a_user_who_may_not_ask_is_told_at_once(
    server: ApiServer, api: Api, plan: Plan, directory: RunDirectory
) -> None:
    server.fail_next("GET rayjobs", refusal(401, "expired"))
    with pytest.raises(ClusterError, match=r"does not accept your credentials.*; the job goes on"):
        kuberay.follow_job(api, plan, directory, quiet=True)


def test_a_user_who_may_not_list_pods_follows_all_the_same(
    server: ApiServer, api: Api, plan: Plan, directory: RunDirectory
) -> None:
    put(server, "Running", rayClusterName="demo-1-abcde")
    server.fail_next("GET pods", *([refusal(403, "no rights")] * 1000))
    running = server.objects["rayjobs/demo-1"]
    directory.update_status(state="done")
    server.fail_next("GET rayjobs", (200, running), (200, running))
    put(server, "Complete")
    kuberay.follow_job(api, plan, directory, quiet=False)


def test_a_job_that_a_stop_removed_has_stopped(
    server: ApiServer, api: Api, plan: Plan, directory: RunDirectory
) -> None:
    directory.request_stop()
    kuberay.follow_job(api, plan, directory, quiet=True)
    assert status_of(directory).state == "stopped"
    kuberay.follow_job(api, plan, directory, quiet=True)


@pytest.mark.parametrize(("state", "left"), [("pending", "failed"), ("training", "training")])
def test_a_job_that_someone_removed_is_said(
    state: str, left: str, server: ApiServer, api: Api, plan: Plan, directory: RunDirectory
) -> None:
    directory.write_status(replace(status_of(directory), state=state))
    with pytest.raises(ClusterError, match="team/demo-1: removed from the cluster before the run had ended"):
        kuberay.follow_job(api, plan, directory, quiet=True)
    assert status_of(directory).state == left


# What it waits for


CLUSTER = {"ray.io/cluster": "demo-1-abcde"}
SUBMITTER = {"job-name": "demo-1"}


def pod(labels: dict[str, str] = CLUSTER, **status: Any) -> dict[str, Any]:
    return {"metadata": {"name": "a", "labels": labels}, "status": {"phase": "Pending", **status}}


def container(name: str, reason: str, message: str | None = None) -> dict[str, Any]:
    waiting = {"reason": reason, "message": message}
    return {
        "name": name,
        "state": {"waiting": waiting},
        "image": "",
        "imageID": "",
        "ready": False,
        "restartCount": 0,
    }


def wait_of(api: Api, server: ApiServer) -> str:
    job = server.objects["rayjobs/demo-1"]
    return why_it_waits(job, kuberay._list_pods(api, job))


def test_pods_say_why_they_wait_also_when_one_is_replaced(server: ApiServer, api: Api) -> None:
    unscheduled = {"type": "PodScheduled", "status": "False", "message": "0/3 nodes are available"}
    starting = container("ray-worker", "PodInitializing")
    server.pods = [
        pod(conditions=[unscheduled]),
        pod(conditions=[unscheduled]),
        pod(containerStatuses=[starting], initContainerStatuses=[container("wait", "ErrImagePull", "no such image")]),
        pod(phase="Running"),
        pod({"ray.io/cluster": "anothers"}, conditions=[unscheduled]),
    ]
    for state in ("Initializing", "Running"):
        put(server, state, rayClusterName="demo-1-abcde")
        assert wait_of(api, server) == "2 pods wait: 0/3 nodes are available; 1 pod waits: no such image"
    put(server, "Complete", rayClusterName="demo-1-abcde")
    assert wait_of(api, server) == ""


def test_the_pod_that_submits_says_why_it_waits_until_it_has(server: ApiServer, api: Api) -> None:
    server.pods = [pod(SUBMITTER, containerStatuses=[container("ray-job-submitter", "ImagePullBackOff")])]
    put(server, "Running", rayClusterName="demo-1-abcde")
    assert wait_of(api, server) == "1 pod waits: ImagePullBackOff"
    put(server, "Running", rayClusterName="demo-1-abcde", jobStatus="RUNNING")
    assert wait_of(api, server) == ""


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (
            'FailedCreateHeadPod\npods "demo-1-head-x2k" is forbidden: exceeded quota: one',
            "forbidden: exceeded quota: one",
        ),
        ('FailedCreateWorkerPod\nPod "a" is invalid: spec.x: wrong', "invalid: spec.x: wrong"),
        ("FailedCreateHeadPod\nsomething else", "FailedCreateHeadPod something else"),
    ],
)
def test_pods_that_cannot_be_made_say_why(said: str, told: str, server: ApiServer, api: Api) -> None:
    condition = {"type": "ReplicaFailure", "status": "True", "message": said}
    put(server, "Initializing", rayClusterStatus={"conditions": [condition]})
    assert wait_of(api, server) == f"KubeRay cannot create pods: {told}"


def test_a_suspended_job_names_its_queue(server: ApiServer, api: Api) -> None:
    put(server, "Suspended")
    assert wait_of(api, server) == "the RayJob is suspended until someone sets its spec.suspend to false"
    server.objects["rayjobs/demo-1"]["metadata"]["labels"] = {"kueue.x-k8s.io/queue-name": "gpus"}
    assert wait_of(api, server) == (
        "Kueue has not admitted the RayJob to queue gpus yet; `kubectl --namespace team get workloads`"
    )


@pytest.fixture
def said_while(
    server: ApiServer, api: Api, plan: Plan, directory: RunDirectory, capsys: pytest.CaptureFixture[str]
) -> Callable[[dict[str, Any], int], str]:
    """What is said of a RayJob that is as given for so many looks, and then complete."""

    def follow(job: dict[str, Any], looks: int) -> str:
        directory.update_status(state="done")
        put(server, "Complete")
        server.fail_next("GET rayjobs", *([(200, job)] * looks))
        kuberay.follow_job(api, plan, directory, quiet=False)
        return capsys.readouterr().err

    return follow


def test_what_a_job_waits_for_is_told_once_and_not_before_a_moment(
    said_while: Callable[[dict[str, Any], int], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    suspended = {"metadata": {"namespace": "team"}, "status": {"jobDeploymentStatus": "Suspended"}}
    assert said_while(suspended, 5).count("the RayJob is suspended") == 1
    monkeypatch.setattr(kuberay, "WAITS_QUIETLY_S", 60.0)
    assert "suspended" not in said_while(suspended, 5)


@pytest.mark.parametrize(("patience_s", "told"), [(0.0, True), (30.0, False)])
def test_a_job_that_no_operator_takes_up_is_told_of_later(
    patience_s: float,
    told: bool,
    said_while: Callable[[dict[str, Any], int], str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(kuberay, "TAKEN_UP_WITHIN_S", patience_s)
    assert ("no KubeRay operator has taken up the RayJob yet" in said_while({"metadata": {}}, 3)) == told


# Stopping, and starting again


def test_a_stop_says_what_it_removed_and_what_was_not_there(server: ApiServer, directory: RunDirectory) -> None:
    put(server, "Failed")
    directory.update_status(state="failed")
    removed = start.stop_run(directory, status_of(directory))
    assert removed.endswith("nothing to stop, the run is failed; removed demo-1 from the cluster")
    assert server.objects == {}
    again = start.stop_run(directory, status_of(directory))
    assert again.endswith(f"; RayJob demo-1 was not there: namespace team of {server.url}")


def test_a_stop_refuses_another_cluster(server: ApiServer, directory: RunDirectory) -> None:
    put(server, "Running")
    directory.update_status(state="failed", submission=MINE | {"server": "https://other"})
    with pytest.raises(ClusterError, match="the job was sent to https://other"):
        start.stop_run(directory, status_of(directory))
    assert "rayjobs/demo-1" in server.objects


@pytest.fixture
def here(tmp_path: Path, directory: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> JobConfig:
    """A job whose run has failed on Kubernetes, where what trains here ends at once."""

    def run_here(directory: RunDirectory, *_: Any, **__: Any) -> Status:
        return directory.update_status(state="done", message="all epochs done")

    monkeypatch.setattr("runner.submit.local.run_here", run_here)
    directory.update_status(state="failed")
    config = parse_job(ON_S3 | {"storage": {"uri": str(tmp_path / "runs"), "overwrite": True}}, environment={})
    directory.write_config(config)
    return config


def test_a_run_that_goes_on_here_leaves_no_rayjob_that_would_take_it_over(
    server: ApiServer, directory: RunDirectory, here: JobConfig
) -> None:
    put(server, "Retrying")
    start.resume_run(directory, (), Launch("local"))
    assert server.objects == {}
    assert status_of(directory).state == "done"
    start.resume_run(directory, ("training.epochs=30",), Launch("local"))  # There is none any more.


def test_a_run_that_is_replaced_leaves_no_rayjob(server: ApiServer, directory: RunDirectory, here: JobConfig) -> None:
    put(server, "Retrying")
    start._claim(here, "local")
    assert server.objects == {}
    assert status_of(directory).submission == {}


def test_a_generation_that_goes_on_here_leaves_no_rayjob(
    server: ApiServer, here: JobConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run_here(*_: Any, **__: Any) -> None:
        raise JobStoppedError("stopped")

    monkeypatch.setattr("runner.submit.local.run_here", run_here)
    monkeypatch.setenv("RUNNER_JOB_FOLDER", "")
    put(server, "Retrying")
    folder = open_folder(str(tmp_path / "out"))
    generation = Generation("s3://b/runs/demo", "digest", SamplingSettings(1.0, None, 1.0, 0, ("",), 10), 10)
    claim_folder(folder, generation)
    RunDirectory(folder.child(GENERATION)).write_status(Status("out", "failed", "kubernetes", submission=MINE))
    with pytest.raises(JobStoppedError):
        generate._into_folder(folder, generation, here, Launch("local"))
    assert server.objects == {}


def test_a_cluster_out_of_reach_is_a_warning_and_no_reason_not_to_go_on(
    server: ApiServer, directory: RunDirectory, here: JobConfig, caplog: pytest.LogCaptureFixture
) -> None:
    put(server, "Retrying")
    directory.update_status(submission=MINE | {"server": "https://other"})
    start.resume_run(directory, (), Launch("local"))
    [line] = caplog.messages
    assert line.startswith("the run's earlier RayJob team/demo-1 may be left on its cluster")
    assert line.endswith(REMOVES_IT)
    assert status_of(directory).state == "done"


# What pods need


def test_a_tokenizer_that_pods_do_not_see_is_refused() -> None:
    job = parse_job(ON_S3 | {"tokenizer": {"uri": "my.model"}}, environment={})
    with pytest.raises(ConfigError, match=r"tokenizer\.uri: pods do not see my\.model; use s3://"):
        manifests(job, "demo")
    manifests(job, "demo", "python -m runner.generation.drive s3://b/out")
    claims = {"volume_claims": {"disk": "/disk"}}
    manifests(parse_job(ON_S3 | {"tokenizer": {"uri": "/disk/my.model"}, "kubernetes": claims}, environment={}), "demo")


def test_modules_that_do_not_travel_are_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    plan_submission(JOB, "kubernetes", environment={}, modules=("/home/me/my_rules.py", "/home/me/pack"))
    assert caplog.messages == [
        "my_rules.py, pack: not sent to Kubernetes; the image runner:0.1.0 must have it installed (docs/kubernetes.md)"
    ]
    plan_submission(JOB, "kubernetes", environment={})
    assert len(caplog.messages) == 1
