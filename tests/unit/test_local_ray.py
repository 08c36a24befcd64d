"""A Ray of one's own starts on a busy machine too."""

from __future__ import annotations

from typing import Any

import pytest
import ray

from runner.errors import ClusterError
from runner.train import local_ray

SLOW = "The current node timed out during startup. This could happen because ..."


@pytest.fixture
def tries(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What each try to start meets, in this order; empty: it starts."""
    meets: list[str] = []

    def init(**_settings: Any) -> None:
        if message := meets.pop(0):
            raise RuntimeError(message)

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(local_ray, "_import_ray_train", lambda: None)
    return meets


def test_a_start_that_took_too_long_is_tried_again(tries: list[str], caplog: pytest.LogCaptureFixture) -> None:
    tries += [SLOW, ""]
    local_ray.start_local_ray()
    assert tries == []
    assert "trying again" in caplog.text


def test_what_another_try_would_not_mend_is_said_at_once(tries: list[str]) -> None:
    tries += ["no such address", ""]
    with pytest.raises(ClusterError, match="Ray did not start on this machine: RuntimeError: no such address"):
        local_ray.start_local_ray()
    assert tries == [""]


def test_patience_ends(tries: list[str]) -> None:
    tries += [SLOW] * local_ray.TRIES
    with pytest.raises(ClusterError, match="timed out during startup"):
        local_ray.start_local_ray()
