"""Job files as text: YAML 1.2 with its core schema, read so that what was written is not lost.

    >>> read_document("{zip: 02116, no: [1.10, no, 1_000], seed: 0x1F}")
    {'zip': Written(text='02116', value=2116), 'no': [Written(text='1.10', value=1.1), 'no', '1_000'], \
'seed': Written(text='0x1F', value=31)}
    >>> print(write_document({"zip": "02116", "code": "1e3", "seed": 31}), end="")
    zip: '02116'
    code: '1e3'
    seed: 31

PyYAML reads YAML 1.1, in which 010 is eight, 1:30 is ninety, `no` is false and the second of two equal keys counts.
Here it does the syntax; what a scalar means is decided by the core schema (YAML 1.2.2, section 10.3.2). A number or
switch keeps its text, for fields that take texts: see `runner.config.load`. Keys are texts as written.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from runner.errors import ConfigError

NUMBER = re.compile(
    r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+|[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?"
    r"|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"
)
"""What the core schema takes for a number."""
SWITCHES = dict.fromkeys(("true", "True", "TRUE"), True) | dict.fromkeys(("false", "False", "FALSE"), False)
NOTHING = ("", "~", "null", "Null", "NULL")

MOST_REPEATED = 10_000
"""Values that aliases may stand for: a few lines of them can stand for billions."""
_OTHER_BREAKS = re.compile("[\x85\u2028\u2029]")
_CORE = "tag:yaml.org,2002:"


@dataclass(frozen=True)
class Written:
    """A number or a switch, and how it was written."""

    text: str
    value: bool | int | float


def read_document(text: str, source: str = "job") -> Any:
    """Mappings, lists, texts and None, and `Written` for the rest; None for an empty document.

    Raises:
        ConfigError: no valid YAML, or a key is given twice, or the values are not those of a job.
    """
    try:
        return parse_document(text, source)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        what = " ".join(each for each in (error.context, error.problem) if each)
        raise ConfigError(f"{source}: not valid YAML: {what}{place}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{source}: not valid YAML: {error}") from error


def parse_document(text: str, source: str) -> Any:
    """`read_document`, for a text that need not be YAML.

    Raises:
        yaml.YAMLError: it is not.
    """
    if found := _OTHER_BREAKS.search(text):
        line = text.count("\n", 0, found.start()) + 1
        escape = f"\\u{ord(found[0]):04x}"
        raise ConfigError(
            f"{source}, line {line}: holds U+{ord(found[0]):04X}, which ends a line for some readers; "
            f'write it as "{escape}" in double quotes'
        )
    try:
        node = yaml.compose(text, _Syntax)
        return None if node is None else _Builder(source).build(node)
    except RecursionError:
        raise ConfigError(f"{source}: nested too deeply") from None


def resolve(text: str) -> Any:
    """What a scalar without quotes means: None, a text, or a `Written` number or switch."""
    if text in NOTHING:
        return None
    if text in SWITCHES:
        return Written(text, SWITCHES[text])
    if not NUMBER.fullmatch(text):
        return text
    if re.fullmatch(r"[-+]?[0-9]+|0[ox].*", text) and len(text) < 1000:  # Python converts at most 4,300 digits.
        return Written(text, int(text, 0) if text[:2] in ("0o", "0x") else int(text))
    return Written(
        text,
        math.inf if text[:2] in ("0o", "0x") else float(text.lower().replace(".inf", "inf").replace(".nan", "nan")),
    )


def write_document(values: Mapping[str, Any]) -> str:
    """YAML that readers of version 1.1 and of 1.2 read back equal."""
    return yaml.dump(values, Dumper=Dumper, sort_keys=False, allow_unicode=True)


def write_inline(value: Any) -> str:
    """A value in one line, as in a `key: VALUE`."""
    text = yaml.dump(
        value, Dumper=Dumper, default_flow_style=True, sort_keys=False, allow_unicode=True, width=float("inf")
    )
    return text.removesuffix("\n").removesuffix("\n...")


class _Syntax(yaml.SafeLoader):
    """Leaves the meaning of scalars to `resolve`: as nodes, those without quotes or tags have the tag `plain`."""

    def resolve(self, kind: Any, value: Any, implicit: Any) -> Any:
        if kind is yaml.ScalarNode and implicit[0]:
            return "plain"
        return super().resolve(kind, value, implicit)


class _Builder:
    """Makes values of nodes."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._seen: set[int] = set()
        self._open: set[int] = set()
        self._repeated = 0

    def build(self, node: yaml.Node) -> Any:
        """Raises ConfigError."""
        if id(node) in self._open:
            raise self._refusal(node, "a value holds itself by its alias")
        self._repeated += id(node) in self._seen
        if self._repeated > MOST_REPEATED:
            raise self._refusal(node, f"aliases stand for more than {MOST_REPEATED:,} values; write less")
        self._seen.add(id(node))
        self._open.add(id(node))
        value = self._build(node)
        self._open.discard(id(node))
        return value

    def _build(self, node: yaml.Node) -> Any:
        kind = node.tag.removeprefix(_CORE)
        match node:
            case yaml.MappingNode() if kind == "map":
                return self._mapping(node)
            case yaml.SequenceNode() if kind == "seq":
                return [self.build(each) for each in node.value]
            case yaml.ScalarNode() if kind == "str":
                return self._text(node)
            case yaml.ScalarNode() if kind == "plain":
                value = resolve(node.value)
                return self._text(node) if isinstance(value, str) else value
            case _:
                tag = node.tag.replace(_CORE, "!!")
                raise self._refusal(node, f"{tag} is no tag of a job's values; leave it out, or use quotes for a text")

    def _mapping(self, node: yaml.MappingNode) -> dict[str, Any]:
        values: dict[str, Any] = {}
        lines: dict[str, int] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode) or key_node.tag not in ("plain", f"{_CORE}str"):
                raise self._refusal(key_node, "a key is a text, without a tag")
            key, line = self._text(key_node), key_node.start_mark.line + 1
            if key == "<<" and key_node.tag == "plain":
                raise self._refusal(key_node, "YAML 1.2 has no key << that merges; write the fields out")
            if key in values:
                raise self._refusal(key_node, f"the key {key} is there already, in line {lines[key]}; remove one")
            values[key], lines[key] = self.build(value_node), line
        return values

    def _text(self, node: yaml.ScalarNode) -> str:
        """The text; escapes of two surrogates, as JSON writes a character beyond U+FFFF, are one character."""
        try:
            return node.value.encode("utf-16", "surrogatepass").decode("utf-16")
        except UnicodeDecodeError:
            raise self._refusal(node, "an escape names half a surrogate pair, which is no character") from None

    def _refusal(self, node: yaml.Node, what: str) -> ConfigError:
        return ConfigError(f"{self._source}, line {node.start_mark.line + 1}: {what}")


class Dumper(yaml.SafeDumper):
    """Writes a text in quotes where any version of YAML takes it for something else, and no aliases.

    Every kind of line break is an escape: YAML would read it back as a space or another one.
    """

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002
        return True


def represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    """A scalar for a text."""
    style = None
    if set(text) & set("\n\x85\u2028\u2029"):
        style = '"'
    elif not isinstance(resolve(text), str) or re.fullmatch("[-+]?0o[0-7_]+", text):  # Go's readers take more octals.
        style = "'"
    return dumper.represent_scalar(f"{_CORE}str", text, style)


Dumper.add_representer(str, represent_text)
