"""Traces: CSV files with a header, a column `second` or `minute`, and a column `requests`."""

from __future__ import annotations

import csv
import math
from array import array
from itertools import pairwise
from pathlib import Path

from msgspec import Struct

from lb.config.units import SECOND
from lb.errors import TidegateError

UNITS = {"second": SECOND, "minute": 60 * SECOND}
# Of a year in seconds: a bin far off, after a typing error, would fill the memory with empty ones.
MOST_BINS = 32_000_000
MOST_REQUESTS = 100_000_000  # of one bin, whose times are drawn at once: 1.6 GB


class Trace(Struct, frozen=True):
    """Requests in bins of `width` ns that follow each other without a gap; `counts` are int64, one a bin."""

    width: int
    counts: array[int]

    @property
    def requests(self) -> int:
        return sum(self.counts)

    @property
    def length(self) -> int:
        """ns from the begin of the first bin to the end of the last."""
        return self.width * len(self.counts)


def read(path: Path, scale: float = 1.0, where: str | None = None) -> Trace:
    """The trace in a file, every bin multiplied by `scale`.

    Rows of one bin are added up; bins without a row have no requests; other columns are ignored. Names of columns count
    without spaces around them, in upper or lower case; a byte order mark, as spreadsheets write it, is passed over.
    `where`, as "COLUMN=VALUE", takes only the rows that have that value. A bin is as wide as the least step between two
    rows. What scaling leaves of a request is carried over to the bins that follow. Raises TidegateError, with file and
    line, for what cannot be read.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            unit, rows = _rows(path, csv.DictReader(file), where)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise TidegateError(f"{path}: cannot be read as CSV: {error}") from error
    starts = sorted(rows)
    step = min((later - earlier for earlier, later in pairwise(starts)), default=1.0)
    first = starts[0]
    bins = round((starts[-1] - first) / step) + 1
    if bins > MOST_BINS:
        raise TidegateError(
            f"{path}: {bins} bins of {step:g} {unit}s between the first row and the last; {MOST_BINS} are the most"
        )
    exact = [0.0] * bins
    for start in starts:
        exact[round((start - first) / step)] += rows[start] * scale
    for number, value in enumerate(exact):
        if value > MOST_REQUESTS:
            at = f"{unit} {first + number * step:g}"
            raise TidegateError(f"{path}: {value:g} requests at {at}; {MOST_REQUESTS} in one bin are the most")
    return Trace(max(1, round(step * UNITS[unit])), _whole(exact))


def _rows(path: Path, lines: csv.DictReader[str], where: str | None) -> tuple[str, dict[float, float]]:
    """The unit of time, and requests by time in this unit."""
    lines.fieldnames = header = [name.strip().lower() for name in lines.fieldnames or ()]
    there = f"there are: {', '.join(header) or 'none'}"
    unit = next((name for name in UNITS if name in header), None)
    if unit is None:
        raise TidegateError(f"{path}: line 1: no column `second` or `minute` ({there})")
    column, sign, value = (where or "").partition("=")
    column = column.strip().lower()
    if where is not None and not (column and sign):
        raise TidegateError(f"cannot read {where!r}: rows are chosen with COLUMN=VALUE")
    for name in ("requests", *([column] if column else [])):
        if name not in header:
            raise TidegateError(f"{path}: line 1: no column {name!r} ({there})")
    for name in (unit, "requests"):
        if header.count(name) > 1:
            raise TidegateError(f"{path}: line 1: column {name!r} is there {header.count(name)} times")
    rows: dict[float, float] = {}
    for line in lines:
        if column and line[column] != value:
            continue
        at = f"{path}: line {lines.line_num}"
        start = _number(line[unit], unit, at)
        rows[start] = rows.get(start, 0.0) + _number(line["requests"], "requests", at)
    if not rows:
        raise TidegateError(f"{path}: no rows" + (f" where {where}" if where else ""))
    return unit, rows


def _number(text: str | None, name: str, at: str) -> float:
    if text is None:
        raise TidegateError(f"{at}: {name} is missing: the row has fewer columns than the header")
    try:
        value = float(text)
    except ValueError:
        raise TidegateError(f"{at}: {name} is not a number: {text!r}") from None
    if not math.isfinite(value) or value < 0:
        raise TidegateError(f"{at}: {name} must be 0 or more: {text}")
    return value


def _whole(exact: list[float]) -> array[int]:
    """Whole requests with the same sum up to any bin, less than one apart."""
    counts = array("q")
    total = given = 0.0
    for value in exact:
        total += value
        count = math.floor(total - given + 1e-9)
        counts.append(count)
        given += count
    return counts
