"""Plots as SVG that lives inside the page: its colors are the page's CSS variables, its text is text.

matplotlib knows no CSS, so colors are drawn as stand-ins and exchanged afterwards. Every plot has a title and a
description for those who cannot see it, and ids of its own. The same figures give the same bytes.
"""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from runner.report.compare import Bars

INK, QUIET, GRID = "#000001", "#000002", "#000003"
TRAINING, SYNTHETIC, HOLDOUT = "#000004", "#000005", "#000006"
VARIABLES = {
    INK: "--ink",
    QUIET: "--quiet",
    GRID: "--grid",
    TRAINING: "--training",
    SYNTHETIC: "--synthetic",
    HOLDOUT: "--holdout",
}
STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "runner",
    "font.family": "DejaVu Sans",
    "font.size": 11,
    "text.color": INK,
    "text.parse_math": False,
    "axes.edgecolor": QUIET,
    "axes.labelcolor": QUIET,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.unicode_minus": False,
    "grid.color": GRID,
    "grid.linewidth": 1,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "lines.linewidth": 2,
    "lines.markersize": 4,
    "patch.linewidth": 0,
}
POINTS_PER_INCH = 72
_METADATA = ("Creator", "Date", "Format", "Type")
WIDTH, HEIGHT = 360, 220
"""Of a plot, in CSS pixels: it fits a phone at its own size."""
LABEL_CHARACTERS = 16
MOST_NUMBERED = 12
"""Columns up to which the map of differences writes numbers into its cells."""


@dataclass(frozen=True)
class Line:
    """A line of a plot: where a value is None there is a gap."""

    name: str
    color: str
    x: Sequence[float]
    y: Sequence[float | None]


def line_plot(
    name: str, title: str, description: str, lines: Sequence[Line], x_label: str, *, from_zero: bool = False
) -> str:
    """Lines over a common x; points are marked where there are few."""
    with _style():
        figure, axes = _new_figure(HEIGHT)
        for line in lines:
            y = [math.nan if value is None else value for value in line.y]
            marker = "o" if len(y) <= 30 else ""
            axes.plot(line.x, y, color=line.color, marker=marker)
        if from_zero:
            axes.set_ylim(bottom=0)
        axes.set_xlabel(x_label)
        if all(float(x).is_integer() for line in lines for x in line.x):
            axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, min_n_ticks=1))
        axes.yaxis.set_major_locator(MaxNLocator(5))
        return _to_svg(figure, name, title, description)


def bar_plot(name: str, title: str, description: str, bars: Bars) -> str:
    """Shares of the training and the synthetic records side by side: upright for ranges, lying for values."""
    places = np.arange(len(bars.labels), dtype=float)
    height = HEIGHT if bars.edges else 46 + 26 * len(places)
    with _style():
        figure, axes = _new_figure(height)
        draw = axes.bar if bars.edges else axes.barh
        draw(places - 0.2, _percent(bars.training), 0.4, color=TRAINING)
        draw(places + 0.2, _percent(bars.synthetic), 0.4, color=SYNTHETIC)
        shares = axes.yaxis if bars.edges else axes.xaxis
        shares.set_major_locator(MaxNLocator(4))
        shares.set_major_formatter("{x:g}%")
        if bars.edges:
            _label_ranges(axes, bars)
        else:
            axes.set_yticks(places, [shorten(label) for label in bars.labels])
            axes.invert_yaxis()
        axes.grid(axis="x" if bars.edges else "y", visible=False)
        axes.tick_params(length=0)
        return _to_svg(figure, name, title, description)


def _label_ranges(axes: Axes, bars: Bars) -> None:
    """The edges of the ranges between the bars, as many as fit, and what is no number below its bar."""
    step = 1 if len(bars.edges) <= 7 else 2
    places = [place - 0.5 for place in range(0, len(bars.edges), step)]
    labels = [f"{edge:.3g}" for edge in bars.edges[::step]]
    if len(bars.labels) == len(bars.edges):
        places.append(len(bars.labels) - 1.0)
        labels.append("\nno number")
    axes.set_xticks(places, labels)


def difference_map(name: str, title: str, description: str, names: Sequence[str], values: NDArray[np.float64]) -> str:
    """The lower half of a symmetric matrix (k, k) as cells: the fuller the color, the larger (full: 0.5 or more)."""
    count = len(names)
    cell = 28 if count <= MOST_NUMBERED else 20
    side = cell * (count - 1)
    with _style():
        margin = 8 + 6.6 * max(len(shorten(label)) for label in names)
        figure = Figure((_inches(side + margin), _inches(side + margin)))
        axes = figure.add_axes(
            (margin / (side + margin), margin / (side + margin), side / (side + margin), side / (side + margin))
        )
        for row in range(1, count):
            for column in range(row):
                value = values[row, column]
                if math.isnan(value):
                    continue
                axes.add_patch(
                    Rectangle(
                        (column, row - 1), 0.94, 0.94, facecolor=(*_rgb(SYNTHETIC), 0.6 * min(1.0, 2 * float(value)))
                    )
                )
                if count <= MOST_NUMBERED:
                    axes.text(column + 0.47, row - 0.53, f"{value:.2f}", ha="center", va="center", fontsize=9)
        axes.set_xlim(0, count - 1)
        axes.set_ylim(count - 1, 0)
        axes.set_xticks(np.arange(count - 1) + 0.47, [shorten(label) for label in names[:-1]])
        for label in axes.get_xticklabels():
            label.set(rotation=90, ha="right", va="center", rotation_mode="anchor")
        axes.set_yticks(np.arange(count - 1) + 0.47, [shorten(label) for label in names[1:]])
        axes.tick_params(length=0)
        axes.grid(visible=False)
        for spine in axes.spines.values():
            spine.set_visible(False)
        return _to_svg(figure, name, title, description, natural_width=True)


def _style() -> AbstractContextManager[None]:
    return rc_context(STYLE)  # pyright: ignore[reportArgumentType] - a name of a setting is a str


def shorten(label: str, most: int = LABEL_CHARACTERS) -> str:
    """A label that fits, on one line and without characters that cannot be drawn.

    >>> shorten("a\\nlabel that goes on and on")
    'a label that go…'
    """
    label = " ".join("".join(c if c.isprintable() else " " for c in label).split())
    return label if len(label) <= most else label[: most - 1] + "…"


def _new_figure(height: float) -> tuple[Figure, Axes]:
    figure = Figure((_inches(WIDTH), _inches(height)), layout="constrained")
    return figure, figure.add_subplot()


def _to_svg(figure: Figure, name: str, title: str, description: str, *, natural_width: bool = False) -> str:
    """The figure as an `<svg>` element for HTML: without namespaces, and with the ids that something points to."""
    sink = io.StringIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # The browser has fonts for what matplotlib's lacks.
        figure.savefig(sink, format="svg", transparent=True, metadata=dict.fromkeys(_METADATA))
    drawing = ElementTree.fromstring(sink.getvalue())  # noqa: S314 - matplotlib wrote it
    for parent in list(drawing.iter()):
        for child in list(parent):
            if child.tag.endswith(("}metadata", "}style")):
                parent.remove(child)
    pointed_at = set(re.findall(r"#([mp][0-9a-f]{10})", sink.getvalue()))
    for element in drawing.iter():
        element.tag = element.tag.rpartition("}")[2]
        element.attrib = {
            key.rpartition("}")[2]: _for_page(name, value)
            for key, value in element.attrib.items()
            if key != "id" or value in pointed_at
        }
        element.tail = None
        element.text = element.text if element.tag == "text" else None
    _, _, width, height = drawing.attrib["viewBox"].split()
    drawing.attrib = {"viewBox": f"0 0 {width} {height}", "role": "img"}
    drawing.attrib["aria-labelledby"] = f"{name}-title {name}-about"
    if natural_width:
        drawing.attrib |= {"width": width, "height": height}
    for place, (tag, suffix, text) in enumerate((("title", "title", title), ("desc", "about", description))):
        element = ElementTree.Element(tag, {"id": f"{name}-{suffix}"})
        element.text = text
        drawing.insert(place, element)
    return ElementTree.tostring(drawing, encoding="unicode")


def _for_page(name: str, attribute: str) -> str:
    """An attribute with the page's colors and font, and with ids of this plot."""
    attribute = re.sub(r"(^|#)([mp][0-9a-f]{10})\b", rf"\g<1>{name}-\g<2>", attribute)
    for color, variable in VARIABLES.items():
        attribute = attribute.replace(color, f"var({variable})")
    return " ".join(re.sub("font-family: [^;]*; ", "", attribute).split())


def _percent(shares: Sequence[float]) -> list[float]:
    return [100 * share for share in shares]


def _inches(pixels: float) -> float:
    return pixels / POINTS_PER_INCH


def _rgb(color: str) -> tuple[float, float, float]:
    red, green, blue = (int(color[place : place + 2], 16) / 255 for place in (1, 3, 5))
    return red, green, blue
