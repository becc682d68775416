"""Servers of other makers under `serve: {command: …}`: every protocol, replaced under load, and no orphans."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from daemon import DIGITS, ROOT, Daemon, alive, eventually, http_listener, route

Start = Callable[..., Daemon]
SERVER = str(ROOT / "tests" / "control" / "any_server.py")
HTTP = [sys.executable, SERVER, "{address}"]
MODELS = [sys.executable, "-P", "-m", "backend", "serve", "--models", str(DIGITS / "models"), "--threads", "1"]


def pool(protocol: str = "http", **serve: Any) -> dict[str, Any]:
    return {"protocol": protocol, "serve": {"command": HTTP, "min": 2, "drain_timeout": "5s", **serve}}


def config(**serve: Any) -> dict[str, Any]:
    return {"listeners": {"web": http_listener(route("/", "p"))}, "pools": {"p": pool(**serve)}}


def ready(daemon: Daemon, number: int = 2) -> list[dict[str, Any]]:
    def found() -> list[dict[str, Any]] | None:
        rows = [r for r in daemon.pool("p")["managed"]["replicas"] if r["state"] == "ready"]
        return rows if len(rows) == number and len(daemon.pool("p")["endpoints"]) == number else None

    rows: list[dict[str, Any]] = eventually(found, f"{number} servers")
    return rows


def test_http_servers_are_started_and_replaced_when_they_die(start: Start) -> None:
    daemon = start(config())
    rows = ready(daemon)
    with httpx.Client(base_url=f"http://127.0.0.1:{daemon.port()}") as client:
        seen = {client.get("/").json()["pid"] for _ in range(40)}
        assert seen == {row["pid"] for row in rows}
        os.kill(rows[0]["pid"], signal.SIGKILL)
        eventually(lambda: rows[0]["pid"] not in {r["pid"] for r in ready(daemon)}, "the replacement")
        assert {client.get("/").json()["pid"] for _ in range(40)} == {r["pid"] for r in ready(daemon)}
    assert daemon.stop() == 0


@pytest.mark.parametrize("protocol", ["oip", "grpc", "http2"])
def test_servers_that_speak_http2(start: Start, protocol: str) -> None:
    """Tidegate's own model server, as any other, behind each protocol that it speaks."""
    command = [*MODELS, "--listen", "{address}"]
    check = {"oip": "oip", "grpc": "grpc", "http2": "tcp"}[protocol]
    served = {"command": command, "min": 1, "ready": check, "start_timeout": "90s"}
    daemon = start(
        {
            "listeners": {"web": http_listener(route("/", "p"))},
            "pools": {"p": {"protocol": protocol, "serve": served}},
        }
    )
    ready(daemon, 1)
    from tritonclient.grpc import InferenceServerClient

    client = InferenceServerClient(f"127.0.0.1:{daemon.port()}")
    eventually(lambda: client.is_model_ready("digits"), "the model")
    client.close()


def test_a_tcp_pool(start: Start) -> None:
    listeners = {"raw": {"bind": "127.0.0.1:0", "protocol": "tcp", "pool": "p"}}
    daemon = start({"listeners": listeners, "pools": {"p": pool("tcp")}})
    ready(daemon)
    with socket.create_connection(("127.0.0.1", daemon.port("raw")), 10) as sock:
        sock.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        assert sock.recv(100).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("places", [{}, {"gpus": 1}], ids=["two sets", "one at a time"])
async def test_a_reload_replaces_them_without_a_failed_request(
    start: Start, monkeypatch: pytest.MonkeyPatch, places: dict[str, int]
) -> None:
    """At once, and where there is no room for two sets."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    daemon = start(config(env={"GIVEN": "1"}, **places))
    await asyncio.to_thread(ready, daemon)
    answers: list[str] = []
    stop = asyncio.Event()
    address = f"http://127.0.0.1:{daemon.port()}"

    async def load() -> None:
        async with httpx.AsyncClient(base_url=address, timeout=30) as client:
            while not stop.is_set():
                answer = await client.get("/")
                answer.raise_for_status()
                answers.append(answer.json()["GIVEN"])

    async with asyncio.TaskGroup() as group:
        for _ in range(6):
            group.create_task(load())
        for given in ("2", "3"):
            before = {r["pid"] for r in await asyncio.to_thread(ready, daemon)}
            await asyncio.to_thread(daemon.reload, config(env={"GIVEN": given}, **places))
            await asyncio.to_thread(eventually, lambda g=given: answers and answers[-1] == g, f"answers of {given}")
            await asyncio.to_thread(eventually, lambda: not daemon.pool("p")["managed"]["leaving"], "the old ones' end")
            await asyncio.to_thread(eventually, lambda b=before: not b & set(started(daemon)), "other processes")
        stop.set()
    # Old and new at once only while the workers change over; and never the old ones again.
    assert list(dict.fromkeys(answers)) == ["1", "2", "3"]


def test_a_killed_master_leaves_nothing_and_the_next_starts_each_once(start: Start, tmp_path: Path) -> None:
    """kill -9 in the middle of scaling: servers that fork, hide in sessions of their own and ignore SIGTERM."""
    children = tmp_path / "children"
    modes = ["--mode", "stubborn", "--mode", "daemon"]
    settings = {"command": [*HTTP, *modes], "env": {"CHILDREN": str(children)}, "drain_timeout": "1s"}
    daemon = start(config(**settings, min=2))
    ready(daemon)
    daemon.write(config(**settings, min=8))
    daemon.process.send_signal(signal.SIGHUP)
    eventually(lambda: len(started(daemon)) > 2, "more servers")
    family = [process.pid for process in psutil.Process(daemon.process.pid).children(recursive=True)]
    daemon.process.send_signal(signal.SIGKILL)
    daemon.process.wait(20)
    eventually(lambda: not [p for p in family if alive(p)], "the end of all that it had started", 30)
    eventually(lambda: not [c for c in map(int, children.read_text().split()) if alive(c)], "the end of children", 30)
    children.unlink()
    again = start(config(**settings, min=3))
    ready(again, 3)
    assert len(children.read_text().split()) == 3
    assert again.stop() == 0


def started(daemon: Daemon) -> list[int]:
    return [r["pid"] for r in daemon.pool("p")["managed"]["replicas"] if r["pid"]]


def test_a_model_that_cannot_start_says_why_and_harms_no_other(start: Start) -> None:
    settings = config()
    settings["pools"]["broken"] = pool(command=[*HTTP, "--mode", "crash"], crash_loop={"restarts": 2})
    settings["listeners"]["web"]["routes"].insert(0, route("/broken", "broken"))
    daemon = start(settings, ready=False)
    rows = ready(daemon)
    eventually(
        lambda: {r["state"] for r in daemon.pool("broken")["managed"]["replicas"]} == {"crash_loop"}, "the crash loop"
    )
    broken = daemon.pool("broken")["managed"]["replicas"][0]
    assert broken["last_error"] == "exit code 3: RuntimeError: out of memory"
    assert "reading weights" in broken["output"]
    shown = daemon.command("status").stdout
    assert "broken/0 wrote:" in shown
    assert "RuntimeError: out of memory" in shown
    assert [r["pid"] for r in ready(daemon)] == [r["pid"] for r in rows]
    assert httpx.get(f"http://127.0.0.1:{daemon.port()}/").status_code == 200


def test_cores_are_given_once_over_all_pools(start: Start) -> None:
    cores = sorted(os.sched_getaffinity(0))
    settings = config(min=1, cores=1)
    settings["pools"]["q"] = pool(min=len(cores), cores=1)
    settings["listeners"]["web"]["routes"].insert(0, route("/q", "q"))
    daemon = start(settings, ready=False)

    def replicas() -> list[dict[str, Any]]:
        return [r for name in ("p", "q") for r in daemon.pool(name)["managed"]["replicas"]]

    states = ["ready"] * len(cores) + ["waiting"]
    eventually(lambda: sorted(r["state"] for r in replicas()) == states, "all places taken")
    assert sorted(core for r in replicas() for core in r["cores"]) == cores
    for row in replicas():
        if row["state"] == "ready":
            assert sorted(os.sched_getaffinity(row["pid"])) == row["cores"]
        else:
            assert row["last_error"] == f"waits for 1 of {len(cores)} cores, of which {len(cores)} are taken"
    assert f"waits for 1 of {len(cores)} cores" in daemon.command("status").stdout
