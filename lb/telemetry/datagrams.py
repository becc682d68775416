"""Counters of datagrams and UDP sessions: the Python side of enum tg_udp_word in datagram.h, and their metrics."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from prometheus_client.core import Metric

from lb.telemetry.families import by_pool, counter, gauge

DROPS = (
    "sessions", "source", "size", "no_endpoint", "unreachable", "resources", "endpoint_full", "client_full", "draining",
    "error",
)  # fmt: skip
ENDS = ("idle", "answered", "refused", "down", "closed")
_PLAIN = ("received", "sent", "received_bytes", "sent_bytes", "reads", "writes", "started", "finished")
_DROPS, _ENDS = 8, 18


@dataclass(frozen=True, slots=True)
class DatagramSeries:
    """Totals of a udp listener (received from clients) or of an endpoint (received from it), over all workers."""

    received: int
    sent: int
    received_bytes: int
    sent_bytes: int
    reads: int
    writes: int
    started: int
    finished: int
    drops: tuple[int, ...]  # as DROPS
    ends: tuple[int, ...]  # as ENDS

    @classmethod
    def of(cls, words: Sequence[int]) -> DatagramSeries:
        """From `Segment.series_total`."""
        plain: dict[str, Any] = dict(zip(_PLAIN, words, strict=False))
        drops, ends = words[_DROPS : _DROPS + len(DROPS)], words[_ENDS : _ENDS + len(ENDS)]
        return cls(**plain, drops=tuple(drops), ends=tuple(ends))

    def __add__(self, other: DatagramSeries) -> DatagramSeries:
        return DatagramSeries.of([a + b for a, b in zip(self.words(), other.words(), strict=True)])

    def words(self) -> list[int]:
        """What `of` takes."""
        return [*(getattr(self, name) for name in _PLAIN), *self.drops, *self.ends]


@dataclass(frozen=True, slots=True)
class DatagramTotals:
    """What a scrape shows of UDP."""

    listeners: Mapping[str, DatagramSeries] = field(default_factory=dict)
    endpoints: Mapping[tuple[str, str], DatagramSeries] = field(default_factory=dict)  # (pool, address)
    kernel_drops: Mapping[str, int] = field(default_factory=dict)  # listener -> datagrams its sockets had no room for


_Rows = Mapping[tuple[str, ...], DatagramSeries]


def families(totals: DatagramTotals) -> Iterator[Metric]:
    """The metrics; none without a udp listener."""
    if not totals.listeners:
        return
    listeners: _Rows = {(name,): series for name, series in totals.listeners.items()}
    endpoints: _Rows = dict(totals.endpoints.items())
    yield from _traffic("listener", "clients", listeners, ("listener",))
    yield from _traffic("pool", "the pool's endpoints", by_pool(totals.endpoints), ("pool",))
    yield from _traffic("endpoint", "the endpoint", endpoints, ("pool", "endpoint"))
    yield counter(
        "udp_dropped_datagrams",
        "Datagrams that went no further, by reason",
        ("listener", "reason"),
        (((*key, why), n) for key, s in listeners.items() for why, n in zip(DROPS, s.drops, strict=True)),
    )
    yield counter(
        "udp_kernel_dropped_datagrams",
        "Datagrams that came faster than the workers took them",
        ("listener",),
        (((name,), n) for name, n in totals.kernel_drops.items()),
    )


def _traffic(kind: str, peer: str, rows: _Rows, labels: Sequence[str]) -> Iterator[Metric]:
    counters: tuple[tuple[str, str, Callable[[DatagramSeries], int]], ...] = (
        ("received_datagrams", f"Datagrams from {peer}", lambda s: s.received),
        ("sent_datagrams", f"Datagrams to {peer}", lambda s: s.sent),
        ("received_bytes", f"Bytes of datagrams from {peer}", lambda s: s.received_bytes),
        ("sent_bytes", f"Bytes of datagrams to {peer}", lambda s: s.sent_bytes),
        ("reads", f"System calls that brought datagrams from {peer}", lambda s: s.reads),
        ("writes", f"System calls that took datagrams to {peer}", lambda s: s.writes),
        ("sessions", f"Sessions begun with {peer}", lambda s: s.started),
    )
    for name, text, value in counters:
        yield counter(f"udp_{kind}_{name}", text, labels, ((key, value(s)) for key, s in rows.items()))
    yield counter(
        f"udp_{kind}_ended_sessions",
        f"Sessions ended with {peer}, by reason",
        (*labels, "reason"),
        (((*key, why), n) for key, s in rows.items() for why, n in zip(ENDS, s.ends, strict=True)),
    )
    yield gauge(
        f"udp_{kind}_open_sessions",
        f"Sessions open with {peer}",
        labels,
        ((key, max(0, s.started - s.finished)) for key, s in rows.items()),
    )
