"""The status tables, from documents as the daemon makes them."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from rich.console import Console

from lb.cli.status import show

ENDPOINT = {
    "address": "unix:/run/tidegate/digits-0-75b78da9.sock",
    "weight": 1,
    "health": "up",
    "admin": "enabled",
    "in_flight": 3,
    "max_in_flight": 4,
    "check": {"last": {"reason": "passed"}},
}
REPLICA = {
    "index": 0,
    "pid": 77,
    "address": ENDPOINT["address"],
    "state": "crash_loop",
    "restarts": 6,
    "started_at": 1,
    "last_error": "exit code 1: no such model",
    "output": ["Traceback", "no such model"],
    "gpus": ["0"],
    "cores": [2, 3],
}
DOCUMENT: dict[str, Any] = {
    "version": "1.2.3",
    "state": "running",
    "started_at": 0.0,
    "uptime_s": 3661.5,
    "generation": 4,
    "reloads": {"ok": 1, "failed": 1},
    "last_reload": {
        "ok": False,
        "at": 0.0,
        "generation": 4,
        "error": "broken",
        "problems": [],
        "notes": ["workers: 2"],
    },
    "config": "/etc/tidegate/tidegate.yaml",
    "compiled": {"lb.shared.segment": True, "lb.net.poller": False},
    "workers": [
        {
            "index": 0,
            "pid": None,
            "state": "backoff",
            "restarts": 2,
            "generation": 0,
            "busy": 0,
            "last_exit": "exit code 1",
        }
    ],
    "listeners": [
        {
            "name": "web",
            "address": "127.0.0.1:80",
            "sockets": ["127.0.0.1%eth0:80", *(f"127.0.0.{n}:80" for n in range(2, 13))],
            "protocol": "http",
            "inherited": True,
        }
    ],
    "pools": [
        {
            "name": "digits",
            "protocol": "oip",
            "policy": "maglev",
            "queue": {"waiting": 7, "max": 1024},
            "endpoints": [ENDPOINT],
            "managed": {
                "wanted": 1,
                "replicas": [REPLICA],
                "next": [{**REPLICA, "index": 1, "last_error": "no such file"}],
                "leaving": [{**REPLICA, "state": "draining"}],
                "vertical": {
                    "cores": 4,
                    "advised": None,
                    "needed": 2.5,
                    "memory": 512 << 20,
                    "batch": 16,
                    "instances": None,
                    "runs": "it fits",
                },
                "scaling": {"wanted": 1, "min": 1, "max": 4, "reason": "no decision yet"},
            },
        },
        {"name": "empty", "protocol": "http", "policy": "round_robin", "endpoints": [], "queue": None, "managed": None},
    ],
}


def shown(document: dict[str, Any], width: int) -> str:
    console = Console(file=io.StringIO(), width=width, highlight=False)
    show(document, False, console)
    return console.file.getvalue()  # type: ignore[attr-defined]


JOBS: dict[str, Any] = {
    "state": "running",
    "store_error": None,
    "error": None,
    "jobs": [["a", "queued", 2], ["b", "queued", 1], ["a", "dead", 4], ["a", "done", 0]],
    "oldest_s": 75.2,
}


def test_jobs_are_one_line() -> None:
    assert "jobs: 3 queued, 4 dead, the oldest for 0:01:15\n" in shown({**DOCUMENT, "jobs": JOBS}, 200)
    gone = {**JOBS, "state": "backoff", "error": "signal SIGKILL"}
    assert "jobs: the process is backoff: signal SIGKILL\n" in shown({**DOCUMENT, "jobs": gone}, 200)
    assert "jobs: none\n" in shown({**DOCUMENT, "jobs": {**JOBS, "jobs": [], "oldest_s": 0.0}}, 200)


def test_files_that_cannot_be_written_are_told() -> None:
    full = "database or disk is full"
    jobs = {**JOBS, "store_error": f"/j.db cannot be written: {full}"}
    workers = [{**worker, "stats": {"access_log_trouble": "No space left on device"}} for worker in DOCUMENT["workers"]]
    page = shown({**DOCUMENT, "jobs": jobs, "quotas": {"file": "/q", "trouble": full}, "workers": workers}, 200)
    assert f"jobs: /j.db cannot be written: {full}\n" in page
    assert f"quotas: /q cannot be written: {full}\n" in page
    assert "access log of worker 0: No space left on device; records are lost\n" in page


def test_everything_an_operator_looks_for_is_there() -> None:
    text = shown(DOCUMENT, 200)
    for part in (
        "tidegate 1.2.3  running  up 1:01:01  plan 4",
        "failed: broken",
        "needs a restart: workers: 2",
        "not compiled: lb.net.poller",
        "127.0.0.1%eth0:80 (passed by systemd)",
        "127.0.0.9:80",
        "and 3 more",
        "digits (oip, maglev, 7 waiting)",
        "3 of 4",
        ENDPOINT["address"],
        "empty (http, round_robin)        none",
        "exit code 1: no such model",
        "digits/1 (next)     77   crash_loop  GPU 0; cores 2, 3  6         no such file",
        "digits/0 (leaving)  77   draining",
        "digits/1 wrote:\n  Traceback",
        f"digits size{' ' * 55}4 cores each, 4 advised: 2.50 needed, memory 512 MiB; batch 16, - runs at once: it fits",
        "1 wanted, 1 to 4: no decision yet",
    ):
        assert part in text


def test_pools_that_learn_say_how_many_sessions_they_know() -> None:
    endpoints = [{**ENDPOINT, "sessions": n} for n in (3, 4)]
    pool = {**DOCUMENT["pools"][0], "endpoints": endpoints}
    assert "digits (oip, maglev, 7 waiting, 7 sessions)" in shown({**DOCUMENT, "pools": [pool]}, 200)
    pool["endpoints"] = [{**ENDPOINT, "sessions": None}]
    assert "sessions" not in shown({**DOCUMENT, "pools": [pool]}, 200)


def test_a_narrow_terminal_cuts_nothing_off() -> None:
    letters = "".join(shown(DOCUMENT, 70).split())
    assert "…" not in letters


def test_a_narrow_terminal_keeps_addresses_whole() -> None:
    steering = {
        "ejection_state": "ejected",
        "ejected_for_s": 12.3,
        "reason": "consecutive_5xx",
        "why_not": "priority 0 has all",
    }
    rows = [{**ENDPOINT, "address": f"192.168.100.{n}:8001", "steering": steering} for n in (7, 108)]
    pool = {**DOCUMENT["pools"][0], "endpoints": rows}
    words = shown({**DOCUMENT, "pools": [pool]}, 80).split()
    assert {"192.168.100.7:8001", "192.168.100.108:8001", "12.3"} <= set(words)
    assert "pool digits (oip, maglev, 7 waiting)" in shown({**DOCUMENT, "pools": [pool]}, 80)
    assert "pool digits" not in shown({**DOCUMENT, "pools": [pool]}, 200)


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    show(DOCUMENT, True)
    assert json.loads(capsys.readouterr().out) == DOCUMENT


def test_errors_and_turns_of_an_endpoint_that_fails() -> None:
    endpoint = {
        **ENDPOINT,
        "health": "unchecked",
        "errors": {"answers": 200, "faults": 3, "grpc": {"Unavailable": 2, "NotFound": 1}},
        "failing": 0.75,
        "turns": 0.0625,
    }
    text = shown({**DOCUMENT, "pools": [{**DOCUMENT["pools"][0], "endpoints": [endpoint]}]}, 400)
    assert "unchecked" in text
    assert "1.5 % (2 Unavailable, 1 NotFound)" in text
    assert "75% of its last attempts failed: it takes 6% of its turns" in text
