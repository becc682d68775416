"""Calls that Python answers: all but inferences. Each is a coroutine, given its messages by the compiled core."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, Protocol

from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass

from backend.errors import BackendError, InvalidInput, ModelFailure, Unsupported

log = logging.getLogger("tidegate.backend")


class Call(Protocol):
    """A call of gRPC, as backend.grpc.call has it."""

    @property
    def room(self) -> bool: ...

    def send(self, message: bytes) -> None: ...

    def finish(self, status: int = 0, text: str = "") -> None: ...


class Running:
    """One call: `take`, `end`, `gone` and `room` are called by the compiled core."""

    def __init__(self, call: Call, method: MethodDescriptor, answer: Callable[..., Any]) -> None:
        self._call = call
        self._method = method
        self._answer = answer
        self._request = GetMessageClass(method.input_type)
        self._messages: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._room = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        if method.client_streaming:
            self._start(self._requests())

    def take(self, message: bytes) -> None:
        """A message has come."""
        if self._method.client_streaming:
            self._messages.put_nowait(message)
        elif self._task is None:
            try:
                self._start(self._request.FromString(message))
            except DecodeError as error:
                self._call.finish(InvalidInput.status, f"not a {self._method.input_type.name}: {error}")

    def end(self) -> None:
        """The client has sent all."""
        if self._method.client_streaming:
            self._messages.put_nowait(None)
        elif self._task is None:
            self._call.finish(ModelFailure.status, "a unary call has no message")

    def gone(self) -> None:
        """Nobody waits for an answer any more."""
        if self._task is not None:
            self._task.cancel()

    def room(self) -> None:
        """More may be sent."""
        self._room.set()

    def _start(self, request: Any) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run(request))

    async def _requests(self) -> AsyncIterator[Any]:
        while (message := await self._messages.get()) is not None:
            try:
                yield self._request.FromString(message)
            except DecodeError as error:
                raise InvalidInput(f"not a {self._method.input_type.name}: {error}") from error

    async def _run(self, request: Any) -> None:
        try:
            if self._method.server_streaming:
                async for message in self._answer(request, None):
                    self._call.send(message.SerializeToString())
                    while not self._call.room:
                        self._room.clear()
                        await self._room.wait()
            else:
                self._call.send((await self._answer(request, None)).SerializeToString())
        except BackendError as error:
            self._call.finish(error.status, str(error))
        except asyncio.CancelledError:
            raise
        except Exception:
            log.exception("%s: unexpected error", self._method.full_name)
            self._call.finish(ModelFailure.status, "unexpected error; the server's log has more")
        else:
            self._call.finish()


class Methods:
    """The services that Python answers: a method of a servicer is a coroutine function, or an asynchronous generator
    function, of a request (an iterator of them, where the client streams) and None, as grpcio's own are."""

    def __init__(self) -> None:
        self.services: list[str] = []
        self._compiled: list[str] = []
        self._methods: dict[str, tuple[MethodDescriptor, Callable[..., Awaitable[Any] | AsyncIterator[Any]]]] = {}

    def add(self, service: ServiceDescriptor, servicer: object, compiled: Sequence[str] = ()) -> None:
        """What `servicer` has of the service's methods, by their names; the compiled core answers those of
        `compiled`."""
        self.services.append(service.full_name)
        self._compiled += [f"/{service.full_name}/{name}" for name in compiled]
        self.extend(service, servicer)

    def extend(self, service: ServiceDescriptor, servicer: object) -> None:
        """More methods of a service that was added."""
        for method in service.methods:
            answer = getattr(servicer, method.name, None)
            if answer is not None:
                self._methods[f"/{service.full_name}/{method.name}"] = (method, answer)

    def begin(self, call: Call, path: str) -> Running:
        """Raises Unsupported when there is no such method."""
        found = self._methods.get(path)
        if found is None:
            raise Unsupported(self._unknown(path))
        return Running(call, *found)

    async def call(self, path: str, message: bytes) -> tuple[int, str, bytes]:
        """A unary call from within: its status, the status message, and its answer."""
        found = self._methods.get(path)
        if found is None:
            return Unsupported.status, self._unknown(path), b""
        method, answer = found
        made: Any = answer(GetMessageClass(method.input_type).FromString(message), None)
        try:
            response: Message = await made
        except BackendError as error:
            return error.status, str(error), b""
        return 0, "", response.SerializeToString()

    def _unknown(self, path: str) -> str:
        service, _, name = path.removeprefix("/").rpartition("/")
        if service not in self.services:
            return f"this server has no service '{service}'; it has {', '.join(self.services)}"
        known = sorted([*self._methods, *self._compiled])
        offered = [one.rpartition("/")[2] for one in known if one.startswith(f"/{service}/")]
        return f"this server does not offer {name} of {service}; it offers {', '.join(offered)}"
