"""Metrics of the traffic: counters of the shared segment, by listener, route, pool and endpoint."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from prometheus_client.core import Metric

from lb.telemetry.families import by_pool, counter, durations, gauge
from lb.telemetry.series import CODES, GRPC_CODES, Series


def families(
    listeners: Mapping[str, Series],
    routes: Mapping[str, Series],
    endpoints: Mapping[tuple[str, str], Series],
    queues: Mapping[str, Series],
) -> Iterator[Metric]:
    """Totals by name of listener and route, by (pool, address) of endpoint, and by pool of queue."""
    yield from _requests("route", "route", {(name,): s for name, s in routes.items()}, ("route",))
    yield from _further_tries(routes)
    yield from _cache_use(routes)
    yield from _requests("pool", "pool (each try counts, and each copy of a mirror)", by_pool(endpoints), ("pool",))
    yield from _requests(
        "endpoint", "endpoint (each try and copy counts)", dict(endpoints.items()), ("pool", "endpoint")
    )
    yield from _probes(endpoints)
    yield from _queues(queues)
    yield from _listeners(listeners)
    yield from _declined(listeners)
    yield from _handshakes(listeners)
    yield from _http2(listeners)


# What only one of the two counts.
_OF_ROUTES = (("rejected", "Requests refused by us", "rejected"),)
_OF_ENDPOINTS = (
    ("connect_errors", "Connections that could not be made", "connect_errors"),
    ("response_errors", "Answers that broke off or made no sense", "response_errors"),
)


def _requests(kind: str, text: str, rows: Mapping[tuple[str, ...], Series], labels: Sequence[str]) -> Iterator[Metric]:
    yield counter(
        f"{kind}_requests",
        f"Requests by {text} and status class",
        (*labels, "code"),
        (((*key, code), n) for key, s in rows.items() for code, n in zip(CODES, s.codes, strict=True)),
    )
    yield counter(
        f"{kind}_grpc_requests",
        f"gRPC calls by {text} and gRPC status: the number, and the name that goes with it",
        (*labels, "grpc_status", "grpc_code"),
        (
            ((*key, str(number), code), n)
            for key, s in rows.items()
            if any(s.grpc)
            for number, (code, n) in enumerate(zip(GRPC_CODES, s.grpc, strict=True))
        ),
    )
    yield counter(
        f"{kind}_errors",
        f"Answers that are the server's fault by {text}: HTTP 5xx, or a gRPC status that stands for one",
        labels,
        ((key, s.faults) for key, s in rows.items()),
    )
    yield durations(f"{kind}_request_duration_seconds", f"Time from request to answer by {text}", labels, rows.items())
    yield gauge(
        f"{kind}_in_flight",
        f"Requests in flight by {text}",
        labels,
        ((key, max(0, s.started - s.finished)) for key, s in rows.items()),
    )
    own = _OF_ROUTES if kind == "route" else _OF_ENDPOINTS
    for name, help_text, attribute in (
        ("received_bytes", "Body bytes that came in", "bytes_in"),
        ("sent_bytes", "Body bytes that went out", "bytes_out"),
        ("retries", "Further tries", "retries"),
        ("timeouts", "Deadlines that passed", "timeouts"),
        *own,
    ):
        yield counter(
            f"{kind}_{name}",
            f"{help_text} by {text}",
            labels,
            ((key, getattr(s, attribute)) for key, s in rows.items()),
        )


def _further_tries(routes: Mapping[str, Series]) -> Iterator[Metric]:
    yield counter(
        "route_retries_refused",
        "Retries that the route's budget did not allow",
        ("route",),
        (((name,), s.retries_refused) for name, s in routes.items()),
    )
    yield counter("route_hedges", "Hedges begun", ("route",), (((name,), s.hedges) for name, s in routes.items()))
    results = {"won": "hedges_won", "lost": "hedges_lost", "refused": "hedges_refused"}
    yield counter(
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
    yield counter("endpoint_probes", "Probes of its load that were sent", labels, ((key, s.hedges) for key, s in rows))
    reasons = {"timeout": "hedges_won", "failed": "hedges_lost", "no_report": "hedges_refused"}
    yield counter(
        "endpoint_probe_failures",
        "Probes without an answer in time, without any, or with one that does not say what is in flight",
        (*labels, "reason"),
        (((*key, reason), getattr(s, word)) for key, s in rows for reason, word in reasons.items()),
    )


def _cache_use(routes: Mapping[str, Series]) -> Iterator[Metric]:
    results = ("hit", "miss", "collapsed", "bypass", "stored")
    yield counter(
        "cache_requests",
        "Requests by what the result cache did with them",
        ("route", "result"),
        (((name, result), getattr(s, f"cache_{result}")) for name, s in routes.items() for result in results),
    )


def _queues(queues: Mapping[str, Series]) -> Iterator[Metric]:
    yield gauge(
        "pool_queue_length",
        "Requests that wait for an endpoint of the pool",
        ("pool",),
        (((name,), max(0, s.started - s.finished)) for name, s in queues.items()),
    )
    yield durations(
        "pool_queue_wait_seconds",
        "Time that requests waited for an endpoint",
        ("pool",),
        (((name,), s) for name, s in queues.items()),
    )
    reasons = {
        "full": "rejected",
        "late": "cache_miss",
        "shed": "cache_stored",
        "timeout": "timeouts",
        "left": "cache_collapsed",
    }
    yield counter(
        "pool_queue_ended",
        "Requests that got no endpoint: the queue was full, they would have been late, they were shed in an overload, "
        "they waited too long, or their client left",
        ("pool", "reason"),
        (((name, reason), getattr(s, word)) for name, s in queues.items() for reason, word in reasons.items()),
    )


def _listeners(listeners: Mapping[str, Series]) -> Iterator[Metric]:
    rows = listeners.items()
    yield counter(
        "listener_connections", "Connections accepted", ("listener",), (((n,), s.connections) for n, s in rows)
    )
    yield counter(
        "listener_rejected", "Requests or sessions refused", ("listener",), (((n,), s.rejected) for n, s in rows)
    )
    yield gauge(
        "listener_open_connections", "Connections that are open", ("listener",),
        (((n,), max(0, s.started - s.finished)) for n, s in rows),
    )  # fmt: skip
    yield counter(
        "listener_received_bytes", "Bytes from TCP clients", ("listener",), (((n,), s.bytes_in) for n, s in rows)
    )
    yield counter("listener_sent_bytes", "Bytes to TCP clients", ("listener",), (((n,), s.bytes_out) for n, s in rows))


def _declined(listeners: Mapping[str, Series]) -> Iterator[Metric]:
    # A listener has no retries and no hedges: these words of its series (lb/shared/segment.h).
    reasons = (("unrouted", "retries_refused"), ("malformed", "hedges"))
    yield counter(
        "listener_declined_requests",
        "Requests that reached no route, answered here: no route takes them (404, 405, 415), or they could not be "
        "understood (400, 408, 414, 431, 501, 505, or a stream that was reset)",
        ("listener", "reason"),
        (((n, reason), getattr(s, word)) for n, s in listeners.items() for reason, word in reasons),
    )


def _handshakes(listeners: Mapping[str, Series]) -> Iterator[Metric]:
    # A listener has no cache: these words of its series count handshakes (lb/shared/segment.h).
    results = (("full", "cache_hit"), ("resumed", "cache_miss"), ("failed", "cache_stored"))
    yield counter(
        "tls_handshakes",
        "TLS handshakes of clients",
        ("listener", "result"),
        (((n, result), getattr(s, word)) for n, s in listeners.items() for result, word in results),
    )


def _http2(listeners: Mapping[str, Series]) -> Iterator[Metric]:
    # Two more words that a listener has no other use for.
    for name, text, word in (
        ("http2_connections", "Connections of clients that speak HTTP/2", "cache_collapsed"),
        ("http2_floods", "HTTP/2 connections ended for a flood of control frames or resets", "cache_bypass"),
    ):
        rows = (((n,), getattr(s, word)) for n, s in listeners.items())
        yield counter(name, text, ("listener",), rows)
