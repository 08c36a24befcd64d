"""Which records are valid: the number of fields, rules by column, and a function of the user's own.

>>> from runner.config import GenerationConfig
>>> config = GenerationConfig(columns={"age": {"range": [0, 120]}, "code": {"pattern": r"[A-Z]\\d+"}})
>>> validator = Validator(config, ["age", "code"], ",")
>>> validator.check("49,C30")
Verdict(fields=('49', 'C30'), reason=None)
>>> [validator.check(text).reason for text in ("490,C30", "49,c30", "49")]
['age: not in [0, 120]', 'code: does not match [A-Z]\\\\d+', 'fields: not 2']
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from runner.config import ColumnRule, GenerationConfig
from runner.data.fields import split_fields
from runner.errors import JobFailedError
from runner.train.callbacks import call_user, import_object

Rule = Callable[[str], str | None]
"""From a value to what is wrong with it; None: nothing."""


class Verdict(NamedTuple):
    """A record's fields, and why it is invalid; None: it is valid."""

    fields: tuple[str, ...]
    reason: str | None


class Validator:
    """The rules of a job's `generation` section, ready to be applied to records of `columns`.

    Raises:
        ConfigError: the user's function cannot be imported.
    """

    def __init__(self, config: GenerationConfig, columns: Sequence[str], field_delimiter: str | None) -> None:
        self.columns = tuple(config.fields or columns)
        self._field_delimiter = field_delimiter
        self._rules = [
            (index, name, rule)
            for index, name in enumerate(self.columns)
            for rule in value_rules(config.columns.get(name, ColumnRule()))
        ]
        self._name = config.validator or ""
        self._function = import_object(config.validator, "generation.validator") if config.validator else None

    def check(self, text: str) -> Verdict:
        """Split a record and look at its fields.

        Raises:
            JobFailedError: the user's function raised, or returned what is no answer.
        """
        fields = self.split(text)
        if len(fields) != len(self.columns):
            return Verdict(fields, f"fields: not {len(self.columns)}")
        return self.check_fields(fields)

    def split(self, text: str) -> tuple[str, ...]:
        """A record's fields."""
        return split_fields(text, self._field_delimiter, len(self.columns))

    @property
    def has_rules(self) -> bool:
        """Whether fields are looked at at all."""
        return bool(self._rules) or self._function is not None

    def check_fields(self, fields: tuple[str, ...]) -> Verdict:
        """Look at the fields of a record; errors as for `check`."""
        for index, name, rule in self._rules:
            if (wrong := rule(fields[index])) is not None:
                return Verdict(fields, f"{name}: {wrong}")
        return Verdict(fields, self._ask_user(fields))

    def _ask_user(self, fields: tuple[str, ...]) -> str | None:
        if self._function is None:
            return None
        setting = f"generation.validator {self._name}"
        answer = call_user(self._function, setting, dict(zip(self.columns, fields, strict=True)))
        if answer is None or answer is True:
            return None
        if answer is False:
            return self._name
        if isinstance(answer, str):
            return " ".join(answer.split()) or self._name
        raise JobFailedError(
            f"{setting} returned {type(answer).__name__}; it should return None for a valid record, else the reason"
        )


def value_rules(rule: ColumnRule) -> list[Rule]:
    """The rules of one column, each as a function."""
    found: list[Rule] = []
    if rule.pattern is not None:
        matches, pattern = re.compile(rule.pattern).fullmatch, rule.pattern
        found.append(lambda value: None if matches(value) else f"does not match {pattern}")
    if rule.range is not None:
        least, largest = rule.range
        low = -math.inf if least is None else least
        high = math.inf if largest is None else largest
        wrong = f"not in [{low:g}, {high:g}]"
        found.append(lambda value: None if math.isfinite(at := _number(value)) and low <= at <= high else wrong)
    if rule.allowed is not None:
        allowed = frozenset(rule.allowed)
        found.append(lambda value: None if value in allowed else "not an allowed value")
    return found


def _number(value: str) -> float:
    """The number that a value is, else NaN; Python's own underscores and spaces are not part of a number.

    >>> _number("1e3"), _number("1_000"), _number(" 1"), _number("")
    (1000.0, nan, nan, nan)
    """
    if "_" in value or value != value.strip():
        return math.nan
    try:
        return float(value)
    except ValueError:
        return math.nan
