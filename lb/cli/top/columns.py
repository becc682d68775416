"""The columns of each table: what they show of a row, how wide they are, and which give way on a narrow terminal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from msgspec import Struct
from rich.text import Text

from lb.cli.plain import plain
from lb.cli.top.rates import MODEL, Row

Style = Callable[[Any], str]


class Column(Struct, frozen=True):
    """`key` is the row's field, `rank` the order in which columns find room: 0 first. A `name` takes what is left."""

    key: str
    title: str
    show: Callable[[Any], str]
    rank: int
    name: bool = False
    style: Style = lambda value: ""

    def cell(self, row: Row) -> Text:
        value = row.get(self.key)
        return Text("-" if value is None else plain(self.show(value)), "" if value is None else self.style(value))


def number(value: float) -> str:
    """Three digits, with k, M or G."""
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit * 0.9995:
            return f"{value / limit:.3g}{unit}" if value < limit * 999.5 else f"{value / limit:.0f}{unit}"
    if value >= 99.95 or float(value).is_integer():
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 0.95 else f"{value:.2g}"


def duration(seconds: float) -> str:
    """With its unit: µs, ms or s."""
    if seconds < 0.0009995:
        return f"{seconds * 1e6:.0f}µs"
    if seconds < 0.9995:
        return f"{seconds * 1e3:.3g}ms"
    return f"{seconds:.3g}s"


def _sockets(value: Sequence[str]) -> str:
    """The first of a listener's, and how many more there are."""
    return "-" if not value else value[0] + (f" +{len(value) - 1}" if len(value) > 1 else "")


def size(value: float) -> str:
    """Bytes, in powers of 1024."""
    for unit in ("", "K", "M", "G"):
        if value < 999.5:
            return f"{value:.0f}{unit}" if unit == "" or value >= 99.5 else f"{value:.2g}{unit}"
        value /= 1024
    return f"{value:.3g}T"


def percent(share: float) -> str:
    return f"{100 * share:.3g}%" if share < 0.9995 or share == 1 else "99.9%"


def _bad(value: Any) -> str:
    return "red" if value else ""


def _state(value: Any) -> str:
    good, bad = ("up", "unchecked"), ("down", "ejected")
    return "green" if value in good else "red" if value in bad else "yellow"


def _count(key: str, title: str, rank: int, style: Style = lambda value: "") -> Column:
    return Column(key, title, number, rank, style=style)


_RATES = (_count("requests_per_s", "req/s", 0), _count("in_flight", "flight", 2))
_TIMES = (
    Column("p50_s", "p50", duration, 4),
    Column("p95_s", "p95", duration, 3),
    Column("p99_s", "p99", duration, 1),
)
_ERRORS = (
    _count("errors_per_s", "err/s", 1, _bad),
    Column("error_share", "err%", percent, 5, style=_bad),
    _count("4xx_per_s", "4xx/s", 7),
    _count("429_per_s", "429/s", 6, _bad),
    _count("5xx_per_s", "5xx/s", 6, _bad),
    _count("grpc_errors_per_s", "grpc/s", 8, _bad),
    _count("timeouts_per_s", "tmo/s", 7, _bad),
)
_BYTES = (
    Column("received_bytes_per_s", "in B/s", size, 12),
    Column("sent_bytes_per_s", "out B/s", size, 12),
)
_ROUTE_ERRORS = (
    _count("rejected_per_s", "rej/s", 6, _bad),
    _count("client_aborts_per_s", "abort/s", 10),
)
_HIT = Column("cache_hit_share", "hit%", percent, 6)
_ATTEMPT_ERRORS = (
    _count("connect_errors_per_s", "cfail/s", 8, _bad),
    _count("response_errors_per_s", "broken/s", 9, _bad),
    _count("retries_per_s", "retry/s", 10),
)

COLUMNS: dict[str, tuple[Column, ...]] = {
    "listener": (
        Column("listener", "listener", str, 0, True),
        Column("protocol", "proto", str, 9),
        Column("sockets", "on", _sockets, 12),
        _count("connections", "conns", 2),
        _count("connections_per_s", "new/s", 5),
        _RATES[0],
        *_TIMES,
        *_ERRORS,
        *_ROUTE_ERRORS,
        _count("tls_failures_per_s", "tls/s", 11, _bad),
        _HIT,
        *_BYTES,
    ),
    "route": (
        Column("route", "route", str, 0, True),
        *_RATES,
        *_TIMES,
        *_ERRORS,
        *_ROUTE_ERRORS,
        _count("retries_per_s", "retry/s", 10),
        _count("hedges_per_s", "hedge/s", 11),
        _HIT,
        *_BYTES,
    ),
    "pool": (
        Column("pool", "pool", str, 0, True),
        Column("policy", "policy", str, 13),
        _count("usable", "up", 2, lambda value: "" if value else "red"),
        _count("endpoints", "of", 5),
        *_RATES,
        _count("waiting", "queue", 4),
        Column("queue_wait_p95_s", "wait95", duration, 9),
        *_TIMES,
        *_ERRORS,
        _count("queue_refused_per_s", "shed/s", 9, _bad),
        *_ATTEMPT_ERRORS,
        *_BYTES,
    ),
    "endpoint": (
        Column("endpoint", "endpoint", str, 0, True),
        Column("pool", "pool", str, 3, True),
        Column("state", "state", str, 1, style=_state),
        _count("weight", "weight", 11),
        *_RATES,
        _count("limit", "limit", 9),
        *_TIMES,
        *_ERRORS,
        *_ATTEMPT_ERRORS,
        *_BYTES,
    ),
    MODEL: (
        Column("model", "model", str, 0, True),
        Column("pool", "pool", str, 3, True),
        _RATES[0],
        *_TIMES,
        *_ERRORS,
        _count("refused_per_s", "refus/s", 7, _bad),
        _count("client_aborts_per_s", "abort/s", 10),
        _HIT,
        Column("version", "version", str, 9),
        _count("server_requests_per_s", "srv/s", 9),
        _count("server_errors_per_s", "srverr/s", 9, _bad),
        Column("server_mean_s", "mean", duration, 6),
        Column("server_queue_mean_s", "queue", duration, 8),
        Column("server_compute_mean_s", "compute", duration, 7),
        _count("rows_per_s", "rows/s", 8),
        _count("rows_per_run", "batch", 7),
        Column("server_hit_share", "srvhit%", percent, 11),
        *_BYTES,
    ),
}


def column_of(kind: str, key: str) -> Column | None:
    """The column that is called so in the table, by its key or its title."""
    return next((c for c in COLUMNS[kind] if key in (c.key, c.title)), None)


def keys() -> list[str]:
    """Titles by which tables can be sorted."""
    return list(dict.fromkeys(column.title for columns in COLUMNS.values() for column in columns))


def sort(rows: Sequence[Row], column: Column, reverse: bool) -> list[Row]:
    """Numbers from the largest, names from A; `reverse` the other way round. Rows without a value stay last."""
    known = [row for row in rows if row.get(column.key) is not None]
    rest = [row for row in rows if row.get(column.key) is None]
    words = any(isinstance(row[column.key], str) for row in known)
    return [*sorted(known, key=lambda row: row[column.key], reverse=words == reverse), *rest]
