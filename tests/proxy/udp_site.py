"""A data path for datagrams in the test's own process: real sockets, endpoints that answer, clients that ask."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from datapath import HTTP, POOL, SECOND, series_of
from msgspec.structs import replace

from lb.config.plan.plan import AccessLogPlan, EndpointPlan, ListenerPlan, Plan, UdpPlan
from lb.proxy.proxy import Proxy
from lb.shared.segment import Segment
from lb.telemetry.series import Series

Answer = Callable[[bytes], list[bytes]]
UDP = UdpPlan(series=100, max_sessions=1000, max_sessions_per_source=0, max_datagram=65536, responses=-1, requests=0)
LISTENER = replace(HTTP, name="dgram", protocol="udp", pool=0, idle_timeout_ns=60 * SECOND, udp=UDP)


def family_of(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def bound(host: str = "127.0.0.1", port: int = 0) -> socket.socket:
    """`host` may be the path of a Unix socket."""
    if host.startswith("/"):
        made = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        made.bind(host)
    else:
        made = socket.socket(family_of(host), socket.SOCK_DGRAM)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        made.bind((host, port))
    made.setblocking(False)
    return made


def address_of(sock: socket.socket) -> str:
    if sock.family == socket.AF_UNIX:
        return f"unix:{sock.getsockname()}"
    host, port = sock.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def echo(data: bytes) -> list[bytes]:
    return [data]


def silent(data: bytes) -> list[bytes]:
    return []


class Endpoint:
    """Answers each datagram with what `answer` makes of it; `senders` are the sockets of the gate that it has met."""

    def __init__(self, answer: Answer = echo, host: str = "127.0.0.1", port: int = 0) -> None:
        self.answer = answer
        self.sock = bound(host, port)
        self.address = address_of(self.sock)
        self.received: list[bytes] = []
        self.senders: list[Any] = []
        asyncio.get_running_loop().add_reader(self.sock, self._readable)

    def _readable(self) -> None:
        with contextlib.suppress(BlockingIOError, ConnectionRefusedError):
            while True:
                data, sender = self.sock.recvfrom(1 << 16)
                self.received.append(data)
                if sender not in self.senders:
                    self.senders.append(sender)
                for one in self.answer(data):
                    self.sock.sendto(one, sender)

    def close(self) -> None:
        if self.sock.fileno() >= 0:
            asyncio.get_running_loop().remove_reader(self.sock)
            self.sock.close()


class Client:
    """One address and port. It is connected, so that only answers from the address it asked arrive."""

    def __init__(self, target: tuple[str, int], source: str | None = None, port: int = 0) -> None:
        self.sock = bound(source or ("::1" if ":" in target[0] else "127.0.0.1"), port)
        self.sock.connect(target)

    def send(self, data: bytes) -> None:
        self.sock.send(data)

    async def receive(self, seconds: float = 10) -> bytes:
        return await asyncio.wait_for(asyncio.get_running_loop().sock_recv(self.sock, 1 << 16), seconds)

    async def ask(self, data: bytes) -> bytes:
        self.send(data)
        return await self.receive()

    async def nothing(self, seconds: float = 0.15) -> bool:
        """Whether no datagram comes for a while."""
        try:
            await self.receive(seconds)
        except TimeoutError:
            return True
        return False

    def close(self) -> None:
        self.sock.close()


@dataclass
class UdpGate:
    """A running data path with one udp listener, or several that are alike."""

    proxy: Proxy
    segment: Segment
    plan: Plan
    sockets: dict[str, int]
    port: int

    @property
    def target(self) -> tuple[str, int]:
        return "127.0.0.1", self.port

    def listener(self, name: str = "dgram") -> ListenerPlan:
        return next(x for x in self.plan.listeners if x.name == name)

    def counts(self, name: str = "dgram") -> Series:
        udp = self.listener(name).udp
        assert udp is not None
        return self.total(udp.series)

    def endpoint_counts(self, index: int) -> Series:
        return self.total(200 + index)

    def total(self, series: int) -> Series:
        return series_of(self.plan, self.segment, series)

    def in_flight(self) -> list[int]:
        return [self.segment.inflight(e.slot) for p in self.plan.pools for e in p.endpoints]

    def apply(self, plan: Plan, sockets: dict[str, int] | None = None) -> None:
        self.proxy.apply(plan, self.sockets if sockets is None else sockets)
        self.plan = plan
        if sockets is not None:
            self.sockets = sockets

    def closed(self) -> bool:
        """Whether everything has been given back."""
        listener = self.total(1)
        counts = self.counts()
        return (
            self.proxy.busy() == 0
            and not any(self.in_flight())
            and listener["started"] == listener["finished"]
            and counts["started"] == counts["finished"] == counts["ended"]
        )


@dataclass
class UdpSite:
    """Makes endpoints, clients and gates, and closes them all at the end of the test."""

    endpoints: list[Endpoint] = field(default_factory=list)
    clients: list[Client] = field(default_factory=list)
    gates: list[UdpGate] = field(default_factory=list)

    def endpoint(self, answer: Answer = echo, host: str = "127.0.0.1", port: int = 0) -> Endpoint:
        self.endpoints.append(Endpoint(answer, host, port))
        return self.endpoints[-1]

    def client(self, target: tuple[str, int], source: str | None = None, port: int = 0) -> Client:
        self.clients.append(Client(target, source, port))
        return self.clients[-1]

    def gate(
        self,
        addresses: list[str],
        bind: str = "127.0.0.1",
        names: tuple[str, ...] = ("dgram",),
        listener: dict[str, Any] | None = None,
        udp: dict[str, Any] | None = None,
        pool: dict[str, Any] | None = None,
        access_log: int = -1,
    ) -> UdpGate:
        master = Segment.create(1)
        endpoints = tuple(EndpointPlan(a, i, 10 + i, 1, datagrams=200 + i) for i, a in enumerate(addresses))
        for endpoint in endpoints:
            master.set_health(endpoint.slot, True, 0)
            master.set_weight(endpoint.slot, 1)
        pools = (replace(POOL, **{"protocol": "udp", "endpoints": endpoints, **(pool or {})}),)
        listeners, sockets, port = [], {}, 0
        for i, name in enumerate(names):
            limits = replace(UDP, **{"series": UDP.series + i, **(udp or {})})
            listeners.append(replace(LISTENER, **{"name": name, "series": 1 + i, "udp": limits, **(listener or {})}))
            sock = bound(bind)
            port = port or sock.getsockname()[1]
            sockets[name] = sock.detach()
        log = AccessLogPlan("" if access_log < 0 else "x")
        plan = Plan(1, 1, tuple(listeners), pools, None, log, 10 * SECOND)
        proxy = Proxy(asyncio.get_running_loop(), Segment.attach(os.dup(master.fd), 0), access_log)
        proxy.apply(plan, sockets)
        self.gates.append(UdpGate(proxy, master, plan, sockets, port))
        return self.gates[-1]

    def close(self) -> None:
        for one in (*self.clients, *self.endpoints):
            one.close()
        for gate in self.gates:
            gate.proxy.close()
            for fd in gate.sockets.values():
                with contextlib.suppress(OSError):
                    os.close(fd)


@pytest.fixture
async def site() -> AsyncIterator[UdpSite]:
    made = UdpSite()
    yield made
    made.close()
