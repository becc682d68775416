"""Rates, quantiles and shares between two readings of the counters (lb.control.admin.readings)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from msgspec import Struct

Document = Mapping[str, Any]
Row = dict[str, Any]

KINDS = ("listener", "route", "pool", "endpoint", "model")
MODEL = "model"  # the kind for which the model servers may be asked, too
_QUANTILES = {"p50_s": 0.5, "p95_s": 0.95, "p99_s": 0.99}
# What of a route's look-ups was answered by the cache, and what was not.
_HITS = ("hit", "stale", "revalidated", "stale_if_error", "negative", "collapsed")
_MISSES = ("miss",)


class Rates(Struct, frozen=True):
    """What happened in `seconds`: `summary` of all of it, `rows` by kind. Keys name the units: `…_per_s`, `…_s`,
    `…_share` (0 to 1). A share or quantile of nothing is None."""

    seconds: float
    summary: Row
    rows: dict[str, list[Row]]

    def to_dict(self) -> dict[str, Any]:
        return {"seconds": round(self.seconds, 3), "summary": self.summary, **self.rows}


class Counts:
    """The difference of one series, or of several together."""

    __slots__ = ("_places", "_seconds", "numbers")

    def __init__(self, places: Mapping[str, Any], numbers: Sequence[int], seconds: float) -> None:
        """`places` are the `words` of the kind, `numbers` their differences."""
        self._places = places
        self._seconds = seconds
        self.numbers = numbers

    def each(self, name: str) -> dict[str, int]:
        """A counter by its values; empty where the daemon has none of this name."""
        at, values = self._places.get(name, (0, ()))
        return {value: self.numbers[at + i] for i, value in enumerate(values)} if isinstance(values, list) else {}

    def total(self, name: str) -> int:
        """A counter, over all of its values."""
        if name not in self._places:
            return 0
        at, values = self._places[name]
        return sum(self.numbers[at : at + (len(values) if isinstance(values, list) else 1)])

    def per_s(self, name: str) -> float:
        return self.total(name) / self._seconds

    def buckets(self, name: str, bounds: Sequence[int]) -> Sequence[int]:
        """A histogram's counts, by `bounds` and above the last."""
        if name not in self._places:
            return [0] * (len(bounds) + 1)
        at = self._places[name][0]
        return self.numbers[at + 1 : at + 2 + len(bounds)]


def rates(before: Document, after: Document) -> Rates:
    """What happened between two readings of one daemon. A counter that fell has begun anew: it counts as it is. Of
    what the first reading does not have, the counts of its whole life are taken."""
    old, new = before.get("counters") or {}, after.get("counters") or {}
    seconds = max((new.get("at_ns", 0) - old.get("at_ns", 0)) / 1e9, 1e-3)
    bounds = new.get("bounds_us", ())
    kinds = {name: _differences(old, kind, name, seconds) for name, kind in new.get("kinds", {}).items()}
    routes = _routes(kinds.get("route", {}), new, bounds)
    endpoints = _endpoints(kinds.get("endpoint", {}), after, bounds)
    return Rates(
        seconds,
        _summary(kinds, new, after, before, bounds, seconds),
        {
            "listener": _listeners(kinds, new, after, bounds),
            "route": routes,
            "pool": _pools(kinds, after, bounds),
            "endpoint": endpoints,
            MODEL: _models(kinds.get(MODEL, {}), before, after, bounds, seconds),
        },
    )


def _differences(old: Document, kind: Document, name: str, seconds: float) -> dict[tuple[str, ...], Counts]:
    places = kind["words"]
    known = old.get("kinds", {}).get(name, {"rows": ()})
    # Another daemon, or another version of it, answers now: there is nothing to take away.
    before = {tuple(labels): numbers for labels, numbers in known["rows"]} if known.get("words") == places else {}
    found = {}
    for labels, numbers in kind["rows"]:
        key = tuple(labels)
        was = before.get(key)
        if was is not None:
            numbers = [now - then if now >= then else now for now, then in zip(numbers, was, strict=True)]
        found[key] = Counts(places, numbers, seconds)
    return found


def _together(counts: Iterable[Counts], seconds: float) -> Counts | None:
    rows = list(counts)
    if not rows:
        return None
    return Counts(
        rows[0]._places, [sum(column) for column in zip(*(row.numbers for row in rows), strict=True)], seconds
    )


def quantile(share: float, buckets: Sequence[int], bounds_us: Sequence[int]) -> float | None:
    """Seconds below which `share` of the durations are, taken as spread evenly over their bucket (Prometheus'
    histogram_quantile); the last bound where it is above that, None where there are none."""
    whole = sum(buckets)
    if not whole:
        return None
    rank, below, lower = share * whole, 0, 0
    for count, bound in zip(buckets, bounds_us, strict=False):
        if count and below + count >= rank:
            return (lower + (bound - lower) * max(rank - below, 0) / count) / 1e6
        below, lower = below + count, bound
    return lower / 1e6


def _durations(counts: Counts, name: str, bounds: Sequence[int]) -> Row:
    buckets = counts.buckets(name, bounds)
    return {key: quantile(share, buckets, bounds) for key, share in _QUANTILES.items()}


def _share(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def _under_way(document: Document, kind: str) -> dict[tuple[str, ...], int]:
    table = document.get("kinds", {}).get(kind)
    if table is None:
        return {}
    started, finished = table["words"]["started"][0], table["words"]["finished"][0]
    return {tuple(labels): max(0, numbers[started] - numbers[finished]) for labels, numbers in table["rows"]}


def _answers(counts: Counts, bounds: Sequence[int], seconds: float) -> Row:
    """What routes and endpoints have in common (lb.shared.words.ANSWER)."""
    status = counts.each("requests")
    requests = counts.total("requests")
    grpc = sum(n for code, n in counts.each("grpc").items() if code != "OK")
    return {
        "requests_per_s": requests / seconds,
        **_durations(counts, "request_duration", bounds),
        "errors_per_s": counts.per_s("errors"),
        "error_share": _share(counts.total("errors"), requests),
        "4xx_per_s": status.get("4xx", 0) / seconds,
        "429_per_s": status.get("429", 0) / seconds,
        "5xx_per_s": status.get("5xx", 0) / seconds,
        "grpc_errors_per_s": grpc / seconds,
        "timeouts_per_s": counts.per_s("timeouts"),
        "retries_per_s": counts.per_s("retries"),
        "received_bytes_per_s": counts.per_s("received_bytes"),
        "sent_bytes_per_s": counts.per_s("sent_bytes"),
    }


def _cache(counts: Counts) -> tuple[int, int]:
    """(answered by the cache, not answered) of the look-ups of routes."""
    results = counts.each("cache")
    return sum(results.get(name, 0) for name in _HITS), sum(results.get(name, 0) for name in _MISSES)


def _route(counts: Counts, bounds: Sequence[int]) -> Row:
    hits, misses = _cache(counts)
    return {
        **_answers(counts, bounds, counts._seconds),
        "rejected_per_s": counts.per_s("rejected"),
        "client_aborts_per_s": counts.per_s("client_aborts"),
        "hedges_per_s": counts.per_s("hedges"),
        "cache_hit_share": _share(hits, hits + misses),
    }


def _routes(found: Mapping[tuple[str, ...], Counts], new: Document, bounds: Sequence[int]) -> list[Row]:
    running = _under_way(new, "route")
    owner = {route: listener for listener, names in new.get("routes", {}).items() for route in names}
    return [
        {
            "route": key[0],
            "listener": owner.get(key[0], ""),
            "in_flight": running.get(key, 0),
            **_route(counts, bounds),
        }
        for key, counts in found.items()
    ]


def _listeners(
    kinds: Mapping[str, Mapping[tuple[str, ...], Counts]], new: Document, after: Document, bounds: Sequence[int]
) -> list[Row]:
    """Requests, durations and errors are those of its routes; of a tcp listener, its sessions."""
    running = _under_way(new, "listener") | {k: n for k, n in _under_way(new, "udp-listener").items() if n}
    addresses = {row["name"]: row for row in after["listeners"]}
    rows = []
    for key, counts in kinds.get("listener", {}).items():
        known = addresses.get(key[0], {})
        routes = [
            kinds["route"][(name,)] for name in new.get("routes", {}).get(key[0], ()) if (name,) in kinds["route"]
        ]
        together = _together(routes, counts._seconds)
        row: Row = {
            "listener": key[0],
            "address": known.get("address", ""),
            "sockets": known.get("sockets", []),
            "protocol": known.get("protocol", ""),
            "connections": running.get(key, 0),
            "connections_per_s": counts.per_s("connections"),
        }
        if together is not None:
            row |= _route(together, bounds)
            row["rejected_per_s"] += counts.per_s("rejected_requests")
        else:
            udp = kinds.get("udp-listener", {}).get(key)
            sessions = sum(counts.buckets("session_duration", bounds))
            row |= {"requests_per_s": sessions / counts._seconds, **_durations(counts, "session_duration", bounds)}
            row["rejected_per_s"] = counts.per_s("rejected")
            row["timeouts_per_s"] = counts.per_s("timeouts")
            row["retries_per_s"] = counts.per_s("retries")
            for name in ("received_bytes", "sent_bytes"):
                row[f"{name}_per_s"] = counts.per_s(name) + (udp.per_s(name) if udp is not None else 0)
        row["tls_failures_per_s"] = counts.each("tls_handshakes").get("failed", 0) / counts._seconds
        rows.append(row)
    return rows


def _attempts(counts: Counts, bounds: Sequence[int]) -> Row:
    return {
        **_answers(counts, bounds, counts._seconds),
        "connect_errors_per_s": counts.per_s("connect_errors"),
        "response_errors_per_s": counts.per_s("response_errors"),
    }


def _pools(kinds: Mapping[str, Mapping[tuple[str, ...], Counts]], after: Document, bounds: Sequence[int]) -> list[Row]:
    by_pool: dict[str, list[Counts]] = {}
    for (pool, _), counts in kinds.get("endpoint", {}).items():
        by_pool.setdefault(pool, []).append(counts)
    rows = []
    for pool in after["pools"]:
        name, endpoints = pool["name"], pool["endpoints"]
        usable = sum(e["health"] in ("up", "unchecked") and e["admin"] == "enabled" for e in endpoints)
        row: Row = {
            "pool": name,
            "protocol": pool["protocol"],
            "policy": pool["policy"],
            "endpoints": len(endpoints),
            "usable": usable,
            "panic": bool(pool.get("panic")),
            "in_flight": sum(e["in_flight"] for e in endpoints),
            "waiting": pool["queue"]["waiting"] if pool["queue"] else 0,
        }
        found = by_pool.get(name)
        if found:
            together = _together(found, found[0]._seconds)
            assert together is not None
            row |= _attempts(together, bounds)
        queue = kinds.get("queue", {}).get((name,))
        if queue is not None:
            row["queue_wait_p95_s"] = quantile(0.95, queue.buckets("wait", bounds), bounds)
            row["queue_refused_per_s"] = queue.per_s("ended")
        rows.append(row)
    return rows


def _endpoints(found: Mapping[tuple[str, ...], Counts], after: Document, bounds: Sequence[int]) -> list[Row]:
    rows = []
    for pool in after["pools"]:
        for endpoint in pool["endpoints"]:
            row: Row = {
                "endpoint": endpoint["address"],
                "pool": pool["name"],
                "state": _state(endpoint),
                "weight": endpoint["weight"],
                "in_flight": endpoint["in_flight"],
                "limit": endpoint["max_in_flight"] or None,
                "turns": endpoint["turns"],
            }
            counts = found.get((pool["name"], endpoint["address"]))
            if counts is not None:
                row |= _attempts(counts, bounds)
            rows.append(row)
    return rows


def _models(
    found: Mapping[tuple[str, ...], Counts], before: Document, after: Document, bounds: Sequence[int], seconds: float
) -> list[Row]:
    """What the daemon counts of each model, and what its servers say where they were asked."""
    servers = _by_servers(before, after, seconds)
    rows = []
    for key, counts in found.items():
        failures = counts.each("failures")
        rows.append(
            {
                "model": key[1],
                "pool": key[0],
                **_answers(counts, bounds, seconds),
                "refused_per_s": failures.get("refused", 0) / seconds,
                "timeouts_per_s": failures.get("timeout", 0) / seconds,
                "client_aborts_per_s": failures.get("aborted", 0) / seconds,
                "cache_hit_share": _share(counts.total("cached"), counts.total("requests")),
                **servers.pop(key, {}),
            }
        )
    return rows + [{"model": model, "pool": pool, **row} for (pool, model), row in servers.items()]


def _by_servers(before: Document, after: Document, seconds: float) -> dict[tuple[str, ...], Row]:
    """What the model servers say of their models, those of a pool and all versions together. They give sums, so times
    are means. A model that the first reading does not have has no rates yet: its servers may have counted for days."""
    known = {(row["pool"], row["model"], row["version"]): row for row in before.get("models", ())}
    sums: dict[tuple[str, ...], dict[str, int]] = {}
    versions: dict[tuple[str, ...], list[str]] = {}
    for row in after.get("models", ()):
        was = known.get((row["pool"], row["model"], row["version"]), row)
        key = row["pool"], row["model"]
        d = sums.setdefault(key, {})
        for name in row:
            if isinstance(row[name], int):
                d[name] = d.get(name, 0) + max(0, row[name] - was[name])
        versions.setdefault(key, []).append(row["version"])
    return {
        key: {
            "version": ",".join(versions[key]),
            "server_requests_per_s": (d["success"] + d["fail"]) / seconds,
            "server_errors_per_s": d["fail"] / seconds,
            "server_mean_s": _share(d["success_ns"] / 1e9, d["success"]),
            "server_queue_mean_s": _share(d["queue_ns"] / 1e9, d["success"]),
            "server_compute_mean_s": _share(d["compute_ns"] / 1e9, d["success"]),
            "rows_per_s": d["rows"] / seconds,
            "rows_per_run": _share(d["rows"], d["runs"]),
            "server_hit_share": _share(d["hits"], d["hits"] + d["misses"]),
        }
        for key, d in sums.items()
    }


def _state(endpoint: Document) -> str:
    """What keeps requests away from it, if anything does: the operator, its checks, or an ejection."""
    if endpoint["admin"] != "enabled":
        return str(endpoint["admin"])
    if endpoint["health"] in ("up", "unchecked") and endpoint["ejection"] != "well":
        return str(endpoint["ejection"])
    return str(endpoint["health"])


def _summary(
    kinds: Mapping[str, Mapping[tuple[str, ...], Counts]],
    new: Document,
    after: Document,
    before: Document,
    bounds: Sequence[int],
    seconds: float,
) -> Row:
    endpoints = [e for pool in after["pools"] for e in pool["endpoints"]]
    summary: Row = {
        "version": after["version"],
        "state": after["state"],
        "uptime_s": after["uptime_s"],
        "generation": after["generation"],
        "workers": len(after["workers"]),
        "workers_running": sum(w["state"] == "running" for w in after["workers"]),
        "last_reload": after["last_reload"],
        "connections": sum(_under_way(new, "listener").values()),
        "in_flight": sum(_under_way(new, "route").values()),
        "waiting": sum(pool["queue"]["waiting"] for pool in after["pools"] if pool["queue"]),
        "endpoints": len(endpoints),
        "endpoints_usable": sum(_state(e) in ("up", "unchecked", "probation") for e in endpoints),
    }
    together = _together(kinds.get("route", {}).values(), seconds)
    if together is not None:
        summary |= _route(together, bounds)
    refused = sum(counts.per_s("ended") for counts in kinds.get("queue", {}).values())
    attempts = list(kinds.get("endpoint", {}).values())
    summary["queue_refused_per_s"] = refused
    for name in ("connect_errors", "response_errors"):
        summary[f"{name}_per_s"] = sum(counts.per_s(name) for counts in attempts)
    cache = after.get("cache")
    if cache and "entries" in cache:
        was = before.get("cache") or {}
        summary["cache"] = {
            "entries": cache["entries"],
            "bytes": cache["bytes"],
            "capacity": cache["capacity"],
            **{f"{name}_per_s": max(0, cache[name] - was.get(name, 0)) / seconds for name in ("stored", "evictions")},
        }
    return summary
