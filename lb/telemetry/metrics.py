"""The metrics page: counters of the shared segment, and the master's own state, in Prometheus' text format."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from msgspec import Struct, field
from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from lb.telemetry import daemon, models, pools, traffic
from lb.telemetry.series import Totals

__all__ = ["CONTENT_TYPE_LATEST", "Snapshot", "exposition"]


class Snapshot(Struct, frozen=True):
    """What a scrape shows: `status` is the status document, `totals` are all series, `kernel_drops` the datagrams
    that a udp listener's sockets had no room for, by listener, and `models` what model servers have counted, where
    they were asked."""

    status: Mapping[str, Any]
    totals: Totals = field(default_factory=dict)
    kernel_drops: Mapping[str, int] = field(default_factory=dict)
    models: Sequence[Mapping[str, Any]] = ()


def exposition(snapshot: Snapshot) -> bytes:
    """The page, encoded; its content type is CONTENT_TYPE_LATEST."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(snapshot))
    return generate_latest(registry)


class _Collector:
    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    def collect(self) -> Iterator[Metric]:
        snapshot = self._snapshot
        yield from traffic.families(snapshot.totals)
        yield from pools.families(snapshot.status)
        yield from daemon.families(snapshot.status)
        yield from daemon.kernel_drops(snapshot.kernel_drops)
        yield from models.families(snapshot.models)
