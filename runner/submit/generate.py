"""What `runner generate` does: records on the screen or in one file from this process, shards from a pool."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from runner.config import JobConfig, parse_job
from runner.data.fields import join_fields
from runner.data.schema.field_tokenizer import FieldTokenizer
from runner.errors import ConfigError, JobStoppedError
from runner.generation.conditions import make_conditions
from runner.generation.drive import CONTINUES, drive_generation, read_summary
from runner.generation.given import read_given, read_shares
from runner.generation.grammar import check_beginnings, compile_grammar
from runner.generation.output import check_absent, check_output, is_folder, table_in_words, to_jsonl, write_records
from runner.generation.prompts import check_prompts, read_prompts
from runner.generation.records import Generated, RecordMaker
from runner.generation.rows import table_schema
from runner.generation.settings import SamplingSettings
from runner.generation.shards import Generation, claim_folder
from runner.generation.table_rules import allowed_rows
from runner.generation.training_records import fingerprint_records, hash_records
from runner.generation.validators import Validator
from runner.model.artifact import ModelDescription, describe_model, load_model
from runner.run_directory import GENERATION, JOB_FOLDER_VARIABLE, KILLED_RUN_ENDS_WITHIN_S, RunDirectory, Status
from runner.run_files import find_run_around
from runner.screen import Json
from runner.storage import Folder, open_folder, path_below
from runner.submit.follow import duration, live_line
from runner.submit.launch import Launch
from runner.submit.plan import plan_generation
from runner.submit.start import Answer, connect_to, modules_of, remove_earlier, run_on_cluster
from runner.train.series import reading_version

MOST_IN_MEMORY = 10_000_000
LINE_EVERY_S = 0.25

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Request:
    """What to generate, and where to. `prompts`: a file and its column, instead of those in `settings`; `overwrite`:
    replace the file that is there. Of a table: `given` and `rebalance` as they were written, and the `given_file`.
    """

    settings: SamplingSettings
    output: str | None = None
    rows_per_shard: int = 10_000
    prompts: tuple[str, str] | None = None
    overrides: Sequence[str] = ()
    overwrite: bool = False
    given: Sequence[str] = ()
    given_file: str | None = None
    rebalance: Sequence[str] = ()


def generate(directory: RunDirectory, request: Request, launch: Launch) -> Answer:
    """Generate records from a run's model.

    Raises:
        RunnerError: in one line; nothing is written when the request itself, the model or the cluster are at fault.
    """
    if request.overwrite and (request.output is None or is_folder(request.output)):
        raise ConfigError("--overwrite is for -o FILE; a folder of shards that is there is gone on with")
    config = _with_overrides(directory, request.overrides)
    if request.output is not None:
        check_output(request.output)
        _check_place(request.output, directory, config)
        if not is_folder(request.output) and not request.overwrite:
            check_absent(request.output)
    os.environ.setdefault(JOB_FOLDER_VARIABLE, directory.current_status().job_folder)
    model = describe_model(directory.folder.child("model"))
    settings = replace(request.settings, validation=config.generation)
    if request.prompts is not None:
        settings = replace(settings, prompts=read_prompts(*request.prompts))
    check_prompts(model, settings.prompts)
    settings = _with_conditions(model, settings, request)
    Validator(config.generation, model.columns, model.field_delimiter)
    _check_rules(model, settings)
    if settings.not_in_training and config.privacy.enabled:
        log.warning("--not-in-training looks at the private records: epsilon does not cover what is generated")
    training = fingerprint_records(config.data) if settings.not_in_training else None
    generation = Generation(
        directory.uri, model.digest, settings, request.rows_per_shard, training, config.generation.actors
    )
    if request.output is not None and is_folder(request.output):
        return _into_folder(open_folder(request.output), generation, config, launch)
    return _here(directory, generation, config, request, launch)


def _with_conditions(model: ModelDescription, settings: SamplingSettings, request: Request) -> SamplingSettings:
    """The settings with what is given of a table's rows."""
    rules = settings.validation.columns
    if request.given_file is not None and settings.unique:
        raise ConfigError("--unique drops rows, but of --given-file each row is kept; choose one of the two")
    if request.given or request.given_file is not None:
        settings = replace(settings, prompts=read_given(model, request.given, request.given_file, rules))
    if request.rebalance:
        settings = replace(settings, rebalance=read_shares(model, request.rebalance, settings.prompts, rules))
    return settings


def _check_rules(model: ModelDescription, settings: SamplingSettings) -> None:
    """Raise ConfigError for rules that no record keeps, or none that a prompt begins; tell what they cost."""
    if isinstance(model.tokenizer, FieldTokenizer):
        automaton = allowed_rows(model.tokenizer, settings.validation.columns)
        make_conditions(model.tokenizer, automaton, settings)
        return
    rules = settings.validation, model.columns, model.field_delimiter, model.tokenizer
    grammar = compile_grammar(*rules)
    check_beginnings(grammar, settings.prompts, *rules)
    for note in grammar.notes:
        log.warning("%s", note)


def _check_place(output: str, directory: RunDirectory, config: JobConfig) -> None:
    """Raise ConfigError for an output that would mix with a run's files, or become one of its job's records."""
    run = directory.uri if path_below(directory.uri, output) is not None else find_run_around(output)
    if run is not None:
        raise ConfigError(f"-o {output}: {run} is the directory of a run; choose another place")
    if is_folder(output) or output.endswith(".parquet"):
        # A file by its folder: as a link it would be replaced where it is, not where it leads.
        below = path_below(config.data.uri, output if is_folder(output) else f"{output.rpartition('/')[0] or '.'}/")
        if below is not None and not any(part.startswith(("_", ".")) for part in below):
            raise ConfigError(
                f"-o {output}: {config.data.uri} holds the run's records, and these would become some; "
                "choose another place"
            )


def _with_overrides(directory: RunDirectory, overrides: Sequence[str]) -> JobConfig:
    """The run's job with another `generation` section."""
    for override in overrides:
        if not override.startswith("generation."):
            raise ConfigError(f"--set {override}: generate can change the section generation alone")
    document = directory.read_model_config().model_dump(mode="json")
    return parse_job(document, overrides, environment={}, source=f"{directory.uri}/job.yaml")


def _here(
    directory: RunDirectory, generation: Generation, config: JobConfig, request: Request, launch: Launch
) -> Answer:
    settings = generation.settings
    if launch.target != "local":
        raise ConfigError(f"--on {launch.target}: a cluster writes shards; give it a folder: -o FOLDER/")
    if settings.records > MOST_IN_MEMORY:
        raise ConfigError(f"{settings.records:,} records are too many for one file; give a folder: -o FOLDER/")
    if launch.dry_run:
        plan = plan_generation(config, request.output or "-", generation.to_dict(), "local", environment={})
        return plan.to_dict(), plan.to_yaml().rstrip()
    model = load_model(directory.folder.child("model"))
    training = None
    if settings.not_in_training:
        training = hash_records(config.data, reading_version(directory), table_schema(model))
    maker = RecordMaker(model, settings, training)
    generated = _make(maker, settings.records, quiet=launch.quiet)
    answer: dict[str, Any] = {
        "records": generated.table.num_rows,
        "left_out": sum(generated.invalid.values()),
        "invalid": generated.invalid,
        "repeated": generated.repeated,
        "in_training": generated.in_training,
        "output": request.output,
    }
    if request.output is not None:
        write_records(request.output, generated, overwrite=request.overwrite)
        return answer, f"{generated.table.num_rows:,} records in {request.output}"
    if config.fields is not None:
        answer["rows"] = Json(f"[{', '.join(to_jsonl(generated.table).decode().splitlines())}]")
        return answer, table_in_words(generated.table)
    answer["texts"] = [join_fields(row, config.data.field_delimiter or "") for row in generated.rows]
    return answer, ""


def _make(maker: RecordMaker, n: int, *, quiet: bool) -> Generated:
    """All records, with a live line."""
    begun = shown = time.monotonic()
    with live_line(quiet=quiet) as show:

        def progress(made: int) -> None:
            nonlocal shown
            now = time.monotonic()
            if now - shown > LINE_EVERY_S and made:
                shown = now
                rate = made / (now - begun)
                show(f"{made:,}/{n:,} records  {rate:,.0f} records/s  ETA {duration((n - made) / rate)}")

        return maker.make(n, progress=progress)


def _into_folder(folder: Folder, generation: Generation, config: JobConfig, launch: Launch) -> Answer:
    validator = config.generation.validator
    plan = plan_generation(
        config,
        folder.uri,
        generation.to_dict(),
        launch.target,
        address=launch.address,
        environment=os.environ,
        modules=modules_of([(validator, "generation.validator")]) if validator else (),
    )
    if launch.dry_run:
        return plan.to_dict(), plan.to_yaml().rstrip()
    client = connect_to(plan)
    claim_folder(folder, generation)
    books = RunDirectory(folder.child(GENERATION))
    books.wait_until_left(KILLED_RUN_ENDS_WITHIN_S)
    remove_earlier(books.current_status())
    books.clear_stop()
    now = {"created": time.time(), "heartbeat": time.time(), "host": socket.gethostname(), "pid": os.getpid()}
    name, job_folder = folder.uri.rpartition("/")[2], os.environ[JOB_FOLDER_VARIABLE]
    books.write_status(Status(name, "pending", plan.target, job_folder=job_folder, **now))
    if plan.target == "local":
        from runner.submit.local import run_here

        run_here(books, lambda stop: drive_generation(folder.uri, stop), quiet=launch.quiet)
    elif answer := run_on_cluster(plan, client, books, launch):
        return answer
    return _finished(folder, books.current_status(), generation.settings.records)


def _finished(folder: Folder, status: Status, asked: int) -> Answer:
    """The answer for a generation that has ended.

    Raises:
        JobStoppedError, RunnerError: it did not end well.
    """
    if status.state == "stopped":
        raise JobStoppedError(f"{folder.uri}: stopped; {CONTINUES}")
    if status.state != "done":
        raise status.to_error()
    summary = read_summary(folder)
    answer = {**summary, "left_out": sum(summary["invalid"].values()), "output": folder.uri}
    records = summary["records"]
    count = f"{records:,}" if records == asked else f"{records:,} of {asked:,}"
    return answer, f"{count} records in {summary['shards']} files in {folder.uri}"
