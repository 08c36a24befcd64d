"""What becomes of a RayJob when the API server, the network or the user does not play along."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from runner.config import parse_job
from runner.errors import ClusterError
from runner.submit import kuberay

KUBECONFIG = "kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION"
ON_S3: dict[str, Any] = {"name": "demo", "data": {"uri": "s3://b/records"}, "storage": {"uri": "s3://b/runs"}}
JOB = parse_job(ON_S3, environment={})
MINE = {"namespace": "team", "id": "demo-1"}


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
