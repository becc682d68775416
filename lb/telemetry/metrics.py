"""The metrics page: counters of the shared segment, and the master's own state, in Prometheus' text format."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from lb.telemetry import daemon, datagrams, pools, sessions, traffic
from lb.telemetry.datagrams import DatagramTotals
from lb.telemetry.series import Series

__all__ = ["CONTENT_TYPE_LATEST", "Snapshot", "exposition"]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a scrape shows: `status` is the status document, the rest counter totals by name."""

    status: Mapping[str, Any]
    listeners: Mapping[str, Series] = field(default_factory=dict)
    routes: Mapping[str, Series] = field(default_factory=dict)
    endpoints: Mapping[tuple[str, str], Series] = field(default_factory=dict)  # (pool, address)
    queues: Mapping[str, Series] = field(default_factory=dict)  # by pool; see TG_S_QUEUE_HEAD in segment.h
    sessions: Mapping[str, Series] = field(default_factory=dict)  # by pool; see TG_S_SESSION_HIT in segment.h
    datagrams: DatagramTotals = field(default_factory=DatagramTotals)


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
        yield from traffic.families(snapshot.listeners, snapshot.routes, snapshot.endpoints, snapshot.queues)
        yield from datagrams.families(snapshot.datagrams)
        yield from pools.families(snapshot.status)
        yield from sessions.families(snapshot.sessions, snapshot.status)
        yield from daemon.families(snapshot.status)
