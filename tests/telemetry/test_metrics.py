"""The metrics page: what the counters say, in Prometheus' format, read back by its own parser."""

from __future__ import annotations

from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from lb.shared.segment import Segment
from lb.telemetry.metrics import Snapshot, exposition
from lb.telemetry.series import BOUNDS_US, WORDS, Series

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
                "scaling": {"scaled_up": 3, "scaled_down": 1},
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


def test_the_segments_words_mean_what_the_page_says() -> None:
    master = Segment.create(2)
    for worker in (0, 1):
        segment = Segment.attach(master.fd, worker)
        segment.add_series(5, 1, 10)  # TG_S_CODE_2XX
        segment.add_series(5, 4, 1)  # TG_S_CODE_5XX
        segment.add_series(5, 6, 12)  # TG_S_STARTED
        segment.add_series(5, 7, 11)  # TG_S_FINISHED
        segment.add_series(5, 15, 2)  # TG_S_CACHE_HIT
        segment.add_series(5, 21, 500_000_000)  # TG_S_DURATION_SUM_NS
        segment.add_series(5, 22, 4)  # TG_S_RETRIES_REFUSED
        segment.add_series(5, 23, 9)  # TG_S_HEDGES
        segment.add_series(5, 24, 5)  # TG_S_HEDGES_WON
        segment.add_series(5, 25, 3)  # TG_S_HEDGES_LOST
        segment.add_series(5, 26, 7)  # TG_S_HEDGES_REFUSED
        segment.add_series(5, 32, 3)  # up to 100 us
        segment.add_series(5, 55, 1)  # over a minute
        segment.add_series(5, 56, 6)  # TG_S_GRPC: OK
        segment.add_series(5, 56 + 14, 2)  # UNAVAILABLE
        segment.add_series(5, 73, 3)  # TG_S_FAULTS
    series = Series.of(master.series_total(5))
    found = samples(
        exposition(Snapshot(STATUS, routes={"r": series}, endpoints={("p", "a"): series, ("p", "b"): series}))
    )
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


def test_an_endpoint_that_nothing_has_checked_counts_as_up_and_as_unchecked() -> None:
    endpoint = {**STATUS["pools"][0]["endpoints"][0], "health": "unchecked", "failing": 0.75, "turns": 0.0625}
    found = samples(exposition(Snapshot({**STATUS, "pools": [{**STATUS["pools"][0], "endpoints": [endpoint]}]})))
    names = ("up", "unchecked", "recent_failures_ratio", "turns_ratio")
    assert [found[f"tidegate_endpoint_{name}", "endpoint=a", "pool=p"] for name in names] == [1, 1, 0.75, 0.0625]


def test_requests_without_a_route_are_counted_by_why() -> None:
    master = Segment.create(1)
    Segment.attach(master.fd, 0).add_series(5, 22, 3)  # TG_S_UNROUTED
    Segment.attach(master.fd, 0).add_series(5, 23, 4)  # TG_S_MALFORMED
    found = samples(exposition(Snapshot(STATUS, listeners={"web": Series.of(master.series_total(5))})))
    name = "tidegate_listener_declined_requests_total"
    assert [found[name, "listener=web", f"reason={why}"] for why in ("unrouted", "malformed")] == [3, 4]


def test_sources_that_found_no_room_in_the_table() -> None:
    found = samples(exposition(Snapshot({**STATUS, "source_limits": {"crowded": 3}})))
    assert found["tidegate_source_limit_crowded_total",] == 3


def test_learned_sessions() -> None:
    assert not [name for name in samples(exposition(Snapshot(STATUS))) if "session" in name[0]]
    master = Segment.create(1)
    for word, amount in zip(range(15, 20), (5, 4, 3, 2, 1), strict=True):  # TG_S_SESSION_HIT to _ENDED
        Segment.attach(master.fd, 0).add_series(5, word, amount)
    endpoints = [{**STATUS["pools"][0]["endpoints"][0], "sessions": 9}]
    status = {
        **STATUS,
        "pools": [{**STATUS["pools"][0], "endpoints": endpoints}],
        "sessions": {"capacity": 131_072, "evicted": 8},
    }
    page = exposition(Snapshot(status, sessions={"p": Series.of(master.series_total(5))}))
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


def test_bounds_are_those_of_the_compiled_side() -> None:
    assert len(BOUNDS_US) == 23
    assert list(BOUNDS_US) == sorted(BOUNDS_US)


def test_a_series_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="80 words"):
        Series.of([0] * (WORDS - 1))


def test_series_add_up() -> None:
    one = Series.of(list(range(WORDS)))
    both = one + one
    assert both.codes == tuple(2 * n for n in range(6))
    assert both.duration_ns == 42
    assert both.buckets == tuple(2 * n for n in range(32, 56))
