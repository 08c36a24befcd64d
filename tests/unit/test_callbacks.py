"""Early stopping is a function of the history, and the user's own code is imported and called with care."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.config import EarlyStoppingConfig
from runner.errors import ConfigError, JobFailedError
from runner.train.callbacks import call_user, import_object, should_stop_early
from runner.train.history import EpochRow


def rows(*values: float | None) -> list[EpochRow]:
    return [EpochRow(epoch, 1.0, 0.5, value, value, 10, 1.0, 1.0) for epoch, value in enumerate(values)]


def stopping(**changes: Any) -> EarlyStoppingConfig:
    return EarlyStoppingConfig(**({"enabled": True, "patience": 2, "min_delta": 0.0} | changes))


# Early stopping


@pytest.mark.parametrize(
    ("values", "stops"),
    [
        ((), False),
        ((1.0,), False),
        ((1.0, 1.0), False),
        ((1.0, 1.0, 1.0), True),
        ((1.0, 2.0, 3.0), True),
        ((1.0, 2.0, 0.9), False),
        ((1.0, 2.0, 0.9, 0.9, 0.8), False),
        ((1.0, 2.0, 0.9, 0.9, 0.9), True),
        ((1.0, math.nan, math.nan), True),
        ((math.nan, 1.0, 1.0), False),
        ((math.nan, 1.0, 1.0, 1.0), True),
        ((None, None), True),
    ],
)
def test_training_ends_after_patience_epochs_without_improvement(values: tuple[float | None, ...], stops: bool) -> None:
    assert should_stop_early(rows(*values), stopping()) is stops


def test_only_a_change_of_more_than_min_delta_improves() -> None:
    creeping = rows(1.0, 0.9, 0.8, 0.7)
    assert should_stop_early(creeping, stopping(min_delta=0.5, patience=3))
    assert not should_stop_early(creeping, stopping(min_delta=0.05, patience=3))


def test_small_steps_add_up_to_an_improvement() -> None:
    assert not should_stop_early(rows(1.0, 0.9, 0.8, 0.7), stopping(min_delta=0.25, patience=3))


def test_accuracy_is_meant_to_grow() -> None:
    growing = rows(0.1, 0.2, 0.3)
    assert not should_stop_early(growing, stopping(metric="val_accuracy"))
    assert should_stop_early(growing, stopping(metric="val_loss"))


def test_it_never_ends_a_run_when_it_is_off() -> None:
    assert not should_stop_early(rows(*[1.0] * 50), stopping(enabled=False))


QUARTERS = st.integers(-8, 8).map(lambda number: number / 4)


@given(st.lists(QUARTERS | st.just(math.nan), max_size=12), st.integers(1, 4), st.integers(0, 4))
def test_a_resumed_run_decides_as_one_that_counted_along(values: list[float], patience: int, quarters: int) -> None:
    """Against counting epoch by epoch, as Keras's EarlyStopping does."""
    settings = stopping(patience=patience, min_delta=quarters / 4)
    best, waited = math.inf, 0
    for epoch, value in enumerate(values):
        if value < best - settings.min_delta:
            best, waited = value, 0
        else:
            waited += 1
        assert should_stop_early(rows(*values[: epoch + 1]), settings) is (waited >= patience)


# The user's code


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder for the user's modules, which are forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    known = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - known:
        del sys.modules[name]


def refusal(reference: str) -> str:
    with pytest.raises(ConfigError) as caught:
        import_object(reference, "training.epoch_callback")
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert message.startswith("training.epoch_callback: ")
    return message


def test_a_function_beside_the_caller_is_found(modules: Path) -> None:
    (modules / "mine.py").write_text("def after(state): return state + 1\n")
    assert import_object("mine:after", "training.epoch_callback")(1) == 2


def test_a_function_beside_the_job_file_is_found(modules: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = modules / "elsewhere"
    (folder / "package").mkdir(parents=True)
    (folder / "package/inner.py").write_text("class After:\n    pass\n")
    monkeypatch.setenv("RUNNER_JOB_FOLDER", str(folder))
    assert import_object("package.inner:After", "training.epoch_callback").__name__ == "After"


@pytest.mark.parametrize(
    ("content", "reference", "reason"),
    [
        ("", "no_such_module_here:f", "cannot import no_such_module_here"),
        ("x = 1", "mine.inner:f", "cannot import mine.inner"),
        ("import no_such_module_here", "mine:f", "cannot import mine: No module named 'no_such_module_here'"),
        ("def g(): pass", "mine:f", "module mine has no f"),
        ("f = 3", "mine:f", "mine:f is not callable"),
        ("1 / 0", "mine:f", "importing mine failed: ZeroDivisionError: division by zero"),
        ("def f(:", "mine:f", "importing mine failed: SyntaxError"),
        ("raise SystemExit(3)", "mine:f", "importing mine failed: SystemExit"),
        ("raise ValueError('two\\nlines')", "mine:f", "importing mine failed: ValueError: two lines"),
        ("None.f", "mine:f", "importing mine failed: AttributeError: 'NoneType' object has no attribute 'f'"),
    ],
)
def test_what_cannot_be_imported_is_answered_in_one_line(
    modules: Path, content: str, reference: str, reason: str
) -> None:
    (modules / "mine.py").write_text(content)
    assert reason in refusal(reference)


def test_what_the_users_code_raises_ends_the_run_in_one_line() -> None:
    def fail(state: object) -> None:
        raise KeyError("two\nlines")

    with pytest.raises(JobFailedError, match=r"training.epoch_callback raised KeyError: 'two.*lines'") as caught:
        call_user(fail, "training.epoch_callback", 1)
    assert len(str(caught.value).splitlines()) == 1
    assert caught.value.exit_code == 1
    assert isinstance(caught.value.__cause__, KeyError)


def test_a_callback_may_interrupt_the_process() -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        call_user(interrupt, "training.epoch_callback")
