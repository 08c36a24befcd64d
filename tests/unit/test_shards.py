"""Importing into a folder: the records before or the records after, and every file of the user's as it was."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from runner.config import parse_job
from runner.data.files import list_files
from runner.data.importing import import_records
from runner.data.shards import NOTE, Target
from runner.data.table import Row
from runner.errors import DataError, StorageError
from runner.run_directory import RunDirectory
from runner.storage import Entry, LocalFolder

WRITES = ("write", "create", "delete")


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "records"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "new.txt"
    path.write_text("4\n5\n")
    return path


@pytest.fixture
def imported(tmp_path: Path, target: Path) -> Path:
    """The target, with the records 1, 2, 3."""
    (tmp_path / "old.txt").write_text("1\n2\n3\n")
    import_records(tmp_path / "old.txt", str(target), rows_per_shard=1)
    return target


def seen(target: Path) -> list[str]:
    """The records that a job would be trained on; none where it is refused."""
    try:
        files = list_files(str(target))
    except DataError:
        return []
    return [text for file in files for text in pq.read_table(target / file.name).column("text").to_pylist()]


def foreign(path: Path) -> bytes:
    """A Parquet file of the user's."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"text": ["mine"]}), path)
    return path.read_bytes()


def break_at(monkeypatch: pytest.MonkeyPatch, call: int, error: type[BaseException], *, done: bool, dead: bool) -> None:
    """Have the folder's write number `call` fail, before it or after it was `done`; with `dead` all that come later."""
    calls = 0

    def broken(original: Callable[..., Any]) -> Callable[..., Any]:
        def method(self: LocalFolder, *arguments: Any, **options: Any) -> Any:
            nonlocal calls
            calls += 1
            if (calls == call and not done) or (dead and calls > call):
                raise error("broken")
            answer = original(self, *arguments, **options)
            if calls == call:
                raise error("broken")
            return answer

        return method

    for name in WRITES:
        monkeypatch.setattr(LocalFolder, name, broken(getattr(LocalFolder, name)))


@pytest.mark.parametrize("dead", [False, True], ids=["once", "from then on"])
@pytest.mark.parametrize("done", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, StorageError])
@pytest.mark.parametrize("overwrite", [False, True])
def test_an_import_that_breaks_off_anywhere_leaves_the_records_before_or_after(
    tmp_path: Path,
    source: Path,
    monkeypatch: pytest.MonkeyPatch,
    overwrite: bool,
    error: type[BaseException],
    done: bool,
    dead: bool,
) -> None:
    """`dead` is what kill -9 leaves: nothing is undone. The next import makes it good in any case."""
    monkeypatch.setattr("os.fsync", lambda _: None)  # Hundreds of writes, and no power cut.
    outcomes: list[list[str]] = []
    for call in range(1, 30):
        target = tmp_path / f"records {call}"
        if overwrite:
            (tmp_path / "old.txt").write_text("1\n2\n3\n")
            import_records(tmp_path / "old.txt", str(target), rows_per_shard=1)
        with monkeypatch.context() as broken:
            break_at(broken, call, error, done=done, dead=dead)
            try:
                import_records(source, str(target), rows_per_shard=1, overwrite=overwrite)
                break
            except error:
                pass
        outcomes.append(seen(target))
        assert outcomes[-1] in (["1", "2", "3"] if overwrite else [], ["4", "5"])
        import_records(source, str(target), rows_per_shard=1, overwrite=True)
        assert seen(target) == ["4", "5"]
        assert len(list(target.glob("*.parquet"))) == 2
    assert 5 <= len(outcomes) < 29
    assert {len(outcome) for outcome in outcomes} >= {3 if overwrite else 0}


def test_other_parquet_files_are_never_replaced(imported: Path, source: Path) -> None:
    before = foreign(imported / "archive/2023/x.parquet")
    for overwrite in (False, True):
        with pytest.raises(DataError, match=r"\(4\) that no import of its own .* such as archive/2023/x.parquet"):
            import_records(source, str(imported), overwrite=overwrite)
    assert (imported / "archive/2023/x.parquet").read_bytes() == before
    assert seen(imported)[-3:] == ["1", "2", "3"]


@pytest.mark.parametrize("name", ["part-00000.parquet", "x.PARQUET", "deep/er/x.pq", "x.parquet.gz"])
def test_a_folder_of_the_user_s_parquet_files_is_refused_with_overwrite_too(
    target: Path, source: Path, name: str
) -> None:
    before = foreign(target / name)
    with pytest.raises(DataError, match="that no import of its own wrote"):
        import_records(source, str(target), overwrite=True)
    assert (target / name).read_bytes() == before
    assert [path for path in target.rglob("*") if path.is_file()] == [target / name]


@pytest.mark.parametrize(
    "name", ["_delta_log/00.checkpoint.parquet", ".cache/x.parquet", "notes.txt", "sub/_import.json"]
)
def test_what_is_not_read_as_records_stays_and_is_no_obstacle(imported: Path, source: Path, name: str) -> None:
    before = foreign(imported / name)
    import_records(source, str(imported), overwrite=True)
    assert (imported / name).read_bytes() == before
    assert seen(imported) == ["4", "5"]


def test_a_shard_that_the_user_replaced_is_not_removed(imported: Path, source: Path) -> None:
    before = foreign(imported / "part-00001.parquet")
    with pytest.raises(DataError, match=r"part-00001.parquet is not as the import wrote it"):
        import_records(source, str(imported), overwrite=True)
    assert (imported / "part-00001.parquet").read_bytes() == before
    assert seen(imported) == ["1", "mine", "3"]


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"\xff", b'{"shards": {}}'])
def test_a_note_that_is_not_ours_is_refused_and_hides_nothing(target: Path, source: Path, content: bytes) -> None:
    target.mkdir()
    (target / NOTE).write_bytes(content)
    with pytest.raises(DataError, match=f"an {NOTE} that no import wrote"):
        import_records(source, str(target), overwrite=True)
    assert (target / NOTE).read_bytes() == content
    foreign(target / "x.parquet")
    assert seen(target) == ["mine"]


def test_a_second_import_shares_no_name_with_the_first(imported: Path, source: Path) -> None:
    names = [path.name for path in sorted(imported.glob("*.parquet"))]
    assert names == ["part-00000.parquet", "part-00001.parquet", "part-00002.parquet"]
    for number in (2, 3):
        import_records(source, str(imported), overwrite=True)
        assert [path.name for path in imported.glob("*.parquet")] == [f"part-{number}-00000.parquet"]


def test_a_file_that_comes_while_the_import_writes_is_kept(
    target: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    create, before = LocalFolder.create, b""

    def race(self: LocalFolder, name: str, data: bytes) -> bool:
        nonlocal before
        if name == "part-00001.parquet":
            before = foreign(target / name)
        return create(self, name, data)

    monkeypatch.setattr(LocalFolder, "create", race)
    with pytest.raises(DataError, match=r"part-00001.parquet was written by something else just now"):
        import_records(source, str(target), rows_per_shard=1)
    assert [path.name for path in target.iterdir()] == ["part-00001.parquet"]
    assert (target / "part-00001.parquet").read_bytes() == before


def rows(*texts: str) -> list[Row]:
    return [{"text": text} for text in texts]


def write(target: Target, records: Iterable[Row]) -> None:
    target.write(records, pa.schema([("text", pa.string())]), 1)


def a_and_b(between: Callable[[], None]) -> Iterator[Row]:
    """Two records of an import; the other thing is done when the first one is written."""
    yield from rows("a")
    between()
    yield from rows("b")


def check_is_well(target: Path, records: list[str], source: Path) -> None:
    assert seen(target) == records
    assert len(list(target.glob("*.parquet"))) == len(records)
    import_records(source, str(target), overwrite=True)
    assert seen(target) == ["4", "5"]


def test_an_import_that_began_before_another_ended_changes_nothing(imported: Path, source: Path) -> None:
    first, second = (Target.open(str(imported), overwrite=True) for _ in range(2))
    write(first, rows("a", "b"))
    for records in (rows("c", "d"), rows("a", "b")):
        with pytest.raises(DataError, match=r"records: another import writes here at the same time: try again when"):
            write(second, records)
    check_is_well(imported, ["a", "b"], source)


def test_an_import_that_began_within_another_changes_nothing_once_that_ended(imported: Path, source: Path) -> None:
    second: list[Target] = []

    def begin() -> None:
        second.append(Target.open(str(imported), overwrite=True))

    write(Target.open(str(imported), overwrite=True), a_and_b(begin))
    with pytest.raises(DataError, match="another import writes here"):
        write(second[0], rows("c", "d"))
    check_is_well(imported, ["a", "b"], source)


@pytest.mark.parametrize("texts", [("c", "d"), ("a", "b"), ("c",)])
def test_an_import_that_another_took_the_folder_from_ends_and_changes_nothing(
    imported: Path, source: Path, texts: tuple[str, ...]
) -> None:
    def take() -> None:
        write(Target.open(str(imported), overwrite=True), rows(*texts))

    with pytest.raises(DataError, match="another import writes here"):
        write(Target.open(str(imported), overwrite=True), a_and_b(take))
    check_is_well(imported, list(texts), source)


def test_an_import_whose_note_another_replaced_takes_back_its_shards_alone(imported: Path, source: Path) -> None:
    before = (imported / NOTE).read_bytes()

    def overwrite_note() -> None:
        (imported / NOTE).write_bytes(before)

    with pytest.raises(DataError, match="another import writes here"):
        write(Target.open(str(imported), overwrite=True), a_and_b(overwrite_note))
    assert (imported / NOTE).read_bytes() == before
    check_is_well(imported, ["1", "2", "3"], source)


def test_a_listing_from_before_an_import_ended_is_made_again(
    imported: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the new shards it has one, of the note that is read next it has none of the old."""
    create, listing, early = LocalFolder.create, LocalFolder.list, list[list[Entry]]()

    def note_listing(self: LocalFolder, name: str, data: bytes) -> bool:
        created = create(self, name, data)
        early.append(listing(self))
        return created

    with monkeypatch.context() as patch:
        patch.setattr(LocalFolder, "create", note_listing)
        import_records(source, str(imported), rows_per_shard=1, overwrite=True)
    late = early[:1]
    assert "part-2-00000.parquet" in {entry.name for entry in late[0]}
    monkeypatch.setattr(LocalFolder, "list", lambda self, prefix="": late.pop() if late else listing(self, prefix))
    assert seen(imported) == ["4", "5"]


def test_a_folder_is_refused_while_every_listing_is_from_before_an_import(
    imported: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listing = LocalFolder.list

    def list_too_early(self: LocalFolder, prefix: str = "") -> list[Entry]:
        entries = listing(self, prefix)
        with monkeypatch.context() as patch:
            patch.setattr(LocalFolder, "list", listing)
            import_records(source, str(imported), overwrite=True)
        return entries

    monkeypatch.setattr(LocalFolder, "list", list_too_early)
    with pytest.raises(DataError, match=r"records: imports replace the records here just now: try again when they"):
        list_files(str(imported))


def test_a_shard_that_the_user_moved_away_is_not_missed(imported: Path) -> None:
    (imported / "part-00001.parquet").unlink()
    assert seen(imported) == ["1", "3"]


def test_a_run_s_directory_and_a_folder_of_runs_take_no_records(tmp_path: Path, source: Path) -> None:
    config = parse_job(
        {"name": "demo", "data": {"uri": "r"}, "storage": {"uri": str(tmp_path / "runs")}}, environment={}
    )
    RunDirectory.of(config).claim(config, "local")
    for place, told in (
        ("runs", "holds the run demo"),
        ("runs/demo", "is the directory of a run"),
        ("runs/demo/x", "is"),
    ):
        with pytest.raises(DataError, match=told):
            import_records(source, str(tmp_path / place), overwrite=True)
    (tmp_path / "own").mkdir()
    (tmp_path / "own/job.yaml").write_text("name: demo\n")
    import_records(source, str(tmp_path / "own"))
    import_records(source, str(tmp_path / "own/records"))
