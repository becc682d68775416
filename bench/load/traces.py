"""Reading request-rate traces: CSV files with a header, a column of times and a column of request counts."""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from bench.errors import BenchError

UNITS = {"second": 1.0, "minute": 60.0}


@dataclass(frozen=True)
class Bins:
    """Requests counted in bins of equal `width` (seconds); `rows` are (start in seconds, requests), by start."""

    width: float
    rows: tuple[tuple[float, float], ...]


def read(
    path: Path,
    time: str | None = None,
    count: str = "requests",
    unit: str | None = None,
    where: str | None = None,
) -> Bins:
    """The bins of a trace file.

    `time` and `count` name columns; without `time` it is the column called second or minute. `unit` is that of the
    time column (default: the column's own name, else seconds). `where`, as "COLUMN=VALUE", takes only the rows that
    have that value. A bin is as wide as the smallest step between two rows; times without a row had no requests.
    Raises BenchError, naming file and line, for what cannot be read.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return _read(path, csv.DictReader(file), time, count, unit, where)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BenchError(f"{path}: cannot be read as CSV: {error}") from error


def _read(
    path: Path, lines: csv.DictReader[str], time: str | None, count: str, unit: str | None, where: str | None
) -> Bins:
    header = list(lines.fieldnames or [])
    if time is None:
        time = next((name for name in header if name in UNITS), None)
        if time is None:
            raise BenchError(f"{path}: line 1: name its column of times (there are: {', '.join(header) or 'none'})")
    column, wanted = _filter(where)
    for name in (time, count, *([column] if column else [])):
        if name not in header:
            raise BenchError(f"{path}: line 1: no column {name!r} (there are: {', '.join(header) or 'none'})")
    unit = unit or (time if time in UNITS else "second")
    if unit not in UNITS:
        raise BenchError(f"no such unit of time: {unit} (there are: {', '.join(UNITS)})")
    rows: list[tuple[float, float]] = []
    for line in lines:
        at = f"{path}: line {lines.line_num}"
        if column and line[column] != wanted:
            continue
        start = _number(line[time], time, at) * UNITS[unit]
        if rows and start <= rows[-1][0]:
            raise BenchError(f"{at}: time does not go forward; choose one of several series with where COLUMN=VALUE")
        rows.append((start, _number(line[count], count, at)))
    if not rows:
        raise BenchError(f"{path}: no rows" + (f" where {where}" if where else ""))
    width = min((b[0] - a[0] for a, b in pairwise(rows)), default=UNITS[unit])
    return Bins(width, tuple(rows))


def _filter(where: str | None) -> tuple[str, str]:
    if where is None:
        return "", ""
    column, sign, value = where.partition("=")
    if not column or not sign:
        raise BenchError(f"cannot read {where!r}: rows are chosen with COLUMN=VALUE")
    return column, value


def _number(text: str | None, name: str, at: str) -> float:
    try:
        value = float(text or "")
    except ValueError:
        raise BenchError(f"{at}: {name} is not a number: {text!r}") from None
    if not math.isfinite(value) or value < 0:
        raise BenchError(f"{at}: {name} must be 0 or more: {text}")
    return value
