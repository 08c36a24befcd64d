"""An audit of private runs on a table, by either method: it attacks with the run's own rows, whatever trained it."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from runner.run_directory import RunDirectory
from runner.storage import open_folder
from runner.train.audit import audit_run
from tests.promises.conftest import without_ray
from tests.promises.private_runs import start
from tests.promises.test_draws import DECLARED, drawn_job
from tests.promises.test_looked_up import ROWS, people, table_job

__all__ = ["people", "without_ray"]


@pytest.mark.parametrize("method", ["steps", "marginals"])
def test_a_private_run_on_a_table_is_attacked_with_its_own_rows(people: Path, tmp_path: Path, method: str) -> None:
    """Of whom three slots' tokens are known to be drawn evenly, so that the mean loss is one of chance."""
    if method == "steps":
        job = table_job(method, people, tmp_path, DECLARED, schema_epsilon=None)
        job["examples"] = {"field_order": "random"}
        job["training"]["callbacks"] = []
    else:
        job = drawn_job(method, people, tmp_path, DECLARED)
    job["training"] |= {"validation_split": True, "batch_size": 400}
    directory = RunDirectory(open_folder(str(start(job))))
    answer, text = audit_run(directory)
    assert (answer["trained"], answer["unseen"], answer["unit"]) == (ROWS * 4 // 5, ROWS // 5, "records")
    statement = json.loads(directory.folder.read("privacy.json"))
    assert answer["claim"] == {"epsilon": statement["epsilon"], "delta": statement["delta"]}
    assert not answer["contradicted"]
    assert "not contradicted" in text
    for name in ("mean_loss_trained", "mean_loss_unseen"):
        slots = [2, 3, 100, 1]  # sex, job, wage's parts (about so many), the end
        assert answer[name] < sum(math.log(size) for size in slots) / len(slots) + 0.3
    assert json.loads(json.dumps(answer)) == answer
