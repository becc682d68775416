"""A PromQL query against a server that answers as Prometheus does, and in every other way."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from aiohttp import web
from waiting import until

from lb.clock import MonotonicClock
from lb.control.servers import prometheus
from lb.control.servers.polled import MeasureFailed, Polled
from lb.control.servers.prometheus import number_of

MILLISECOND = 1_000_000


def answer(kind: str, result: Any) -> bytes:
    return json.dumps({"status": "success", "data": {"resultType": kind, "result": result}}).encode()


@pytest.mark.parametrize(
    ("body", "value"),
    [
        (answer("vector", [{"metric": {"a": "b"}, "value": [1435781451.781, "1.5"]}]), 1.5),
        (answer("scalar", [1435781451.781, "3"]), 3.0),
        (answer("vector", [{"metric": {}, "value": [1, "0"]}]), 0.0),
    ],
)
def test_a_number(body: bytes, value: float) -> None:
    assert number_of(body) == value


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (answer("vector", []), "no series"),
        (answer("vector", [{"value": [1, "1"]}, {"value": [1, "2"]}]), "2 series; make them one"),
        (answer("matrix", [{"values": [[1, "1"]]}]), "gives a matrix"),
        (answer("vector", [{"value": [1, "NaN"]}]), "gives NaN"),
        (answer("vector", [{"value": [1, "+Inf"]}]), "gives +Inf"),
        (answer("vector", [{"value": [1, "-1"]}]), "gives -1"),
        (b'{"status": "error", "errorType": "bad_data", "error": "parse error"}', "parse error"),
        (b"<html>", "not that of a Prometheus"),
        (b"[]", "not that of a Prometheus"),
        (b"{}", "not that of a Prometheus"),
        (b'{"status": "success", "data": null}', "not that of a Prometheus"),
        (answer("vector", [{"value": "x"}]), "not that of a Prometheus"),
        (answer("vector", [{"value": [1, None]}]), "not that of a Prometheus"),
    ],
)
def test_no_number(body: bytes, why: str) -> None:
    with pytest.raises(MeasureFailed, match=why.replace("+", r"\+")):
        number_of(body)


class Server:
    """`respond` is what it does with the next questions."""

    def __init__(self) -> None:
        self.asked: list[dict[str, str]] = []
        self.respond: Callable[[], web.Response] = lambda: web.Response(body=answer("scalar", [1, "7"]))
        self.url = ""

    async def _query(self, request: web.Request) -> web.Response:
        self.asked.append(dict(request.query))
        return self.respond()


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    made = Server()
    app = web.Application()
    app.add_routes([web.get("/base/api/v1/query", made._query)])
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    made.url = f"{site.name}/base/"
    yield made
    await runner.cleanup()


def asking(url: str, within: int = 2000) -> Polled[float]:
    async def ask() -> float:
        return await prometheus.ask(url, "sum(x)", within * MILLISECOND)

    return Polled("sum(x)", ask, MonotonicClock(), 20 * MILLISECOND)


async def test_asked_again_and_again(server: Server) -> None:
    query, clock = asking(server.url), MonotonicClock()
    assert query.value(clock.now()) is None
    query.start()
    await until(lambda: len(server.asked) > 2)
    await until(lambda: query.value(clock.now()) == 7.0)
    assert server.asked[0] == {"query": "sum(x)", "timeout": "2s"}
    assert query.describe(clock.now())["error"] is None
    await query.stop()
    await query.stop()


async def test_an_old_answer_is_none(server: Server) -> None:
    query, clock = asking(server.url), MonotonicClock()
    query.start()
    await until(lambda: query.value(clock.now()) == 7.0)
    await query.stop()
    assert query.value(clock.now() + 10_000 * MILLISECOND) is None


async def test_failures_are_told_once_and_are_over_with_the_next_answer(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "tidegate.scaling")
    server.respond = lambda: web.Response(status=503, text="not now")
    query, clock = asking(server.url), MonotonicClock()
    query.start()
    await until(lambda: len(server.asked) > 3)
    assert query.value(clock.now()) is None
    assert "HTTP 503: not now" in query.describe(clock.now())["error"]
    server.respond = lambda: web.Response(
        status=400, body=b'{"status": "error", "errorType": "bad_data", "error": "parse error at char 3"}'
    )
    await until(lambda: "parse error at char 3" in (query.describe(clock.now())["error"] or ""))
    server.respond = lambda: web.Response(body=answer("scalar", [1, "2"]))
    await until(lambda: query.value(clock.now()) == 2.0)
    await query.stop()
    assert len([m for m in caplog.messages if "HTTP 503" in m]) == 1
    assert caplog.messages[-1] == "sum(x) is there again"


async def test_a_server_that_is_not_there() -> None:
    with pytest.raises(MeasureFailed, match=r"127\.0\.0\.1"):
        await prometheus.ask("http://127.0.0.1:1", "x", 1000 * MILLISECOND)


async def test_a_server_that_is_silent() -> None:
    async def never(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    silent = await asyncio.start_server(never, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{silent.sockets[0].getsockname()[1]}"
    with pytest.raises(MeasureFailed, match=r"no answer within 0\.1 s"):
        await prometheus.ask(url, "x", 100 * MILLISECOND)
    silent.close()


async def test_a_defect_does_not_end_it() -> None:
    asked: list[int] = []

    async def ask() -> float:
        asked.append(1)
        if len(asked) == 1:
            raise ZeroDivisionError
        return 3.0

    clock = MonotonicClock()
    measure = Polled("x", ask, clock, 20 * MILLISECOND)
    measure.start()
    await until(lambda: measure.value(clock.now()) == 3.0)
    await measure.stop()
