"""What generating finds where it is to write: files of the user's stay. Drawing is a stand-in."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from runner.config import parse_job
from runner.errors import ConfigError
from runner.generation.records import Generated
from runner.generation.rows import text_table
from runner.generation.settings import SamplingSettings
from runner.generation.shards import (
    Generation,
    claim_folder,
    drop_repeated,
    finished_shards,
    make_shard,
    read_generation,
)
from runner.run_directory import RunDirectory
from runner.storage import Folder, LocalFolder, open_folder
from runner.submit.generate import Request, generate
from runner.submit.launch import Launch
from tests.foreign_files import Maker, Model, stand_ins


@pytest.fixture
def run(tmp_path: Path) -> Iterator[RunDirectory]:
    storage = {"uri": str(tmp_path / "runs")}
    job = {"name": "demo", "data": {"uri": str(tmp_path / "records")}, "storage": storage}
    config = parse_job(job, environment={})
    directory = RunDirectory.of(config)
    directory.claim(config, "local")
    directory.update_status(state="done")
    with stand_ins("done"):
        yield directory


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return open_folder(str(tmp_path / "out"))


def ask(run: RunDirectory, output: Path | str, *, overwrite: bool = False) -> Any:
    request = Request(SamplingSettings(records_per_prompt=20), str(output), rows_per_shard=10, overwrite=overwrite)
    return generate(run, request, Launch(quiet=True))[0]


def generation_of(run: RunDirectory, **settings: Any) -> Generation:
    return Generation(run.uri, "model", SamplingSettings(records_per_prompt=20, **settings), 10)


def make_all(folder: Folder, generation: Generation) -> None:
    for number in range(generation.shards):
        make_shard(Maker(None, generation.settings), folder, 10, number)  # type: ignore[arg-type]


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_a_file_is_replaced_with_overwrite_alone_and_looked_for_before_the_model_is_loaded(
    run: RunDirectory, tmp_path: Path, suffix: str
) -> None:
    mine = tmp_path / f"mine.{suffix}"
    mine.write_bytes(b"mine")
    with (
        patch("runner.submit.generate.load_model", None),
        pytest.raises(ConfigError, match=rf"-o .*mine.{suffix}: exists; choose another name or add --overwrite"),
    ):
        ask(run, mine)
    assert mine.read_bytes() == b"mine"
    assert ask(run, mine, overwrite=True)["records"] == 20
    assert mine.read_bytes() != b"mine"


def test_a_folder_is_never_overwritten(run: RunDirectory, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--overwrite is for -o FILE"):
        ask(run, tmp_path / "out", overwrite=True)
    assert not (tmp_path / "out").exists()


def test_a_file_that_comes_while_records_are_drawn_is_kept(run: RunDirectory, tmp_path: Path) -> None:
    def load_late(_: Folder) -> type[Model]:
        (tmp_path / "out.csv").write_bytes(b"mine")
        return Model

    with patch("runner.submit.generate.load_model", load_late), pytest.raises(ConfigError, match=r"out.csv: exists"):
        ask(run, tmp_path / "out.csv")
    assert (tmp_path / "out.csv").read_bytes() == b"mine"


@pytest.mark.parametrize("name", [".tmp-x.csv", "out/.tmp-x.csv"])
def test_a_name_that_is_kept_for_temporary_files_is_refused_in_one_line(
    run: RunDirectory, tmp_path: Path, name: str
) -> None:
    with pytest.raises(ConfigError, match="are kept for temporary files"):
        ask(run, tmp_path / name)


@pytest.mark.parametrize(
    ("output", "told"),
    [
        ("runs/demo/history.csv", "runs/demo is the directory of a run"),
        ("runs/demo/x.csv", "runs/demo is the directory of a run"),
        ("runs/demo/out/", "runs/demo is the directory of a run"),
        ("runs/../runs/demo/out", "runs/demo is the directory of a run"),
        ("link/x.csv", "runs/demo is the directory of a run"),
        ("records/x.parquet", "these would become some"),
        ("records/more/", "these would become some"),
        ("records", "these would become some"),
    ],
)
def test_nothing_is_generated_into_a_run_or_its_records(
    run: RunDirectory, tmp_path: Path, output: str, told: str
) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "runs/demo")
    before = sorted(tmp_path.rglob("*"))
    for overwrite in [False, True] if "." in output.rpartition("/")[2] else [False]:
        with pytest.raises(ConfigError, match=told):
            ask(run, f"{tmp_path}/{output}", overwrite=overwrite)
    assert sorted(tmp_path.rglob("*")) == before


def test_what_is_no_record_may_lie_beside_records(run: RunDirectory, tmp_path: Path) -> None:
    ask(run, tmp_path / "records/out.csv")
    ask(run, tmp_path / "records/_made/out.parquet")


def test_a_shard_that_the_user_put_there_is_kept(run: RunDirectory, folder: Folder) -> None:
    generation = generation_of(run)
    claim_folder(folder, generation)
    folder.write("part-00001.parquet", b"mine")
    with pytest.raises(ConfigError, match=r"part-00001.parquet is not as this generation wrote it: move it away"):
        make_all(folder, generation)
    assert folder.read("part-00001.parquet") == b"mine"


def test_a_shard_that_was_killed_before_what_vouches_for_it_is_made_again(run: RunDirectory, folder: Folder) -> None:
    generation = generation_of(run)
    claim_folder(folder, generation)
    make_all(folder, generation)
    before = folder.read("part-00000.parquet")
    folder.delete("_generation/shards/part-00000.json")
    make_all(folder, generation)
    for name in ("_generation/shards/part-00000.json", "_generation/shards/part-00000.sha256"):
        folder.delete(name)  # As an earlier version left it.
    make_all(folder, generation)
    assert folder.read("part-00000.parquet") == before


def test_a_shard_that_was_killed_twice_is_made_again(
    run: RunDirectory, folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once after its repeated records were dropped, before what vouches for it; once when it was to be made anew."""
    generation = generation_of(run)
    claim_folder(folder, generation)
    monkeypatch.setattr(Maker, "make", lambda *_, **__: Generated(text_table(("text",), [("same",)] * 10), {}))
    make_all(folder, generation)
    write = LocalFolder.write

    def killed_at(killing: str) -> Callable[..., None]:
        def write_or_die(self: LocalFolder, name: str, data: bytes, **options: Any) -> None:
            if name == killing:
                raise KeyboardInterrupt
            write(self, name, data, **options)

        return write_or_die

    monkeypatch.setattr(LocalFolder, "write", killed_at("_generation/shards/part-00001.json"))
    with pytest.raises(KeyboardInterrupt):
        drop_repeated(folder, finished_shards(folder, 2), lambda _: None)
    for _ in range(2):
        monkeypatch.setattr(LocalFolder, "write", killed_at("part-00001.parquet"))
        with pytest.raises(KeyboardInterrupt):
            make_all(folder, generation)
    monkeypatch.setattr(LocalFolder, "write", write)
    make_all(folder, generation)
    infos = drop_repeated(folder, finished_shards(folder, 2), lambda _: None)
    assert [infos[number].records for number in range(2)] == [1, 0]
    folder.write("part-00001.parquet", b"mine")
    with pytest.raises(ConfigError, match=r"part-00001.parquet is not as this generation wrote it"):
        make_all(folder, generation)


@pytest.mark.parametrize("name", [".hidden", "_generation/notes.txt", "_generation/settings.json", "_SUCCESS"])
def test_hidden_files_are_files(run: RunDirectory, folder: Folder, name: str) -> None:
    folder.write(name, b"{}")
    with pytest.raises(ConfigError, match="holds other files, such as "):
        claim_folder(folder, generation_of(run))
    assert {entry.name: folder.read(entry.name) for entry in folder.list()} == {name: b"{}"}


def test_a_claim_that_was_killed_before_its_prompts_is_gone_on_with(run: RunDirectory, folder: Folder) -> None:
    generation = generation_of(run, prompts=("a", "b"))
    claim_folder(folder, generation)
    folder.delete("_generation/prompts.json")
    claim_folder(folder, generation)
    assert read_generation(folder) == generation


def test_a_claim_that_an_earlier_version_was_killed_in_is_gone_on_with(run: RunDirectory, folder: Folder) -> None:
    """It wrote the prompts before the settings."""
    generation = generation_of(run, prompts=("a", "b"))
    folder.write("_generation/prompts.json", b'["c"]')
    with pytest.raises(ConfigError, match=r"holds other files, such as _generation/prompts.json"):
        claim_folder(folder, generation)
    folder.write("_generation/prompts.json", b'["a", "b"]')
    claim_folder(folder, generation)
    assert read_generation(folder) == generation
