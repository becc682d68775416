"""The lines of `tidegate top` for a terminal of some size."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from datetime import timedelta

from msgspec import Struct
from rich.cells import cell_len, set_cell_size
from rich.text import Text

from lb.cli.top.columns import COLUMNS, Column, column_of, duration, number, percent, size, sort
from lb.cli.top.rates import KINDS, MODEL, Rates, Row

_NARROW = (16, 8)  # cells that the first name, and a further one, have at least
_GAP = 1
_SHORT = 5  # rows of each table where all are shown
_HELP = "q quit  0-5 table  < > sort by  r reverse  / filter  j k scroll  space pause  + - interval"


class View(Struct):
    """What a user wants to see. `kind` is a table, or "" for all; `sort` a column's title, "" for the default;
    `scroll` how many rows are above the first that is shown."""

    kind: str = ""
    sort: str = ""
    reverse: bool = False
    filter: str = ""
    scroll: int = 0
    paused: bool = False
    typing: bool = False
    interval: float = 1.0


def lines(found: Rates, view: View, width: int, height: int | None) -> list[Text]:
    """All lines; `height` bounds their number, None does not."""
    shown = [*_head(found, width), Text()]
    kinds = [view.kind] if view.kind else [kind for kind in KINDS if kind != MODEL or found.rows[kind]]
    room = None if height is None else max(0, height - len(shown) - 1)
    for i, kind in enumerate(kinds):
        rows = selected(found.rows[kind], kind, view)
        most = None if room is None else _share(room, len(kinds) - i, len(rows))
        start = _start(view, len(rows), most) if view.kind else 0
        part = list(_table(kind, rows[start:], view, width, most))
        shown += [*part, Text()] if i < len(kinds) - 1 else part
        if room is not None:
            room = max(0, room - len(part) - 1)
    for line in shown:
        line.truncate(width, overflow="ellipsis")
    return shown if height is None else shown[: max(0, height - 1)]


def _share(room: int, tables: int, rows: int) -> int:
    """How many rows a table may have, where `room` lines are left for so many tables."""
    return max(1, room - 2) if tables == 1 else min(rows, max(1, min(_SHORT, room // tables - 2)))


def _start(view: View, rows: int, most: int | None) -> int:
    view.scroll = max(0, min(view.scroll, rows - (most or rows)))
    return view.scroll


def selected(rows: Sequence[Row], kind: str, view: View) -> list[Row]:
    """The rows that a view shows, in its order."""
    wanted = view.filter.lower()
    names = [column.key for column in COLUMNS[kind] if column.name or column.key in ("state", "protocol", "policy")]
    if kind == "route":
        names.append("listener")
    found = [row for row in rows if not wanted or any(wanted in str(row.get(name, "")).lower() for name in names)]
    return sort(found, sort_column(kind, view), view.reverse)


def sort_column(kind: str, view: View) -> Column:
    """The column that a table is sorted by: the view's, or requests where the table has none of that name."""
    found = column_of(kind, view.sort) or column_of(kind, "requests_per_s")
    assert found is not None
    return found


def status_line(view: View) -> str:
    """The last line of a terminal: the filter, or the keys."""
    if view.typing:
        return f"filter: {view.filter}_  (Enter: keep, Esc: none)"
    parts = [f"filter {view.filter!r}  " if view.filter else "", "paused  " if view.paused else ""]
    return f"{''.join(parts)}{_HELP}"


def _head(found: Rates, width: int) -> Iterator[Text]:
    s = found.summary
    up = timedelta(seconds=int(s["uptime_s"]))
    first = (f"tidegate {s['version']}", s["state"], f"up {up}", f"plan {s['generation']}")
    workers = f"{s['workers_running']} of {s['workers']} workers"
    yield from _folded(
        [Text(part, "bold") for part in first]
        + [Text(workers, "bold" if s["workers_running"] == s["workers"] else "bold red")]
        + [Text(time.strftime("%H:%M:%S")), Text(f"over {found.seconds:.2g} s")],
        width,
    )
    times = (f"{key[:3]} {'-' if s.get(key) is None else duration(s[key])}" for key in ("p50_s", "p95_s", "p99_s"))
    parts = [f"requests {number(s.get('requests_per_s', 0))}/s", *times, f"in flight {number(s['in_flight'])}"]
    parts += [f"waiting {number(s['waiting'])}", f"connections {number(s['connections'])}"]
    yield from _folded([Text(part) for part in parts], width)
    yield from _folded(list(_errors(s)), width)
    missing = s["endpoints"] - s["endpoints_usable"]
    rest = [Text(f"endpoints {s['endpoints_usable']} of {s['endpoints']} take requests", "red" if missing else "")]
    if s.get("cache") is not None:
        c, share = s["cache"], s.get("cache_hit_share")
        rest += [
            Text(f"cache {percent(share) if share is not None else '-'} hits"),
            Text(f"{number(c['entries'])} entries"),
            Text(f"{size(c['bytes'])} of {size(c['capacity'])}"),
            Text(f"evictions {number(c['evictions_per_s'])}/s"),
        ]
    yield from _folded(rest, width)
    last = s["last_reload"]
    if last is not None and not last["ok"]:
        yield Text(f"the last reload failed: {last['error']}".splitlines()[0], "red")


def _folded(parts: Sequence[Text], width: int) -> Iterator[Text]:
    """The parts side by side, on as many lines as they need."""
    line = Text()
    for part in parts:
        if line and line.cell_len + 2 + part.cell_len > width:
            yield line
            line = Text("  ")
        elif line:
            line.append("  ")
        line.append_text(part)
    yield line


def _errors(s: Row) -> Iterator[Text]:
    names = (
        ("errors_per_s", "errors"),
        ("4xx_per_s", "4xx"),
        ("429_per_s", "429"),
        ("5xx_per_s", "5xx"),
        ("grpc_errors_per_s", "grpc"),
        ("timeouts_per_s", "timeout"),
        ("rejected_per_s", "rejected"),
        ("queue_refused_per_s", "queue"),
        ("connect_errors_per_s", "connect"),
        ("response_errors_per_s", "broken"),
        ("client_aborts_per_s", "aborts"),
    )
    for key, name in names:
        value = s.get(key, 0)
        yield Text(f"{name} {number(value)}{'/s' if name == 'errors' else ''}", "red" if value else "")


def _table(kind: str, rows: Sequence[Row], view: View, width: int, most: int | None) -> Iterator[Text]:
    columns = COLUMNS[kind]
    visible = rows if most is None else rows[:most]
    cells = [[column.cell(row) for column in columns] for row in visible]
    ordered = sort_column(kind, view)
    # By all rows, so that scrolling does not move the columns.
    wide = [
        max([len(c.title), 6 if not c.name else 0, *(cell_len(row[i].plain) for row in cells)])
        for i, c in enumerate(columns)
    ]
    widths = _fit(columns, wide, width, ordered)
    line = Text()
    for i, column in enumerate(columns):
        if i in widths:
            text = set_cell_size(column.title, widths[i]) if column.name else column.title.rjust(widths[i])
            line.append(text + " " * _GAP, "reverse bold" if column is ordered else "bold")
    yield line
    for row in cells:
        line = Text()
        for i, column in enumerate(columns):
            if i in widths:
                text = _short(row[i].plain, widths[i]) if column.name else row[i].plain.rjust(widths[i])
                line.append(text + " " * _GAP, row[i].style)
        yield line
    hidden = len(rows) - len(visible)
    if hidden > 0:
        yield Text(f"… {hidden} more", "dim")
    elif not rows:
        yield Text("none" if not view.filter else f"none with {view.filter!r}", "dim")


def _fit(columns: Sequence[Column], wide: Sequence[int], width: int, ordered: Column) -> dict[int, int]:
    """The width of each column that has room: by rank, the one that the table is sorted by before others."""
    order = sorted(range(len(columns)), key=lambda i: (-1 if columns[i] is ordered else columns[i].rank, i))
    widths: dict[int, int] = {}
    left = width
    for i in order:
        least = min(wide[i], _NARROW[i > 0]) if columns[i].name else wide[i]
        if least + _GAP <= left:
            widths[i] = least
            left -= least + _GAP
    for i in sorted(widths):
        if columns[i].name:
            more = min(left, wide[i] - widths[i])
            widths[i] += more
            left -= more
    return widths


def _short(name: str, width: int) -> str:
    """A name in `width` cells; of a long one the end stays, by which paths and addresses differ."""
    if cell_len(name) <= width:
        return name + " " * (width - cell_len(name))
    head = max(0, width // 4)
    tail = width - head - 1
    text = f"{name[:head]}…{name[-tail:] if tail else ''}"
    return set_cell_size(text, width)
