"""`tidegate top` beside a real daemon: in a pipe, and on a terminal."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import pty
import re
import select
import struct
import subprocess
import termios
import time
from collections.abc import Callable
from typing import Any

from daemon import COMMAND, Daemon, digits_pool, environment, eventually, http_listener, route
from endpoints import Endpoint
from traffic import digit_request, digit_samples, load, request

Start = Callable[..., Daemon]
GET = request("GET", "/x")


def config(addresses: list[str]) -> dict[str, Any]:
    pool = {"protocol": "http", "endpoints": addresses}
    return {"listeners": {"web": http_listener(route("/", "http"))}, "pools": {"http": pool}}


async def test_one_interval_as_json(start: Start, endpoint: Callable[..., Any]) -> None:
    first: Endpoint = await endpoint("a", 0.01)
    daemon = start(config([first.address]))
    async with load(daemon.port(), [GET], clients=4) as running:
        await running.until(20)
        done = await asyncio.to_thread(daemon.command, "top", "--once", "--json", "--interval", "0.5")
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)
        (row,) = found["endpoint"]
        assert row["endpoint"] == first.address
        assert row["requests_per_s"] > 0
        assert 0.005 < row["p50_s"] < 5
        (web,) = found["listener"]
        assert web["connections"] == 4
        assert web["requests_per_s"] > 0
        assert found["pool"][0]["usable"] == 1
        text = (await asyncio.to_thread(daemon.command, "top", "--once", "--by", "pool")).stdout
        assert re.search(r"^http +auto +1 +1 ", text, re.MULTILINE), text
        assert not running.failures


async def test_the_readings_say_what_the_status_says(start: Start, endpoint: Callable[..., Any]) -> None:
    good, other = (await endpoint("a")).address, (await endpoint("b")).address
    document = config([good, other])
    health = {"type": "tcp", "interval": "100ms", "fall": 1}
    document["pools"]["checked"] = {"protocol": "http", "endpoints": [good, "127.0.0.1:1"], "health": health}
    document["pools"]["limited"] = {"protocol": "http", "endpoints": [good], "max_in_flight": 3, "policy": "random"}
    document["cache"] = {}
    daemon = start(document)
    await asyncio.to_thread(daemon.command, "drain", "http", other, check=True)
    await asyncio.to_thread(daemon.command, "weight", "http", good, "7", check=True)
    readings, status = json.loads(daemon.admin("/api/v1/counters")[1]), daemon.status()
    for name in ("version", "state", "generation", "last_reload"):
        assert readings[name] == status[name]
    for row, known in zip(readings["pools"], status["pools"], strict=True):
        assert {key: row[key] for key in ("name", "protocol", "policy", "panic", "queue")}.items() <= known.items()
        for e, k in zip(row["endpoints"], known["endpoints"], strict=True):
            assert all(e[key] == k[key] for key in ("address", "weight", "health", "admin", "in_flight", "turns"))
            assert (e["max_in_flight"] or None) == (k["learned_limit"] or k["max_in_flight"])
    assert readings["cache"].items() <= status["cache"].items()
    for kind, described in status["counters"].items():
        assert len(readings["counters"]["kinds"][kind]["rows"]) == len(described)
    done = await asyncio.to_thread(daemon.command, "top", "--once", "--json", "--interval", "0.2")
    states = {(row["pool"], row["endpoint"]): row["state"] for row in json.loads(done.stdout)["endpoint"]}
    assert states["http", other] == "drain"
    assert states["http", good] == "unchecked"
    assert states["checked", "127.0.0.1:1"] == "down"
    assert states["checked", good] == "up"


async def test_models_by_their_servers(start: Start, stub: Callable[[], str]) -> None:
    pools = {
        "digits": digits_pool(min=2),
        "asleep": {**digits_pool(min=0), "queue": {}},
        "stub": {"protocol": "oip", "endpoints": [stub()]},  # which has no statistics
    }
    daemon = await asyncio.to_thread(
        start, {"listeners": {"web": http_listener(route("/v2", "digits"))}, "pools": pools}
    )
    message = digit_request(digit_samples()[0]["image"])
    async with load(daemon.port(), [message], clients=4) as running:
        await running.until(20)

        def look() -> dict[str, Any] | None:
            """A server may not answer within its time while others take the CPU: its pool has no row then."""
            done = daemon.command("top", "--once", "--json", "--by", "model", "--interval", "0.5")
            assert done.returncode == 0, done.stderr
            rows = [row for row in json.loads(done.stdout)["model"] if row["pool"] != "stub"]
            known = len(rows) == 1 and rows[0]["requests_per_s"] > 0 and rows[0].get("server_requests_per_s", 0) > 0
            return rows[0] if known else None

        row: dict[str, Any] = await asyncio.to_thread(eventually, look, "the rates of a model")
        assert (row["pool"], row["model"]) == ("digits", "digits")  # hedges that were given up count as errors there
        assert row["server_mean_s"] >= row["server_compute_mean_s"] > 0
        assert 0 < row["p50_s"] <= row["p99_s"]
        (alone,) = json.loads((await asyncio.to_thread(daemon.command, "top", "--once", "--json")).stdout)["model"]
        assert alone["requests_per_s"] > 0
        assert "version" not in alone, "nobody asks the model servers for a look at all"
        page = daemon.admin("/metrics?models=yes")[1].decode()
        found = re.search(
            r'^tidegate_model_requests_total{.*model="digits".*result="success".*} (\S+)$', page, re.MULTILINE
        )
        assert found is not None
        assert float(found[1]) >= 20
        alone = daemon.admin("/metrics")[1].decode()
        assert "tidegate_model_requests" not in alone
        counted = r'^tidegate_inference_requests_total{code="2xx",model="digits",pool="digits"} (\S+)$'
        assert float(re.findall(counted, alone, re.MULTILINE)[0]) >= 20
        assert not running.failures
    assert daemon.pool("asleep")["managed"]["on_demand"]["asleep"], "a look wakes nobody"


async def test_a_column_that_there_is_not(start: Start, endpoint: Callable[..., Any]) -> None:
    daemon = start(config([(await endpoint("a")).address]))
    done = await asyncio.to_thread(daemon.command, "top", "--once", "--sort", "rps")
    assert done.returncode == 1
    assert "--sort rps: there is no such column; there are listener" in done.stderr


async def test_a_terminal(start: Start, endpoint: Callable[..., Any]) -> None:
    daemon = start(config([(await endpoint("a")).address]))

    def look() -> tuple[int, str, list[Any], list[Any]]:
        master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        before = termios.tcgetattr(slave)
        arguments = ["top", "-c", str(daemon.path), "--interval", "0.2"]
        shown = {**environment(), "TERM": "xterm-256color"}
        process = subprocess.Popen(
            [*COMMAND, *arguments], stdin=slave, stdout=slave, stderr=slave, env=shown, close_fds=True
        )
        read = b""
        for keys, wanted in ((b"4", rb"endpoint +pool"), (b"/none\r", rb"none with 'none'"), (b"q", b"")):
            deadline = time.monotonic() + 30
            os.write(master, keys)
            read = b""
            while wanted and not re.search(wanted, _plain(read)):
                assert time.monotonic() < deadline, read
                if select.select([master], [], [], 0.1)[0]:
                    read += os.read(master, 65536)
        rc = None
        while rc is None:  # what it writes at its end is read, or it would wait
            if select.select([master], [], [], 0.1)[0]:
                read += os.read(master, 65536)
            rc = process.poll()
        after = termios.tcgetattr(slave)
        os.close(master)
        os.close(slave)
        return rc, read.decode(errors="replace"), before, after

    rc, _, before, after = await asyncio.to_thread(look)
    assert rc == 0
    assert after == before, "the terminal is as it was"


def _plain(data: bytes) -> bytes:
    return re.sub(rb"\x1b\[[0-9;?]*[a-zA-Z]", b"", data)
