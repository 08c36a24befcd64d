"""A part of the job file, and the types that its fields share."""

from __future__ import annotations

from collections.abc import Sequence
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from runner.config.document import NUMBER

FORMS = {
    r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$": "package.module:function",
    r"^[^\x00]*$": "of a text without the character NUL",
    r"^[!-~]+$": "of an image's name, as registry/name:tag",
}
"""Patterns of texts, in words; others are those of names."""
IMPORTABLE, WITHOUT_NUL, IMAGE = FORMS

Importable = Annotated[str, Field(pattern=IMPORTABLE, max_length=1000)]
"""A Python object as `package.module:name`."""

Uri = Annotated[str, Field(min_length=1, max_length=4096, pattern=WITHOUT_NUL)]
"""A folder or a file, on disk or s3://. No path of Linux is longer, or holds NUL; keys of S3 are shorter."""

ColumnName = Annotated[str, Field(min_length=1, max_length=1000)]
"""Longer than any name that somebody gave a column; a message still holds it."""


def find_repeat(names: Sequence[str]) -> str | None:
    """The first name that is there twice.

    >>> find_repeat(["a", "b", "a"])
    'a'
    """
    seen: set[str] = set()
    return next((name for name in names if name in seen or seen.add(name)), None)


def differ(names: tuple[str, ...]) -> tuple[str, ...]:
    """Raises ValueError: a name is there twice."""
    if (name := find_repeat(names)) is not None:
        raise ValueError(f"{name} is named twice")
    return names


ColumnNames = Annotated[
    tuple[ColumnName, ...],
    # Tables of more columns are no records of text: each would be longer than the longest seq_length.
    Field(min_length=1, max_length=16_384, json_schema_extra={"uniqueItems": True}),
    AfterValidator(differ),
]
"""The columns of a table, or of the text of a record."""


class Section(BaseModel):
    """A part of the job: immutable, and closed to unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())

    @model_validator(mode="before")
    @classmethod
    def _empty_section_has_defaults(cls, values: Any) -> Any:
        """`training:` with nothing below it, as YAML reads it."""
        return {} if values is None else values

    @field_validator("*", mode="before")
    @classmethod
    def _numbers_are_written_as_numbers(cls, value: Any, info: ValidationInfo) -> Any:
        _refuse_lookalikes(value, cls.model_fields[str(info.field_name)].annotation)
        return value


def alternatives(kind: Any) -> list[Any]:
    """The types that a field's annotation allows.

    >>> alternatives(Importable | None)
    [<class 'str'>, <class 'NoneType'>]
    """
    if get_origin(kind) is Annotated:
        return alternatives(get_args(kind)[0])
    if get_origin(kind) in (Union, UnionType):
        return [each for one in get_args(kind) for each in alternatives(one)]
    return [NoneType if kind is None else kind]


def item_kinds(kind: Any, count: int) -> list[Any]:
    """The types of the items of a list of so many.

    >>> item_kinds(tuple[int, ...] | None, 2)
    [<class 'int'>, <class 'int'>]
    """
    for each in alternatives(kind):
        if get_origin(each) is tuple:
            inner = get_args(each)
            if inner[-1] is Ellipsis:
                return [inner[0]] * count
            return [*inner, *[Any] * count][:count]
    return [Any] * count


def _refuse_lookalikes(value: Any, kind: Any) -> None:
    """Python takes true for 1, and the texts 1_000 and ' 1' for numbers."""
    if isinstance(value, (list, tuple)):
        for each, inner in zip(value, item_kinds(kind, len(value)), strict=True):
            _refuse_lookalikes(each, inner)
        return
    kinds = {each for each in alternatives(kind) if each in (int, float)}
    if not kinds:
        return
    if isinstance(value, bool):
        raise ValueError(f"input should be a number, got {str(value).lower()}")  # noqa: TRY004
    if isinstance(value, str) and not NUMBER.fullmatch(value):
        raise ValueError(f"input should be a valid {'number' if float in kinds else 'integer'}, got {value!r}")
