"""Authorization servers: over HTTP one whose answers a test sets, and one of raw bytes; over gRPC one for Envoy."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
from aiohttp import web

from lb.wire import external_auth_pb2 as wire
from lb.wire import services

SERVICE = wire.DESCRIPTOR.services_by_name["Authorization"]


class HttpAuthServer:
    """Answers by `decide`, and keeps the requests that it got."""

    def __init__(self, decide: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> None:
        self.decide = decide
        self.asked: list[web.Request] = []

    async def start(self) -> None:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, shutdown_timeout=0.01)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.address = f"127.0.0.1:{self._runner.addresses[0][1]}"

    async def stop(self) -> None:
        await self._runner.cleanup()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(request)
        return await self.decide(request)


class RawServer:
    """Answers each connection's head by the bytes of `answer`, then repeats `tail` until the peer leaves."""

    def __init__(self) -> None:
        self.answer = b""
        self.tail = b""
        self.wait = 0.0
        self.connections = 0
        self.left = asyncio.Event()

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.address = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def stop(self) -> None:
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            await reader.readuntil(b"\r\n\r\n")
            if self.wait:
                await asyncio.wait([asyncio.ensure_future(reader.read(1))], timeout=self.wait)
            writer.write(self.answer)
            while self.tail:
                writer.write(self.tail)
                await writer.drain()
                await asyncio.sleep(0.001)
            await reader.read(1)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self.left.set()
            writer.close()


class GrpcAuthServer:
    """Envoy's Authorization service: answers by `decide`, and keeps the attributes that it got."""

    def __init__(self, decide: Callable[[Any], Any]) -> None:
        self.decide = decide
        self.asked: list[Any] = []

    async def start(self) -> None:
        self._server = grpc.aio.server()
        services.serve(self._server, SERVICE, self)
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        await self._server.start()

    async def stop(self) -> None:
        await self._server.stop(0)

    async def Check(self, request: Any, context: Any) -> Any:
        self.asked.append(request.attributes)
        answer = self.decide(request.attributes)
        if isinstance(answer, grpc.StatusCode):
            await context.abort(answer, "set by the test")
        return answer


def fields(*pairs: tuple[str, str]) -> list[Any]:
    """Of an answer over gRPC."""
    return [wire.HeaderValueOption(header=wire.HeaderValue(key=name, value=value)) for name, value in pairs]
