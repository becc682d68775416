"""The comparison of rules as a page, or as one drawing: load, replicas, late requests over time, a table.

Plain SVG and HTML without a script, a font or a picture from elsewhere, for light and dark schemes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path

from msgspec import Struct

from lb.config.units import DAY, HOUR, MINUTE, SECOND
from lb.errors import TidegateError
from lb.scaling.simulate.run import Point, Result

WIDTH, LEFT, RIGHT, TOP = 960, 76, 16, 30
PANEL, GAP = 190, 44
COLUMN = 135  # of the legend; wider for longer names
# Colour in the light and in the dark scheme, dashes: told apart by lightness and dashes as well as by hue.
LOOKS = (
    ("#0a5fd0", "#62aaff", ""),
    ("#c2500a", "#ff9c5a", "7 3"),
    ("#0d7f63", "#46cfa5", "2 2"),
    ("#a03d8c", "#e391d2", "7 3 2 3"),
    ("#7d6b00", "#d8c648", "11 3"),
    ("#4b5563", "#b6c0cc", "4 2"),
    ("#8c2f39", "#f2949c", "3 3 9 3"),
)
PLAIN = (
    "text{font:13px system-ui,-apple-system,'Segoe UI',Roboto,'DejaVu Sans',sans-serif;fill:#1b2430}"
    ".soft{fill:#586273}.rule{stroke:#dde2e9}.line{fill:none;stroke-width:1.6;stroke-linejoin:round}.back{fill:#fcfcfd}"
    ".load{fill:#586273;opacity:.35;stroke:none}"
)
DARK = "text{fill:#e6eaf0}.soft{fill:#a3adbb}.rule{stroke:#353e4a}.back{fill:#161b22}.load{fill:#a3adbb}"
PAGE = """:root{color-scheme:light dark}
body{margin:0;font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;background:#f1f3f6;color:#1b2430}
main{max-width:1000px;margin:0 auto;padding:1.5rem 1rem 3rem}
section{background:#fcfcfd;border:1px solid #dde2e9;border-radius:8px;padding:1rem;margin:1rem 0;overflow-x:auto}
svg{display:block;width:100%;height:auto}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
th,td{padding:.4rem .7rem;border-bottom:1px solid #dde2e9;text-align:right}
th:first-child{text-align:left}thead th{color:#586273;font-size:.85rem}tbody tr:last-child>*{border-bottom:0}
code{font-size:.85em;overflow-wrap:anywhere}
@media (prefers-color-scheme:dark){body{background:#0d1117;color:#e6eaf0}
section{background:#161b22;border-color:#353e4a}
th,td{border-color:#353e4a}thead th{color:#a3adbb}}"""


def write(path: Path, results: Mapping[str, Result], length: int, title: str, told: str) -> None:
    """The page, or the drawing alone where the name ends in `.svg`. Raises TidegateError if it cannot be written."""
    drawing = chart(results, length, title)
    text = drawing if path.suffix == ".svg" else _page(results, drawing, title, told)
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise TidegateError(f"{path}: cannot be written: {error}") from error


def chart(results: Mapping[str, Result], length: int, title: str) -> str:
    """Three panels under each other, as one SVG document. `length` is the trace's, in ns."""
    # Rules that look more often than once a second have more points of a short trace.
    points = [result.points for result in results.values()]
    column = max(COLUMN, 36 + 8 * max(map(len, results)))
    columns = max(1, (WIDTH - LEFT - RIGHT) // column)
    top = TOP + 20 * (1 + (len(results) - 1) // columns)
    height = top + 3 * (PANEL + GAP)
    parts = [_legend(list(results), columns, column)]
    panels: list[tuple[str, Callable[[Sequence[Point]], list[float]], bool]] = [
        ("requests/s", lambda points: [p.requests_per_second for p in points], True),
        ("replicas, those that start included", lambda points: [p.replicas for p in points], False),
        ("late requests until then", _running, False),
    ]
    for number, (name, values, load) in enumerate(panels):
        begin = top + number * (PANEL + GAP) + 18
        drawn = points[:1] if load else points
        lines = [values(each) for each in drawn]
        highest = max((max(line, default=0.0) for line in lines), default=0.0)
        # Rules differ by powers of ten; the load is one line.
        scale = _linear(highest) if load else _logarithmic(highest)
        parts.append(_axes(begin, name, scale, length, last=number == len(panels) - 1))
        for index, line in enumerate(lines):
            place = _places([p.at for p in drawn[index]], line, begin, scale, length, steps=name.startswith("replicas"))
            if load:
                parts.append(f'<path class="load" d="{place}V{begin + PANEL}H{LEFT}Z"/>')
            else:
                parts.append(f'<path class="line r{index % len(LOOKS)}" d="{place}"/>')
    styles = "".join(
        f".r{n}{{stroke:{light}{f';stroke-dasharray:{dashes}' if dashes else ''}}}"
        for n, (light, _, dashes) in enumerate(LOOKS)
    )
    dark = "".join(f".r{n}{{stroke:{ink}}}" for n, (_, ink, _) in enumerate(LOOKS))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img">'
        f"<title>{escape(title)}</title>"
        f"<style>{PLAIN}{styles}@media (prefers-color-scheme:dark){{{DARK}{dark}}}</style>"
        f'<rect class="back" width="{WIDTH}" height="{height}"/>{"".join(parts)}</svg>\n'
    )


def _page(results: Mapping[str, Result], drawing: str, title: str, told: str) -> str:
    rows = "".join(
        f"<tr><th>{escape(name)}</th><td>{r.violations:,}</td><td>{_percent(r.violations, r.requests)}</td>"
        f"<td>{r.replica_seconds:,.0f}</td><td>{r.changes:,}</td><td>{r.peak:,}</td></tr>"
        for name, r in results.items()
    )
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{escape(title)}</title><style>{PAGE}</style><main><h1>{escape(title)}</h1><p><code>{escape(told)}</code></p>"
        f"<section><table><thead><tr><th>rule</th><th>late requests</th><th>of all</th><th>replica seconds</th>"
        f"<th>changes</th><th>most replicas</th></tr></thead><tbody>{rows}</tbody></table></section>"
        f"<section>{drawing}</section></main></html>\n"
    )


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.3f} %" if whole else "none came"


def _running(points: Sequence[Point]) -> list[float]:
    total, sums = 0.0, []
    for point in points:
        total += point.late
        sums.append(total)
    return sums


def _legend(names: Sequence[str], columns: int, column: int) -> str:
    parts = []
    for index, name in enumerate(names):
        x, y = LEFT + column * (index % columns), 20 + 20 * (index // columns)
        parts.append(f'<path class="line r{index % len(LOOKS)}" d="M{x} {y - 4}h24"/>')
        parts.append(f'<text x="{x + 29}" y="{y}">{escape(name if len(name) < 12 else name.replace("_", " "))}</text>')
    return "".join(parts)


class _Scale(Struct, frozen=True):
    """From a value to its height, 0 to 1, and the values that the axis names."""

    height: Callable[[float], float]
    ticks: Sequence[float]


def _linear(highest: float) -> _Scale:
    top = _round_up(highest)
    return _Scale(lambda value: value / top, (0.0, top / 2, top))


def _logarithmic(highest: float) -> _Scale:
    decades = max(1, math.ceil(math.log10(max(highest, 1.0)) - 1e-9))
    top = math.log10(1 + 10**decades)
    step = -(-decades // 4)
    ticks = (0.0, *(10.0**n for n in range(0 if step == 1 else step, decades + 1, step)))
    return _Scale(lambda value: math.log10(1 + value) / top, ticks)


def _axes(begin: int, name: str, scale: _Scale, length: int, last: bool) -> str:
    parts = [f'<text x="{LEFT}" y="{begin - 8}">{escape(name)}</text>']
    for tick in scale.ticks:
        y = begin + PANEL * (1 - scale.height(tick))
        parts.append(f'<path class="rule" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>')
        label = f"{tick / 1e6:g} M" if tick >= 1e6 else f"{tick:,.0f}" if tick >= 10 else f"{tick:g}"
        parts.append(f'<text class="soft" x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{label}</text>')
    if last:
        unit, word = _unit(length)
        step = _round_up(length / unit / 8)
        at = 0.0
        while at <= length / unit:
            x = LEFT + (WIDTH - LEFT - RIGHT) * at * unit / length
            label = f"{at:g} {word}" if at == 0 else f"{at:g}"
            parts.append(f'<text class="soft" x="{x:.1f}" y="{begin + PANEL + 20}" text-anchor="middle">{label}</text>')
            at += step
    return "".join(parts)


def _unit(length: int) -> tuple[int, str]:
    for unit, word in ((DAY, "days"), (HOUR, "h"), (MINUTE, "min")):
        if length >= 3 * unit:
            return unit, word
    return SECOND, "s"


def _places(times: Sequence[int], values: Sequence[float], begin: int, scale: _Scale, length: int, steps: bool) -> str:
    parts: list[str] = []
    before = ""
    for at, value in zip(times, values, strict=True):
        x, y = f"{LEFT + (WIDTH - LEFT - RIGHT) * at / length:.1f}", f"{begin + PANEL * (1 - scale.height(value)):.1f}"
        if not parts:
            parts.append(f"M{x} {y}")
        elif not steps:
            parts.append(f"L{x} {y}")
        elif y != before:
            parts.append(f"H{x}V{y}")
        before = y
    return "".join(parts) + f"H{WIDTH - RIGHT}"


def _round_up(value: float) -> float:
    """The next of 1, 2, 5 times a power of ten."""
    if value <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(power * step for step in (1, 2, 5, 10) if value <= power * step * (1 + 1e-9))
