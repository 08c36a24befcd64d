"""What every folder promises, local or on S3: inherit the class and give it a `folder` fixture."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest

from runner.errors import CorruptError, ObjectNotFoundError
from runner.storage import Entry, Folder, publish, read_manifest, read_published
from runner.storage.folder import TEMPORARY_PREFIX

NASTY_NAMES = [
    "two words",
    "per%20cent",
    "50%",
    "a+b",
    "number #1",
    "question?versionId=1",
    "ampersand&x=1",
    "'single' \"double\" `back`",
    "back\\slash",
    "umlaut-äöü/日本語/🙂.bin",
    "semi;colon:at@",
    "new\nline",
    " leading and trailing ",
    ".hidden",
    "...",
    "~",
    "-rf",
    "s3:/x",
    "x" * 200,
]
ESCAPING_NAMES = ["", "/", "/etc/passwd", "..", "../x", "a/../../x", "a/..", ".", "./a", "a//b", "a/", "a\0b"]
FILES = {"weights.bin": bytes(range(256)) * 40, "sub folder/net.json": b"{}", "empty": b""}


class FolderContract:
    """The promises, one test each; `folder` is empty at the start."""

    @pytest.mark.parametrize("name", NASTY_NAMES)
    def test_any_name_is_stored_and_listed_as_it_is(self, folder: Folder, name: str) -> None:
        data = name.encode()
        folder.write(name, data)
        assert folder.read(name) == data
        assert folder.list() == [Entry(name, len(data))]
        assert folder.list(name) == [Entry(name, len(data))]
        assert folder.size(name) == len(data)
        assert folder.create(name, b"other") is False
        inside = folder.child(name + " folder")
        inside.write("x", b"1")
        assert inside.list() == [Entry("x", 1)]
        assert folder.read(f"{name} folder/x") == b"1"
        folder.delete(name)
        assert not folder.exists(name)
        assert inside.exists("x")

    @pytest.mark.parametrize("name", [*ESCAPING_NAMES, f"{TEMPORARY_PREFIX}x"])
    def test_names_that_could_escape_are_refused(self, folder: Folder, name: str) -> None:
        for action in (
            folder.child,
            folder.read,
            folder.size,
            folder.exists,
            folder.delete,
            lambda name: folder.read_range(name, 0, 1),
            lambda name: folder.write(name, b""),
            lambda name: folder.create(name, b""),
        ):
            with pytest.raises(ValueError, match="name"):
                action(name)
        assert folder.list() == []

    @pytest.mark.parametrize("prefix", ["../", "/", "a/../", "a//b"])
    def test_prefixes_that_could_escape_are_refused(self, folder: Folder, prefix: str) -> None:
        with pytest.raises(ValueError, match="name"):
            folder.list(prefix)

    @pytest.mark.parametrize("durable", [True, False])
    def test_write_replaces_the_whole_object(self, folder: Folder, durable: bool) -> None:
        folder.write("a", b"a long first text", durable=durable)
        folder.write("a", b"short", durable=durable)
        assert folder.read("a") == b"short"
        folder.write("a", b"", durable=durable)
        assert folder.read("a") == b""
        assert folder.size("a") == 0

    def test_what_is_not_there_is_reported_as_such(self, folder: Folder) -> None:
        for action in (lambda: folder.read("no"), lambda: folder.read_range("no", 0, 0)):
            with pytest.raises(ObjectNotFoundError, match="no: check the path"):
                action()
        assert folder.size("no") is None
        assert not folder.exists("no")
        assert folder.list() == []
        assert folder.subfolders() == []
        folder.delete("no")
        assert folder.find_file() is None
        folder.child("no").remove(["x", "deep/er/y"])

    def test_ranges_end_where_the_object_ends(self, folder: Folder) -> None:
        folder.write("a", b"0123456789")
        folder.write("empty", b"")
        assert folder.read_range("a", 0, 10) == b"0123456789"
        assert folder.read_range("a", 3, 4) == b"3456"
        assert folder.read_range("a", 8, 100) == b"89"
        assert folder.read_range("a", 10, 1) == b""
        assert folder.read_range("a", 99, 1) == b""
        assert folder.read_range("a", 3, 0) == b""
        assert folder.read_range("empty", 0, 5) == b""
        for start, length in ((-1, 2), (0, -1)):
            with pytest.raises(ValueError, match="range"):
                folder.read_range("a", start, length)

    def test_list_is_recursive_and_sorted_by_name(self, folder: Folder) -> None:
        names = ["b/2", "a/x/y", "a", "b/10", "ab", "é", "Z", "b/1"]
        for name in names:
            if name != "a":  # On a disk a file cannot stand where a folder does.
                folder.write(name, name.encode())
        expected = [Entry(name, len(name.encode())) for name in sorted(names) if name != "a"]
        assert folder.list() == expected
        assert [entry.name for entry in folder.list("b/")] == ["b/1", "b/10", "b/2"]
        assert [entry.name for entry in folder.list("b/1")] == ["b/1", "b/10"]
        assert [entry.name for entry in folder.list("a")] == ["a/x/y", "ab"]
        assert folder.list("nothing/there") == []
        assert [entry.name for entry in folder.child("a").list()] == ["x/y"]
        assert folder.subfolders() == ["a", "b"]
        assert folder.child("a").subfolders() == ["x"]

    def test_what_is_named_is_removed_and_nothing_else(self, folder: Folder) -> None:
        for name in ("run/a", "run/deep/er/b", "run/deep/er/mine", "run-2/a", "runs"):
            folder.write(name, b"1")
        run = folder.child("run")
        run.remove(["a", "deep/er/b", "never there", "deep/x/y"])
        assert [entry.name for entry in folder.list()] == ["run-2/a", "run/deep/er/mine", "runs"]
        run.remove(["deep/er/mine"])
        assert folder.subfolders() == ["run-2"]
        for name in ESCAPING_NAMES:
            with pytest.raises(ValueError, match="name"):
                folder.remove(["runs", name])
        assert folder.exists("runs")

    def test_one_object_is_found_among_those_that_do_not_count(self, folder: Folder) -> None:
        folder.write("a/b", b"1")
        folder.write("c", b"2")
        assert folder.find_file() in ("a/b", "c")
        assert folder.find_file(["c"]) == "a/b"
        assert folder.find_file(["c", "a/b"]) is None
        assert folder.child("a").find_file() == "b"

    def test_one_of_eight_racing_creators_wins(self, folder: Folder) -> None:
        creators = 8
        barrier = Barrier(creators)

        def race(creator: int, name: str) -> bool:
            barrier.wait()
            return folder.create(name, str(creator).encode() * 10_000)

        with ThreadPoolExecutor(creators) as pool:
            for attempt in range(20):
                name = f"lock {attempt}"
                won = list(pool.map(race, range(creators), [name] * creators))
                assert sum(won) == 1
                assert folder.read(name) == str(won.index(True)).encode() * 10_000
        assert len(folder.list()) == 20

    def test_create_leaves_an_existing_object_alone(self, folder: Folder) -> None:
        assert folder.create("a", b"first") is True
        assert folder.create("a", b"second") is False
        assert folder.read("a") == b"first"
        folder.delete("a")
        assert folder.create("a", b"third") is True

    def test_the_probe_leaves_nothing(self, folder: Folder) -> None:
        folder.child("not/there yet").check_writable()
        assert folder.list() == []
        assert folder.subfolders() == []
        folder.write("x/y", b"1")
        folder.child("x").check_writable()
        assert folder.list() == [Entry("x/y", 1)]

    def test_published_files_are_read_back(self, folder: Folder) -> None:
        info = {"step": 5, "loss": 0.1 + 0.2, "name": "käse", "nested": {"x": [1, None, True]}, 7: "seven"}
        publish(folder, FILES, info)  # type: ignore[arg-type]
        assert read_published(folder) == FILES
        manifest = read_manifest(folder)
        assert manifest["version"] == 1
        assert manifest["info"] == {**{str(key): value for key, value in info.items()}}
        assert {name: file["size"] for name, file in manifest["files"].items()} == {
            name: len(data) for name, data in FILES.items()
        }

    def test_publishing_again_replaces(self, folder: Folder) -> None:
        publish(folder, FILES)
        publish(folder, {"weights.bin": b"new"})
        assert read_published(folder) == {"weights.bin": b"new"}

    def test_publishing_the_same_again_takes_nothing_from_readers(
        self, folder: Folder, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        publish(folder, FILES)
        write = folder.write

        def write_while_another_reads(name: str, data: bytes, **options: bool) -> None:
            assert read_published(folder) == FILES
            write(name, data, **options)

        monkeypatch.setattr(folder, "write", write_while_another_reads)
        publish(folder, FILES)
        assert read_published(folder) == FILES

    def test_a_folder_without_manifest_was_never_published(self, folder: Folder) -> None:
        for name, data in FILES.items():
            folder.write(name, data)
        for reading in (read_manifest, read_published):
            with pytest.raises(CorruptError, match="never completely published"):
                reading(folder)

    def test_a_missing_file_is_named(self, folder: Folder) -> None:
        publish(folder, FILES)
        folder.delete("sub folder/net.json")
        with pytest.raises(CorruptError, match=r"sub folder/net\.json is missing"):
            read_published(folder)

    @pytest.mark.parametrize("size", [0, 100, 10_239, 10_241])
    def test_a_file_of_another_size_is_named(self, folder: Folder, size: int) -> None:
        publish(folder, FILES)
        folder.write("weights.bin", (FILES["weights.bin"] + b"x")[:size])
        with pytest.raises(CorruptError, match=rf"weights\.bin has the wrong size: {size} bytes.* 10240"):
            read_published(folder)

    @pytest.mark.parametrize("position", [0, 5000, 10_239])
    def test_a_flipped_bit_in_a_file_is_noticed(self, folder: Folder, position: int) -> None:
        publish(folder, FILES)
        folder.write("weights.bin", flip(FILES["weights.bin"], position))
        with pytest.raises(CorruptError, match=r"weights\.bin is damaged"):
            read_published(folder)

    @pytest.mark.parametrize("manifest", [b"", b"[]", b"{}", b"null", b"\xff\xfe", b'{"version": 1, "files": {'])
    def test_an_unreadable_manifest_is_noticed(self, folder: Folder, manifest: bytes) -> None:
        publish(folder, FILES)
        folder.write("manifest.json", manifest)
        with pytest.raises(CorruptError, match=r"manifest\.json is (unreadable|damaged)"):
            read_manifest(folder)

    def test_the_manifests_name_is_taken(self, folder: Folder) -> None:
        with pytest.raises(ValueError, match="own name"):
            publish(folder, {"manifest.json": b""})


def flip(data: bytes, position: int) -> bytes:
    """`data` with one bit of one byte changed."""
    return data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :]
