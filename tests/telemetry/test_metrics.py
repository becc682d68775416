"""The metrics page: what the counters say, in Prometheus' format, read back by its own parser."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from lb.shared.segment import Segment
from lb.shared.words import (
    BOUNDS_US,
    ENDPOINT,
    KINDS,
    LISTENER,
    MODEL,
    ROUTE,
    SESSIONS,
    SIZE,
    UDP_ENDPOINT,
    UDP_LISTENER,
    Kind,
)
from lb.telemetry import daemon, models, pools, reference, traffic
from lb.telemetry.metrics import Snapshot, exposition
from lb.telemetry.series import Series

MODELS = {"models": {"m": True, "n": False}}
STATS = {"connections": 5, "refused_no-route": 2, "mirrored": 8, "mirror_failed": 7, "mirror_skipped": 6}
STATUS: dict[str, Any] = {
    "version": "1",
    "started_at": 1.0,
    "generation": 3,
    "reloads": {"ok": 2, "failed": 1},
    "last_reload": {"ok": False},
    "workers": [{"index": 0, "state": "running", "restarts": 4, "stats": STATS}],
    "pools": [
        {
            "name": "p",
            "endpoints": [{"address": "a", "health": "up", "admin": "drain", "weight": 2, "in_flight": 7, **MODELS}],
            "managed": {
                "wanted": 2,
                "replicas": [{"state": "ready", "restarts": 1}],
                "next": [{"state": "crash_loop", "restarts": 6}],
                "leaving": [{"state": "draining", "restarts": 0}],
                "restarts": 9,
                "scaling": {"scaled_up": 3, "scaled_down": 1, "rule": "kpa", "recommended": 5, "decisions": 40},
            },
        }
    ],
    "cache": None,
}


def samples(page: bytes) -> dict[tuple[str, ...], float]:
    return {
        (s.name, *(f"{k}={v}" for k, v in sorted(s.labels.items()))): s.value
        for family in text_string_to_metric_families(page.decode())
        for s in family.samples
    }


def counted(kind: Kind, workers: int = 1, **amounts: int) -> Series:
    """A series in which each worker has counted so much; "requests__2xx" is a word with a label."""
    master = Segment.create(workers)
    for worker in range(workers):
        segment = Segment.attach(master.fd, worker)
        for name, amount in amounts.items():
            segment.add_series(5, kind.place(name.replace("__", ".")), amount)
    return Series(kind, master.series_total(5))


def test_the_segments_words_mean_what_the_page_says() -> None:
    answers = {
        "requests__2xx": 10,
        "requests__5xx": 1,
        "started": 12,
        "finished": 11,
        "request_duration": 500_000_000,  # the sum
        "grpc__OK": 6,
        "grpc__Unavailable": 2,
        "errors": 3,
    }
    hedges = {"hedge_results__won": 5, "hedge_results__lost": 3, "hedge_results__refused": 7}
    route = counted(ROUTE, 2, **answers, **hedges, cache__hit=2, retries_refused=4, hedges=9)
    probed = {"probes": 9, "probe_failures__timeout": 5, "probe_failures__failed": 3, "probe_failures__no_report": 7}
    endpoint = counted(ENDPOINT, 2, **answers, **probed)
    at = ROUTE.place("request_duration") + 1
    words = [*route.words]
    words[at], words[at + len(BOUNDS_US)] = 6, 2  # up to 100 us, over a minute
    totals = {ROUTE: {("r",): Series(ROUTE, words)}, ENDPOINT: {("p", "a"): endpoint, ("p", "b"): endpoint}}
    found = samples(exposition(Snapshot(STATUS, totals)))
    assert found["tidegate_route_requests_total", "code=2xx", "route=r"] == 20
    assert found["tidegate_route_requests_total", "code=5xx", "route=r"] == 2
    assert found["tidegate_route_in_flight", "route=r"] == 2
    assert found["tidegate_cache_requests_total", "result=hit", "route=r"] == 4
    assert found["tidegate_route_retries_refused_total", "route=r"] == 8
    assert found["tidegate_route_hedges_total", "route=r"] == 18
    hedges = {
        one: found["tidegate_route_hedge_results_total", f"result={one}", "route=r"]
        for one in ("won", "lost", "refused")
    }
    assert hedges == {"won": 10, "lost": 6, "refused": 14}
    assert found["tidegate_endpoint_probes_total", "endpoint=a", "pool=p"] == 18
    probes = {
        one: found["tidegate_endpoint_probe_failures_total", "endpoint=a", "pool=p", f"reason={one}"]
        for one in ("timeout", "failed", "no_report")
    }
    assert probes == {"timeout": 10, "failed": 6, "no_report": 14}
    assert found["tidegate_route_request_duration_seconds_sum", "route=r"] == pytest.approx(1.0)
    assert found["tidegate_route_request_duration_seconds_bucket", "le=0.0001", "route=r"] == 6
    assert found["tidegate_route_request_duration_seconds_bucket", "le=60.0", "route=r"] == 6
    assert found["tidegate_route_request_duration_seconds_bucket", "le=+Inf", "route=r"] == 8
    assert found["tidegate_pool_requests_total", "code=2xx", "pool=p"] == 40
    for kind, key, factor in (("route", "route=r", 1), ("endpoint", "pool=p", 1), ("pool", "pool=p", 2)):
        key = ("endpoint=a", key) if kind == "endpoint" else (key,)
        calls = {
            code: found[
                f"tidegate_{kind}_grpc_requests_total", *sorted((*key, f"grpc_code={name}", f"grpc_status={code}"))
            ]
            for code, name in ((0, "OK"), (1, "Canceled"), (14, "Unavailable"))
        }
        assert calls == {0: 12 * factor, 1: 0, 14: 4 * factor}
        assert found[f"tidegate_{kind}_errors_total", *key] == 6 * factor
    # Nobody counts these, and what is always 0 would be believed.
    names = {name for name, *_ in found}
    assert not {f"tidegate_route_{what}_errors_total" for what in ("connect", "response")} & names
    assert not {f"tidegate_{what}_rejected_total" for what in ("pool", "endpoint")} & names


def test_the_masters_state_is_shown() -> None:
    found = samples(exposition(Snapshot(STATUS)))
    assert found["tidegate_reloads_total", "result=failed"] == 1
    assert found["tidegate_last_reload_success",] == 0
    assert found["tidegate_worker_restarts_total", "worker=0"] == 4
    assert found["tidegate_worker_connections", "worker=0"] == 5
    assert found["tidegate_connections_refused_total", "reason=no-route", "worker=0"] == 2
    mirrors = [
        found[f"tidegate_worker_mirror_{what}_total", "worker=0"] for what in ("requests", "failures", "skipped")
    ]
    assert mirrors == [8, 7, 6]
    assert found["tidegate_endpoint_up", "endpoint=a", "pool=p"] == 1
    assert found["tidegate_endpoint_draining", "endpoint=a", "pool=p"] == 1
    ready = {name: found["tidegate_endpoint_model_ready", "endpoint=a", f"model={name}", "pool=p"] for name in "mn"}
    assert ready == {"m": 1, "n": 0}
    assert found["tidegate_endpoint_outstanding", "endpoint=a", "pool=p"] == 7
    for state in ("ready", "crash_loop", "draining"):
        assert found["tidegate_replicas", "pool=p", f"state={state}"] == 1
    assert found["tidegate_replica_restarts_total", "pool=p"] == 9
    assert found["tidegate_scale_events_total", "direction=up", "pool=p"] == 3
    assert found["tidegate_replicas_recommended", "pool=p", "rule=kpa"] == 5
    assert found["tidegate_scaling_decisions_total", "pool=p", "rule=kpa"] == 40


@pytest.mark.parametrize(
    ("configured", "learned", "shown"), [(None, None, None), (8, None, 8), (8, 3, 3), (None, 5, 5)]
)
def test_the_limit_that_holds_is_shown(configured: int | None, learned: int | None, shown: int | None) -> None:
    endpoint = {**STATUS["pools"][0]["endpoints"][0], "max_in_flight": configured, "learned_limit": learned}
    found = samples(exposition(Snapshot({**STATUS, "pools": [{**STATUS["pools"][0], "endpoints": [endpoint]}]})))
    assert found.get(("tidegate_endpoint_max_in_flight", "endpoint=a", "pool=p")) == shown


def test_an_endpoint_that_nothing_has_checked_counts_as_up_and_as_unchecked() -> None:
    endpoint = {**STATUS["pools"][0]["endpoints"][0], "health": "unchecked", "failing": 0.75, "turns": 0.0625}
    found = samples(exposition(Snapshot({**STATUS, "pools": [{**STATUS["pools"][0], "endpoints": [endpoint]}]})))
    names = ("up", "unchecked", "recent_failures_ratio", "turns_ratio")
    assert [found[f"tidegate_endpoint_{name}", "endpoint=a", "pool=p"] for name in names] == [1, 1, 0.75, 0.0625]


def test_requests_without_a_route_are_counted_by_why() -> None:
    listener = counted(LISTENER, rejected_requests__unrouted=3, rejected_requests__malformed=4)
    found = samples(exposition(Snapshot(STATUS, {LISTENER: {("web",): listener}})))
    name = "tidegate_listener_rejected_requests_total"
    assert [found[name, "listener=web", f"reason={why}"] for why in ("unrouted", "malformed")] == [3, 4]


def test_sources_that_found_no_room_in_the_table() -> None:
    found = samples(exposition(Snapshot({**STATUS, "source_limits": {"table_full": 3}})))
    assert found["tidegate_source_limit_table_full_total",] == 3


def test_learned_sessions() -> None:
    assert not [name for name in samples(exposition(Snapshot(STATUS))) if "session" in name[0]]
    requests = {"requests__hit": 5, "requests__unknown": 4, "requests__fallback": 2}
    sessions = counted(SESSIONS, **requests, learned=3, ended=1)
    endpoints = [{**STATUS["pools"][0]["endpoints"][0], "sessions": 9}]
    status = {
        **STATUS,
        "pools": [{**STATUS["pools"][0], "endpoints": endpoints}],
        "sessions": {"capacity": 131_072, "evicted": 8},
    }
    page = exposition(Snapshot(status, {SESSIONS: {("p",): sessions}}))
    found = {name: value for name, value in samples(page).items() if "session" in name[0]}
    assert found == {
        ("tidegate_endpoint_sessions", "endpoint=a", "pool=p"): 9,
        ("tidegate_pool_session_requests_total", "pool=p", "result=hit"): 5,
        ("tidegate_pool_session_requests_total", "pool=p", "result=unknown"): 4,
        ("tidegate_pool_session_requests_total", "pool=p", "result=fallback"): 2,
        ("tidegate_pool_sessions_learned_total", "pool=p"): 3,
        ("tidegate_pool_sessions_ended_total", "pool=p"): 1,
        ("tidegate_sessions_capacity",): 131_072,
        ("tidegate_sessions_evicted_total",): 8,
    }


def test_a_series_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match=f"{SIZE} words"):
        Series(ROUTE, [0] * (SIZE - 1))


def test_series_add_up() -> None:
    one = Series(ROUTE, list(range(SIZE)))
    both = one + one
    assert both.values("requests") == {label: 2 * n for label, n in one.values("requests").items()}
    assert both.sum_ns("request_duration") == 2 * one.sum_ns("request_duration")
    assert both.buckets("request_duration") == tuple(2 * n for n in one.buckets("request_duration"))


def test_datagrams() -> None:
    assert not [name for name in samples(exposition(Snapshot(STATUS))) if "udp" in name[0]]
    block = {"started": 50, "finished": 45, "received": 100, "sent_bytes": 103, "ended__idle": 118}
    listener = counted(UDP_LISTENER, **block, dropped__sessions=108, dropped__error=117)
    endpoint = counted(UDP_ENDPOINT, **block)
    totals = {UDP_LISTENER: {("dns",): listener}, UDP_ENDPOINT: {("p", "a"): endpoint, ("p", "b"): endpoint}}
    found = samples(exposition(Snapshot(STATUS, totals, {"dns": 9})))
    assert found["tidegate_udp_listener_received_datagrams_total", "listener=dns"] == 100
    assert found["tidegate_udp_endpoint_sent_bytes_total", "endpoint=a", "pool=p"] == 103
    assert found["tidegate_udp_pool_open_sessions", "pool=p"] == 10
    assert found["tidegate_udp_pool_sessions_total", "pool=p"] == 100
    assert found["tidegate_udp_dropped_datagrams_total", "listener=dns", "reason=sessions"] == 108
    assert found["tidegate_udp_dropped_datagrams_total", "listener=dns", "reason=error"] == 117
    assert found["tidegate_udp_listener_ended_sessions_total", "listener=dns", "reason=idle"] == 118
    assert found["tidegate_udp_kernel_dropped_datagrams_total", "listener=dns"] == 9


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_every_row_is_on_the_page_with_its_help_and_type(kind: Kind) -> None:
    """So that a new row needs nothing but its increment."""
    labels = tuple(f"a {label}" for label in kind.views[0].labels)
    series = Series(kind, list(range(1, SIZE + 1)))
    text = exposition(Snapshot(STATUS, {kind: {labels: series}})).decode()
    page = {family.name: family for family in text_string_to_metric_families(text)}
    for view in kind.views:
        for _, word in kind.shown_in(view):
            family = page[f"tidegate_{word.family(view.prefix)}"]
            assert (family.type, family.documentation) == (word.type, word.help(view))
            assert len(family.samples) >= word.size
    described = series.describe()
    assert {word.name for _, word in kind.shown_in(kind.views[0])} <= set(described)
    assert not {word.name for _, _, word in kind.rows() if not word.shown} & set(described)


@pytest.mark.parametrize("name", ['"><script>', "two\nlines", "back\\slash\\n", "x" * 200, "modèle 🎈", 'a}b{c="d"'])
def test_a_model_of_any_name_is_one_label(name: str) -> None:
    """Clients choose the names of models."""
    model = counted(MODEL, requests__2xx=3, requests__429=1, failures__refused=1)
    found = samples(exposition(Snapshot(STATUS, {MODEL: {("p", name): model}})))
    assert found["tidegate_inference_requests_total", "code=2xx", f"model={name}", "pool=p"] == 3
    assert found["tidegate_inference_requests_total", "code=429", f"model={name}", "pool=p"] == 1
    assert found["tidegate_inference_failures_total", f"model={name}", "pool=p", "reason=refused"] == 1


def test_the_document_is_current() -> None:
    assert reference.PAGE.read_text() == reference.page(), "run: make docs"


def test_the_metrics_that_documents_name_exist() -> None:
    listed = set(re.findall(r"`(tidegate_\w+)`", reference.page()))
    sources = "".join(path.read_text() for path in Path(traffic.__file__).parent.glob("*.py"))
    beginnings = re.findall(r'f"(\w+_)\{name\}"', sources)
    for path in sorted(reference.PAGE.parent.rglob("*.md")):
        for name in re.findall(r"`(tidegate_[a-z0-9_]+)", path.read_text()):
            bare = name.removeprefix("tidegate_").removesuffix("_total")  # of the status document
            quoted = [f'"{bare}"', *(f'"{bare[len(b) :]}"' for b in beginnings if bare.startswith(b))]
            assert name in listed or any(one in sources for one in quoted), f"{path.name}: {name}"


def test_a_help_text_says_what_the_number_is() -> None:
    """A reader of an alert sees this line alone: no "it" without a noun, and of a state what 1 stands for."""
    for module in (daemon, models, pools):
        source = Path(str(module.__file__)).read_text()
        assert re.findall(r'(?<!")"(?:Its?|Whether|What|That) [^"]*"', source) == []


def test_models() -> None:
    row = {
        "pool": "p",
        "model": "m",
        "version": "1",
        "success": 5,
        "fail": 2,
        "success_ns": 25 * 10**8,
        "fail_ns": 10**9,
    }
    row |= {"queue_ns": 10**8, "compute_ns": 2 * 10**8, "rows": 40, "runs": 8, "hits": 0, "misses": 0}
    found = samples(exposition(Snapshot(STATUS, models=[row])))
    labels = ("model=m", "pool=p")
    assert found["tidegate_model_requests_total", *labels, "result=success", "version=1"] == 5
    assert found["tidegate_model_requests_total", *labels, "result=failure", "version=1"] == 2
    for name, value in (
        ("request_seconds", 2.5), ("failure_seconds", 1), ("queue_seconds", 0.1), ("compute_seconds", 0.2),
        ("rows", 40), ("runs", 8),
    ):  # fmt: skip
        assert found[f"tidegate_model_{name}_total", *labels, "version=1"] == value
    assert b"tidegate_model_requests" not in exposition(Snapshot(STATUS))


def test_changes_at_run_time_are_counted() -> None:
    page = exposition(Snapshot({**STATUS, "changes": [{"setting": "log.level"}, {"setting": "weight"}]})).decode()
    assert "\ntidegate_changes_at_run_time 2.0\n" in page
    assert "\ntidegate_changes_at_run_time 0.0\n" in exposition(Snapshot(STATUS)).decode()


def test_the_cache() -> None:
    names = [
        "hits", "stale", "misses", "stored", "rejected_busy", "rejected_size", "rejected_value", "rejected_purged",
        "evictions", "expired", "purges", "corrupt", "broken_locks", "flights_followed", "flights_promoted",
        "flights_unshared", "flights_full", "disk_hits", "disk_stored", "disk_evictions", "disk_dropped",
        "disk_damaged", "disk_errors",
    ]  # fmt: skip
    cache = {
        "size": 1,
        "entries": 2,
        "bytes": 1024,
        "capacity": 4096,
        "saved_us": 2_500_000,
        "disk_bytes": 8192,
        "disk_failing": 1,
    }
    cache |= {name: number for number, name in enumerate(names, 10)}
    page = exposition(Snapshot({**STATUS, "cache": cache})).decode()
    for number, name in enumerate(names, 10):
        assert f"\ntidegate_cache_{name}_total {number}.0\n" in page
    assert "\ntidegate_cache_saved_compute_seconds_total 2.5\n" in page
    assert "\ntidegate_cache_bytes 1024.0\n" in page
    assert "\ntidegate_cache_disk_bytes 8192.0\n" in page
    assert "\ntidegate_cache_disk_failing 1.0\n" in page
    texts = re.findall(r"^# HELP (tidegate_cache_\S+) (.*)$", page, re.MULTILINE)
    assert len({text for _, text in texts}) == len(texts) == len(names) + 6


def test_the_cache_tier() -> None:
    counts = ["hits", "misses", "invalid", "timeouts", "errors", "skipped", "stored", "dropped", "opened"]
    worker = {"state": "closed"} | {name: number for number, name in enumerate(counts, 10)}
    master = dict.fromkeys(counts, 0) | {"state": "open"}
    tier = {"processes": {"0": worker, "master": master}, "purges": 3, "invalidations": 4, "pending_purges": 2}
    cache = {"size": 1, "entries": 2, "bytes": 0, "capacity": 0, "saved_us": 0, "tier": tier}
    cache |= dict.fromkeys(daemon._CACHE, 0) | {f"disk_{name}": 0 for name in (*daemon._DISK, "bytes", "failing")}
    lines = set(exposition(Snapshot({**STATUS, "cache": cache})).decode().splitlines())
    for number, result in enumerate(("hit", "miss", "invalid", "timeout", "error", "skipped"), 10):
        assert f'tidegate_cache_tier_gets_total{{process="0",result="{result}"}} {number}.0' in lines
    assert 'tidegate_cache_tier_gets_total{process="master",result="hit"} 0.0' in lines
    assert 'tidegate_cache_tier_puts_total{process="0",result="stored"} 16.0' in lines
    assert 'tidegate_cache_tier_puts_total{process="0",result="dropped"} 17.0' in lines
    assert {f'tidegate_cache_tier_up{{process="{p}"}} {up}.0' for p, up in (("0", 1), ("master", 0))} <= lines
    assert 'tidegate_cache_tier_breaker_opened_total{process="0"} 18.0' in lines
    assert 'tidegate_cache_tier_purges_total{direction="sent"} 3.0' in lines
    assert 'tidegate_cache_tier_purges_total{direction="heard"} 4.0' in lines
    assert "tidegate_cache_tier_pending_purges 2.0" in lines
