"""The REST half of the protocol, but for inferences: each route is a call of gRPC, answered by the same servicer."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Protocol

import orjson

from backend.grpc.methods import Methods
from lb.inference import management
from lb.inference.server_calls import Kind
from lb.wire import grpc_service_pb2 as wire

log = logging.getLogger("tidegate.backend")

_METRICS = "text/plain; version=0.0.4; charset=utf-8"
# What a client may ask of this server; its methods say themselves what they do not offer.
_ALLOWED = Kind.MODELS | Kind.SETTINGS | Kind.SHARED_MEMORY


class Request(Protocol):
    """A request of HTTP, as backend.http.connection has it."""

    def reply(self, status: int, body: bytes, content_type: str, fields: bytes) -> None: ...


class Rest:
    """`metrics` gives the text of `/metrics`."""

    def __init__(self, methods: Methods, metrics: Callable[[], str]) -> None:
        self._methods = methods
        self._metrics = metrics

    def start(self, request: Request, method: str, target: str, body: bytes) -> asyncio.Task[None]:
        return asyncio.get_running_loop().create_task(self._run(request, method, target, body))

    async def _run(self, request: Request, method: str, target: str, body: bytes) -> None:
        try:
            reply = await self._answer(method, target, body)
        except asyncio.CancelledError:
            raise
        except Exception:
            log.exception("%s %s: unexpected error", method, target)
            reply = management.error("internal", "unexpected error; the server's log has more")
        fields = f"Allow: {reply.allow}\r\n".encode() if reply.allow else b""
        request.reply(reply.status, reply.body, reply.content_type, fields)

    async def _answer(self, method: str, target: str, body: bytes) -> management.Reply:
        path = target.partition("?")[0]
        if path == "/metrics":
            if method not in ("GET", "HEAD"):
                return management.Reply(405, error("Method Not Allowed"), allow="GET, HEAD")
            return management.Reply(200, self._metrics().encode(), _METRICS)
        if path in ("/v2", "/v2/") and method in ("GET", "HEAD"):
            return await self._server()
        found = management.route(method, target, body, _ALLOWED)
        if isinstance(found, management.Reply):
            return found
        status, text, message = await self._methods.call(found.grpc_path.decode(), found.request)
        return found.render(status, text, message)

    async def _server(self) -> management.Reply:
        """The server's metadata with all of its extensions: `management` names those that a balancer passes on."""
        _, _, message = await self._methods.call(f"{management.SERVICE.decode()}ServerMetadata", b"")
        found = wire.ServerMetadataResponse.FromString(message)
        document = {"name": found.name, "version": found.version, "extensions": list(found.extensions)}
        return management.Reply(200, orjson.dumps(document))


def error(text: str) -> bytes:
    return orjson.dumps({"error": text})
