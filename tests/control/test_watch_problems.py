"""What counts as a problem, by condition, and what does not."""

from __future__ import annotations

from typing import Any, cast

import pytest

from lb.control.watch.history import History
from lb.control.watch.problems import CONDITIONS, find, verdict

NAN = float("nan")


class Means:
    """Stands in for the samples: the mean of the last minute by series and field."""

    def __init__(self, means: dict[tuple[str, ...], dict[str, float]]) -> None:
        self._means = means

    def mean(self, key: tuple[str, ...], field: str, samples: int) -> float:
        return self._means.get(key, {}).get(field, NAN)

    def keys(self, kind: str) -> list[tuple[str, ...]]:
        return [key for key in self._means if key[0] == kind]


def endpoint(**settings: Any) -> dict[str, Any]:
    return {"address": "a:1", "health": "up", "admin": "enabled", "check": None, "steering": None, **settings}


def pool(*endpoints: dict[str, Any], **settings: Any) -> dict[str, Any]:
    plain = {"panic": False, "queue": None, "managed": None, "discovery": None, "engine": None}
    return {"name": "p", "endpoints": list(endpoints or [endpoint()]), **plain, **settings}


def worker(state: str = "running") -> dict[str, Any]:
    return {"index": 0, "state": state, "last_exit": "died: signal SIGKILL"}


def document(**settings: Any) -> dict[str, Any]:
    return {"pools": [], "workers": [worker()], "last_reload": None, **settings}


def jobs(**settings: Any) -> dict[str, Any]:
    known = {"state": "running", "error": None, "jobs": [["r", "done", 7]], "oldest_s": 1.0, "store_error": None}
    return {**known, **settings}


def replica(state: str) -> dict[str, Any]:
    return {"index": 3, "state": state, "restarts": 2, "last_error": "out of memory"}


def certificate(left: float) -> dict[str, Any]:
    return {"certificates": [{"owner": "listener web", "file": "/c.pem", "expires_in_s": left}], "problems": []}


DOWN = endpoint(address="b:1", health="down", check={"last": {"reason": "Connection refused"}})
CURRENT = {"state": "current", "error": None}
ENGINE = {"state": "stale", "error": "403"}
CASES: list[tuple[str, str, dict[str, Any]]] = [
    ("pool_without_endpoint", "critical", document(pools=[pool(DOWN)])),
    ("pool_without_endpoint", "critical", document(pools=[pool(endpoint(admin="drain"))])),
    ("pool_without_endpoint", "critical", document(pools=[{**pool(discovery=CURRENT), "endpoints": []}])),
    ("pool_panic", "critical", document(pools=[pool(panic=True)])),
    ("endpoint_down", "warning", document(pools=[pool(endpoint(), DOWN)])),
    (
        "endpoint_ejected",
        "warning",
        document(pools=[pool(endpoint(), endpoint(steering={"ejection_state": "ejected"}))]),
    ),
    ("queue_full", "warning", document(pools=[pool(queue={"waiting": 80, "max": 100})])),
    ("worker_down", "critical", document(workers=[worker("backoff")])),
    ("worker_down", "warning", document(workers=[worker("backoff"), worker()])),
    ("model_server_failing", "warning", document(pools=[pool(managed={"replicas": [replica("backoff")], "next": []})])),
    (
        "model_server_failing",
        "critical",
        document(pools=[pool(managed={"replicas": [], "next": [replica("crash_loop")]})]),
    ),
    ("cache_tier_down", "warning", document(cache={"tier": {"processes": {"0": {"state": "open"}}}})),
    ("cache_disk_failing", "warning", document(cache={"disk_failing": 1})),
    ("certificate_expiring", "warning", document(tls=certificate(86400))),
    ("certificate_expiring", "critical", document(tls=certificate(-1))),
    ("certificate_unused", "warning", document(tls={"certificates": [], "problems": ["/c.pem: no key"]})),
    ("reload_failed", "warning", document(last_reload={"ok": False, "error": "listeners: must be a mapping"})),
    ("jobs_down", "critical", document(jobs=jobs(state="backoff"))),
    ("jobs_store", "critical", document(jobs=jobs(store_error="NATS: it is away"))),
    ("jobs_dead", "warning", document(jobs=jobs(jobs=[["r", "dead", 1]]))),
    ("jobs_late", "warning", document(jobs=jobs(oldest_s=300.0))),
    ("discovery_stale", "warning", document(pools=[pool(discovery=ENGINE)])),
    ("engine_stale", "warning", document(pools=[pool(engine=ENGINE)])),
    ("quota_file", "warning", document(quotas={"file": "/q", "trouble": "database or disk is full"})),
    (
        "canary_aborted",
        "warning",
        document(canaries=[{"route": "r", "pool": "next", "phase": "aborted", "reason": "5 % of its answers failed"}]),
    ),
    ("access_log", "warning", document(workers=[{**worker(), "stats": {"access_log_trouble": "No space left"}}])),
    ("open_files_short", "warning", document(open_files={"shortage": "too few"})),
]
TRAFFIC: list[tuple[str, str, tuple[str, ...], dict[str, float]]] = [
    ("endpoint_failing", "warning", ("endpoint", "p", "a:1"), {"rate": 10.0, "errors": 0.5}),
    ("route_errors", "critical", ("route", "r"), {"rate": 10.0, "errors": 0.5, "refused": 0.0}),
    ("model_failing", "warning", ("model", "p", "m"), {"rate": 10.0, "errors": 0.5}),
    ("requests_refused", "warning", ("route", "r"), {"rate": 10.0, "errors": 0.0, "refused": 0.1}),
]


@pytest.mark.parametrize(("name", "severity", "status"), CASES)
def test_a_condition_of_the_status_document(name: str, severity: str, status: dict[str, Any]) -> None:
    found = {problem.name: problem for problem in find(status, cast(History, Means({})))}
    assert found[name].severity == severity
    assert found[name].text
    assert verdict(list(found.values())) == ("failing" if severity == "critical" else "degraded")


@pytest.mark.parametrize(("name", "severity", "key", "means"), TRAFFIC)
def test_a_condition_of_the_traffic(name: str, severity: str, key: tuple[str, ...], means: dict[str, float]) -> None:
    (problem,) = find(document(pools=[pool()]), cast(History, Means({key: means})))
    assert (problem.name, problem.severity) == (name, severity)
    # Half of it is none, nor is it where hardly anything is asked.
    less = {field: value / (1 if field == "rate" else 2) for field, value in means.items()}
    rare = {field: value / 200 for field, value in means.items()}
    for other in (less, rare):
        assert find(document(pools=[pool()]), cast(History, Means({key: other}))) == []


def test_every_condition_has_a_case() -> None:
    assert {name for name, *_ in (*CASES, *TRAFFIC)} == set(CONDITIONS)


@pytest.mark.parametrize(
    "status",
    [
        document(),
        document(pools=[pool()], jobs=jobs(), tls=certificate(90 * 86400), last_reload={"ok": True, "error": ""}),
        document(pools=[pool(endpoint(), endpoint(health="down", admin="maintenance"))]),  # an operator knows
        document(pools=[pool(managed={"replicas": [replica("ready")], "next": [], "on_demand": None})]),
        document(
            pools=[{**pool(managed={"replicas": [], "next": [], "on_demand": {"asleep": True}}), "endpoints": []}]
        ),
        document(pools=[pool(queue={"waiting": 79, "max": 100})], cache={"tier": None, "disk_failing": 0}),
        document(workers=[worker("starting")]),
    ],
)
def test_what_is_no_problem(status: dict[str, Any]) -> None:
    assert find(status, cast(History, Means({}))) == []
    assert verdict([]) == "well"


def test_critical_ones_come_first_and_each_is_known_again() -> None:
    status = document(pools=[pool(endpoint(), DOWN), {**pool(DOWN), "name": "q"}])
    found = find(status, cast(History, Means({})))
    assert [problem.name for problem in found] == ["pool_without_endpoint", "endpoint_down", "endpoint_down"]
    keys = [problem.key for problem in found]
    assert len(set(keys)) == 3
    assert keys == [problem.key for problem in find(status, cast(History, Means({})))]
    assert found[1].text == "Connection refused"
