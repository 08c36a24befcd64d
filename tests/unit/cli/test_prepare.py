"""Job files, records, the schema, and a look at the machine."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from tests.unit.cli.commands import Result, Run, one_line, tree, write_job, write_records


def test_init_writes_a_job_that_is_good_and_explained(run: Run, here: Path) -> None:
    result = run("init", "job.yaml", "--name", "claims", "--data", "claims/")
    assert result == Result(0, "wrote job.yaml; `runner submit job.yaml` trains it\n", "")
    assert run("init", "job.yaml", "--force", "--name", "claims", "--data", "s3://bucket/claims/").code == 0
    text = (here / "job.yaml").read_text()
    plan = run("submit", "job.yaml", "--dry-run", "--json").answer
    assert (plan["job"]["name"], plan["job"]["data"]["uri"]) == ("claims", "s3://bucket/claims/")
    assert "# passes over the training examples" in text
    assert "job.yaml: exists; choose another name or add --force" in one_line(run("init", "job.yaml"), 2)
    assert (here / "job.yaml").read_text() == text
    assert run("init", "job.yaml", "--force", "--json").answer == {"path": "job.yaml"}
    assert (here / "job.yaml").read_text() != text


def test_init_writes_a_private_job_that_validates(run: Run, here: Path) -> None:
    write_records(here / "records", 5000)
    assert run("init", "job.yaml", "--template", "private", "--field-delimiter", ",").code == 0
    found = run("validate", "job.yaml", "--json").answer
    assert found["records"] == 5000
    assert found["planned_epsilon"] <= 8
    assert "Invalid value for '--template'" in one_line(run("init", "a.yaml", "--template", "secret"), 2)


def test_init_refuses_a_bad_name_and_a_folder_that_is_not_there(run: Run, here: Path) -> None:
    assert "'no spaces' does not have the form" in one_line(run("init", "job.yaml", "--name", "no spaces"), 2)
    assert "cannot be written" in one_line(run("init", "nowhere/job.yaml"), 3)
    assert tree(here) == {}


def test_import_makes_records_that_validate_accepts(run: Run, here: Path) -> None:
    (here / "claims.csv").write_text("age,code\n" + "".join(f"{n},c{n % 7}\n" for n in range(200)))
    result = run("import", "claims.csv", "records/", "--columns", "age,code")
    assert (result.code, result.err) == (0, "")
    assert result.out.startswith("200 records in 1 files in records/; columns: ")
    (here / "lines.txt").write_text("one\ntwo\n")
    answer = run("import", "lines.txt", "lines/", "--json").answer
    assert (answer["records"], answer["files"]) == (2, 1)
    write_job(here / "job.yaml")
    before = tree(here)
    found = run("validate", "job.yaml", "--json").answer
    assert (found["job"], found["records"], found["null_rows"]) == ("demo", 200, 0)
    assert "records: 200\n" in run("validate", "job.yaml").out
    assert tree(here) == before


def test_import_says_what_it_had_to_decide(run: Run, here: Path) -> None:
    (here / "a.csv").write_text("sep=;\nid; age\n1;2\n")
    notes = ["separated by ';', as the first line says", "spaces around names are left out: ' age'"]
    assert run("import", "a.csv", "records/").out.splitlines() == [
        "1 records in 1 files in records/; columns: id, age",
        *notes,
    ]
    assert run("import", "a.csv", "again/", "--json").answer["notes"] == notes
    (here / "b.csv").write_text("id;age\n1;2\n")
    line = one_line(run("import", "b.csv", "other/"), 2)
    assert "separated by ';', it seems, not by ',': add --csv-delimiter ';'" in line
    assert run("import", "b.csv", "other/", "--csv-delimiter", ";").code == 0


@pytest.mark.parametrize("delimiter", [",", "||", "\t"])
def test_init_knows_how_import_joined_fields(run: Run, here: Path, delimiter: str) -> None:
    """Else no verb could split the records that a run was trained on."""
    (here / "claims.csv").write_text("age,code\n49,C30\n50,C31\n")
    result = run("import", "claims.csv", "records/", "--columns", "age,code", "--field-delimiter", delimiter)
    assert result.out.endswith(f"; for `runner init`: --field-delimiter {shlex.quote(delimiter)}\n")
    assert data_of(run, here, "--data", "records/")["field_delimiter"] == delimiter
    assert data_of(run, here, "--data", "records/", "--field-delimiter", ";")["field_delimiter"] == ";"


def test_init_guesses_no_delimiter(run: Run, here: Path) -> None:
    write_records(here / "records", ["a,b"] * 3)
    (here / "claims.csv").write_text("age,code\n49,C30\n")
    run("import", "claims.csv", "columns/")
    assert "--field-delimiter" not in run("import", "claims.csv", "one/", "--columns", "code").out
    for folder in ("records/", "columns/", "one/", "nowhere/", "s3://bucket/claims/"):
        assert data_of(run, here, "--data", folder)["field_delimiter"] is None


def data_of(run: Run, here: Path, *options: str) -> dict[str, Any]:
    """The `data` section of what `runner init` writes."""
    assert run("init", "job.yaml", "--force", *options).code == 0
    return yaml.safe_load((here / "job.yaml").read_text())["data"]


def test_import_of_a_missing_file_is_answered_in_one_line(run: Run, here: Path) -> None:
    assert "nowhere.csv" in one_line(run("import", "nowhere.csv", "records/"), 2)
    assert tree(here) == {}


def test_validate_refuses_what_submit_refuses(run: Run, here: Path) -> None:
    write_records(here / "records", 5)
    write_job(here / "job.yaml")
    before = tree(here)
    assert "5 records, but training.batch_size 64 needs 128" in one_line(run("validate", "job.yaml"), 2)
    assert "unknown key" in one_line(run("validate", "job.yaml", "--set", "training.epoch=1"), 2)
    assert tree(here) == before


def test_schema_is_a_json_schema_on_one_line_or_many(run: Run) -> None:
    schema = json.loads(run("schema").out)
    jsonschema.Draft202012Validator.check_schema(schema)
    assert run("schema", "--json").answer == schema


def test_doctor_says_what_is_wrong_and_ends_as_infrastructure(
    run: Run, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from runner import doctor

    monkeypatch.setattr(doctor, "_tensorflow", lambda: "2.21, no GPU")
    monkeypatch.setattr(doctor, "_version", lambda _: "1.0")
    before = tree(here)
    result = run("doctor")
    assert result.code == 0
    assert f"ok    storage: {here}/runs can be written\n" in result.out
    result = run("doctor", "--runs", "/proc/runs", "--json")
    assert result.code == 3
    assert result.answer["storage"]["ok"] is False
    assert result.answer["python"]["ok"] is True
    assert tree(here) == before


def test_doctor_knows_why_every_start_is_slow(tmp_path: Path) -> None:
    """Without TensorFlow itself: a package that Python may not keep compiled, and then may."""
    package = tmp_path / "tensorflow"
    package.mkdir()
    (package / "__init__.py").write_text("")
    module = f"Path({str(package / '__init__.py')!r})"
    look = f"from pathlib import Path; from runner.doctor import _compiling; print(_compiling({module}))"
    environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "1"}

    def said() -> str:
        done = subprocess.run([sys.executable, "-c", look], env=environment, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    assert f"run `python -m compileall -q {tmp_path}` once" in said()
    subprocess.run([sys.executable, "-m", "compileall", "-q", tmp_path], env=environment, check=True)
    assert said() == ""
