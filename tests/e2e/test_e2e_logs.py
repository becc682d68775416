"""The access log of a running daemon: what it says, rotation, a full disk."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import json
import os
import re
import signal
import ssl
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from authority import Authority
from daemon import Daemon, eventually, http_listener, route
from traffic import ask_once, load, request

from lb.failure import ALL
from lb.wire import grpc_service_pb2 as wire

Start = Callable[..., Daemon]
TENSOR = {"name": "x", "datatype": "FP32", "shape": [2], "data": [1, 2]}
TEXTS = {
    "time", "client", "method", "host", "target", "listener", "route", "pool", "endpoint", "reason", "cache",
    "protocol", "tls", "trace_id", "request_id", "hedge", "user_agent", "model", "identity",
}  # fmt: skip
NUMBERS = {"port", "status", "attempts", "bytes_in", "bytes_out"}
TIMES = {"total_us", "wait_us", "connect_us", "upstream_us", "transfer_us"}


def config(log: str, http: str, oip: str) -> dict[str, Any]:
    return {
        "workers": 2,
        "listeners": {"web": http_listener(route("/http/", "http"), route("/v2/", "oip"))},
        "pools": {
            "http": {"protocol": "http", "endpoints": [http]},
            "oip": {"protocol": "oip", "endpoints": [oip]},
        },
        "cache": {"size": "8MiB"},
        "log": {"access": log},
    }


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


async def test_lines_are_json_with_all_fields(
    start: Start, endpoint: Callable[..., Any], stub: Callable[[], str]
) -> None:
    one, model = await endpoint("a", 0.02), stub()
    daemon = start(config("access.log", one.address, model))
    port = daemon.port()
    infer = request("POST", "/v2/models/m/infer", {"inputs": [TENSOR]})
    await ask_once(port, request("GET", '/http/"quoted"?a=b', Host="example.org"))
    await ask_once(port, infer)
    await ask_once(port, infer)
    await ask_once(port, request("POST", "/v2/models/m/infer", b"{"))
    path = next(p for p in (daemon.folder / "access.log", Path("access.log")) if p.exists())
    await asyncio.to_thread(eventually, lambda: len(lines_of(path)) == 4, "four lines")
    by_status = lines_of(path)
    for line in by_status:
        assert line.keys() == TEXTS | NUMBERS | TIMES | {"grpc_status"}
        assert line["grpc_status"] in (None, 0)
        assert all(isinstance(line[name], str) for name in TEXTS)
        assert all(isinstance(line[name], int) and line[name] >= 0 for name in NUMBERS | TIMES)
        assert datetime.fromisoformat(line["time"]).tzinfo is not None
        assert (line["client"], line["listener"]) == ("127.0.0.1", "web")
        assert line["wait_us"] + line["upstream_us"] + line["transfer_us"] <= line["total_us"] + 3
    http = next(line for line in by_status if line["route"] == "http")
    assert (http["method"], http["host"], http["target"]) == ("GET", "example.org", '/http/"quoted"?a=b')
    assert (http["status"], http["endpoint"], http["attempts"], http["cache"]) == (200, one.address, 1, "")
    assert http["bytes_out"] == 1
    assert http["upstream_us"] >= 20_000
    rest = [line for line in by_status if line["route"] == "oip"]
    assert sorted((line["status"], line["cache"], line["attempts"]) for line in rest) == [
        (200, "hit", 0),
        (200, "miss", 1),
        (400, "", 0),
    ]
    assert next(line for line in rest if line["status"] == 400)["reason"] == "bad-request"
    assert next(line for line in rest if line["cache"] == "miss")["endpoint"] == model
    assert {(line["cache"], line["grpc_status"]) for line in rest} == {("miss", 0), ("hit", None), ("", None)}
    assert [line["model"] for line in by_status] == ["" if line is http else "m" for line in by_status]


def test_the_page_for_operators_has_all_fields() -> None:
    page = (Path(__file__).parents[2] / "docs" / "howto" / "observe.md").read_text()
    table = page.split("| field | |\n|---|---|\n")[1].split("\n\n")[0]
    named = {name for row in table.splitlines() for name in re.findall(r"`(\w+)`", row.split("|")[1])}
    assert named == TEXTS | NUMBERS | TIMES | {"grpc_status", "explain", "fields"}


async def test_a_connection_that_was_silent_for_too_long_says_so(start: Start, endpoint: Callable[..., Any]) -> None:
    one = await endpoint("a")
    listener = {"bind": "127.0.0.1:0", "protocol": "tcp", "pool": "raw", "idle_timeout": "100ms"}
    daemon = start(
        {
            "listeners": {"raw": listener},
            "pools": {"raw": {"protocol": "tcp", "endpoints": [one.address]}},
            "log": {"access": "access.log"},
        }
    )
    reader, writer = await asyncio.open_connection("127.0.0.1", daemon.port("raw"))
    assert await reader.read() == b""
    writer.close()
    path = daemon.folder / "access.log"
    await asyncio.to_thread(eventually, lambda: path.exists() and lines_of(path), "the line")
    (line,) = lines_of(path)
    assert (line["method"], line["reason"], line["endpoint"]) == ("TCP", "idle", one.address)


async def test_methods_that_only_http2_has_are_named(
    start: Start, endpoint: Callable[..., Any], tmp_path: Path
) -> None:
    path, one = tmp_path / "access.log", await endpoint("a")
    port = start(config(str(path), one.address, "127.0.0.1:9")).port()
    async with httpx.AsyncClient(http1=False, http2=True, trust_env=False, timeout=60) as client:
        for method in ("QUERY", "BREW", "VERSION-CONTROL", "M" * 100):
            await client.request(method, f"http://127.0.0.1:{port}/http/a?b")
    await asyncio.to_thread(eventually, lambda: len(lines_of(path)) == 4, "four lines")
    assert {(line["method"], line["target"], line["host"]) for line in lines_of(path)} == {
        (method, "/http/a?b", "127.0.0.1") for method in ("QUERY", "BREW", "VERSION-CONTROL", "M" * 18)
    }


async def test_grpc_calls_have_both_statuses(start: Start, stub: Callable[[], str], tmp_path: Path) -> None:
    """HTTP's is 200 for most that fail, those that fail here included."""
    path = tmp_path / "access.log"
    settings = config(str(path), "127.0.0.1:9", stub()) | {"workers": 1}
    settings["listeners"]["web"]["routes"] = [{"pool": "oip"}, route("/dead/", "dead")]
    settings["pools"]["dead"] = {"protocol": "grpc", "endpoints": ["127.0.0.1:9"]}
    port = start(settings).port()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        for method in ("/inference.GRPCInferenceService/ServerLive", "/inference.GRPCInferenceService/No", "/dead/X"):
            with contextlib.suppress(grpc.aio.AioRpcError):
                await channel.unary_unary(method)(b"")
    async with httpx.AsyncClient(trust_env=False, timeout=60) as client:
        web = {"Content-Type": "application/grpc-web"}
        await client.post(f"http://127.0.0.1:{port}/dead/X", content=b"\0\0\0\0\0", headers=web)
    await asyncio.to_thread(eventually, lambda: len(lines_of(path)) == 4, "four lines")
    assert [(line["status"], line["grpc_status"]) for line in lines_of(path)] == [
        (200, 0), (200, 12), (200, 14), (200, 14),
    ]  # fmt: skip


# A gRPC call that is answered here: what is configured for its route and pool, the bytes of its message, the reason
# that the log has, and its gRPC status.
LIMIT = {"rate_limit": {"rate": "1/h", "burst": 1, "key": {"header": "x-none"}}}
REFUSED: dict[str, tuple[dict[str, Any], dict[str, Any], int, str, int]] = {
    "dead": ({}, {"endpoints": ["127.0.0.1:9"], "retries": 0}, 5, "connect", 14),
    "nobody": ({}, {"endpoints": [{"address": "127.0.0.1:9", "weight": 0}]}, 5, "no-endpoint", 14),
    "large": ({"max_body": "1KiB"}, {"endpoints": ["127.0.0.1:9"]}, 2000, "body-too-large", 8),
    "late": ({"timeout": "200ms"}, {}, 5, "timeout", 4),
    "slow": ({}, {"response_timeout": "200ms"}, 5, "timeout", 4),
    "rated": (LIMIT, {"response_timeout": "100ms"}, 5, "rate-limit", 14),
}


async def test_our_own_answers_to_grpc_calls_are_told_alike(start: Start, tmp_path: Path) -> None:
    """On the wire, in the log, and in the metrics: HTTP's 200, with the status of gRPC and the reason beside it."""

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(-1)
        writer.close()

    path, hangs = tmp_path / "access.log", await asyncio.start_server(silent, "127.0.0.1", 0)
    address = f"127.0.0.1:{hangs.sockets[0].getsockname()[1]}"
    routes, pools = [], {}
    for name, (of_route, of_pool, *_) in REFUSED.items():
        routes.append(route(f"/{name}/", name, **of_route))
        pools[name] = {"protocol": "grpc", "endpoints": [address], **of_pool}
    pools["oip"] = {"protocol": "oip", "endpoints": ["127.0.0.1:9"]}
    routes.append(route("/inference.GRPCInferenceService/", "oip"))
    settings = {"workers": 1, "listeners": {"web": http_listener(*routes)}, "pools": pools}
    daemon = start(settings | {"log": {"access": str(path)}})
    base, told = f"http://127.0.0.1:{daemon.port()}", []
    wanted = [(f"/{name}/M", size, reason, code) for name, (_, _, size, reason, code) in REFUSED.items()]
    wanted.append(("/inference.GRPCInferenceService/RepositoryModelLoad", 5, "single-server", 12))
    wanted.append(("/none/M", 5, "no-route", 12))
    for kind in ("application/grpc", "application/grpc-web"):
        http2 = kind == "application/grpc"
        async with httpx.AsyncClient(http1=not http2, http2=http2, trust_env=False, timeout=60) as client:
            for target, size, reason, code in wanted:
                if target == "/none/M" and not http2:
                    continue  # no route takes it: whether it is gRPC-Web is not looked at
                if target == "/rated/M" and http2:
                    await client.post(base + target, headers={"Content-Type": kind}, content=bytes(5))
                answer = await client.post(base + target, headers={"Content-Type": kind}, content=bytes(size))
                assert answer.headers["grpc-status"] == str(code), target
                told.append((answer.status_code, code, reason))
    assert {status for status, _, _ in told} == {200}
    count = len(told) + 1  # the one that the rate limit let through
    await asyncio.to_thread(eventually, lambda: len(lines_of(path)) == count, "all lines")
    lines = [line for line in lines_of(path) if line["route"] != "rated" or line["reason"] == "rate-limit"]
    assert [(line["status"], line["grpc_status"], line["reason"]) for line in lines] == told
    for name, code in ({name: one[-1] for name, one in REFUSED.items()} | {"oip": 12}).items():
        times = 3 if name == "rated" else 2
        by_class = daemon.metrics("tidegate_route_requests_total").items()
        assert {dict(k)["code"]: n for k, n in by_class if ("route", name) in k and n} == {"2xx": times}, name
        by_code = daemon.metrics("tidegate_route_grpc_requests_total").items()
        found = {dict(k)["grpc_status"]: n for k, n in by_code if ("route", name) in k and n}
        assert found == {str(code): 2} | ({"4": 1} if name == "rated" else {}), name
    hangs.close()


async def test_what_is_not_served_of_the_inference_protocol_has_a_reason(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    port = start(config(str(path), "127.0.0.1:9", "127.0.0.1:9")).port()
    wanted = [
        ("POST", "/v2/repository/models/m/load", 404, "single-server"),
        ("GET", "/v2/systemsharedmemory/status", 404, "single-server"),
        ("GET", "/v2/cudasharedmemory/status", 404, "single-server"),
        ("GET", "/v2/trace/setting", 404, "single-server"),
        ("GET", "/v2/models/m/trace/setting", 404, "single-server"),
        ("GET", "/v2/logging", 404, "single-server"),
        ("GET", "/v2/models/m/generate", 405, "method"),
        ("GET", "/v2/none", 404, "not-served"),
        ("POST", "/v2/models/m", 405, "method"),
        ("GET", "/v2/models/m/infer", 405, "method"),
        ("GET", "/v2/models/%FF", 400, "bad-request"),
        ("GET", "/v2/health/live", 502, "connect"),
    ]
    async with httpx.AsyncClient(trust_env=False, timeout=60) as client:
        for method, target, status, _ in wanted:
            assert (await client.request(method, f"http://127.0.0.1:{port}{target}")).status_code == status
    await asyncio.to_thread(eventually, lambda: len(lines_of(path)) == len(wanted), "all lines")
    assert {(line["method"], line["target"], line["status"], line["reason"]) for line in lines_of(path)} == set(wanted)


async def test_user_agents_and_models(
    start: Start, endpoint: Callable[..., Any], stub: Callable[[], str], tmp_path: Path
) -> None:
    path, one = tmp_path / "access.log", await endpoint("a")
    settings = config(str(path), one.address, stub()) | {"workers": 1}
    settings["listeners"]["web"]["routes"] = [
        {"pool": "oip"},
        route("/v2/models/plain", "http") | {"name": "plain"},
        route("/http/", "http"),
    ]
    port = start(settings).port()
    message = wire.ModelInferRequest(model_name="näme", raw_input_contents=[bytes(8)])
    message.inputs.add(name="x", datatype="FP32", shape=[2])
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        infer = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        with contextlib.suppress(grpc.aio.AioRpcError):
            await infer(message.SerializeToString())
    agent = 'curl/8.5 "quoted" ' + "x" * 200
    async with httpx.AsyncClient(trust_env=False, timeout=60, headers={"User-Agent": agent}) as client:
        await client.get(f"http://127.0.0.1:{port}/v2/models/m%20x/versions/1/ready")
        await client.get(f"http://127.0.0.1:{port}/v2/models/plain?x=1")
        await client.get(f"http://127.0.0.1:{port}/http/a")
        await client.get(f"http://127.0.0.1:{port}/nowhere", headers={"Host": "h"})
    async with httpx.AsyncClient(
        http1=False, http2=True, trust_env=False, timeout=60, headers={"User-Agent": "two"}
    ) as client:
        await client.request("BREW", f"http://127.0.0.1:{port}/http/a")
    await asyncio.to_thread(eventually, lambda: len(lines_of(path)) == 6, "six lines")
    lines = lines_of(path)
    assert lines[0]["user_agent"].startswith("grpc-python-asyncio/")
    assert [line["user_agent"] for line in lines[1:]] == [agent[:128]] * 4 + ["two"]
    assert lines[0]["model"] == "näme"
    assert [line["model"] for line in lines[1:]] == ["m%20x", "plain", "", "", ""]
    assert [line["target"] for line in lines[2:]] == ["/v2/models/plain?x=1", "/http/a", "/nowhere", "/http/a"]
    assert lines[-1]["method"] == "BREW"


def test_the_page_for_operators_has_all_reasons() -> None:
    """Every reason of the table of failures, and no other."""
    page = (Path(__file__).parents[2] / "docs" / "howto" / "observe.md").read_text()
    table = page.split("| `reason` | status | |\n|---|---|---|\n")[1].split("\n\n")[0]
    named = {name for row in table.splitlines() for name in re.findall(r"`([\w…-]+)`", row.split("|")[1])}
    given = {row.reason for row in ALL[1:]}
    proxy = {name for name in given if name.startswith("proxy-") and name != "proxy-header"}
    assert proxy, "those that the table has as proxy-…"
    assert named - {"proxy-…"} == given - proxy


async def test_tcp_sessions_say_how_long_they_waited(
    start: Start, endpoint: Callable[..., Any], tmp_path: Path
) -> None:
    path, one = tmp_path / "access.log", await endpoint("a")
    settings = {
        "listeners": {"raw": {"bind": "127.0.0.1:0", "protocol": "tcp", "pool": "raw"}},
        "pools": {"raw": {"protocol": "tcp", "endpoints": [one.address], "max_in_flight": 1}},
        "log": {"access": str(path)},
    }
    daemon = start(settings)
    port = daemon.port("raw")
    first_reader, first = await asyncio.open_connection("127.0.0.1", port)
    first.write(request("GET", "/"))
    assert await first_reader.readexactly(15) == b"HTTP/1.1 200 OK"
    before = time.monotonic()
    second_reader, second = await asyncio.open_connection("127.0.0.1", port)
    await asyncio.to_thread(eventually, lambda: daemon.pool("raw")["queue"]["waiting"] == 1, "it does not wait")
    seen = time.monotonic()
    second.write(request("GET", "/"))
    await asyncio.sleep(0.05)
    at_least = time.monotonic() - seen
    first.close()
    assert await second_reader.readexactly(15) == b"HTTP/1.1 200 OK"
    at_most = time.monotonic() - before
    source = second.get_extra_info("sockname")[1]
    second.close()
    await asyncio.to_thread(eventually, lambda: len(lines_of(path)) == 2, "two lines")
    (line,) = (line for line in lines_of(path) if line["port"] == source)
    assert at_least <= line["wait_us"] / 1e6 <= at_most
    assert line["wait_us"] + line["transfer_us"] <= line["total_us"]


async def test_what_no_route_takes_or_nobody_understands_is_recorded(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    settings = config(str(path), "127.0.0.1:9", "127.0.0.1:9") | {"workers": 1}
    settings["listeners"]["web"].update(header_timeout="200ms", max_header_bytes="1KiB")
    settings["listeners"]["web"]["routes"].append(
        {"match": {"path": {"exact": "/put"}, "method": "PUT"}, "pool": "http"}
    )
    daemon = start(settings)
    port = daemon.port()
    long = b"a" * 2000
    for sent in (
        b"GET /none?a=b HTTP/1.1\r\nHost: h.example:80\r\n\r\n",
        b"DELETE /put HTTP/1.1\r\nHost: h\r\n\r\n",
        b"GET /http/# HTTP/1.1\r\nHost: h\r\n\r\n",
        b"NONSENSE\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: h\r\nX: " + long,
        b"GET /" + long,
        b"GET / HTTP/1.1\r\n",  # and no more
        b"GET / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
    ):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(sent)
        await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)
        writer.close()
    async with httpx.AsyncClient(http1=False, http2=True, trust_env=False, timeout=60) as client:
        await client.get(f"http://127.0.0.1:{port}/none")
        await client.post(f"http://127.0.0.1:{port}/a.B/C", headers={"Content-Type": "application/grpc"})
        await client.get(f"http://127.0.0.1:{port}/none", headers={"X": "a" * 5000})
    await asyncio.to_thread(eventually, lambda: len(lines_of(path)) == 11, "eleven lines")
    lines = lines_of(path)
    assert [(line["status"], line["reason"], line["method"], line["target"]) for line in lines] == [
        (404, "no-route", "GET", "/none?a=b"),
        (405, "method", "DELETE", "/put"),
        (400, "bad-request", "GET", "/http/#"),
        (400, "bad-request", "", ""),
        (431, "head-too-large", "", ""),
        (414, "uri-too-long", "", ""),
        (408, "slow-head", "", ""),
        (501, "not-implemented", "GET", "/"),
        (404, "no-route", "GET", "/none"),
        (200, "no-route", "POST", "/a.B/C"),
        (431, "head-too-large", "", ""),
    ]
    counts = daemon.metrics("tidegate_listener_rejected_requests_total")
    assert {dict(labels)["reason"]: n for labels, n in counts.items() if dict(labels)["listener"] == "web"} == {
        "unrouted": 4, "malformed": 7,
    }  # fmt: skip
    assert {(line["client"], line["listener"], line["route"], line["pool"]) for line in lines} == {
        ("127.0.0.1", "web", "", "")
    }
    assert [lines[0][name] for name in ("host", "protocol", "grpc_status")] == ["h.example", "HTTP/1.1", None]
    assert [(line["protocol"], line["grpc_status"]) for line in lines[-3:]] == [
        ("HTTP/2", None), ("HTTP/2", 12), ("HTTP/2", None),
    ]  # fmt: skip


async def test_a_record_names_the_version_of_tls(start: Start, endpoint: Callable[..., Any], tmp_path: Path) -> None:
    path, one = tmp_path / "access.log", await endpoint("a")
    authority = Authority()
    cert, key = authority.issue("localhost").write(tmp_path)
    settings = config(str(path), one.address, "127.0.0.1:9") | {"workers": 1}
    tls = {"certificates": [{"cert": cert, "key": key}]}
    settings["listeners"]["web"].update(protocol="https", tls=tls)
    settings["listeners"]["raw"] = {"bind": "127.0.0.1:0", "protocol": "tcp", "tls": tls, "pool": "raw"}
    settings["pools"]["raw"] = {"protocol": "tcp", "endpoints": [one.address]}
    daemon = start(settings)
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        context = authority.client_context()
        context.minimum_version = context.maximum_version = version
        for listener, target in (("web", "/http/"), ("web", "/none"), ("raw", "/")):
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", daemon.port(listener), ssl=context, server_hostname="localhost"
            )
            writer.write(request("GET", target, Connection="close"))
            await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)
            writer.close()
    await asyncio.to_thread(eventually, lambda: len(lines_of(path)) == 6, "six lines")
    assert [line["tls"] for line in lines_of(path)] == ["TLSv1.2"] * 3 + ["TLSv1.3"] * 3


@pytest.mark.parametrize("access", ["pipe", "-"])
async def test_a_pipe_that_nobody_reads_holds_up_neither_a_reload_nor_the_end(
    start: Start, endpoint: Callable[..., Any], tmp_path: Path, access: str
) -> None:
    """Whether it is opened by its path or is standard output."""
    one, pipe = await endpoint("a"), tmp_path / "pipe"
    os.mkfifo(pipe)
    reading = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    fcntl.fcntl(reading, fcntl.F_SETPIPE_SZ, 4096)
    try:
        settings = config(str(pipe) if access == "pipe" else "-", one.address, "127.0.0.1:9") | {"workers": 1}
        daemon = start(settings, shell=f"exec > {pipe}")
        port = daemon.port()
        async with load(port, [request("GET", "/http/")], clients=4) as running:
            await running.until(100)
            off = {**settings, "log": {"access": ""}}
            assert (await asyncio.to_thread(daemon.reload, off))["ok"]
            assert "records of the access log could not be written" in daemon.log
            assert (await asyncio.to_thread(daemon.reload, settings))["ok"]
            await running.until(100)
        assert not running.failures
        assert await asyncio.to_thread(daemon.stop) == 0
        assert "killing it" not in daemon.log
        lines = [json.loads(line) for line in os.read(reading, 65536).splitlines()]
        assert [line["status"] for line in lines] == [200] * len(lines)
    finally:
        os.close(reading)


async def test_rotation_loses_no_line(start: Start, endpoint: Callable[..., Any], tmp_path: Path) -> None:
    one = await endpoint("a")
    path = tmp_path / "access.log"
    daemon = start(config(str(path), one.address, "127.0.0.1:9"))
    rotated = []
    async with load(daemon.port(), [request("GET", "/http/")], clients=8) as running:
        for i in range(5):
            await running.until(50)
            rotated.append(tmp_path / f"access.log.{i}")
            path.rename(rotated[-1])
            daemon.process.send_signal(signal.SIGUSR1)
            await asyncio.to_thread(eventually, path.exists, "the new log")
            await asyncio.to_thread(eventually, lambda: path.stat().st_size > 0, "lines in the new log")
    assert running.reasons == []
    everything = [*rotated, path]

    def count() -> int:
        return sum(len(lines_of(one)) for one in everything)

    await asyncio.to_thread(eventually, lambda: count() == running.answers, "all lines", 20)
    assert all(line["status"] == 200 for one in everything for line in lines_of(one))


async def test_a_full_disk_does_not_stop_the_service(start: Start, endpoint: Callable[..., Any]) -> None:
    one = await endpoint("a")
    daemon = start(config("/dev/full", one.address, "127.0.0.1:9"))
    port = daemon.port()
    async with load(port, [request("GET", "/http/")], clients=8) as running:
        await running.until(500)
        await asyncio.to_thread(
            eventually,
            lambda: any(w["stats"].get("access_log_errors", 0) > 0 for w in daemon.status()["workers"]),
            "the errors are counted",
        )
        _, page = await asyncio.to_thread(daemon.admin, "/api/v1/overview?fresh=yes")
        told = [problem for problem in json.loads(page)["problems"] if problem["name"] == "access_log"]
        assert told[0]["text"] == os.strerror(errno.ENOSPC)
        assert "the access log cannot be written: No space left on device" in daemon.log
        await running.until(100)
    assert running.reasons == []
    assert os.path.exists("/dev/full")
    assert daemon.stop() == 0
