"""The metrics of learned sessions (lb.upstream.sessions)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from lb.telemetry.series import Series


def families(pools: Mapping[str, Series], status: Mapping[str, Any]) -> Iterator[Metric]:
    """`pools` are the series of those that learn sessions, by name; `status` is the status document."""
    if not pools:
        return
    known = GaugeMetricFamily(
        "tidegate_endpoint_sessions", "Learned sessions that the endpoint has", labels=("pool", "endpoint")
    )
    for pool in status["pools"]:
        for endpoint in pool["endpoints"]:
            if endpoint.get("sessions") is not None:
                known.add_metric((pool["name"], endpoint["address"]), endpoint["sessions"])
    yield known
    requests = CounterMetricFamily(
        "tidegate_pool_session_requests",
        "Requests that named a session: its endpoint answered, another one did, or it was not known",
        labels=("pool", "result"),
    )
    learned = CounterMetricFamily(
        "tidegate_pool_sessions_learned", "Sessions learned from answers of endpoints", labels=("pool",)
    )
    ended = CounterMetricFamily("tidegate_pool_sessions_ended", "Sessions that endpoints ended", labels=("pool",))
    for name, series in pools.items():
        for result, word in (("hit", "cache_hit"), ("unknown", "cache_miss"), ("fallback", "cache_collapsed")):
            requests.add_metric((name, result), getattr(series, word))
        learned.add_metric((name,), series.cache_stored)
        ended.add_metric((name,), series.cache_bypass)
    yield from (requests, learned, ended)
    table = status["sessions"]
    room = GaugeMetricFamily("tidegate_sessions_capacity", "Sessions that the table has places for", labels=())
    room.add_metric((), table["capacity"])
    yield room
    evicted = CounterMetricFamily(
        "tidegate_sessions_evicted",
        "Sessions that were forgotten before their time, to make room for others",
        labels=(),
    )
    evicted.add_metric((), table["evicted"])
    yield evicted
