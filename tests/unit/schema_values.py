"""Values that a JSON Schema takes, as Hypothesis draws them: for the parts of the language that a job's schema uses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jsonschema
from hypothesis import strategies as st

Shape = Mapping[str, Any]

ODD = (
    *("no", "02116", "1e3", "0o17", "~", "null", "=", "<<", " ", "a b ", "#", "\\t", "s3:/x", "a/../b", "x" * 300),
    *("é", "😀", "\x00", "\x1b[2J", "\u2028", "\udcff"),
)
"""Texts that YAML, terminals, file systems or UTF-8 take for something else."""
MOST_ITEMS = 3


def values(shape: Shape, definitions: Mapping[str, Shape]) -> st.SearchStrategy[Any]:
    """What `shape` takes; `definitions` is what `$ref` refers to."""
    if "$ref" in shape:
        return st.deferred(lambda: values(definitions[shape["$ref"].rpartition("/")[2]], definitions))
    if "anyOf" in shape or "oneOf" in shape:
        drawn = st.one_of([values(each, definitions) for each in shape.get("anyOf") or shape["oneOf"]])
        beside = {key: shape[key] for key in ("pattern",) if key in shape}
        return drawn.filter(jsonschema.Draft202012Validator(beside).is_valid) if beside else drawn
    if "const" in shape:
        return st.just(shape["const"])
    if "enum" in shape:
        return st.sampled_from(shape["enum"])
    match shape.get("type"):
        case "object":
            return _objects(shape, definitions)
        case "array":
            return _arrays(shape, definitions)
        case "string":
            return _texts(shape)
        case "integer":
            return st.integers(*_ends(shape))
        case "number":
            low, high = _ends(shape)
            return st.floats(
                low,
                high,
                exclude_min="exclusiveMinimum" in shape,
                exclude_max="exclusiveMaximum" in shape,
                allow_nan=False,
                allow_infinity=False,
            )
        case "boolean":
            return st.booleans()
        case "null":
            return st.none()
        case _:
            leaves = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | _texts({})
            return leaves | st.lists(leaves, max_size=2) | st.dictionaries(_texts({}), leaves, max_size=2)


def _ends(shape: Shape) -> tuple[Any, Any]:
    """The least and the largest number; of whole ones, what is drawn at an open end is the next."""
    step = shape["type"] == "integer"
    low = shape.get("minimum", shape["exclusiveMinimum"] + step if "exclusiveMinimum" in shape else None)
    return low, shape.get("maximum", shape["exclusiveMaximum"] - step if "exclusiveMaximum" in shape else None)


def _texts(shape: Shape) -> st.SearchStrategy[str]:
    least, most = shape.get("minLength", 0), shape.get("maxLength", 10_000)
    if "pattern" in shape:
        texts = st.from_regex(shape["pattern"])
    else:
        texts = st.text(min_size=least, max_size=min(most, least + 8))
    return (st.sampled_from(ODD) | texts).filter(jsonschema.Draft202012Validator(shape).is_valid)


def _arrays(shape: Shape, definitions: Mapping[str, Shape]) -> st.SearchStrategy[list[Any]]:
    if "prefixItems" in shape:
        return st.tuples(*(values(each, definitions) for each in shape["prefixItems"])).map(list)
    return st.lists(
        values(shape["items"], definitions),
        min_size=shape.get("minItems", 0),
        max_size=MOST_ITEMS,
        unique=shape.get("uniqueItems", False),
    )


def _objects(shape: Shape, definitions: Mapping[str, Shape]) -> st.SearchStrategy[dict[str, Any]]:
    if "properties" in shape:
        drawn = {name: values(each, definitions) for name, each in shape["properties"].items()}
        required = {name: drawn.pop(name) for name in shape.get("required", ())}
        objects = st.fixed_dictionaries(required, optional=drawn)
        rules = {"allOf": shape.get("allOf", [])}
        return objects.filter(jsonschema.Draft202012Validator(rules).is_valid)
    names = shape.get("propertyNames", {})
    inner = shape.get("additionalProperties")
    if "patternProperties" in shape:
        [(pattern, inner)] = shape["patternProperties"].items()
        names = {**names, "pattern": pattern}
    return st.dictionaries(
        _texts(names), values(inner or {}, definitions), min_size=shape.get("minProperties", 0), max_size=MOST_ITEMS
    )
