"""A checkpoint is whole or it is not used, and what it gives back is what was put in."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runner.errors import StorageError
from runner.storage import LocalFolder
from runner.train.checkpoint import (
    KEPT,
    BackgroundWriter,
    checkpoint_steps,
    newest_checkpoint,
    prune_checkpoints,
    save_checkpoint,
)
from tests.folder_contract import flip

FILES = ("tensors.safetensors", "state.json", "manifest.json")


@pytest.fixture
def folder(tmp_path: Path) -> LocalFolder:
    return LocalFolder(tmp_path / "checkpoints")


def save(folder: LocalFolder, *steps: int, ends_epoch: bool = False) -> None:
    for step in steps:
        save_checkpoint(folder, step, tensors(step), {"step": step}, ends_epoch=ends_epoch)


def tensors(step: int) -> dict[str, Any]:
    return {"weights/kernel": np.full((3, 4), step, np.float32)}


def child(folder: LocalFolder, step: int) -> LocalFolder:
    return folder.child(f"step-{step:012d}")


def restored_step(folder: LocalFolder) -> int | None:
    found = newest_checkpoint(folder)
    if found is None:
        return None
    assert found.state == {"step": found.step}
    assert np.array_equal(found.tensors["weights/kernel"], tensors(found.step)["weights/kernel"])
    return found.step


def test_tensors_and_state_come_back_bit_for_bit(folder: LocalFolder) -> None:
    noise = np.random.default_rng(0).standard_normal((5, 7))
    saved = {
        "weights/kernel": noise.astype(np.float32),
        "transposed": noise.astype(np.float32).T,
        "strided": noise[::2, ::3],
        "optimizer/iterations": np.array(7, np.int64),
        "optimizer/learning_rate": np.array(0.01, np.float32),
        "special": np.array([np.nan, np.inf, -0.0, 5e-324]),
        "empty": np.zeros((0, 3), np.float32),
    }
    state = {"progress": {"epoch_loss": 0.1 + 0.2, "rows": []}, "callbacks": [{"wait": 3}], "name": "ä"}
    save_checkpoint(folder, 12, saved, state, ends_epoch=True)
    found = newest_checkpoint(folder)
    assert found is not None
    assert found.step == 12
    assert found.state == state
    assert found.tensors.keys() == saved.keys()
    for name, value in saved.items():
        assert found.tensors[name].dtype == value.dtype
        assert found.tensors[name].shape == value.shape, name
        assert found.tensors[name].tobytes() == value.tobytes()


def test_no_checkpoint_is_no_error(folder: LocalFolder) -> None:
    assert newest_checkpoint(folder) is None
    assert checkpoint_steps(folder) == []


def test_the_newest_is_the_one_with_the_most_steps(folder: LocalFolder) -> None:
    save(folder, 90, 1_000_000, 200)
    assert restored_step(folder) == 1_000_000


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_byte_anywhere_is_noticed_and_the_one_before_used(
    folder: LocalFolder, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    save(folder, 10, 20)
    bad = child(folder, 20)
    content = bad.read(name)
    for position in range(0, len(content), max(1, len(content) // 40)):
        caplog.clear()
        bad.write(name, flip(content, position), durable=False)
        assert restored_step(folder) == 10
        (warning,) = caplog.records
        assert warning.getMessage().startswith("skipping the checkpoint of step 20: ")


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["missing", "cut", "empty"])
def test_a_torn_checkpoint_is_skipped_with_a_warning(
    folder: LocalFolder, caplog: pytest.LogCaptureFixture, name: str, damage: str
) -> None:
    save(folder, 10, 20)
    bad = child(folder, 20)
    if damage == "missing":
        bad.delete(name)
    else:
        bad.write(name, bad.read(name)[:-1] if damage == "cut" else b"")
    assert restored_step(folder) == 10
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert len(caplog.records[0].getMessage().splitlines()) == 1


class CrashingFolder(LocalFolder):
    """Fails like a killed process does: from a given write on, nothing is stored."""

    writes_left = 0

    def write(self, name: str, data: bytes, *, durable: bool = True) -> None:
        if CrashingFolder.writes_left == 0:
            raise KeyboardInterrupt
        CrashingFolder.writes_left -= 1
        super().write(name, data, durable=durable)

    def child(self, name: str) -> LocalFolder:
        return CrashingFolder(self.local_path(name))


@pytest.mark.parametrize("writes", range(4))
def test_a_crash_while_saving_leaves_the_one_before(folder: LocalFolder, writes: int) -> None:
    save(folder, 10)
    CrashingFolder.writes_left = writes
    crashing = CrashingFolder(folder.local_path())
    if writes < 3:
        with pytest.raises(KeyboardInterrupt):
            save(crashing, 20)
    else:
        save(crashing, 20)
    assert restored_step(folder) == (10 if writes < 3 else 20)


@pytest.mark.parametrize("writes", range(3))
def test_a_crash_while_a_step_is_saved_again_never_gives_half_of_it(folder: LocalFolder, writes: int) -> None:
    save(folder, 10, 20)
    CrashingFolder.writes_left = writes
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(CrashingFolder(folder.local_path()), 20, {"x": np.ones(3)}, {"step": -1}, ends_epoch=False)
    assert restored_step(folder) == 10


def test_several_bad_ones_are_each_warned_about(folder: LocalFolder, caplog: pytest.LogCaptureFixture) -> None:
    save(folder, 10, 20, 30, 40)
    child(folder, 40).delete("manifest.json")
    child(folder, 30).delete("state.json")
    child(folder, 20).write("tensors.safetensors", b"junk")
    assert restored_step(folder) == 10
    assert [record.getMessage().split(":")[0] for record in caplog.records] == [
        f"skipping the checkpoint of step {step}" for step in (40, 30, 20)
    ]


def test_with_nothing_but_bad_ones_there_is_none(folder: LocalFolder) -> None:
    save(folder, 10)
    child(folder, 10).delete("manifest.json")
    assert newest_checkpoint(folder) is None


def test_storage_that_is_away_is_not_taken_for_a_bad_checkpoint(folder: LocalFolder) -> None:
    save(folder, 10, 20)
    tensors_path = child(folder, 20).local_path("tensors.safetensors")
    tensors_path.unlink()
    tensors_path.mkdir()  # cannot be read, for another reason than that it is not there
    with pytest.raises(StorageError):
        newest_checkpoint(folder)


def test_nothing_in_a_checkpoint_is_a_pickle(folder: LocalFolder) -> None:
    save(folder, 10)
    entries = folder.list()
    assert {entry.name.rpartition("/")[2] for entry in entries} == set(FILES)
    for entry in entries:
        content = folder.read(entry.name)
        assert not content.startswith(b"\x80")
        assert b"numpy" not in content


# Pruning


def test_pruning_keeps_the_newest_two(folder: LocalFolder) -> None:
    save(folder, 10, 20, 30, 40)
    prune_checkpoints(folder, 40, keep_epochs=False)
    assert KEPT == 2
    assert checkpoint_steps(folder) == [30, 40]


def test_epochs_ends_stay_when_all_are_asked_for(folder: LocalFolder) -> None:
    save(folder, 10, 30, ends_epoch=True)
    save(folder, 5, 20, 35, 40)
    prune_checkpoints(folder, 40, keep_epochs=True)
    assert checkpoint_steps(folder) == [10, 30, 35, 40]
    prune_checkpoints(folder, 40, keep_epochs=False)
    assert checkpoint_steps(folder) == [35, 40]


def test_unpublished_and_overtaken_ones_go_and_do_not_count_as_kept(folder: LocalFolder) -> None:
    save(folder, 10, 20, 30, 99)
    child(folder, 20).delete("manifest.json")
    prune_checkpoints(folder, 30, keep_epochs=True)
    assert checkpoint_steps(folder) == [10, 30]
    assert all("99" not in entry.name for entry in folder.list())


def test_a_single_checkpoint_is_never_pruned(folder: LocalFolder) -> None:
    save(folder, 10)
    prune_checkpoints(folder, 10, keep_epochs=False)
    assert restored_step(folder) == 10


# Writing in the background


@pytest.fixture
def writer() -> Iterator[BackgroundWriter]:
    writer = BackgroundWriter()
    yield writer
    writer.close()


def test_writes_happen_beside_and_in_order(writer: BackgroundWriter) -> None:
    go, done = threading.Event(), list[int]()

    def write(number: int) -> None:
        go.wait(10)
        done.append(number)

    assert writer.is_idle
    writer.submit(write, 1)
    assert not writer.is_idle
    assert done == []
    go.set()
    writer.submit(write, 2)
    assert done[0] == 1
    writer.finish()
    assert done == [1, 2]
    assert writer.is_idle


def test_a_failed_write_is_raised_once_by_what_comes_next(writer: BackgroundWriter) -> None:
    def fail() -> None:
        raise StorageError("the disk is full")

    writer.submit(fail)
    with pytest.raises(StorageError, match="the disk is full"):
        writer.submit(list)
    writer.finish()
    writer.submit(fail)
    with pytest.raises(StorageError, match="the disk is full"):
        writer.finish()


def test_closing_finishes_what_was_begun() -> None:
    writer, done = BackgroundWriter(), list[int]()
    writer.submit(done.append, 1)
    writer.close()
    assert done == [1]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("storage-writer")]
