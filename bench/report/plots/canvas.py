"""A figure of matplotlib as SVG: small, the same for the same data, accessible, fit for light and dark pages."""

from __future__ import annotations

import io
import math
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable, Sequence
from typing import Any

from bench.errors import BenchError
from bench.report.plots import palette
from bench.report.plots.palette import GRID, MUTED, SURFACE, TEXT, Look

try:
    import matplotlib
    from matplotlib.axes import Axes
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure as Canvas
    from matplotlib.lines import Line2D
    from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator
except ImportError as error:
    raise BenchError(f"plots need matplotlib (make dev installs it): {error}") from error

_WIDTH = 6.4  # inches of 72 units: narrow, so that the letters can be read on a phone
_LEGEND_LETTERS = 45  # of names that fit five in a row
_PIXELS = 660  # of a file of its own; on the page the column decides
_SVG = "http://www.w3.org/2000/svg"
_XLINK = "{http://www.w3.org/1999/xlink}href"
_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif"
_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "tidegate",
    "font.family": ["DejaVu Sans"],
    "font.size": 9.5,
    "path.simplify": True,
    "text.color": TEXT.light,
    "axes.labelcolor": MUTED.light,
    "axes.edgecolor": MUTED.light,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.labelsize": 9.5,
    "grid.color": GRID.light,
    "grid.linewidth": 0.8,
    "xtick.color": MUTED.light,
    "ytick.color": MUTED.light,
    "xtick.minor.visible": False,
    "figure.facecolor": SURFACE.light,
    "legend.frameon": False,
    "legend.fontsize": 9.5,
}


__all__ = ["Axes", "Canvas", "MaxNLocator", "draw", "duration", "legend", "line", "log_durations", "standalone"]


def draw(
    height: float, rows: Sequence[float], paint: Callable[[Canvas, list[Axes]], None], name: str, title: str, text: str
) -> str:
    """One figure of `height` inches with axes of these relative heights under each other, as an SVG element.

    `paint` draws; `name` makes the ids of the file unique; `title` and `text` are read out in place of the picture.
    """
    with matplotlib.rc_context(_STYLE):
        canvas = Canvas(figsize=(_WIDTH, height), layout="constrained")
        FigureCanvasSVG(canvas)
        axes = canvas.subplots(len(rows), 1, sharex=True, squeeze=False, height_ratios=list(rows))[:, 0]
        paint(canvas, list(axes))
        out = io.BytesIO()
        canvas.savefig(out, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return _finish(out.getvalue().decode(), name, title, text)


def legend(canvas: Canvas, looks: dict[str, Look], markers: bool = False) -> None:
    """A legend of lines (with their markers) outside of the axes, above them, so that it covers no data."""
    handles = [
        Line2D([], [], label=name, marker=look.marker if markers else "", markersize=5, **line(look))
        for name, look in looks.items()
    ]
    columns = 5 if sum(map(len, looks)) < _LEGEND_LETTERS else 3
    canvas.legend(handles=handles, loc="outside upper left", ncols=columns, handlelength=2.8, columnspacing=1.4)


def log_durations(ax: Axes, label: str, decades: bool = False) -> None:
    """A logarithmic axis of µs upwards, with ticks at 1, 2 and 5 where it spans few decades (unless `decades`)."""
    ax.set_ylabel(label)
    if not 0 < ax.dataLim.minposy < math.inf:
        ax.set_yticks([])  # nothing was measured
        return
    ax.set_yscale("log")
    low, high = ax.get_ylim()
    few = high < (10 if decades else 300) * low
    ax.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if few else (1.0,)))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter(lambda value, _: duration(value))


def duration(us: float) -> str:
    """`500 µs`, `20 ms`, `3 s`."""
    if us < 1e3:
        return f"{us:g} µs"
    return f"{us / 1e3:g} ms" if us < 1e6 else f"{us / 1e6:g} s"


def line(look: Look) -> dict[str, Any]:
    """The keywords of a line's look: colour, dashes, and ours the thickest."""
    return {
        "color": look.ink.light,
        "linewidth": 2.4 if look is palette.OUR_LOOK else 1.6,
        "linestyle": (0, look.dashes) if look.dashes else "solid",
    }


def standalone(svg: str) -> str:
    """The element as a file: with a width of its own and its own rules for dark schemes."""
    rules = f"<style>@media (prefers-color-scheme: dark){{{palette.dark_rules(svg)}}}</style>"
    head, end, rest = svg.partition(">")
    return f'{head} width="{_PIXELS}"{end}{rules}{rest}\n'


def _finish(svg: str, name: str, title: str, text: str) -> str:
    ET.register_namespace("", _SVG)
    root = ET.fromstring(re.sub(r"<!DOCTYPE[^>]*>", "", svg).replace("'DejaVu Sans'", _FONT))
    referred = set(re.findall(r"(?:url\(|href=\")#([^)\"]+)", svg))
    for element in root.iter():
        _rename(element, name, referred)
    _flatten(root)
    for size in ("width", "height"):
        del root.attrib[size]
    root.set("stroke-linejoin", "round")  # matplotlib's own, for all elements, by a style that would touch a whole page
    root.set("role", "img")
    root.set("aria-labelledby", f"{name}-title {name}-desc")
    for tag, words in (("desc", text), ("title", title)):
        element = ET.Element(f"{{{_SVG}}}{tag}", id=f"{name}-{tag}")
        element.text = words
        root.insert(0, element)
    return ET.tostring(root, encoding="unicode")


def _rename(element: ET.Element, name: str, referred: set[str]) -> None:
    """Keeps the ids that are referred to, made unique by the plot's name, and a tenth of a unit of each path."""
    for key, value in list(element.attrib.items()):
        if key == "id":
            element.set(key, f"{name}-{value}")
            if value not in referred:
                del element.attrib[key]
        elif key == _XLINK:
            del element.attrib[key]
            element.set("href", f"#{name}-{value[1:]}")
        elif "url(#" in value:
            element.set(key, value.replace("url(#", f"url(#{name}-"))
        elif key == "d":
            element.set(key, " ".join(re.sub(r"(\.\d)\d+", r"\1", value).split()))


def _flatten(parent: ET.Element) -> None:
    """Removes metadata, styles, groups and definitions that say nothing, and white space between elements."""
    children = []
    for child in parent:
        _flatten(child)
        child.tail = None
        kind = child.tag.removeprefix(f"{{{_SVG}}}")
        if kind == "g" and not child.attrib:
            children += list(child)
        elif kind not in ("metadata", "style") and (kind != "defs" or len(child)):
            children.append(child)
    parent[:] = children
    if children:
        parent.text = None
