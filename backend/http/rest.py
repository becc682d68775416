"""The REST half of the protocol, but for inferences: each route is a call of gRPC, answered by the same servicer."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable
from typing import Any, Protocol
from urllib.parse import unquote

import orjson

from backend.grpc.methods import Methods
from lb.failure import grpc_to_http
from lb.inference import management
from lb.wire import grpc_service_pb2 as wire

log = logging.getLogger("tidegate.backend")

_METRICS = "text/plain; version=0.0.4; charset=utf-8"
_LOAD_PATH = re.compile(r"/v2/repository/models/(?P<model>[^/]+)/(?P<what>load|unload)")
_SINGLE = ("sharedmemory", "trace", "logging")  # parts of paths of extensions that are not offered


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
        if match := _LOAD_PATH.fullmatch(path):
            return await self._load(method, unquote(match["model"]), match["what"], body)
        if any(part in path for part in _SINGLE):
            return management.Reply(404, error(f"this server does not offer {path}"))
        found = management.route(method, target, body)
        if isinstance(found, management.Reply):
            return found
        status, text, message = await self._methods.call(found.grpc_path.decode(), found.request)
        return found.render(status, text, message)

    async def _load(self, method: str, model: str, what: str, body: bytes) -> management.Reply:
        """Triton's model repository extension."""
        if method != "POST":
            return management.Reply(405, error("Method Not Allowed"), allow="POST")
        name = "RepositoryModelLoad" if what == "load" else "RepositoryModelUnload"
        message: Any = getattr(wire, f"{name}Request")(model_name=model)
        try:
            _read_parameters(message, body)
        except ValueError as problem:
            return management.Reply(400, error(str(problem)))
        path = f"{management.SERVICE.decode()}{name}"
        status, text, _ = await self._methods.call(path, message.SerializeToString())
        if status:
            return management.Reply(grpc_to_http(status), error(text))
        return management.Reply(200, b"{}")


def _read_parameters(message: Any, body: bytes) -> None:
    """`{"parameters": {…}}` of a request to load or unload. Raises ValueError."""
    if not body.strip():
        return
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as problem:
        raise ValueError(f"the request is not valid JSON: {problem}") from None
    parameters = document.get("parameters", {}) if isinstance(document, dict) else None
    if not isinstance(parameters, dict):
        raise ValueError("the request must be a JSON object whose 'parameters' is an object")
    for key, value in parameters.items():
        into = message.parameters[key]
        if isinstance(value, bool):
            into.bool_param = value
        elif isinstance(value, int):
            into.int64_param = value
        elif isinstance(value, str):
            into.string_param = value
        else:
            raise ValueError(f"parameter '{key}': expected a boolean, a whole number or a string")


def error(text: str) -> bytes:
    return orjson.dumps({"error": text})
