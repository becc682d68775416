"""The metrics of learned sessions (lb.upstream.affinity.sessions)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from prometheus_client.core import Metric

from lb.telemetry.families import counter, gauge
from lb.telemetry.series import Series

_RESULTS = {"hit": "cache_hit", "unknown": "cache_miss", "fallback": "cache_collapsed"}


def families(pools: Mapping[str, Series], status: Mapping[str, Any]) -> Iterator[Metric]:
    """`pools` are the series of those that learn sessions, by name; `status` is the status document."""
    if not pools:
        return
    known = [((p["name"], e["address"]), e.get("sessions")) for p in status["pools"] for e in p["endpoints"]]
    yield gauge(
        "endpoint_sessions",
        "Learned sessions that the endpoint has",
        ("pool", "endpoint"),
        ((key, n) for key, n in known if n is not None),
    )
    yield counter(
        "pool_session_requests",
        "Requests that named a session: its endpoint answered, another one did, or it was not known",
        ("pool", "result"),
        (((name, result), getattr(s, word)) for name, s in pools.items() for result, word in _RESULTS.items()),
    )
    rows = [((name,), series) for name, series in pools.items()]
    yield counter(
        "pool_sessions_learned",
        "Sessions learned from answers of endpoints",
        ("pool",),
        ((key, s.cache_stored) for key, s in rows),
    )
    yield counter(
        "pool_sessions_ended", "Sessions that endpoints ended", ("pool",), ((key, s.cache_bypass) for key, s in rows)
    )
    table = status["sessions"]
    yield gauge("sessions_capacity", "Sessions that the table has places for", (), [((), table["capacity"])])
    yield counter(
        "sessions_evicted",
        "Sessions that were forgotten before their time, to make room for others",
        (),
        [((), table["evicted"])],
    )
