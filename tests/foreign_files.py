"""Files of the user's in and around every folder that a verb writes to, and verbs that end in every way.

Training, drawing records and tokenizing are stand-ins that write the real names; what takes folders, writes, replaces
and takes back is the project's own. `tests/unit/test_foreign_files.py` does it on a disk, `tests/s3` on S3.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol
from unittest.mock import patch

import click
import numpy as np
from hypothesis import strategies as st

from runner.config import JobConfig, parse_job
from runner.data.importing import import_records
from runner.data.tokenizers.characters import ByteTokenizer
from runner.errors import DataError, JobFailedError, RunnerError, StorageError
from runner.generation.drive import SUMMARY
from runner.generation.records import Generated
from runner.generation.rows import text_table
from runner.generation.settings import SamplingSettings
from runner.generation.shards import make_shard, read_generation
from runner.run_directory import GENERATION, RunDirectory, Status
from runner.run_files import is_ours
from runner.storage import Folder, LocalFolder, open_folder, publish
from runner.submit.generate import Request, generate
from runner.submit.launch import Launch
from runner.submit.start import resume_run, start_run
from runner.sweep.table import read_trials, trial_directory, write_table
from runner.train.checkpoint import prune_checkpoints, save_checkpoint
from runner.train.history import EpochRow, to_csv

WRITTEN = re.compile(
    r"job\.yaml|status\.json|writer|stop|history\.csv|(model|tokenizer)/manifest\.json|private/key|"
    r"checkpoints/step-000000000001/(manifest|state)\.json"
)
KEY = "0123456789abcdef0123456789abcdef"
TOKEN_FILES = ("000000000000-0000.ids", "000000000000-0000.lengths", "tokenizer.json", "manifest.json")
TOKENIZER = {"tokenizer.json": b"{}", "sentencepiece.model": b"m"}
ROW = EpochRow(0, 1.0, 0.5, 1.1, 0.4, 10, 1.0, 1000.0)

Ending = Literal["done", "refused", "failed", "stopped"]


class Place(Protocol):
    """Where all folders of an example are: a directory, or a prefix of a bucket."""

    uri: str

    def put(self, path: str, data: bytes) -> bool:
        """Store a file of the user's; False where one of a folder's name is in the way."""
        ...

    def files(self) -> dict[str, bytes]:
        """Everything there, as another program sees it."""
        ...


@dataclass
class Fault:
    """Has one call of a folder's method fail: before its work, or `after` it."""

    error: BaseException | None = None
    call: int = 0
    after: bool = False
    writes_only: bool = False
    calls: int = field(default=0, init=False)

    WRITES = ("write", "create", "delete", "remove", "check_writable")
    READS = ("list", "read", "size", "find_file", "subfolders")

    @contextmanager
    def installed(self, kind: type[Folder]) -> Iterator[None]:
        with ExitStack() as stack:
            for name in self.WRITES if self.writes_only else self.WRITES + self.READS:
                stack.enter_context(patch.object(kind, name, self._failing(getattr(kind, name))))
            yield

    def _failing(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def method(folder: Folder, *arguments: Any, **options: Any) -> Any:
            self.calls += 1
            is_now = self.error is not None and self.calls == self.call
            if is_now and not self.after:
                raise self.error  # type: ignore[misc]
            answer = original(folder, *arguments, **options)
            if is_now:
                raise self.error  # type: ignore[misc]
            return answer

        return method


FAULTS = st.one_of(
    st.just(Fault()),
    st.builds(Fault, st.just(KeyboardInterrupt()), st.integers(1, 90), st.booleans()),
    st.builds(Fault, st.just(StorageError("the disk is full")), st.integers(1, 50), st.booleans(), st.just(True)),
)

# What training and drawing leave


def train(run_uri: str, ending: Ending) -> Status:
    """What `drive` does to storage, without training."""
    directory = RunDirectory(open_folder(run_uri)).enter()
    config = directory.read_config()
    directory.update_status(state="preparing")
    storage, run = open_folder(config.storage.uri), directory.folder
    tokens = storage.child(f".cache/tokens/{KEY}")
    for name in TOKEN_FILES[:2]:
        tokens.write(name, b"12")
    publish(tokens, {"tokenizer.json": b"{}"})
    run.write("logs/20260101T000000-driver.log", b"begun")
    run.write("logs/20260101T000000-worker-0.log", b"begun")
    if ending == "refused":
        directory.write_failure(DataError("too few examples"))
        raise DataError("too few examples")
    if config.sweep is not None:
        return train_trials(config, directory, ending)
    publish(run.child("tokenizer"), TOKENIZER)
    run.write("files.json", b"{}")
    run.child("private").create("key", b"00")
    run.child("private").write("ledger.json", b"{}")
    storage.child(".privacy").create("00000001.json", b"{}")
    for step in range(1, 5):
        save_checkpoint(run.child("checkpoints"), step, {"x": np.ones(2)}, {}, ends_epoch=False)
        prune_checkpoints(run.child("checkpoints"), step, keep_epochs=False)
    run.write("history.csv", to_csv([ROW], 0))
    run.write("events/events.out.tfevents.0.runner", b"events")
    if ending == "failed":
        directory.write_failure(JobFailedError("not finite"))
        raise JobFailedError("not finite")
    for name in ("privacy.json", "privacy.md"):
        run.write(name, b"{}")
    statement = {"privacy.json": b"{}", "privacy.md": b"private"}
    publish(run.child("model"), {"weights.safetensors": b"w", "model.json": b"{}", **TOKENIZER, **statement})
    return directory.update_status(state="done" if ending == "done" else "stopped")


def train_trials(config: JobConfig, directory: RunDirectory, ending: Ending) -> Status:
    for number in range(2):
        trial = trial_directory(config, number)
        if not trial.exists():
            trial.claim(config.model_copy(update={"name": f"{config.name}-{number:03d}", "sweep": None}), "local")
        train(trial.uri, ending)
    write_table(config, directory, read_trials(config))
    publish(directory.folder.child("model"), {"weights.safetensors": b"w", "model.json": b"{}", **TOKENIZER})
    return directory.update_status(state="done" if ending == "done" else "stopped")


class Maker:
    """Stands in for RecordMaker."""

    def __init__(self, model: Any, settings: SamplingSettings, training: Any = None) -> None:
        self.settings = settings

    def make(self, n: int, *, first: int = 0, **_: Any) -> Generated:
        return Generated(text_table(("text",), [(f"record {first + number}",) for number in range(n)]), {})


class Model:
    """Stands in for a model and its description."""

    digest = "model"
    tokenizer = ByteTokenizer()
    columns = ("text",)
    field_delimiter = None


def draw(folder_uri: str, ending: Ending) -> Status:
    """What `drive_generation` does to storage."""
    folder = open_folder(folder_uri)
    directory = RunDirectory(folder.child(GENERATION)).enter()
    directory.update_status(state="generating")
    generation = read_generation(folder)
    for number in range(generation.shards if ending == "done" else 1):
        make_shard(Maker(None, generation.settings), folder, generation.rows_per_shard, number)  # type: ignore[arg-type]
    folder.write(SUMMARY, b'{"records": 20, "shards": 2, "invalid": {}, "repeated": 0, "in_training": 0}')
    return directory.update_status(state="done" if ending == "done" else "stopped")


@contextmanager
def stand_ins(ending: Ending) -> Iterator[None]:
    """Training and drawing as above, in this thread."""

    def run_here(_: RunDirectory, drive: Callable[[threading.Event], Status], *, quiet: bool) -> Status:
        return drive(threading.Event())

    def no_records(*_: Any) -> Any:
        raise DataError("no records here")

    with ExitStack() as stack:
        for name, stand_in in {
            "runner.driver.check": lambda config: None,
            "runner.driver.drive": lambda uri, stop, checked=None: train(uri, ending),
            "runner.submit.local.run_here": run_here,
            "runner.submit.generate.describe_model": lambda folder: Model,
            "runner.submit.generate.check_prompts": lambda *_: None,
            "runner.submit.generate.load_model": lambda folder: Model,
            "runner.submit.generate.RecordMaker": Maker,
            "runner.submit.generate.drive_generation": lambda uri, stop: draw(uri, ending),
            "runner.report.facade._read_real": no_records,
            "runner.submit.start.KILLED_RUN_ENDS_WITHIN_S": 0,
            "runner.submit.generate.KILLED_RUN_ENDS_WITHIN_S": 0,
        }.items():
            stack.enter_context(patch(name, stand_in))
        yield


# The verbs


@dataclass(frozen=True)
class Case:
    """One command. `at`: the folders that it is given, below the place."""

    verb: str
    ending: Ending = "done"
    overwrite: bool = False
    data: str = "records"
    storage: str = "runs"
    target: str = "imported"
    output: str = "synthetic.csv"

    def run(self, place: Place, source: Path) -> None:
        with stand_ins(self.ending):
            VERBS[self.verb](self, place, source)

    def config(self, place: Place, **sections: Any) -> JobConfig:
        storage = {"uri": at(place, self.storage), "overwrite": self.overwrite}
        job = {"name": "claims", "data": {"uri": at(place, self.data)}, "storage": storage}
        return parse_job(job | sections, environment={})


def at(place: Place, path: str) -> str:
    return f"{place.uri}/{path}" if path != "." else place.uri


def submit(case: Case, place: Place, _: Path) -> None:
    start_run(case.config(place), Launch(quiet=True))


def submit_sweep(case: Case, place: Place, _: Path) -> None:
    sweep = {"parameters": {"training.seed": {"choice": [1, 2]}}, "search": "grid"}
    start_run(case.config(place, sweep=sweep), Launch(quiet=True))


def resume(case: Case, place: Place, _: Path) -> None:
    directory = RunDirectory.find(f"{at(place, case.storage)}/claims")
    resume_run(directory, ["training.epochs=20"], Launch(quiet=True))


def import_(case: Case, place: Place, source: Path) -> None:
    import_records(source, at(place, case.target), rows_per_shard=1, overwrite=case.overwrite)


def generate_(case: Case, place: Place, _: Path) -> None:
    directory = RunDirectory.find(f"{at(place, case.storage)}/claims")
    settings = SamplingSettings(records_per_prompt=20)
    is_file = "." in case.output
    request = Request(settings, at(place, case.output), rows_per_shard=10, overwrite=case.overwrite and is_file)
    generate(directory, request, Launch(quiet=True))


def report(case: Case, place: Place, _: Path) -> None:
    from runner.report.facade import report_run

    directory = RunDirectory.find(f"{at(place, case.storage)}/claims")
    report_run(directory, target=None, synthetic_uri=None, count=None)


def init(case: Case, place: Place, _: Path) -> None:
    from runner.cli import cli

    force = ["--force"] if case.overwrite else []
    try:
        cli.commands["init"].main([at(place, "job.yaml"), *force], standalone_mode=False)
    except click.Abort as abort:  # What click makes of Ctrl-C.
        raise KeyboardInterrupt from abort


VERBS: dict[str, Callable[[Case, Place, Path], None]] = {
    "submit": submit,
    "sweep": submit_sweep,
    "resume": resume,
    "import": import_,
    "generate": generate_,
    "report": report,
    "init": init,
}
NAMED_BY_THE_USER = {"init": {"job.yaml"}, "generate": {"synthetic.csv"}}
"""Files that --force and --overwrite replace, when all goes well."""

# Files of the user's

RUN = ["", "model/", "logs/", "tokenizer/", "private/", "events/", "checkpoints/", "checkpoints/step-000000000001/"]
FOLDERS = {
    "init": [""],
    "import": [
        "imported/",
        "imported/",
        "imported/_delta_log/",
        "imported/archive/2023/",
        "imported/.hidden/",
        "records/",
    ],
    "submit": [
        *(f"runs/claims/{inside}" for inside in RUN),
        f"runs/.cache/tokens/{KEY}/",
        "runs/.privacy/",
        "records/",
    ],
    "sweep": [f"runs/claims{end}/{inside}" for end in ("", "-000", "-001", "-002") for inside in RUN],
    "resume": [f"runs/claims/{inside}" for inside in RUN],
    "generate": ["", "out/", "out/", "out/_generation/", "out/_generation/shards/", "runs/claims/", "records/"],
    "report": ["runs/claims/"],
}
"""Where a verb writes, and where it might."""

NAMES = [
    "notes.txt",
    "two words",
    "umlaut-äöü/日本語/🙂.bin",
    ".hidden",
    "_private/x",
    ".tmp-mine",
    "new\nline",
    "%20#?&'\"",
    "my.log",
    "model",
]
OUR_NAMES = {
    "init": ["job.yaml"],
    "import": ["_import.json", "part-00000.parquet", "part-00001.parquet", "part-2-00000.parquet", "x.PARQUET"],
    "submit": ["job.yaml", "status.json", "writer", "stop", "history.csv", "manifest.json", "state.json", "key"],
    "generate": ["synthetic.csv", "settings.json", "prompts.json", "part-00000.parquet", "part-00001.parquet"],
    "report": ["report.html"],
}
"""Names that the verb writes; in a folder that is not ours they are the user's."""

CONTENTS = [b"mine", b"", b"{}", b"name: claims\n", b'{"name": "x", "state": "done"}', b"\xff\x00PAR1"]


def cases(verb: str) -> st.SearchStrategy[Case]:
    """A verb with the folders that it is given, which may be in each other's way."""
    return st.builds(
        Case,
        st.just(verb),
        st.sampled_from(["done", "refused", "failed", "stopped"]),
        st.booleans(),
        data=st.sampled_from(["records"] * 6 + ["runs/claims", "runs", ".", "runs/claims-000", "runs/.cache/tokens"]),
        storage=st.sampled_from(["runs"] * 6 + [".", "records"]),
        target=st.sampled_from(["imported"] * 4 + ["runs", "runs/claims", "records", "."]),
        output=st.sampled_from(["synthetic.csv", "out/"] * 2 + ["records/x.parquet", "runs/claims/history.csv"]),
    )


def trees(verb: str) -> st.SearchStrategy[dict[str, bytes]]:
    """Files of the user's by their paths."""
    names = st.one_of(st.sampled_from(OUR_NAMES.get(verb, OUR_NAMES["submit"])), st.sampled_from(NAMES))
    paths = st.tuples(st.sampled_from(FOLDERS[verb]), names).map("".join)
    return st.dictionaries(paths, st.sampled_from(CONTENTS), min_size=1, max_size=5)


def earlier_cases(verb: str) -> st.SearchStrategy[list[Case]]:
    """What was done before the user put files there: the same, mostly."""
    before = {
        "import": [Case("import")],
        "submit": [Case("submit"), Case("submit", "stopped"), Case("submit", storage="."), Case("sweep")],
        "sweep": [Case("sweep"), Case("sweep", "stopped"), Case("submit")],
        "generate": [Case("generate", output="out/"), Case("generate", "stopped", output="out/"), Case("generate")],
        "report": [Case("report")],
    }
    return st.lists(st.sampled_from(before.get(verb, [Case("submit")])), max_size=1)


def check(place: Place, source: Path, earlier: list[Case], tree: dict[str, bytes], case: Case, fault: Fault) -> None:
    """Run a command that ends in some way, and find every file of the user's as it was."""
    place.put("records/mine.parquet", b"PAR1 the user's records PAR1")
    if case.verb in ("resume", "generate", "report"):
        earlier = [Case("submit", "stopped", storage=case.storage), *earlier]
    for each in earlier:
        try:
            each.run(place, source)
        except RunnerError:
            continue
    there = place.files()
    taken = [name for name in ("runs/claims", "runs/claims-000", "runs/claims-001", "claims") if _is_run(place, name)]
    mine = {"records/mine.parquet": there["records/mine.parquet"]}
    for path, data in tree.items():
        if path not in there and not _has_our_name(path, taken, there) and place.put(path, data):
            mine[path] = data
    kind = LocalFolder if open_folder(place.uri).is_local else type(open_folder(place.uri))
    try:
        with fault.installed(kind):
            case.run(place, source)
        may_replace = case.overwrite
    except (RunnerError, KeyboardInterrupt):
        may_replace = case.overwrite and fault.after
    if may_replace:
        mine = {path: data for path, data in mine.items() if path not in NAMED_BY_THE_USER.get(case.verb, ())}
    left = place.files()
    assert {path: left.get(path) for path in mine} == mine


def _is_run(place: Place, name: str) -> bool:
    return is_ours(open_folder(at(place, name)))


def _has_our_name(path: str, taken: list[str], there: dict[str, bytes]) -> bool:
    """Whether a file is where we write in a folder that is ours: it would be taken for ours.

    Of the names that `RUN_FILES` has, those that a tree can have; `report.html` is told by its content.
    """
    for run in taken:
        if path.startswith(f"{run}/") and WRITTEN.fullmatch(path.removeprefix(f"{run}/")):
            return True
    if path.startswith("out/_generation/") and "out/_generation/settings.json" in there:
        return True
    return path.removeprefix(f"runs/.cache/tokens/{KEY}/") in TOKEN_FILES
