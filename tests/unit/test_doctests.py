"""The examples in the modules' own words are true. TensorFlow's modules have their own tests."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "runner"
HEAVY = ("tensorflow", "keras")


def modules() -> list[str]:
    """The package's modules that do without TensorFlow: those that never name it before a function."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        lines = path.read_text().splitlines()
        imports = {line.split()[1].partition(".")[0] for line in lines if line.startswith(("import ", "from "))}
        if ">>> " in path.read_text() and imports.isdisjoint(HEAVY):
            found.append(".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"))
    return found


@pytest.mark.parametrize("name", modules())
def test_the_examples_in_a_modules_words_are_true(name: str) -> None:
    result = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert result.attempted > 0
    assert result.failed == 0


def test_modules_with_examples_were_found() -> None:
    assert {"runner.config", "runner.data.packing", "runner.data.batches"} <= set(modules())
