"""Errors keep their class, their lines and their exit code on the way to the user, whatever wraps or copies them."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner import __main__ as command
from runner import errors
from runner.errors import ConfigError, DataError, RunnerError, TokenizerError, find_user_error


def error_classes(base: type[RunnerError] = RunnerError) -> Iterator[type[RunnerError]]:
    """Every error a user can meet."""
    yield base
    for kind in base.__subclasses__():
        yield from error_classes(kind)


CLASSES = sorted(
    (kind for kind in error_classes() if kind.__module__ == errors.__name__), key=lambda kind: kind.__name__
)


@given(st.sampled_from(CLASSES), st.lists(st.text(), max_size=3))
def test_a_copy_of_an_error_has_the_same_lines(kind: type[RunnerError], messages: list[str]) -> None:
    error = kind(*messages)
    error.exit_code = 7
    lines = [" ".join(message.split()) for message in messages]
    assert str(error).split("\n") == (lines or [""])
    for other in (pickle.loads(pickle.dumps(error)), copy.deepcopy(error)):
        assert (type(other), str(other), other.exit_code) == (kind, str(error), 7)


class WrapperError(Exception):
    """As Ray's errors: what went wrong is an attribute."""

    def __init__(self, cause: BaseException) -> None:
        super().__init__("pages\nof\ntraceback")
        self.cause = cause


class DisguisedError(WrapperError, TokenizerError):
    """As Ray's RayTaskError(TokenizerError), which is a TokenizerError too."""

    def __str__(self) -> str:
        return "pages\nof\ntraceback"


@pytest.mark.parametrize("wrap", [WrapperError, DisguisedError, lambda error: WrapperError(DisguisedError(error))])
def test_what_counts_is_the_error_inside_others(wrap: type[WrapperError]) -> None:
    error = TokenizerError("too small")
    assert find_user_error(wrap(error)) is error


def test_the_error_of_one_worker_is_that_of_the_group() -> None:
    group = RuntimeError("2 of 3 failed")
    group.worker_failures = {0: WrapperError(KeyError("x")), 2: WrapperError(DataError("no rows"))}  # type: ignore[attr-defined]
    assert str(find_user_error(group)) == "no rows"


def test_an_error_that_was_dealt_with_is_not_shown() -> None:
    bug = KeyError("a bug")
    bug.__context__, bug.__suppress_context__ = ConfigError("dealt with"), True  # As by `raise ... from None`.
    assert find_user_error(bug) is None


@pytest.mark.parametrize("kind", CLASSES)
def test_the_command_prints_one_line_for_each_thing_that_is_wrong(
    kind: type[RunnerError], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(**_: object) -> None:
        raise DisguisedError(kind("one\nline", "another"))

    monkeypatch.setattr(command, "_silence_native_code", lambda: None)
    monkeypatch.setattr(command, "_show_warnings", lambda: None)
    monkeypatch.setattr(command.cli, "main", fail)
    with pytest.raises(SystemExit) as ended:
        command.main()
    assert capsys.readouterr().err == "error: one line\nerror: another\n"
    assert ended.value.code == kind.exit_code
