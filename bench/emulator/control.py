"""The control port: counters to read, and changes to the plan while it runs.

GET /stats     every server's counters, how late the process was, its CPU time
POST /start    the planned windows count from now, or from {"at_ns": CLOCK_MONOTONIC}
POST /plan     one Change as JSON, for example {"do": "stall", "servers": [2], "for_ms": 3000}
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from typing import Annotated, Literal, cast

import httptools
from pydantic import ConfigDict, Field, TypeAdapter
from pydantic.dataclasses import dataclass

from bench.emulator.agenda import Agenda
from bench.emulator.distributions import ns
from bench.emulator.server import ModelServer
from bench.emulator.spec import Duration, Factor, FailHow, Length, Service, parse
from bench.errors import BenchError

_CLOSED = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
_Servers = Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)] | None


@dataclass(frozen=True, config=_CLOSED)
class StallNow:
    """Nothing proceeds, from `after_ms` from now on, for `for_ms` or until `clear`.

    Here and below no `servers` means all of them.
    """

    servers: _Servers = None
    for_ms: Length | None = None
    after_ms: Duration = 0.0
    do: Literal["stall"] = "stall"


@dataclass(frozen=True, config=_CLOSED)
class SlowNow:
    """Executions are `factor` times slower."""

    factor: Factor
    servers: _Servers = None
    for_ms: Length | None = None
    after_ms: Duration = 0.0
    do: Literal["slow"] = "slow"


@dataclass(frozen=True, config=_CLOSED)
class FailNow:
    """Requests that arrive fail at once: see `Failure`."""

    servers: _Servers = None
    how: FailHow = "unavailable"
    for_ms: Length | None = None
    after_ms: Duration = 0.0
    do: Literal["fail"] = "fail"


@dataclass(frozen=True, config=_CLOSED)
class ClearNow:
    """Takes back all stalls, slowness and failures that were asked for here."""

    servers: _Servers = None
    do: Literal["clear"] = "clear"


@dataclass(frozen=True, config=_CLOSED)
class ServeAs:
    """Another service model; its windows count from the same epoch."""

    service: Service
    servers: _Servers = None
    do: Literal["serve"] = "serve"


Change = Annotated[StallNow | SlowNow | FailNow | ClearNow | ServeAs, Field(discriminator="do")]


@dataclass(frozen=True, config=_CLOSED)
class Start:
    """`at_ns` None is now."""

    at_ns: Annotated[int, Field(ge=0, lt=1 << 61)] | None = None


CHANGE: TypeAdapter[StallNow | SlowNow | FailNow | ClearNow | ServeAs] = TypeAdapter(Change)
_START = TypeAdapter(Start)


class Control:
    """What the control port does, without the port."""

    def __init__(self, servers: Sequence[ModelServer], ports: Sequence[int], agenda: Agenda, epoch: int | None) -> None:
        self._servers = servers
        self._ports = ports
        self._agenda = agenda
        self._epoch = epoch

    def handle(self, method: str, path: str, body: bytes) -> tuple[int, object]:
        """An HTTP status and the answer's JSON value; mistakes are 400, 404 and 405 with `error`."""
        routes = {"/stats": ("GET", self._stats), "/start": ("POST", self._start), "/plan": ("POST", self._plan)}
        if path not in routes:
            return 404, {"error": f"there is no {path}; there are {', '.join(routes)}"}
        wanted, act = routes[path]
        if method != wanted:
            return 405, {"error": f"{path} takes {wanted}"}
        try:
            return 200, act(body)
        except BenchError as error:
            return 400, {"error": str(error)}

    def _stats(self, _body: bytes) -> object:
        now = time.monotonic_ns()
        servers = [{"port": port} | server.stats(now) for port, server in zip(self._ports, self._servers, strict=True)]
        return {
            "now_ns": now,
            "epoch_ns": self._epoch,
            "cpu_ns": time.process_time_ns(),
            "lateness": self._agenda.stats(),
            "servers": servers,
        }

    def _start(self, body: bytes) -> object:
        start = parse(_START, body or b"{}", "start")
        now = time.monotonic_ns()
        self._epoch = now if start.at_ns is None else start.at_ns
        for server in self._servers:
            server.begin(now, self._epoch)
        return {"epoch_ns": self._epoch}

    def _plan(self, body: bytes) -> object:
        change = parse(CHANGE, body, "plan")
        chosen = range(len(self._servers)) if change.servers is None else change.servers
        if (last := max(chosen)) >= len(self._servers):
            raise BenchError(f"plan: servers: there is no server {last}; the last is {len(self._servers) - 1}")
        now = time.monotonic_ns()
        for index in chosen:
            self._change(self._servers[index], change, now)
        return {"now_ns": now}

    @staticmethod
    def _change(server: ModelServer, change: StallNow | SlowNow | FailNow | ClearNow | ServeAs, now: int) -> None:
        if isinstance(change, ClearNow):
            server.clear(now)
        elif isinstance(change, ServeAs):
            server.serve_as(now, change.service)
        else:
            start = now + ns(change.after_ms)
            length = None if change.for_ms is None else ns(change.for_ms)
            if isinstance(change, StallNow):
                server.slow(now, start, length)
            elif isinstance(change, SlowNow):
                server.slow(now, start, length, change.factor)
            else:
                server.fail(now, start, length, change.how)


class ControlConnection(asyncio.Protocol):
    """HTTP/1.1 for `Control`."""

    def __init__(self, control: Control) -> None:
        self._control = control
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport
        self._path = b""
        self._body = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._reply(400, {"error": "not a request this port understands"}, close=True)

    def on_url(self, url: bytes) -> None:
        self._path += url

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        path, body = self._path.decode("latin-1"), bytes(self._body)
        self._path = b""
        self._body.clear()
        status, value = self._control.handle(self._parser.get_method().decode("latin-1"), path, body)
        self._reply(status, value, not self._parser.should_keep_alive())

    def _reply(self, status: int, value: object, close: bool) -> None:
        if self._transport.is_closing():
            return
        body = json.dumps(value).encode()
        connection = "close" if close else "keep-alive"
        self._transport.write(
            f"HTTP/1.1 {status} -\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
            f"Connection: {connection}\r\n\r\n".encode()
            + body
        )
        if close:
            self._transport.close()
