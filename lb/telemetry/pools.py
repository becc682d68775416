"""Metrics of pools and their endpoints, from the status document."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from prometheus_client.core import Metric

from lb.telemetry.families import counter, gauge


def families(status: Mapping[str, Any]) -> Iterator[Metric]:
    """What `status` says of its pools."""
    yield from _endpoints(status)
    yield from _sequences(status)
    yield from _sessions(status)
    yield from _managed(status)
    yield from _discovery(status)
    yield from _engines(status)


def _endpoints(status: Mapping[str, Any]) -> Iterator[Metric]:
    rows = [((p["name"], e["address"]), e) for p in status["pools"] for e in p["endpoints"]]
    labels = ("pool", "endpoint")
    yield gauge(
        "endpoint_up",
        "1 while the endpoint's checks find it up, or nothing checks it; 0 while they find it down",
        labels,
        ((k, e["health"] in ("up", "unchecked")) for k, e in rows),
    )
    yield gauge(
        "endpoint_unchecked", "1 while the endpoint counts as up although nothing has checked it", labels,
        ((k, e["health"] == "unchecked") for k, e in rows),
    )  # fmt: skip
    checked = [(k, e["check"]) for k, e in rows if e.get("check")]
    yield counter(
        "endpoint_checks_overruled",
        "Checks that timed out and did not count, since the endpoint answered requests meanwhile",
        labels,
        ((k, check["overruled"]) for k, check in checked),
    )
    turns = [(k, e) for k, e in rows if "turns" in e]
    yield gauge(
        "endpoint_recent_failures_ratio", "Share of the endpoint's recent attempts that failed, 0 to 1", labels,
        ((k, e["failing"]) for k, e in turns),
    )  # fmt: skip
    yield gauge(
        "endpoint_turns_ratio",
        "Share of its turns that the endpoint takes, 0 to 1; below 1 since recent attempts failed",
        labels,
        ((k, e["turns"]) for k, e in turns),
    )
    yield gauge(
        "endpoint_draining",
        "1 while an operator or the agent keeps new requests away from the endpoint",
        labels,
        ((k, e["admin"] != "enabled") for k, e in rows),
    )
    yield gauge(
        "endpoint_weight",
        "Weight of the endpoint: the configuration's, an operator's or its agent's",
        labels,
        ((k, e["weight"]) for k, e in rows),
    )
    yield gauge(
        "endpoint_outstanding",
        "Requests and sessions in flight at the endpoint, over all workers",
        labels,
        ((k, e["in_flight"]) for k, e in rows),
    )
    limits = [(k, e.get("learned_limit") or e.get("max_in_flight")) for k, e in rows]
    yield gauge(
        "endpoint_max_in_flight",
        "Most requests in flight at the endpoint: the learned limit, or max_in_flight",
        labels,
        ((k, limit) for k, limit in limits if limit),
    )
    yield gauge(
        "endpoint_model_ready", "1 while the model is ready at the endpoint; only models whose readiness is checked",
        (*labels, "model"),
        (((*k, model), ready) for k, e in rows for model, ready in (e.get("models") or {}).items()),
    )  # fmt: skip
    weighed = [(k, e["outstanding_cost"]) for k, e in rows if e.get("outstanding_cost") is not None]
    yield gauge(
        "endpoint_outstanding_cost",
        "Cost of the requests in flight at the endpoint; an average request of its pool costs 1",
        labels,
        weighed,
    )
    yield from _costs(status["pools"])
    yield from _agents([(k, e["agent"]) for k, e in rows if e.get("agent")])
    yield from _steering(status["pools"], [(k, e["steering"]) for k, e in rows if e.get("steering")])


def _costs(pools: Sequence[Mapping[str, Any]]) -> Iterator[Metric]:
    rows = [((p["name"], name), model) for p in pools if p.get("cost") for name, model in p["cost"]["models"].items()]
    labels = ("pool", "model")
    yield gauge(
        "model_cost",
        "Cost of a unit (request, row, byte) of the model; that of an average one of its pool is 1",
        labels,
        ((k, m["relative"]) for k, m in rows),
    )
    yield gauge(
        "model_unit_seconds",
        "Time that an endpoint takes for a unit (request, row, byte) of the model",
        labels,
        ((k, m["unit_s"]) for k, m in rows),
    )


def _agents(rows: Sequence[tuple[tuple[str, str], Mapping[str, Any]]]) -> Iterator[Metric]:
    labels = ("pool", "endpoint")
    yield gauge(
        "endpoint_agent_up", "0 while the endpoint's agent says that it is down, 1 else", labels,
        ((k, a["health"] in (None, "up")) for k, a in rows),
    )  # fmt: skip
    yield gauge(
        "endpoint_agent_weight_percent", "Percentage of the endpoint's weight that its agent asks for", labels,
        ((k, 100 if a["weight_percent"] is None else a["weight_percent"]) for k, a in rows),
    )  # fmt: skip
    yield counter(
        "endpoint_agent_asked", "Questions to the endpoint's agent", labels, ((k, a["asked"]) for k, a in rows)
    )
    yield counter(
        "endpoint_agent_failures", "Questions that the endpoint's agent did not answer in time, or not well", labels,
        ((k, a["failures"]) for k, a in rows),
    )  # fmt: skip


def _steering(
    pools: Sequence[Mapping[str, Any]], rows: Sequence[tuple[tuple[str, str], Mapping[str, Any]]]
) -> Iterator[Metric]:
    labels = ("pool", "endpoint")
    yield gauge(
        "endpoint_ejected", "1 while the endpoint is ejected for its answers: it takes no requests", labels,
        ((k, s["ejection_state"] == "ejected") for k, s in rows),
    )  # fmt: skip
    yield gauge(
        "endpoint_probation", "1 while the endpoint is on probation after an ejection: it takes few requests", labels,
        ((k, s["ejection_state"] == "probation") for k, s in rows),
    )  # fmt: skip
    yield counter(
        "endpoint_ejections", "Ejections of the endpoint, by reason", (*labels, "reason"),
        (((*k, reason), n) for k, s in rows for reason, n in s["ejections"].items()),
    )  # fmt: skip
    yield gauge(
        "endpoint_share",
        "Share of its weight that the endpoint gets, 0 to 1: less during an ejection and a slow start",
        labels,
        ((k, s["share"]) for k, s in rows),
    )
    steered = [p for p in pools if any(p["name"] == pool for (pool, _), _ in rows)]
    yield gauge(
        "pool_panic", "1 while so few endpoints of the pool are healthy that the others get requests, too", ("pool",),
        (((p["name"],), p["panic"]) for p in steered),
    )  # fmt: skip
    yield counter(
        "pool_panics",
        "Times that so few endpoints of the pool were healthy that the others got requests, too",
        ("pool",),
        (((p["name"],), p["panics"]) for p in steered),
    )
    yield from _levels([p for p in pools if p.get("levels")])


_PARTS = (("own", "own_zone"), ("other", "other_zones"))


def _levels(pools: Sequence[Mapping[str, Any]]) -> Iterator[Metric]:
    rows = [((p["name"], str(level["priority"])), level) for p in pools for level in p["levels"]]
    labels = ("pool", "priority")
    yield gauge(
        "pool_priority_share", "Share of the pool's requests that the endpoints of this priority get, 0 to 1", labels,
        ((k, level["share"]) for k, level in rows),
    )  # fmt: skip
    yield gauge(
        "pool_priority_healthy", "Endpoints of this priority that can have requests", labels,
        ((k, level["healthy"]) for k, level in rows),
    )  # fmt: skip
    yield gauge(
        "pool_zone_share", "Share of the pool's requests that endpoints of the own zone, or of others, get, 0 to 1",
        (*labels, "zone"),
        (((*k, zone), level[key]) for k, level in rows if level["own_zone"] is not None for zone, key in _PARTS),
    )  # fmt: skip
    yield counter(
        "pool_failovers", "Times that endpoints of another than the first priority began to get requests", ("pool",),
        (((p["name"],), p["failovers"]) for p in pools),
    )  # fmt: skip


def _sequences(status: Mapping[str, Any]) -> Iterator[Metric]:
    rows = [
        ((p["name"], e["address"]), e.get("sequences", 0))
        for p in status["pools"]
        for e in (*p["endpoints"], *p.get("leaving", ()))
    ]
    yield gauge("endpoint_sequences", "Sequences that are open at the endpoint", ("pool", "endpoint"), rows)
    totals = status.get("sequences", {})
    for name, text in (
        ("opened", "Sequences that were begun"),
        ("lost", "Sequences that could not go on, as their endpoint was gone"),
        ("evicted", "Sequences that were forgotten before their time, to make room for others"),
    ):
        yield counter(f"sequences_{name}", text, (), [((), totals.get(name, 0))])


def _sessions(status: Mapping[str, Any]) -> Iterator[Metric]:
    """Of the pools that learn sessions (lb.upstream.affinity.sessions), if there are any."""
    rows = [((p["name"], e["address"]), e.get("sessions")) for p in status["pools"] for e in p["endpoints"]]
    known = [(key, n) for key, n in rows if n is not None]
    if not known:
        return
    yield gauge("endpoint_sessions", "Learned sessions that the endpoint has", ("pool", "endpoint"), known)
    table = status["sessions"]
    yield gauge("sessions_capacity", "Sessions that the table has places for", (), [((), table["capacity"])])
    yield counter(
        "sessions_evicted",
        "Sessions that were forgotten before their time, to make room for others",
        (),
        [((), table["evicted"])],
    )


_KINDS = ("replicas", "next", "leaving")  # of the settings in force, of those to come and of those before


def _managed(status: Mapping[str, Any]) -> Iterator[Metric]:
    pools = [(p["name"], p["managed"]) for p in status["pools"] if p["managed"]]
    counts = {
        (name, state): sum(r["state"] == state for kind in _KINDS for r in managed[kind])
        for name, managed in pools
        for state in ("starting", "ready", "draining", "stopping", "backoff", "crash_loop")
    }
    yield gauge("replicas", "Model servers by state", ("pool", "state"), counts.items())
    yield gauge(
        "replicas_wanted", "Model servers that there are to be", ("pool",), (((n,), m["wanted"]) for n, m in pools)
    )
    yield counter(
        "replica_restarts", "Restarts of model servers", ("pool",),
        (((n,), m["restarts"]) for n, m in pools),
    )  # fmt: skip
    elsewhere = [(p["name"], p["engine"]) for p in status["pools"] if p.get("engine")]
    on_demand = [(n, m["on_demand"]) for n, m in (*pools, *elsewhere) if m.get("on_demand")]
    if on_demand:
        yield gauge(
            "pool_asleep",
            "1 while the pool has no model server or replica: the next request starts one",
            ("pool",),
            (((n,), int(d["asleep"])) for n, d in on_demand),
        )
        yield counter(
            "pool_wakes", "Times that a pool at zero was woken", ("pool",), (((n,), d["wakes"]) for n, d in on_demand)
        )
    scaled = [(n, m["scaling"]) for n, m in pools if m.get("scaling")]
    yield gauge(
        "replicas_recommended", "Model servers that the rule of scaling asks for, before windows, steps and limits",
        ("pool", "rule"), (((n, s["rule"]), s["recommended"]) for n, s in scaled if s["recommended"] is not None),
    )  # fmt: skip
    yield counter(
        "scaling_decisions", "Decisions on the number of model servers", ("pool", "rule"),
        (((n, s["rule"]), s["decisions"]) for n, s in scaled),
    )  # fmt: skip
    yield counter(
        "scale_events",
        "Changes of the number of model servers that there are to be, by direction",
        ("pool", "direction"),
        (((n, way), s[f"scaled_{way}"]) for n, s in scaled for way in ("up", "down")),
    )


def _engines(status: Mapping[str, Any]) -> Iterator[Metric]:
    rows = [((p["name"], p["engine"]["engine"]), p["engine"]) for p in status["pools"] if p.get("engine")]
    if not rows:
        return
    labels = ("pool", "engine")
    gauges = (
        ("engine_current", "1 while the engine of the pool answers, 0 since its last answer failed", "current"),
        ("engine_replicas_wanted", "Replicas that the engine is to run", "wanted"),
        ("engine_replicas", "Replicas that the engine has been told to run, by anybody", "number"),
        ("engine_replicas_running", "Replicas that run, as the engine says", "running"),
        ("engine_leads", "1 while this daemon scales the pool, 0 while another one does", "leads"),
        ("engine_age_seconds", "Time since the engine's last good answer", "age_s"),
    )
    for name, text, key in gauges:
        values = ((labels_of, _engine_value(row, key)) for labels_of, row in rows)
        yield gauge(name, text, labels, ((labels_of, value) for labels_of, value in values if value is not None))
    counters = (
        ("engine_failures", "Looks and changes that the engine did not answer well", "failures"),
        ("engine_changes", "Changes of the number of replicas that the engine took", "changes"),
        ("engine_drifts", "Times that somebody else had changed the number of replicas", "drifts"),
    )
    for name, text, key in counters:
        yield counter(name, text, labels, ((labels_of, row.get(key, 0)) for labels_of, row in rows))


def _engine_value(row: Mapping[str, Any], key: str) -> float | None:
    value = row["state"] == "current" if key == "current" else row.get(key, True if key == "leads" else None)
    return None if value is None else float(value)


def _discovery(status: Mapping[str, Any]) -> Iterator[Metric]:
    rows = [((p["name"], p["discovery"]["source"]), p["discovery"]) for p in status["pools"] if p.get("discovery")]
    if not rows:
        return
    labels = ("pool", "source")
    yield gauge(
        "discovery_current",
        "1 while the pool's source of endpoints answers, 0 since its last look failed",
        labels,
        ((key, int(row["state"] == "current")) for key, row in rows),
    )
    yield gauge(
        "discovery_endpoints",
        "Endpoints that the pool's source gives",
        labels,
        ((key, row["endpoints"]) for key, row in rows),
    )
    yield gauge(
        "discovery_endpoints_left_out",
        "Endpoints that the pool's source gives beyond max_endpoints, which get no requests",
        labels,
        ((key, row["left_out"]) for key, row in rows),
    )
    yield gauge(
        "discovery_age_seconds",
        "Time since the source's last good answer",
        labels,
        ((key, row["age_s"]) for key, row in rows if row["age_s"] is not None),
    )
    yield counter(
        "discovery_looks",
        "Looks at the pool's source of endpoints, by result",
        (*labels, "result"),
        (
            ((*key, result), n)
            for key, row in rows
            for result, n in (("ok", row["looks"] - row["failures"]), ("failed", row["failures"]))
        ),
    )
    yield counter(
        "discovery_changes",
        "Changes of the endpoints that the source gives",
        labels,
        ((key, row["changes"]) for key, row in rows),
    )
