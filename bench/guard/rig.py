"""The real data path, its client and its upstream server in one thread, in lock-step.

A request goes on in fixed order: the data path as far as it can, then the server, then the client, and round again. So
every run of the same requests hands the data path the same events in the same batches, however busy the machine is.
"""

from __future__ import annotations

import asyncio
import os
import select
import socket
import tempfile
from pathlib import Path
from typing import Protocol, cast

from bench.errors import BenchError
from bench.guard.steps import StepLoop
from lb.config.load import load
from lb.config.plan.compile import compile_plan
from lb.config.plan.plan import Plan
from lb.config.schema.listeners.tls import Material
from lb.proxy.proxy import Proxy
from lb.shared.segment import Segment

_PATIENCE_MS = 30_000


class Upstream(Protocol):
    """A server that is served by hand."""

    @property
    def address(self) -> str:
        """HOST:PORT for the configuration."""

    def serve(self) -> bool:
        """Accepts, reads and answers what is there; False when there was nothing. Never waits."""

    def descriptors(self) -> list[int]:
        """What to wait for when there is nothing to do."""


class Numbers:
    """Slots and series in the order in which a plan's compiler asks (lb.config.plan.compile.Allocator)."""

    def __init__(self) -> None:
        self._endpoints: dict[tuple[str, str], int] = {}
        self._series: dict[tuple[str, str], int] = {}

    @property
    def endpoints(self) -> int:
        return len(self._endpoints)

    @property
    def all_series(self) -> int:
        return len(self._series)

    def endpoint(self, pool: str, address: str) -> int:
        return self._endpoints.setdefault((pool, address), len(self._endpoints))

    def series(self, kind: str, name: str) -> int:
        return self._series.setdefault((kind, name), len(self._series))


class Rig:
    """A worker's data path under `config`, a configuration whose listeners' addresses do not matter.

    Every listener of it gets a free port (`ports`), every endpoint counts as up. Raises lb.errors.TidegateError when
    the configuration is wrong.
    """

    def __init__(self, config: str, upstreams: list[Upstream]) -> None:
        self.upstreams = upstreams
        self.loop = StepLoop()
        self.ports: dict[str, int] = {}
        numbers = Numbers()
        plan = _compile(config, numbers)
        self.master = Segment.create(
            1,
            endpoint_capacity=max(1, numbers.endpoints),
            series_capacity=max(1, numbers.all_series),
            cache_size=plan.cache.size if plan.cache else 0,
        )
        for endpoint in (e for pool in plan.pools for e in pool.endpoints):
            self.master.set_weight(endpoint.slot, endpoint.weight)
            self.master.set_health(endpoint.slot, True, 0)
        worker = Segment.attach(os.dup(self.master.fd), 0)
        self.proxy = Proxy(cast(asyncio.AbstractEventLoop, self.loop), worker)
        self._listening = []
        sockets = {}
        for listener in plan.listeners:
            listening = socket.create_server(("127.0.0.1", 0))
            self._listening.append(listening)
            self.ports[listener.name] = listening.getsockname()[1]
            sockets[listener.name] = listening.fileno()
        self.proxy.apply(plan, sockets)

    def connect(self, listener: str = "front") -> socket.socket:
        """A client's connection to a listener; receiving from it never waits."""
        client = socket.create_connection(("127.0.0.1", self.ports[listener]), timeout=30)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.setblocking(False)
        return client

    def advance(self, client: socket.socket) -> None:
        """Lets data path and servers work until `client` can be read. Raises BenchError if that never happens."""
        reading = select.poll()
        reading.register(client, select.POLLIN)
        while True:
            self.settle()
            served = [upstream.serve() for upstream in self.upstreams]  # every one has its turn
            if any(served):
                continue
            if reading.poll(0):
                return
            self._wait(client)

    def settle(self) -> None:
        """Lets the data path do what it can without anything new."""
        while self.loop.turn():
            pass

    def close(self) -> None:
        self.proxy.close()
        self.master.close()
        for listening in self._listening:
            listening.close()

    def _wait(self, client: socket.socket) -> None:
        """The kernel is late with what was sent: until anybody has something to read."""
        everybody = select.poll()
        for fd in (client.fileno(), self.loop.fd, *(fd for u in self.upstreams for fd in u.descriptors())):
            everybody.register(fd, select.POLLIN)
        if not everybody.poll(_PATIENCE_MS):
            raise BenchError(f"no answer to a request in {_PATIENCE_MS // 1000} s: the data path lost it")


def _compile(config: str, numbers: Numbers) -> Plan:
    with tempfile.TemporaryDirectory(prefix="tidegate-guard-") as directory:
        path = Path(directory, "tidegate.yaml")
        path.write_text(config)
        loaded = load(path)
    material = Material({each.file: each.file.read_bytes() for each in loaded.auth.values() if each.file is not None})
    return compile_plan(loaded, generation=1, workers=1, allocator=numbers, managed={}, material=material)
