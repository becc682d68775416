"""The metrics page: counters of the shared segment, and the master's own state, in Prometheus' text format."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from lb.telemetry import datagrams, sessions
from lb.telemetry.datagrams import DatagramTotals
from lb.telemetry.series import CODES, Series

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
        yield from _requests("route", "route", {(name,): s for name, s in snapshot.routes.items()}, ("route",))
        yield from _further_tries(snapshot.routes)
        yield from _cache_use(snapshot.routes)
        pools: dict[tuple[str, ...], Series] = {}
        for (pool, _), series in snapshot.endpoints.items():
            pools[(pool,)] = pools[(pool,)] + series if (pool,) in pools else series
        yield from _requests("pool", "pool (each try counts)", pools, ("pool",))
        endpoints: dict[tuple[str, ...], Series] = dict(snapshot.endpoints.items())
        yield from _requests("endpoint", "endpoint (each try counts)", endpoints, ("pool", "endpoint"))
        yield from _probes(snapshot.endpoints)
        yield from _queues(snapshot.queues)
        yield from _listeners(snapshot.listeners)
        yield from datagrams.families(snapshot.datagrams)
        yield from _endpoints(snapshot.status)
        yield from _sequences(snapshot.status)
        yield from sessions.families(snapshot.sessions, snapshot.status)
        yield from _daemon(snapshot.status)
        yield from _managed(snapshot.status)
        yield from _discovery(snapshot.status)
        yield from _cache(snapshot.status)
        yield from _tls(snapshot)
        yield from _http2(snapshot)


def _counter(name: str, text: str, labels: Sequence[str], rows: Iterable[tuple[Sequence[str], float]]) -> Metric:
    family = CounterMetricFamily(f"tidegate_{name}", text, labels=labels)
    for values, value in rows:
        family.add_metric(values, value)
    return family


def _gauge(name: str, text: str, labels: Sequence[str], rows: Iterable[tuple[Sequence[str], float]]) -> Metric:
    family = GaugeMetricFamily(f"tidegate_{name}", text, labels=labels)
    for values, value in rows:
        family.add_metric(values, value)
    return family


def _requests(kind: str, text: str, rows: Mapping[tuple[str, ...], Series], labels: Sequence[str]) -> Iterator[Metric]:
    yield _counter(
        f"{kind}_requests",
        f"Requests by {text} and status class",
        (*labels, "code"),
        (((*key, code), n) for key, s in rows.items() for code, n in zip(CODES, s.codes, strict=True)),
    )
    histogram = HistogramMetricFamily(
        f"tidegate_{kind}_request_duration_seconds", f"Time from request to answer by {text}", labels=labels
    )
    for key, s in rows.items():
        histogram.add_metric(key, s.cumulative(), s.duration_ns / 1e9)
    yield histogram
    yield _gauge(
        f"{kind}_in_flight",
        f"Requests in flight by {text}",
        labels,
        ((key, max(0, s.started - s.finished)) for key, s in rows.items()),
    )
    for name, help_text, attribute in (
        ("received_bytes", "Body bytes that came in", "bytes_in"),
        ("sent_bytes", "Body bytes that went out", "bytes_out"),
        ("retries", "Further tries", "retries"),
        ("timeouts", "Deadlines that passed", "timeouts"),
        ("connect_errors", "Connections that could not be made", "connect_errors"),
        ("response_errors", "Answers that broke off or made no sense", "response_errors"),
        ("rejected", "Requests refused by us", "rejected"),
    ):
        yield _counter(
            f"{kind}_{name}",
            f"{help_text} by {text}",
            labels,
            ((key, getattr(s, attribute)) for key, s in rows.items()),
        )


def _further_tries(routes: Mapping[str, Series]) -> Iterator[Metric]:
    yield _counter(
        "route_retries_refused",
        "Retries that the route's budget did not allow",
        ("route",),
        (((name,), s.retries_refused) for name, s in routes.items()),
    )
    yield _counter("route_hedges", "Hedges begun", ("route",), (((name,), s.hedges) for name, s in routes.items()))
    results = {"won": "hedges_won", "lost": "hedges_lost", "refused": "hedges_refused"}
    yield _counter(
        "route_hedge_results",
        "Hedges by what became of them: their answer was taken, they were given up or failed, or the budget did not "
        "allow them",
        ("route", "result"),
        (((name, result), getattr(s, word)) for name, s in routes.items() for result, word in results.items()),
    )


def _probes(endpoints: Mapping[tuple[str, str], Series]) -> Iterator[Metric]:
    """Only where there are any; they are in the words that routes have for hedges."""
    rows = [(key, s) for key, s in endpoints.items() if s.hedges]
    labels = ("pool", "endpoint")
    yield _counter("endpoint_probes", "Probes of its load that were sent", labels, ((key, s.hedges) for key, s in rows))
    reasons = {"timeout": "hedges_won", "failed": "hedges_lost", "no_report": "hedges_refused"}
    yield _counter(
        "endpoint_probe_failures",
        "Probes without an answer in time, without any, or with one that does not say what is in flight",
        (*labels, "reason"),
        (((*key, reason), getattr(s, word)) for key, s in rows for reason, word in reasons.items()),
    )


def _cache_use(routes: Mapping[str, Series]) -> Iterator[Metric]:
    results = ("hit", "miss", "collapsed", "bypass", "stored")
    yield _counter(
        "cache_requests",
        "Requests by what the result cache did with them",
        ("route", "result"),
        (((name, result), getattr(s, f"cache_{result}")) for name, s in routes.items() for result in results),
    )


def _queues(queues: Mapping[str, Series]) -> Iterator[Metric]:
    yield _gauge(
        "pool_queue_length",
        "Requests that wait for an endpoint of the pool",
        ("pool",),
        (((name,), max(0, s.started - s.finished)) for name, s in queues.items()),
    )
    wait = HistogramMetricFamily(
        "tidegate_pool_queue_wait_seconds", "Time that requests waited for an endpoint", labels=("pool",)
    )
    for name, s in queues.items():
        wait.add_metric((name,), s.cumulative(), s.duration_ns / 1e9)
    yield wait
    reasons = {
        "full": "rejected",
        "late": "cache_miss",
        "shed": "cache_stored",
        "timeout": "timeouts",
        "left": "cache_collapsed",
    }
    yield _counter(
        "pool_queue_ended",
        "Requests that got no endpoint: the queue was full, they would have been late, they were shed in an overload, "
        "they waited too long, or their client left",
        ("pool", "reason"),
        (((name, reason), getattr(s, word)) for name, s in queues.items() for reason, word in reasons.items()),
    )


def _listeners(listeners: Mapping[str, Series]) -> Iterator[Metric]:
    rows = listeners.items()
    yield _counter(
        "listener_connections", "Connections accepted", ("listener",), (((n,), s.connections) for n, s in rows)
    )
    yield _counter(
        "listener_rejected", "Requests or sessions refused", ("listener",), (((n,), s.rejected) for n, s in rows)
    )
    yield _gauge(
        "listener_open_connections", "Connections that are open", ("listener",),
        (((n,), max(0, s.started - s.finished)) for n, s in rows),
    )  # fmt: skip
    yield _counter(
        "listener_received_bytes", "Bytes from TCP clients", ("listener",), (((n,), s.bytes_in) for n, s in rows)
    )
    yield _counter("listener_sent_bytes", "Bytes to TCP clients", ("listener",), (((n,), s.bytes_out) for n, s in rows))


def _endpoints(status: Mapping[str, Any]) -> Iterator[Metric]:
    rows = [((p["name"], e["address"]), e) for p in status["pools"] for e in p["endpoints"]]
    labels = ("pool", "endpoint")
    yield _gauge("endpoint_up", "Whether its checks say it is up", labels, ((k, e["health"] == "up") for k, e in rows))
    yield _gauge(
        "endpoint_draining", "Whether it takes no new requests", labels, ((k, e["admin"] != "enabled") for k, e in rows)
    )
    yield _gauge("endpoint_weight", "Its weight", labels, ((k, e["weight"]) for k, e in rows))
    yield _gauge(
        "endpoint_outstanding", "Requests it has now, over all workers", labels, ((k, e["in_flight"]) for k, e in rows)
    )
    yield _gauge(
        "endpoint_model_ready", "Whether the model is ready there, of models whose readiness is known",
        (*labels, "model"),
        (((*k, model), ready) for k, e in rows for model, ready in (e.get("models") or {}).items()),
    )  # fmt: skip
    weighed = [(k, e["outstanding_cost"]) for k, e in rows if e.get("outstanding_cost") is not None]
    yield _gauge(
        "endpoint_outstanding_cost",
        "What the requests cost that it has now, where an average request of its pool costs 1",
        labels,
        weighed,
    )
    yield from _costs(status["pools"])
    yield from _agents([(k, e["agent"]) for k, e in rows if e.get("agent")])
    yield from _steering(status["pools"], [(k, e["steering"]) for k, e in rows if e.get("steering")])


def _costs(pools: Sequence[Mapping[str, Any]]) -> Iterator[Metric]:
    rows = [((p["name"], name), model) for p in pools if p.get("cost") for name, model in p["cost"]["models"].items()]
    labels = ("pool", "model")
    yield _gauge(
        "model_cost", "What a unit of the model costs, relative to its pool's", labels,
        ((k, m["relative"]) for k, m in rows),
    )  # fmt: skip
    yield _gauge(
        "model_unit_seconds", "What a unit of the model takes an endpoint", labels, ((k, m["unit_s"]) for k, m in rows)
    )


def _agents(rows: Sequence[tuple[tuple[str, str], Mapping[str, Any]]]) -> Iterator[Metric]:
    labels = ("pool", "endpoint")
    yield _gauge(
        "endpoint_agent_up", "Whether its agent does not say that it is down", labels,
        ((k, a["health"] in (None, "up")) for k, a in rows),
    )  # fmt: skip
    yield _gauge(
        "endpoint_agent_weight_percent", "The part of its weight that its agent wants", labels,
        ((k, 100 if a["weight_percent"] is None else a["weight_percent"]) for k, a in rows),
    )  # fmt: skip
    yield _counter("endpoint_agent_asked", "Questions to its agent", labels, ((k, a["asked"]) for k, a in rows))
    yield _counter(
        "endpoint_agent_failures", "Questions that its agent did not answer", labels,
        ((k, a["failures"]) for k, a in rows),
    )  # fmt: skip


def _steering(
    pools: Sequence[Mapping[str, Any]], rows: Sequence[tuple[tuple[str, str], Mapping[str, Any]]]
) -> Iterator[Metric]:
    labels = ("pool", "endpoint")
    yield _gauge(
        "endpoint_ejected", "Whether it is ejected for its answers", labels,
        ((k, s["standing"] == "ejected") for k, s in rows),
    )  # fmt: skip
    yield _gauge(
        "endpoint_probation", "Whether it is on probation after an ejection", labels,
        ((k, s["standing"] == "probation") for k, s in rows),
    )  # fmt: skip
    yield _counter(
        "endpoint_ejections", "Ejections by what it was ejected for", (*labels, "reason"),
        (((*k, reason), n) for k, s in rows for reason, n in s["ejections"].items()),
    )  # fmt: skip
    yield _gauge("endpoint_share", "The part of its weight that it gets", labels, ((k, s["share"]) for k, s in rows))
    steered = [p for p in pools if any(p["name"] == pool for (pool, _), _ in rows)]
    yield _gauge(
        "pool_panic", "Whether too few of its endpoints are healthy to leave out the others", ("pool",),
        (((p["name"],), p["panic"]) for p in steered),
    )  # fmt: skip
    yield _counter("pool_panics", "Panics so far", ("pool",), (((p["name"],), p["panics"]) for p in steered))
    yield from _levels([p for p in pools if p.get("levels")])


_PARTS = (("own", "own_zone"), ("other", "other_zones"))


def _levels(pools: Sequence[Mapping[str, Any]]) -> Iterator[Metric]:
    rows = [((p["name"], str(level["priority"])), level) for p in pools for level in p["levels"]]
    labels = ("pool", "priority")
    yield _gauge(
        "pool_priority_share", "The part of the pool's requests that the endpoints of this priority get", labels,
        ((k, level["share"]) for k, level in rows),
    )  # fmt: skip
    yield _gauge(
        "pool_priority_healthy", "Endpoints of this priority that can have requests", labels,
        ((k, level["healthy"]) for k, level in rows),
    )  # fmt: skip
    yield _gauge(
        "pool_zone_share", "The part of the pool's requests that the endpoints of the own, or of other zones get",
        (*labels, "zone"),
        (((*k, zone), level[key]) for k, level in rows if level["own_zone"] is not None for zone, key in _PARTS),
    )  # fmt: skip
    yield _counter(
        "pool_failovers", "Times that endpoints of another than the first priority began to get requests", ("pool",),
        (((p["name"],), p["failovers"]) for p in pools),
    )  # fmt: skip


def _sequences(status: Mapping[str, Any]) -> Iterator[Metric]:
    rows = [
        ((p["name"], e["address"]), e.get("sequences", 0))
        for p in status["pools"]
        for e in (*p["endpoints"], *p.get("leaving", ()))
    ]
    yield _gauge("endpoint_sequences", "Sequences that are open at the endpoint", ("pool", "endpoint"), rows)
    totals = status.get("sequences", {})
    for name, text in (
        ("opened", "Sequences that were begun"),
        ("lost", "Sequences that could not go on, as their endpoint was gone"),
        ("evicted", "Sequences that were forgotten before their time, to make room for others"),
    ):
        yield _counter(f"sequences_{name}", text, (), [((), totals.get(name, 0))])


def _daemon(status: Mapping[str, Any]) -> Iterator[Metric]:
    yield _gauge("build_info", "Version of the daemon", ("version",), [((status["version"],), 1)])
    yield _gauge("start_time_seconds", "Unix time of the start", (), [((), status["started_at"])])
    yield _gauge("plan_generation", "Generation of the plan in force", (), [((), status["generation"])])
    yield _counter("reloads", "Reloads by outcome", ("result",), (((k,), n) for k, n in status["reloads"].items()))
    last = status["last_reload"]
    yield _gauge("last_reload_success", "Whether the last reload took effect", (), [((), last is None or last["ok"])])
    workers = status["workers"]
    yield _gauge(
        "worker_up",
        "Whether the worker runs",
        ("worker",),
        (((str(w["index"]),), w["state"] == "running") for w in workers),
    )
    yield _counter(
        "worker_restarts",
        "Replacements of the worker",
        ("worker",),
        (((str(w["index"]),), w["restarts"]) for w in workers),
    )
    for name, text, key in (
        (
            "worker_overload_refused",
            "Requests refused because the worker had too much in flight or in memory",
            "refused_overload",
        ),
        ("worker_records_dropped", "Access records for which the ring had no room", "access_log_dropped"),
    ):
        yield _counter(name, text, ("worker",), (((str(w["index"]),), (w["stats"] or {}).get(key, 0)) for w in workers))
    yield _counter(
        "source_limit_crowded",
        "Connections and sessions that limits per source counted in their worker alone: no room in the table of all",
        (),
        [((), status.get("source_limits", {}).get("crowded", 0))],
    )
    yield _counter(
        "rate_limit_evictions",
        "Rate limit buckets that made room for others before they were full again",
        (),
        [((), status.get("rate_limits", {}).get("evicted", 0))],
    )
    yield _gauge(
        "worker_connections", "Client connections", ("worker",),
        (((str(w["index"]),), (w["stats"] or {}).get("connections", 0)) for w in workers),
    )  # fmt: skip
    yield _counter(
        "connections_refused",
        "Connections closed before they could ask for anything",
        ("worker", "reason"),
        (
            ((str(w["index"]), key.removeprefix("refused_")), n)
            for w in workers
            for key, n in (w["stats"] or {}).items()
            if key.startswith("refused_")
        ),
    )


def _managed(status: Mapping[str, Any]) -> Iterator[Metric]:
    pools = [(p["name"], p["managed"]) for p in status["pools"] if p["managed"]]
    counts = {
        (name, state): sum(r["state"] == state for r in managed["replicas"])
        for name, managed in pools
        for state in ("starting", "ready", "draining", "stopping", "backoff", "crash_loop")
    }
    yield _gauge("replicas", "Model servers by state", ("pool", "state"), counts.items())
    yield _gauge("replicas_wanted", "Model servers wished for", ("pool",), (((n,), m["wanted"]) for n, m in pools))
    yield _counter(
        "replica_restarts", "Restarts of model servers", ("pool",),
        (((n,), sum(r["restarts"] for r in m["replicas"])) for n, m in pools),
    )  # fmt: skip
    scaled = [(n, m["scaling"]) for n, m in pools if m.get("scaling")]
    yield _counter(
        "scale_events",
        "Changes of the number of model servers wished for",
        ("pool", "direction"),
        (((n, way), s[f"scaled_{way}"]) for n, s in scaled for way in ("up", "down")),
    )


def _discovery(status: Mapping[str, Any]) -> Iterator[Metric]:
    rows = [((p["name"], p["discovery"]["source"]), p["discovery"]) for p in status["pools"] if p.get("discovery")]
    if not rows:
        return
    labels = ("pool", "source")
    yield _gauge(
        "discovery_current",
        "Whether the last look at a source of endpoints went well",
        labels,
        ((key, int(row["state"] == "current")) for key, row in rows),
    )
    yield _gauge(
        "discovery_endpoints", "Endpoints that a source gives", labels, ((key, row["endpoints"]) for key, row in rows)
    )
    yield _gauge(
        "discovery_endpoints_left_out",
        "Endpoints that a source gives beyond max_endpoints",
        labels,
        ((key, row["left_out"]) for key, row in rows),
    )
    yield _gauge(
        "discovery_age_seconds",
        "Time since a source last answered well",
        labels,
        ((key, row["age_s"]) for key, row in rows if row["age_s"] is not None),
    )
    yield _counter(
        "discovery_looks",
        "Looks at a source of endpoints",
        (*labels, "result"),
        (
            ((*key, result), n)
            for key, row in rows
            for result, n in (("ok", row["looks"] - row["failures"]), ("failed", row["failures"]))
        ),
    )
    yield _counter(
        "discovery_changes",
        "Changes of the endpoints that a source gives",
        labels,
        ((key, row["changes"]) for key, row in rows),
    )


def _cache(status: Mapping[str, Any]) -> Iterator[Metric]:
    cache = status["cache"]
    if not cache or "entries" not in cache:
        return
    yield _gauge("cache_entries", "Objects in the result cache", (), [((), cache["entries"])])
    yield _gauge("cache_bytes", "Bytes they take", (), [((), cache["bytes"])])
    yield _gauge("cache_capacity_bytes", "Bytes there are", (), [((), cache["capacity"])])
    for name in (
        "hits",
        "misses",
        "stored",
        "declined_busy",
        "declined_size",
        "evictions",
        "expired",
        "broken_locks",
        "corrupt",
    ):
        yield _counter(f"cache_{name}", f"Result cache: {name.replace('_', ' ')}", (), [((), cache[name])])


def _tls(snapshot: Snapshot) -> Iterator[Metric]:
    tls = snapshot.status.get("tls") or {"certificates": (), "reloads": {}}
    rows = {(c["owner"], c["file"]): c["not_after"] for c in tls["certificates"]}
    yield _gauge(
        "tls_certificate_not_after_seconds",
        "Unix time at which a certificate in use expires",
        ("owner", "file"),
        rows.items(),
    )
    yield _counter(
        "tls_certificate_reloads",
        "Changes of certificates on disk, by whether they were taken into use",
        ("result",),
        (((result,), n) for result, n in tls["reloads"].items()),
    )
    # A listener has no cache: these words of its series count handshakes (lb/core/segment.h).
    results = (("full", "cache_hit"), ("resumed", "cache_miss"), ("failed", "cache_stored"))
    yield _counter(
        "tls_handshakes",
        "TLS handshakes of clients",
        ("listener", "result"),
        (((n, result), getattr(s, word)) for n, s in snapshot.listeners.items() for result, word in results),
    )


def _http2(snapshot: Snapshot) -> Iterator[Metric]:
    # Two more words that a listener has no other use for.
    for name, text, word in (
        ("http2_connections", "Connections of clients that speak HTTP/2", "cache_collapsed"),
        ("http2_floods", "HTTP/2 connections ended for a flood of control frames or resets", "cache_bypass"),
    ):
        rows = (((n,), getattr(s, word)) for n, s in snapshot.listeners.items())
        yield _counter(name, text, ("listener",), rows)
