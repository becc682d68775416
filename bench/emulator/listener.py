"""One port, two protocols: the first bytes of a connection tell HTTP/2 (its preface) from HTTP/1.1."""

from __future__ import annotations

import asyncio
from typing import cast

from bench.emulator.http1 import Http1
from bench.emulator.http2 import PREFACE, Http2
from bench.emulator.server import ModelServer


class Newcomer(asyncio.Protocol):
    """A connection that has not said yet what it speaks; it then goes to the protocol that does."""

    def __init__(self, server: ModelServer) -> None:
        self._server = server
        self._begun = b""
        self._transport: asyncio.Transport
        server.counts.connections += 1

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        begun = self._begun = self._begun + data
        if len(begun) < len(PREFACE) and PREFACE.startswith(begun):
            return
        protocol = Http2(self._server) if begun.startswith(PREFACE) else Http1(self._server)
        self._transport.set_protocol(protocol)
        protocol.connection_made(self._transport)
        protocol.data_received(begun)
