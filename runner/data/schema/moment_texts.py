"""Texts of dates and moments that are written otherwise than `runner.data.texts` writes them, such as JSON's.

>>> format_of("2013-06-21T19:00:00Z"), format_of("2013-06-21 19:00:00")
('%Y-%m-%dT%H:%M:%SZ', None)
>>> texts = plain_moments(pa.array(["2013-06-21T19:00:00Z", "?"], pa.large_string()), "%Y-%m-%dT%H:%M:%SZ")
>>> texts.to_pylist(), formatted_moments(texts, "%d.%m.%Y").to_pylist()
(['2013-06-21 19:00:00', None], ['21.06.2013', None])

A format is one of strftime: the parts of `WIDTHS`, each with all its digits, and other characters as they are.
"""

# pyarrow.compute makes its functions when it is imported, out of sight of type checkers.
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

import re

import pyarrow as pa
import pyarrow.compute as pc

from runner.config.fields import MOMENT_PART

WIDTHS = {"%Y": r"\d{4}", "%m": r"\d{2}", "%d": r"\d{2}", "%H": r"\d{2}", "%M": r"\d{2}", "%S": r"\d{2}", "%f": r"\d+"}
"""The digits of each part, in the order of a text of `runner.data.texts`."""
PLAIN = r"^(\d{4})-(\d{2})-(\d{2})(?: (\d{2}):(\d{2}):(\d{2})(?:\.(\d+))?)?$"
"""How `runner.data.texts` writes dates and moments without a time zone; groups in the order of `WIDTHS`."""
ISO = re.compile(
    r"\d{4}-\d\d-\d\d(?P<between>[ T])\d\d:\d\d(?P<second>:\d\d)?(?P<fraction>\.\d+)?(?P<zone>Z|\+00:?00)?"
)
DAYS = {
    re.compile(r"\d{4}/\d\d/\d\d"): "%Y/%m/%d",
    re.compile(r"\d{4}\.\d\d\.\d\d"): "%Y.%m.%d",
    re.compile(r"\d\d\.\d\d\.\d{4}"): "%d.%m.%Y",
}
"""Days in which a text says itself which number is which. In 03/04/2024 either may be the month."""


def format_of(text: str) -> str | None:
    """The format of a text; None where it is written as `runner.data.texts` does, or is no date or moment."""
    for form, written in DAYS.items():
        if form.fullmatch(text):
            return written
    found = ISO.fullmatch(text)
    if found is None or (found["fraction"] and not found["second"]):
        return None
    written = f"%Y-%m-%d{found['between']}%H:%M"
    written += (":%S" if found["second"] else "") + (".%f" if found["fraction"] else "")
    is_plain = found["between"] == " " and found["second"] and not found["zone"]
    return None if is_plain else written + (found["zone"] or "")


def plain_moments(texts: pa.Array, written: str | None) -> pa.Array:
    """Texts of a format as `runner.data.texts` writes them; null for other texts. As they are without a format."""
    if written is None:
        return texts
    form, groups = "", dict[str, int]()
    for part in MOMENT_PART.split(written):
        form += f"({WIDTHS[part]})" if part in WIDTHS else re.escape(part)
        if part in WIDTHS:
            groups[part] = len(groups) + 1
    day, time = (
        mark.join(rf"\{groups[part]}" if part in groups else "00" for part in parts)
        for mark, parts in (("-", ("%Y", "%m", "%d")), (":", ("%H", "%M", "%S")))
    )
    plain = day + (f" {time}" if "%H" in groups else "") + (rf".\{groups['%f']}" if "%f" in groups else "")
    fits = pc.match_substring_regex(texts, f"^{form}$")
    found = pc.if_else(fits, texts, pa.scalar(None, texts.type))
    return pc.replace_substring_regex(found, f"^{form}$", plain)


def formatted_moments(texts: pa.Array, written: str) -> pa.Array:
    """The inverse of `plain_moments`, for texts that it can make."""
    places = {part: rf"\{number}" for number, part in enumerate(WIDTHS, 1)}
    pieces = (places.get(part, part.replace("\\", r"\\")) for part in MOMENT_PART.split(written))
    return pc.replace_substring_regex(texts, PLAIN, "".join(pieces))
