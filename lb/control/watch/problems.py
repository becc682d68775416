"""What is wrong: conditions by name, found in the status document and in the last minute of the traffic.

The dashboard's verdict, the alerts and `GET /api/v1/overview` have the same list. The rules for Prometheus
(monitoring/prometheus) have the same conditions with the names of their alerts.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

from msgspec import Struct

from lb.control.watch.history import INTERVAL, History

Severity = Literal["critical", "warning"]

# Every condition, with what it means. Names are those of the configuration (alerts.conditions).
CONDITIONS: dict[str, str] = {
    "pool_without_endpoint": "No endpoint of a pool takes requests.",
    "pool_panic": "So few endpoints of a pool are healthy that requests go to unhealthy ones, too.",
    "endpoint_down": "The health checks of an endpoint fail.",
    "endpoint_ejected": "An endpoint is ejected for its answers.",
    "endpoint_failing": "5 % or more of an endpoint's answers of the last minute were its fault.",
    "route_errors": "5 % or more of a route's answers of the last minute were errors of servers.",
    "model_failing": "5 % or more of a model's answers of the last minute were errors of servers.",
    "requests_refused": "1 % or more of a route's requests of the last minute were refused here.",
    "queue_full": "A queue is 80 % full or more.",
    "worker_down": "A worker does not run.",
    "model_server_failing": "A model server waits to be started again, or is in a crash loop.",
    "cache_tier_down": "A process does not ask the cache tier, since it failed.",
    "cache_disk_failing": "The disk of the cache is full, fails or hangs.",
    "certificate_expiring": "A certificate expires within 14 days, or has expired.",
    "certificate_unused": "Changed certificates or keys cannot be used.",
    "reload_failed": "The last reload failed, so the file is not the configuration in force.",
    "jobs_down": "The jobs process does not run.",
    "jobs_store": "The store of jobs cannot be reached, or its file cannot be written.",
    "jobs_dead": "Jobs are dead letters.",
    "jobs_late": "The oldest job has been queued for 5 minutes or more.",
    "discovery_stale": "A source of endpoints does not answer.",
    "engine_stale": "The engine of a pool does not answer.",
    "quota_file": "What is counted of quotas cannot be written to its file.",
    "canary_aborted": "A canary was taken back.",
    "access_log": "Records of the access log are lost.",
    "open_files_short": "The limit of open files is too low for the configuration.",
}
_MINUTE = round(60 / INTERVAL)
_FAILING = 0.05
_REFUSED = 0.01
_FULL = 0.8
_LEAST_RATE = 0.1  # requests a second in the mean of a minute; fewer say nothing of a share
_EXPIRES = 14 * 86400
_LATE = 300


class Problem(Struct, frozen=True):
    """One condition that holds for one subject, such as {"pool": "digits", "endpoint": "10.0.0.1:8001"}."""

    name: str
    severity: Severity
    subject: dict[str, str]
    text: str

    @property
    def key(self) -> tuple[str, ...]:
        """What it has in common with itself at another time."""
        return (self.name, *(f"{kind}={name}" for kind, name in sorted(self.subject.items())))


def find(status: Mapping[str, Any], history: History) -> list[Problem]:
    """The problems of now, critical ones first. `status` is the status document (lb.control.admin.status)."""
    found = [
        *_pools(status, history),
        *_routes(history),
        *_models(history),
        *_workers(status),
        *_cache(status.get("cache")),
        *_tls(status.get("tls")),
        *_reload(status),
        *_jobs(status.get("jobs")),
        *_quotas(status.get("quotas")),
        *_canaries(status.get("canaries", ())),
    ]
    return sorted(found, key=lambda problem: problem.severity != "critical")


def verdict(problems: list[Problem]) -> str:
    """failing, degraded or well."""
    if any(problem.severity == "critical" for problem in problems):
        return "failing"
    return "degraded" if problems else "well"


def _share(part: float) -> str:
    return f"{100 * part:.3g} %"


def _pools(status: Mapping[str, Any], history: History) -> Iterator[Problem]:
    for pool in status["pools"]:
        name = pool["name"]
        subject = {"pool": name}
        rows = pool["endpoints"]
        managed = pool.get("managed")
        asleep = any(((row or {}).get("on_demand") or {}).get("asleep") for row in (managed, pool.get("engine")))
        serving = [e for e in rows if e["admin"] == "enabled" and e["health"] != "down" and not _ejected(e)]
        if not serving and not asleep and (rows or managed or pool.get("discovery")):
            none = "no model server is ready" if managed else "its source gives no endpoints"
            text = f"none of its {len(rows)} endpoints takes requests" if rows else none
            yield Problem("pool_without_endpoint", "critical", subject, text)
        if pool.get("panic"):
            yield Problem("pool_panic", "critical", subject, "too few endpoints are healthy to leave out the others")
        for endpoint in rows:
            if endpoint["admin"] == "enabled":
                yield from _endpoint(name, endpoint, history)
        queue = pool.get("queue")
        if queue and queue["max"] and queue["waiting"] >= _FULL * queue["max"]:
            yield Problem(
                "queue_full", "warning", subject, f"{queue['waiting']} of at most {queue['max']} requests wait"
            )
        for kind in ("replicas", "next"):
            for replica in (managed or {}).get(kind, ()):
                if replica["state"] in ("backoff", "crash_loop"):
                    crashed = replica["state"] == "crash_loop"
                    yield Problem(
                        "model_server_failing", "critical" if crashed else "warning",
                        {**subject, "model_server": str(replica["index"])},
                        f"{'in a crash loop' if crashed else 'waits to be started again'} after "
                        f"{replica['restarts']} restarts: {replica['last_error'] or 'no error is known'}",
                    )  # fmt: skip
        for key in ("discovery", "engine"):
            row = pool.get(key)
            if row and row["state"] == "stale":
                yield Problem(
                    f"{key}_stale", "warning", subject, str(row.get("error") or "it does not answer as it should")
                )


def _ejected(endpoint: Mapping[str, Any]) -> bool:
    return (endpoint.get("steering") or {}).get("ejection_state") == "ejected"


def _endpoint(pool: str, endpoint: Mapping[str, Any], history: History) -> Iterator[Problem]:
    subject = {"pool": pool, "endpoint": endpoint["address"]}
    if endpoint["health"] == "down":
        last = (endpoint.get("check") or {}).get("last") or {}
        yield Problem("endpoint_down", "warning", subject, str(last.get("reason") or "it is down"))
    elif _ejected(endpoint):
        yield Problem("endpoint_ejected", "warning", subject, "ejected for its answers")
    key = ("endpoint", pool, endpoint["address"])
    rate, errors = (history.mean(key, field, _MINUTE) for field in ("rate", "errors"))
    if rate >= _LEAST_RATE and errors >= _FAILING * rate:
        yield Problem(
            "endpoint_failing", "warning", subject, f"{_share(errors / rate)} of the last minute's answers failed"
        )


def _routes(history: History) -> Iterator[Problem]:
    for key in history.keys("route"):
        rate, errors, refused = (history.mean(key, field, _MINUTE) for field in ("rate", "errors", "refused"))
        if math.isnan(rate) or rate < _LEAST_RATE:
            continue
        subject = {"route": key[1]}
        if errors >= _FAILING * rate:
            yield Problem(
                "route_errors", "critical", subject, f"{_share(errors / rate)} of the last minute's answers failed"
            )
        if refused >= _REFUSED * rate:
            text = f"{_share(min(1, refused / rate))} of the last minute's requests were refused here"
            yield Problem("requests_refused", "warning", subject, text)


def _models(history: History) -> Iterator[Problem]:
    for key in history.keys("model"):
        rate, errors = (history.mean(key, field, _MINUTE) for field in ("rate", "errors"))
        if rate >= _LEAST_RATE and errors >= _FAILING * rate:
            yield Problem(
                "model_failing", "warning", {"pool": key[1], "model": key[2]},
                f"{_share(errors / rate)} of the last minute's answers failed",
            )  # fmt: skip


def _workers(status: Mapping[str, Any]) -> Iterator[Problem]:
    workers = status["workers"]
    down = [worker for worker in workers if worker["state"] not in ("running", "starting", "stopping", "draining")]
    for worker in down:
        yield Problem(
            "worker_down", "critical" if len(down) == len(workers) else "warning", {"worker": str(worker["index"])},
            f"{worker['state']}: {worker['last_exit'] or 'it has not run yet'}",
        )  # fmt: skip
    for worker in workers:
        trouble = (worker.get("stats") or {}).get("access_log_trouble")
        if trouble:
            yield Problem("access_log", "warning", {"worker": str(worker["index"])}, str(trouble))
    shortage = (status.get("open_files") or {}).get("shortage")
    if shortage:
        yield Problem("open_files_short", "warning", {}, shortage)


def _cache(cache: Mapping[str, Any] | None) -> Iterator[Problem]:
    if not cache:
        return
    for process, row in ((cache.get("tier") or {}).get("processes") or {}).items():
        if row["state"] != "closed":
            yield Problem("cache_tier_down", "warning", {"process": process}, "its breaker is open")
    if cache.get("disk_failing"):
        yield Problem("cache_disk_failing", "warning", {}, f"for {cache['disk_failing']} workers")


def _tls(tls: Mapping[str, Any] | None) -> Iterator[Problem]:
    for row in (tls or {}).get("certificates", ()):
        left = row["expires_in_s"]
        if left < _EXPIRES:
            yield Problem(
                "certificate_expiring", "critical" if left <= 0 else "warning",
                {"owner": row["owner"], "file": row["file"]},
                "it has expired" if left <= 0 else f"it expires in {left / 86400:.1f} days",
            )  # fmt: skip
    for text in (tls or {}).get("problems", ()):
        yield Problem("certificate_unused", "warning", {}, str(text))


def _reload(status: Mapping[str, Any]) -> Iterator[Problem]:
    last = status.get("last_reload")
    if last is not None and not last["ok"]:
        yield Problem("reload_failed", "warning", {}, last["error"])


def _jobs(jobs: Mapping[str, Any] | None) -> Iterator[Problem]:
    if not jobs:
        return
    if jobs["state"] != "running":
        yield Problem("jobs_down", "critical", {}, f"{jobs['state']}: {jobs['error'] or 'no error is known'}")
    elif jobs["store_error"]:
        yield Problem("jobs_store", "critical", {}, jobs["store_error"])
    dead = sum(number for _, state, number in jobs["jobs"] if state == "dead")
    if dead:
        yield Problem("jobs_dead", "warning", {}, f"{dead} jobs got no answer and may be queued anew")
    if (jobs["oldest_s"] or 0) >= _LATE:
        yield Problem("jobs_late", "warning", {}, f"the oldest has been queued for {jobs['oldest_s']:.0f} s")


def _quotas(quotas: Mapping[str, Any] | None) -> Iterator[Problem]:
    if quotas and quotas["trouble"]:
        yield Problem("quota_file", "warning", {}, f"{quotas['file']}: {quotas['trouble']}")


def _canaries(canaries: Iterable[Mapping[str, Any]]) -> Iterator[Problem]:
    for row in canaries:
        if row["phase"] == "aborted":
            yield Problem("canary_aborted", "warning", {"route": row["route"], "pool": row["pool"]}, row["reason"])
