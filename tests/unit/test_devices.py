"""What a worker does about the GPUs that were asked for and those that are there."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
import tensorflow as tf

from runner.config import ResourcesConfig, parse_job
from runner.errors import ResourceError
from runner.train import worker
from runner.train.devices import local_replicas, make_strategy, memory_bytes, set_up_devices


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The GPUs that TensorFlow claims to see; what is made visible lands in `tf.config` only here."""
    found: list[str] = []
    visible: dict[str, list[str]] = {}
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda _kind: list(found))
    monkeypatch.setattr(tf.config, "set_visible_devices", lambda devices, kind: visible.update({kind: devices}))
    monkeypatch.setattr(tf.config, "get_visible_devices", lambda kind: visible[kind])
    monkeypatch.setattr(tf.config.experimental, "set_memory_growth", lambda _device, _enable: None)
    return found


def test_gpus_that_were_asked_for_and_are_not_there_are_refused(gpus: list[str]) -> None:
    with pytest.raises(ResourceError, match="gpus_per_worker is 1, but TensorFlow sees no GPU on this worker") as error:
        set_up_devices(ResourcesConfig(gpus_per_worker=1), None)
    assert error.value.exit_code == 3
    gpus.append("gpu0")
    with pytest.raises(ResourceError, match="gpus_per_worker is 2, but TensorFlow sees 1 GPU on"):
        set_up_devices(ResourcesConfig(gpus_per_worker=2), None)


def test_gpus_that_nobody_asked_for_stay_unused_with_a_warning(
    gpus: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    gpus += ["gpu0", "gpu1"]
    set_up_devices(ResourcesConfig(gpus_per_worker=0), None)
    assert "has 2 GPU(s) and the job uses none" in caplog.text
    assert tf.config.get_visible_devices("GPU") == []


def test_a_worker_sees_only_as_many_gpus_as_it_asked_for(gpus: list[str], caplog: pytest.LogCaptureFixture) -> None:
    gpus += ["gpu0", "gpu1"]
    set_up_devices(ResourcesConfig(gpus_per_worker=1), None)
    assert tf.config.get_visible_devices("GPU") == ["gpu0"]
    assert not caplog.text


def test_one_worker_with_one_device_needs_no_distribution() -> None:
    assert make_strategy(ResourcesConfig()) is tf.distribute.get_strategy()


def test_a_process_that_trained_goes_on_with_the_same_threads_and_never_with_others() -> None:
    """With fewer threads than were asked for, sums would be others than the ones a private run vouches for."""
    threads = tf.config.threading.get_intra_op_parallelism_threads()
    tf.constant(1)  # From here on TensorFlow's threads are what they are.
    for _ in range(2):
        set_up_devices(ResourcesConfig(), threads or None)
    for other in (threads + 3, None if threads else 5):
        with pytest.raises(ResourceError, match="already trained with other resources") as error:
            set_up_devices(ResourcesConfig(), other)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(("privacy", "is_used"), [({"enabled": True, "noise_multiplier": 1.0}, False), ({}, True)])
def test_a_private_worker_multiplies_in_float32_where_a_gpu_would_round_to_tf32(
    privacy: dict[str, Any], is_used: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    document = {"name": "demo", "data": {"uri": "records/"}, "tokenizer": {"kind": "byte"}, "privacy": privacy}
    directory = SimpleNamespace(read_config=lambda: parse_job(document, environment={}))

    class SetUpError(Exception):
        """Where the worker would build its network."""

    def ends(_resources: Any) -> None:
        raise SetUpError

    monkeypatch.setattr(worker, "make_strategy", ends)
    before = tf.config.experimental.tensor_float_32_execution_enabled()
    threads = tf.config.threading.get_intra_op_parallelism_threads() or None
    try:
        with pytest.raises(SetUpError):
            worker._train(worker.WorkerTask("", "", "", threads=threads), cast(Any, directory), cast(Any, None))
        assert tf.config.experimental.tensor_float_32_execution_enabled() == is_used
    finally:
        tf.config.experimental.enable_tensor_float_32_execution(before)


def test_each_worker_has_its_own_replicas() -> None:
    class FourReplicas:
        num_replicas_in_sync = 4

    assert [list(local_replicas(FourReplicas(), rank, 2)) for rank in (0, 1)] == [[0, 1], [2, 3]]


def test_memory_is_known_and_sane() -> None:
    assert 2**27 < memory_bytes() < 2**50
