"""Write what comes from the code: `config.md` and the chart's schema from the job's, `cli.md` from the verbs' help.

    python docs/write_reference.py

The pages depend on the code alone, not on the terminal or the environment; `tests/unit/test_docs.py` fails when
they are out of step with it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args, get_origin

import click

from runner.cli import cli
from runner.config import JobConfig, Section
from runner.config.section import alternatives as alternatives_of

DOCS = Path(__file__).resolve().parent
HELP_WIDTH = 100

CONFIG_INTRODUCTION = """\
# The job file

<!-- Written by `make docs` from the schema in runner/config/. Do not edit. -->

A job is one YAML file. `runner init job.yaml` writes one with every field, its default and what it is for;
`runner schema` prints the JSON Schema, for editors.

A value comes from the first of these that has it:

1. the command line: `--set training.epochs=3`
2. the environment: `RUNNER_TRAINING__EPOCHS=3` (two underscores between section and field)
3. the job file
4. the default

The file is YAML 1.2, with its core schema:

- A key that is given twice in one place is an error, and so is an unknown key.
- A text is what is written: `allowed: [02116, no, 1.10, 2024-01-01]` are these four texts, without quotes.
- A number is decimal (`010` is ten), or octal with `0o`, or hexadecimal with `0x`. `1_000` and `1:30` are no numbers.
- A switch is `true` or `false`.
- In double quotes `"\\t"` is a tab. In single quotes, or without quotes, it is a backslash and a t, which is an error
  as a delimiter.
- There are no tags (`!!`) and no merge keys (`<<`).

The command line and the environment are read in the same way; there, what is not in quotes, and is no list (`[a, b]`)
or mapping (`{a: 1}`), is taken whole: `--set "data.field_delimiter= | "`.

A section may be left out when all its fields have defaults. The run directory keeps
the resolved job in `job.yaml`. Credentials are never part of a job.

The fields of `privacy` have no effect while `privacy.enabled` is false; [privacy.md](privacy.md) explains them, and
`runner init --template private` writes a job with settings that suit private training. `sweep` is null in most jobs;
[sweeps.md](sweeps.md) shows one that is not.
"""

CLI_INTRODUCTION = """\
# Commands

<!-- Written by `make docs` from the help texts in runner/cli/. Do not edit. -->

Every verb takes `--json` (answer with one JSON object) and `--debug` (show the traceback of an error). A `RUN` is
the path of a run directory, its `s3://` address, or the run's name in the folder that `--runs` names.

Exit codes: 0 done, 1 the job failed or was stopped, 2 the user's input is wrong, 3 the infrastructure failed.
"""


def config_page() -> str:
    """`docs/config.md`: a table for each section of the job."""
    lines = [CONFIG_INTRODUCTION]
    for title, section in sections(JobConfig):
        lines += [f"## {title or 'Top level'}", "", (section.__doc__ or "").strip().splitlines()[0], ""]
        lines += ["| Field | Type | Default | Bounds | What it is |", "|---|---|---|---|---|"]
        properties = section.model_json_schema()["properties"]
        for attribute, field in section.model_fields.items():
            name = field.alias or attribute
            shape = properties[name]
            if section_in(field.annotation) is not None:
                link = f"{title}.{name}" if title else name
                kind = "section" if field.default is not None else "section or null"
                row = [f"[`{name}`](#{link.replace('.', '')})", kind, "", ""]
            else:
                default = "required" if field.is_required() else f"`{json.dumps(shape.get('default'))}`"
                row = [f"`{name}`", type_words(shape), default, bounds_words(shape)]
            lines.append("| " + " | ".join(cell(text) for text in [*row, field.description or ""]) + " |")
        lines.append("")
    return "\n".join(lines)


def sections(section: type[Section], path: str = "") -> Iterator[tuple[str, type[Section]]]:
    """Every section of the job with its dotted path, the job itself first."""
    yield path, section
    for name, field in section.model_fields.items():
        title = f"{path}.{name}" if path else name
        if (nested := section_in(field.annotation)) is not None:
            yield from sections(nested, title)
        else:
            repeated = list(repeated_sections(field.annotation))
            for place, each in repeated:
                yield from sections(each, f"{title}.{place}" + (f" of kind {tag(each)}" if len(repeated) > 1 else ""))


def section_in(annotation: Any) -> type[Section] | None:
    """The section that a field holds, or may hold; None for a mapping or a list of sections."""
    kinds = [kind for kind in alternatives_of(annotation) if isinstance(kind, type)]
    return next((kind for kind in kinds if issubclass(kind, Section)), None)


def repeated_sections(annotation: Any) -> Iterator[tuple[str, type[Section]]]:
    """The sections that a field holds any number of, in a mapping or a list, each with a word for its place."""
    for kind in alternatives_of(annotation):
        if get_origin(kind) in (dict, tuple):
            inner = [each for item in get_args(kind) for each in alternatives_of(item) if isinstance(each, type)]
            place = "NAME" if get_origin(kind) is dict else "NUMBER"
            yield from ((place, each) for each in inner if issubclass(each, Section))


def tag(section: type[Section]) -> str:
    """What the key `kind` of one of several sections says."""
    (kind,) = get_args(section.model_fields["kind"].annotation)
    return kind


def alternatives(shape: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The types that a field's schema allows."""
    return list(shape.get("anyOf", [shape]))


def type_words(shape: Mapping[str, Any]) -> str:
    """A JSON Schema type as users write values of it.

    >>> type_words({"anyOf": [{"type": "integer"}, {"type": "null"}]})
    'integer or null'
    >>> type_words({"type": "array", "items": {"type": "string"}})
    'list of string'
    """
    words: list[str] = []
    for each in alternatives(shape):
        if "enum" in each:
            words.append(", ".join(f"`{value}`" for value in each["enum"]))
        elif "prefixItems" in each:
            words.append(f"[{', '.join(map(type_words, each['prefixItems']))}]")
        elif each.get("type") == "array":
            words.append(f"list of {type_words(each['items'])}")
        else:
            kind = each.get("type", "section" if "$ref" in each else "any")
            words.append("mapping" if kind == "object" else kind)
    return " or ".join(words)


def bounds_words(shape: Mapping[str, Any]) -> str:
    """The bounds in a field's schema.

    >>> bounds_words({"type": "integer", "minimum": 1, "maximum": 16})
    '≥ 1, ≤ 16'
    """
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    sizes = {"minLength": "at least", "maxLength": "at most", "minItems": "at least", "maxItems": "at most"}
    words: list[str] = []
    for each in alternatives(shape):
        words += [f"{sign} {each[key]:,}" for key, sign in signs.items() if key in each]
        for key, bound in sizes.items():
            if key in each and "prefixItems" not in each:
                what = "character" if key.endswith("Length") else "item"
                words.append(f"{bound} {each[key]} {what}{'' if each[key] == 1 else 's'}")
        for pattern in (each.get("pattern"), each.get("items", {}).get("pattern")):
            if pattern is not None:
                words.append(f"`{pattern}`")
    return ", ".join(words)


def cell(text: str) -> str:
    """A text that does not end its table cell."""
    return text.replace("|", "\\|")


def cli_page() -> str:
    """`docs/cli.md`: the help text of every verb."""
    settings = {**cli.context_settings, "terminal_width": HELP_WIDTH, "max_content_width": HELP_WIDTH}
    group = click.Context(cli, info_name="runner", **settings)
    lines = [CLI_INTRODUCTION]
    for name in sorted(cli.commands):
        command = cli.commands[name]
        text = command.get_help(click.Context(command, parent=group, info_name=name, **settings))
        lines += [f"## {name}", "", "```text", *(line.rstrip() for line in text.splitlines()), "```", ""]
    return "\n".join(lines)


def values_schema() -> str:
    """`helm/runner/values.schema.json`: the chart's own values, and the job's schema where a job runs."""
    job = JobConfig.model_json_schema()
    sections = job.pop("$defs")
    flag, text = {"type": "boolean"}, {"type": "string"}
    texts = {"type": "object", "additionalProperties": text}
    subject = {"kind": {"enum": ["User", "Group", "ServiceAccount"]}, "name": text, "namespace": text}
    selector = {"type": "object"}
    peer = closed(podSelector=selector, namespaceSelector=selector, ipBlock=selector) | {"minProperties": 1}
    properties: dict[str, Any] = {
        "run": {"enum": ["never", "now", "schedule"]},
        "job": {"type": "object"},
        "schedule": closed(
            cron={"type": "string", "pattern": r"^(@\w+|\S+( \S+){4})$"},
            time_zone={"type": ["string", "null"]},
            suspend=flag,
            since_last=flag,
        ),
        "serviceAccount": closed(create=flag, name=text, annotations=texts),
        "rbac": closed(create=flag, submitters={"type": "array", "items": closed(**subject)}),
        "networkPolicy": closed(
            enabled=flag, operatorNamespace=text | {"minLength": 1}, alsoFrom={"type": "array", "items": peer}
        ),
        "podDisruptionBudget": closed(enabled=flag),
        "global": {"type": "object"},
    }
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Values of the chart runner",
        **closed(**properties),
        "if": {"properties": {"run": {"enum": ["now", "schedule"]}}},
        "then": {"properties": {"job": job}},
        "$defs": sections,
    }
    return json.dumps(schema, indent=2) + "\n"


def closed(**properties: Any) -> dict[str, Any]:
    """The schema of an object with these properties and no others."""
    return {"type": "object", "additionalProperties": False, "properties": properties}


PAGES = {
    "docs/config.md": config_page,
    "docs/cli.md": cli_page,
    "helm/runner/values.schema.json": values_schema,
}


def main() -> None:
    for name, page in PAGES.items():
        (DOCS.parent / name).write_text(page(), encoding="utf-8")
        print(f"wrote {name}")


if __name__ == "__main__":
    main()
