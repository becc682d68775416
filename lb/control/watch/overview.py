"""The overview: what the dashboard shows, in one document. It is made when somebody asks, from the status document and
the samples, and kept for a moment, so that any number of viewers costs what one does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from msgspec.structs import asdict

from lb.control.watch.history import INTERVAL, KEPT, History
from lb.control.watch.problems import Problem, verdict
from lb.health.transitions import Change

_MOST = 200  # problems that are listed
_MODELS = 100  # models that are, those with problems and the busiest
_RECENT = 300.0  # seconds of "lately"
_ENDPOINT = (
    "address", "weight", "priority", "zone", "health", "admin", "in_flight", "outstanding_cost", "sequences",
    "sessions", "max_in_flight", "learned_limit", "failing", "turns",
)  # fmt: skip
_DAEMON = (
    "version", "state", "zone", "started_at", "uptime_s", "generation", "reloads", "last_reload", "config", "workers",
    "removed_pools", "cache", "jobs", "alerts", "tls",
)  # fmt: skip
_POOL = (
    "name", "protocol", "policy", "leaving", "panic", "levels", "queue", "cost", "managed", "discovery", "engine",
)  # fmt: skip


def document(
    status: Mapping[str, Any],
    found: Sequence[Problem],
    history: History,
    topology: Mapping[str, Any],
    changes: Sequence[Change],
) -> dict[str, Any]:
    """Of a status document, its problems, the samples, the topology of the plan, and the last changes of endpoints."""
    counts, seconds = history.counted(_RECENT)
    wrong = {tuple(problem.subject.items()): problem.name for problem in reversed(found)}
    listed = {row["name"]: row for row in topology["listeners"]}
    return {
        **{key: status[key] for key in _DAEMON},
        "verdict": verdict(list(found)),
        "problems": [asdict(problem) for problem in found[:_MOST]],
        "problems_left_out": max(0, len(found) - _MOST),
        "interval_s": INTERVAL,
        "kept_s": INTERVAL * KEPT,
        "now": history.last(("total",)),
        "recent": {"seconds": seconds, "counts": counts},
        "listeners": [
            {
                **{key: row[key] for key in ("name", "address", "sockets", "protocol")},
                "pools": listed[row["name"]]["pools"],
                "now": history.last(("listener", row["name"])),
            }
            for row in status["listeners"]
            if row["name"] in listed
        ],
        "routes": [
            {**row, "problem": wrong.get((("route", row["name"]),)), "now": history.last(("route", row["name"]))}
            for row in topology["routes"]
        ],
        "routes_left_out": topology["routes_left_out"],
        "pools": [_pool(row, history, wrong) for row in status["pools"]],
        **_models(history, wrong),
        "transitions": [change.describe() for change in changes],
    }


_Wrong = Mapping[tuple[tuple[str, str], ...], str]  # a subject -> the name of its first problem


def _models(history: History, wrong: _Wrong) -> dict[str, Any]:
    rows: list[dict[str, Any]] = [
        {
            "pool": pool,
            "name": model,
            "problem": wrong.get((("pool", pool), ("model", model))),
            "now": history.last(("model", pool, model)),
        }
        for _, pool, model in history.keys("model")
    ]
    rows.sort(key=lambda row: (row["problem"] is None, -row["now"]["rate"]))
    return {"models": rows[:_MODELS], "models_left_out": max(0, len(rows) - _MODELS)}


def _pool(row: Mapping[str, Any], history: History, wrong: _Wrong) -> dict[str, Any]:
    name = row["name"]
    return {
        **{key: row[key] for key in _POOL},
        "now": history.last(("pool", name)),
        "endpoints": [
            _endpoint(
                e,
                history.last(("endpoint", name, e["address"])),
                wrong.get((("pool", name), ("endpoint", e["address"]))),
            )
            for e in row["endpoints"]
        ],
    }


def _endpoint(row: Mapping[str, Any], now: dict[str, float] | None, problem: str | None) -> dict[str, Any]:
    last = (row["check"] or {}).get("last") or {}
    steering = row["steering"] or {}
    return {
        **{key: row[key] for key in _ENDPOINT},
        "problem": problem,
        "ejection_state": steering.get("ejection_state"),
        "why_not": steering.get("why_not"),
        "check": last.get("reason"),
        "grpc": row["errors"]["grpc"],
        "unready": [model for model, ready in (row["models"] or {}).items() if not ready],
        "agent": row["agent"] and (row["agent"]["last"] or {}).get("said"),
        "now": now and {key: now[key] for key in ("rate", "errors", "p50", "p95", "p99")},
    }
