"""Endpoints that say what they have in flight when they are asked, by each protocol that probes go over."""

from __future__ import annotations

import asyncio
import re
import struct
from dataclasses import dataclass, field
from typing import Any

import grpc
import h2.config
import h2.connection
import h2.events
from datapath import Gate, Site
from oip_site import ask, echo, plain
from test_grpc import channel_to

from lb.wire import grpc_service_pb2 as wire

CHECK = "/grpc.health.v1.Health/Check"
PATH = "/load"


@dataclass
class Peer:
    """`turn` is what becomes of a probe: "answer", "hang" until it is given up, "break" the connection, "mute": an
    answer without a report, "late": one after some milliseconds."""

    rif: float | None = None  # None: what it has in flight
    latency_ms: float = 0
    turn: str = "answer"
    asked: list[bytes] = field(default_factory=list)  # messages or heads of probes
    requests: int = 0
    in_flight: int = 0
    go: asyncio.Event | None = None  # what requests wait for

    def text(self) -> str:
        rif = self.in_flight if self.rif is None else self.rif
        latency = f", named_metrics.latency_ms={self.latency_ms}" if self.latency_ms else ""
        return f"TEXT named_metrics.rif={rif}{latency}"

    def binary(self) -> bytes:
        rif = self.in_flight if self.rif is None else self.rif
        return b"".join(
            b"\x42" + bytes([len(name) + 11]) + b"\x0a" + bytes([len(name)]) + name + b"\x11" + struct.pack("<d", value)
            for name, value in ((b"rif", rif), (b"latency_ms", self.latency_ms))
            if value or name == b"rif"
        )

    async def pause(self) -> None:
        if self.turn == "late":
            await asyncio.sleep(0.005)

    async def work(self) -> None:
        self.requests += 1
        self.in_flight += 1
        try:
            if self.go is not None:
                await self.go.wait()
        finally:
            self.in_flight -= 1


class HttpPeer(Peer):
    connections = 0

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            report = ""
            if head.startswith(b"GET /load "):
                self.asked.append(head)
                if self.turn == "hang":
                    await reader.read(1)
                    return
                if self.turn == "break":
                    writer.close()
                    return
                await self.pause()
                if self.turn != "mute":
                    report = f"endpoint-load-metrics: {self.text()}\r\n"
            else:
                await self.work()
            writer.write(f"HTTP/1.1 200 OK\r\n{report}Content-Length: 2\r\n\r\nok".encode())


class Http2Peer(Peer):
    connections = 0

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding="utf-8"))
        connection.initiate_connection()
        while True:
            writer.write(connection.data_to_send())
            data = await reader.read(1 << 16)
            if not data:
                return
            for event in connection.receive_data(data):
                if not isinstance(event, h2.events.RequestReceived):
                    continue
                fields = dict(event.headers)
                more = []
                if fields[":path"] == PATH:
                    self.asked.append(repr(fields).encode())
                    if self.turn == "hang":
                        continue
                    if self.turn == "break":
                        writer.close()
                        return
                    await self.pause()
                    if self.turn != "mute":
                        more.append(("endpoint-load-metrics", self.text()))
                else:
                    await self.work()
                connection.send_headers(event.stream_id, [(":status", "200"), *more])
                connection.send_data(event.stream_id, b"ok", end_stream=True)


class GrpcPeer(Peer):
    """Health checks beside `/test.Kinds/Unary` and inferences."""

    async def check(self, request: bytes, context: Any) -> bytes:
        self.asked.append(request)
        if self.turn == "hang":
            await asyncio.sleep(60)
        if self.turn == "break":
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, "no such method")
        await self.pause()
        if self.turn != "mute":
            context.set_trailing_metadata((("endpoint-load-metrics-bin", self.binary()),))
        return b"\x08\x01"

    async def unary(self, request: bytes, context: Any) -> bytes:
        await self.work()
        return request

    async def infer(self, request: bytes, context: Any) -> bytes:
        await self.work()
        answer = await echo(wire.ModelInferRequest.FromString(request), context)
        return bytes(answer.SerializeToString())

    async def start(self) -> str:
        handler = grpc.unary_unary_rpc_method_handler
        self.server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        for service, methods in (
            ("grpc.health.v1.Health", {"Check": handler(self.check)}),
            ("test.Kinds", {"Unary": handler(self.unary)}),
            ("inference.GRPCInferenceService", {"ModelInfer": handler(self.infer)}),
        ):
            self.server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, methods),))
        port = self.server.add_insecure_port("127.0.0.1:0")
        await self.server.start()
        return f"127.0.0.1:{port}"


KINDS: dict[str, type[Any]] = {"http": HttpPeer, "http2": Http2Peer, "grpc": GrpcPeer, "oip": GrpcPeer}


async def start(site: Site, protocol: str, **settings: Any) -> tuple[Any, str]:
    """A peer that the site stops at its end, and its address."""
    peer = KINDS[protocol](**settings)
    if isinstance(peer, GrpcPeer):
        return peer, await site.model(peer)
    return peer, await site.endpoint(peer)


async def request(gate: Gate, protocol: str) -> None:
    """One request through the gate that is answered well."""
    if protocol == "grpc":
        async with channel_to(gate) as channel:
            assert await channel.unary_unary("/test.Kinds/Unary")(b"hello") == b"hello"
    elif protocol == "oip":
        assert (await ask(gate, plain())).status == 200
    else:
        answer = await gate.exchange(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        assert re.match(rb"HTTP/1.1 200 ", answer)
