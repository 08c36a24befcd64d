"""What is printed: exact in a pipe, harmless on a terminal."""

from __future__ import annotations

import io
import json
import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len

from runner.cli.options import answer
from runner.errors import ConfigError
from runner.generation.output import table_in_words
from runner.screen import Column, Json, VisibleFormatter, show, show_records, side_by_side, tell, visible
from runner.submit.follow import live_line
from tests.unit.cli.commands import Run, one_line, take_run, write_records

ORDERS = "\x1b[2J\x1b]0;title\x07 \x9b31m\b\x7f\u202etxt.exe"
SHOWN = "\\x1b[2J\\x1b]0;title\\x07 \\x9b31m\\x08\\x7f\\u202etxt.exe"
ANYTHING = st.text(st.one_of(st.sampled_from(ORDERS + "\n\r\t"), st.characters(exclude_categories=["Cs"])), max_size=8)


@contextmanager
def pipe() -> Iterator[io.BytesIO]:
    """Standard output goes where nobody looks, in a poor encoding: data is UTF-8 whatever the locale says."""
    raw = io.BytesIO()
    with patch.object(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii")):
        yield raw


@contextmanager
def terminal() -> Iterator[Callable[[], str]]:
    """Standard output and standard error are a terminal; the function says what has come to it."""
    leader, follower = os.openpty()
    with open(follower, "w", encoding="utf-8") as stream:  # noqa: PTH123

        def come() -> str:
            stream.write("\0")  # so that there is something to wait for
            stream.flush()
            found = b""
            while not found.endswith(b"\0"):
                found += os.read(leader, 1 << 16)
            return found[:-1].decode().replace("\r\n", "\n")  # the terminal's own

        with patch.object(sys, "stdout", stream), patch.object(sys, "stderr", stream):
            yield come
    os.close(leader)


@settings(max_examples=100, deadline=None)
@given(records=st.lists(ANYTHING.filter(lambda text: not {"\n", "\r"} & set(text)), min_size=1, max_size=4))
def test_records_in_a_pipe_are_their_exact_bytes_a_line_each(records: list[str]) -> None:
    with pipe() as raw:
        show_records(records)
        assert raw.getvalue() == "".join(record + "\n" for record in records).encode()


@pytest.mark.parametrize("end", ["\n", "\r"])
def test_records_with_line_breaks_are_no_lines(end: str) -> None:
    with pipe() as raw:
        with pytest.raises(ConfigError, match=r"record 2 holds a line break, so lines would not be.* -o.* --json"):
            show_records(["a", f"b{end}c"])
        assert raw.getvalue() == b""


@settings(max_examples=50, deadline=None)
@given(records=st.lists(ANYTHING, min_size=1, max_size=4))
def test_no_record_commands_a_terminal(records: list[str]) -> None:
    with terminal() as come:
        show_records(records)
        *lines, rest = come().split("\n")
    assert (len(lines), rest) == (len(records), "")
    # Categories Cc, Zl, Zp; the bidirectional controls are in the next test.
    assert all(ord(each) >= 32 and not 127 <= ord(each) < 160 for line in lines for each in line.replace("\t", " "))


def test_a_terminal_is_shown_what_it_would_obey() -> None:
    with terminal() as come:
        show_records([ORDERS, "two\r\nlines\tand a tab"])
        assert come() == f"{SHOWN}\ntwo\\r\\nlines\tand a tab\n"
        answer(False, {}, f"columns: {ORDERS}\nsecond line")
        assert come() == f"columns: {SHOWN}\nsecond line\n"
        tell(f"error: {ORDERS}")
        assert come() == f"error: {SHOWN}\n"
        answer(True, {"name": ORDERS}, "")
        assert json.loads(come()) == {"name": ORDERS}
        with live_line(quiet=False) as say:
            say(f"run {ORDERS}")
        assert "\\x1b]0;title" in (line := come())
        assert "\x1b]0;" not in line


def test_warnings_of_workers_are_harmless() -> None:
    record = logging.LogRecord("runner", logging.WARNING, "", 0, "column %s", (ORDERS,), None)
    assert VisibleFormatter("%(levelname)s: %(message)s").format(record) == f"WARNING: column {SHOWN}"


def test_answers_in_a_pipe_are_exact_and_messages_beside_them_are_visible(capsys: pytest.CaptureFixture[str]) -> None:
    with pipe() as raw:
        show(f"{ORDERS}\udcff é")
        assert raw.getvalue() == f"{ORDERS} é\n".encode().replace(b" \xc3", b"\xff \xc3")
    tell(f"warning: {ORDERS}")
    assert capsys.readouterr().err == f"warning: {SHOWN}\n"


def test_names_and_records_in_errors_are_visible(run: Run, here: Path) -> None:
    (here / "a.csv").write_bytes(f"a,{ORDERS}\n1,2\n".encode())
    line = one_line(run("import", "a.csv", "records/", "--columns", "b"), 2)
    assert "has no column 'b': it has a, '\\x1b[2J" in line
    (here / f"{ORDERS}.csv").write_text("a\n1,2\n")
    assert one_line(run("import", f"{ORDERS}.csv", "records/"), 2).startswith(f"{SHOWN}.csv, line 2")


def test_logs_and_status_are_exact_in_a_pipe_and_harmless_on_a_terminal(run: Run, here: Path) -> None:
    write_records(here / "records")
    directory = take_run(here, state="failed", error=f"column {ORDERS}")
    directory.folder.write("logs/driver.log", f"one\x85line {ORDERS}\ntwo\n".encode())
    commands = {
        ("logs", "demo"): f"driver | one\x85line {ORDERS}\ndriver | two\n",
        ("status", "demo"): f"demo: failed - column {ORDERS}\n",
        ("list",): f"demo: failed - column {ORDERS}\n",
    }
    for command, text in commands.items():
        assert run(*command).out == text
        with terminal() as come:
            run(*command)
            assert come() == visible(text)


def test_generated_records_are_exact_in_a_pipe(run: Run, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [f"a{ORDERS}", "\ufeff\x85"]
    monkeypatch.setattr("runner.submit.generate.generate", lambda *_: ({"texts": texts}, ""))
    write_records(here / "records")
    take_run(here, state="done")
    assert run("generate", "demo").out == "".join(text + "\n" for text in texts)
    assert run("generate", "demo", "--json").answer == {"texts": texts}
    rows = '[{"price": 0.10, "sum": 12345678901234567.89, "name": "é"}]'
    monkeypatch.setattr("runner.submit.generate.generate", lambda *_: ({"records": 1, "rows": Json(rows)}, ""))
    assert run("generate", "demo", "--json").out == f'{{"records": 1, "rows": {rows}}}\n'
    monkeypatch.setattr("runner.submit.generate.generate", lambda *_: ({"texts": texts}, ""))
    with terminal() as come:
        run("generate", "demo")
        assert come() == "".join(visible(text) + "\n" for text in texts)
    texts.append("two\nlines")
    assert "record 3 holds a line break" in one_line(run("generate", "demo"), 2)
    assert run("generate", "demo", "--json").answer == {"texts": texts}


@settings(max_examples=60, deadline=None)
@given(
    columns=st.lists(st.tuples(ANYTHING, st.lists(ANYTHING, min_size=3, max_size=3), st.booleans()), min_size=1),
    width=st.integers(1, 200),
)
def test_a_table_side_by_side_is_as_wide_as_the_terminal_and_obeys_no_value(
    columns: list[tuple[str, list[str], bool]], width: int
) -> None:
    text = side_by_side([Column(*column) for column in columns], width)
    lines = text.split("\n")
    assert len(lines) % 5 == 4, "a name and three values, a line each, and one between two parts"
    assert visible(text) == text
    assert all(cell_len(line) <= max(width, 48) for line in lines)


def test_a_table_is_csv_in_a_pipe_and_aligned_on_a_terminal() -> None:
    table = pa.table({"age": pa.array([9, None, 41], pa.int8()), "name": ["anna", "b\x1b[2J", None]})
    with pipe():
        assert table_in_words(table) == "age,name\n9,anna\n,b\x1b[2J\n41,"
    with terminal():
        assert table_in_words(table) == "age  name\n  9  anna\n     b\\x1b[2J\n 41"
