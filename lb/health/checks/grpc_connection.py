"""gRPC calls over a check's connection: HTTP/2 by the library h2, in bounds that a server cannot move.

Whoever waits for an answer drives the connection. Nothing is read, and no frame is answered, while nobody waits. What a
server makes us say is written before more of it is read. gRPC over HTTP/2:
https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from enum import IntEnum
from typing import TypeVar
from urllib.parse import unquote_to_bytes

import h2.events
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.exceptions import H2Error
from h2.settings import SettingCodes, Settings

from lb.health.check import CheckFailed, Means, explain, shown
from lb.health.checks.frames import Frames, Goaway
from lb.health.checks.tls import CheckTls
from lb.health.checks.wire import Wire, connect

T = TypeVar("T")

_LARGEST = 4 * 1024 * 1024  # bytes of the answers under way, which is gRPC's own default for one message
_LARGEST_HEAD = 65_536
_READ = 16_384
_MOST_FRAMES = 1000  # in a row that bring no call on
_MOST_CALLS = 100  # at a time
_MOST_USES = 30  # of a connection that is kept; h2 remembers each of its streams
_HTTP1 = b"HTTP/1"  # how an answer of the other version begins
_PREFIX = 5  # bytes before a message: whether it is compressed, and its length


class Status(IntEnum):
    """Status codes of gRPC (doc/statuscodes.md)."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


_BY_NUMBER = {b"%d" % status: status for status in Status}
# What an answer that is not gRPC's counts as (doc/http-grpc-status-mapping.md).
_BY_HTTP = {
    400: Status.INTERNAL,
    401: Status.UNAUTHENTICATED,
    403: Status.PERMISSION_DENIED,
    404: Status.UNIMPLEMENTED,
    429: Status.UNAVAILABLE,
    502: Status.UNAVAILABLE,
    503: Status.UNAVAILABLE,
    504: Status.UNAVAILABLE,
}
# What a reset stream counts as; every other reason is INTERNAL.
_BY_RESET: dict[int, Status] = {
    ErrorCodes.REFUSED_STREAM: Status.UNAVAILABLE,
    ErrorCodes.CANCEL: Status.CANCELLED,
    ErrorCodes.ENHANCE_YOUR_CALM: Status.RESOURCE_EXHAUSTED,
    ErrorCodes.INADEQUATE_SECURITY: Status.PERMISSION_DENIED,
}


class CallFailed(CheckFailed):
    """A call that did not end with OK; `code` says how, `details` is the server's word on it, and the message is what
    an operator reads. `told`: the server gave that status itself."""

    def __init__(self, code: Status, details: str = "", told: bool = False) -> None:
        super().__init__(f"{code.name}: {details}" if details else code.name)
        self.code = code
        self.details = details
        self.told = told


@contextlib.asynccontextmanager
async def grpc_connection(address: str, tls: CheckTls | None) -> AsyncIterator[GrpcConnection]:
    """A connection that is closed afterwards. Raises CheckFailed."""
    try:
        connection = await _opened(address, tls)
        try:
            yield connection
        finally:
            connection.close()
    except OSError as e:
        raise CheckFailed(explain(e)) from e


async def _opened(address: str, tls: CheckTls | None) -> GrpcConnection:
    """Raises OSError and CheckFailed."""
    authority = tls.name if tls is not None else "localhost" if address.startswith("unix:") else address
    wire = await connect(address, tls, ("h2",))
    if tls is not None and wire.protocol != "h2":
        wire.close()
        raise CheckFailed("TLS: the server does not speak HTTP/2 (ALPN h2)")
    return GrpcConnection(wire, "https" if tls is not None else "http", authority)


class LastingConnection:
    """A connection that checks of one endpoint use one after another, as Envoy's do (`reuse_connection`).

    A new one is made after a check that failed, and after `most_uses`, so that it is found out whether the endpoint
    still accepts; 0: none is kept."""

    def __init__(self, tls: CheckTls | None, most_uses: int) -> None:
        self._tls = tls
        self._most_uses = most_uses
        self._kept: GrpcConnection | None = None
        self._uses = 0

    def close(self) -> None:
        if self._kept is not None:
            self._kept.close()
            self._kept = None

    async def ask(self, address: str, question: Callable[[GrpcConnection], Awaitable[T]]) -> T:
        """What `question` makes of a connection to `address`, which is the same at each call. Raises CheckFailed."""
        if self._kept is not None:
            # Its server may have closed it meanwhile: only a new one tells.
            with contextlib.suppress(OSError, CheckFailed):
                return await self._ask(self._kept, question)
        self.close()
        try:
            connection = await _opened(address, self._tls)
            self._uses = 0
            return await self._ask(connection, question)
        except OSError as e:
            raise CheckFailed(explain(e)) from e

    async def _ask(self, connection: GrpcConnection, question: Callable[[GrpcConnection], Awaitable[T]]) -> T:
        """The connection is kept where nothing fails, and nobody cancels."""
        self._kept = None
        try:
            answer = await question(connection)
        except BaseException:
            connection.close()
            raise
        self._uses += 1
        if self._uses < self._most_uses:
            self._kept = connection
        else:
            connection.close()
        return answer


def lasting(tls: CheckTls | None, means: Means | None) -> LastingConnection:
    """For the checks of one endpoint, which keep it as long as `means` last; without, for one check."""
    made = LastingConnection(tls, _MOST_USES if means is not None else 0)
    if means is not None:
        means.closing.callback(made.close)
    return made


class GrpcConnection:
    """Calls over one wire. Raises CallFailed, and what the wire raises."""

    def __init__(self, wire: Wire, scheme: str, authority: str) -> None:
        self._wire = wire
        self._scheme = scheme
        self._authority = authority
        self._http2 = H2Connection(H2Configuration(client_side=True))
        self._http2.local_settings = Settings(
            client=True,
            initial_values={SettingCodes.ENABLE_PUSH: 0, SettingCodes.MAX_HEADER_LIST_SIZE: _LARGEST_HEAD},
        )
        self._http2.initiate_connection()
        self._began = b""  # the first bytes that came
        self._frames = Frames()
        self._calls: dict[int, _Call] = {}
        self._idle_frames = 0
        self._last_stream: int | None = None  # that a server which goes away still answers

    def close(self) -> None:
        """Calls that have not ended have no answer."""
        self._wire.close()

    async def unary(self, path: str, message: bytes) -> bytes:
        """What a method answers. Raises CallFailed."""
        answer = (await self.unaries(path, [message]))[0]
        if isinstance(answer, CallFailed):
            raise answer
        return answer

    async def unaries(self, path: str, messages: Sequence[bytes]) -> list[bytes | CallFailed]:
        """What a method answers to each, or how the call failed; as many at a time as the server takes."""
        calls = [_Call(message) for message in messages]
        waiting = deque(calls)
        while not all(call.ended for call in calls):
            while waiting and self._may_begin():
                self._begin(path, waiting.popleft())
            await self._turn()
        return [call.answer() for call in calls]

    async def stream(self, path: str, message: bytes) -> AsyncIterator[bytes]:
        """The messages that a method answers one request with, until it ends. Raises CallFailed."""
        call = _Call(message)
        while not self._may_begin():
            await self._turn()
        self._begin(path, call)
        while True:
            while call.messages:
                yield call.messages.popleft()
            if call.ended:
                break
            await self._turn()
        if call.failure is not None:
            raise call.failure

    def _may_begin(self) -> bool:
        if self._last_stream is not None:
            raise CallFailed(Status.UNAVAILABLE, "the server closes the connection")
        return self._http2.open_outbound_streams < min(_MOST_CALLS, self._http2.remote_settings.max_concurrent_streams)

    def _begin(self, path: str, call: _Call) -> None:
        stream = self._http2.get_next_available_stream_id()
        self._calls[stream] = call
        self._http2.send_headers(
            stream,
            [
                (":method", "POST"),
                (":scheme", self._scheme),
                (":path", path),
                (":authority", self._authority),
                ("te", "trailers"),
                ("content-type", "application/grpc"),
                ("user-agent", "tidegate-health"),
            ],
        )

    def _push(self) -> None:
        """Sends what the server's windows have room for."""
        for stream, call in self._calls.items():
            while call.unsent:
                room = min(self._http2.local_flow_control_window(stream), self._http2.max_outbound_frame_size)
                if room <= 0:
                    break
                piece, call.unsent = call.unsent[:room], call.unsent[room:]
                self._http2.send_data(stream, bytes(piece), end_stream=not call.unsent)

    async def _turn(self) -> None:
        """Writes what there is to say, and takes what comes."""
        try:
            self._push()
            if said := self._http2.data_to_send():
                await self._wire.send(said)
            came = await self._wire.receive(_READ)
            if not came:
                raise CallFailed(Status.UNAVAILABLE, "the server closed the connection")
            self._began += came[: len(_HTTP1) - len(self._began)]
            if self._began == _HTTP1:
                raise CallFailed(Status.UNAVAILABLE, "the server speaks HTTP/1, gRPC needs HTTP/2")
            for frame in self._frames.feed(came):
                self._idle_frames += 1
                if self._idle_frames > _MOST_FRAMES:
                    raise CallFailed(Status.UNAVAILABLE, f"the server sent {_MOST_FRAMES} frames and no answer")
                if isinstance(frame, Goaway):
                    self._goes_away(frame)
                else:
                    for event in self._http2.receive_data(frame):
                        self._take(event)
        except (H2Error, ValueError) as e:
            raise CallFailed(Status.UNAVAILABLE, f"no valid HTTP/2: {shown(str(e))}") from None
        await asyncio.sleep(0)  # a server that always has something to say must not hold the loop

    def _goes_away(self, goaway: Goaway) -> None:
        """Calls that the server has not taken will have no answer (RFC 9113 section 6.8)."""
        self._last_stream = goaway.last_stream
        for stream, call in list(self._calls.items()):
            if goaway.ends(stream):
                self._end(stream, call, CallFailed(Status.UNAVAILABLE, str(goaway)))

    def _take(self, event: h2.events.Event) -> None:
        stream = getattr(event, "stream_id", None)
        call = self._calls.get(stream) if stream is not None else None
        if stream is None or call is None:
            return
        match event:
            case h2.events.ResponseReceived(headers=headers):
                call.head = {bytes(name): bytes(value) for name, value in headers}
            case h2.events.TrailersReceived(headers=headers):
                call.trailers = {bytes(name): bytes(value) for name, value in headers}
            case h2.events.DataReceived(data=data, flow_controlled_length=size):
                self._http2.acknowledge_received_data(size, stream)
                had = len(call.messages)
                call.feed(bytes(data))
                if len(call.messages) > had:
                    self._idle_frames = 0
                if sum(len(one.body) for one in self._calls.values()) > _LARGEST:
                    raise CallFailed(Status.RESOURCE_EXHAUSTED, f"the answer is larger than {_LARGEST} bytes")
            case h2.events.StreamEnded():
                self._end(stream, call, call.outcome())
            case h2.events.StreamReset(error_code=code):
                status = _BY_RESET.get(code, Status.INTERNAL)
                self._end(stream, call, CallFailed(status, f"the server reset the stream with error {int(code)}"))

    def _end(self, stream: int, call: _Call, failure: CallFailed | None) -> None:
        del self._calls[stream]
        call.end(failure)
        self._idle_frames = 0


class _Call:
    """One request and what has come of its answer."""

    def __init__(self, message: bytes) -> None:
        self.unsent = memoryview(b"\0" + len(message).to_bytes(4) + message)
        self.head: dict[bytes, bytes] = {}
        self.trailers: dict[bytes, bytes] = {}
        self.body = bytearray()  # that is no whole message yet
        self.messages: deque[bytes] = deque()
        self.failure: CallFailed | None = None
        self.ended = False

    def feed(self, data: bytes) -> None:
        """Takes a part of the body. That of an answer which is none of gRPC is passed over. Raises CallFailed."""
        if self.foreign() is not None:
            return
        self.body += data
        while len(self.body) >= _PREFIX:
            size = int.from_bytes(self.body[1:_PREFIX])
            if self.body[0]:
                raise CallFailed(Status.INTERNAL, "the answer is compressed, which was not asked for")
            if size > _LARGEST:
                raise CallFailed(Status.RESOURCE_EXHAUSTED, f"a message of {size} bytes, {_LARGEST} are allowed")
            if len(self.body) < _PREFIX + size:
                return
            self.messages.append(bytes(self.body[_PREFIX : _PREFIX + size]))
            del self.body[: _PREFIX + size]

    def foreign(self) -> CallFailed | None:
        """What an answer that is none of gRPC counts as, by its head."""
        http = self.head.get(b":status", b"")
        if http != b"200":
            code = _BY_HTTP.get(int(http) if http.isdigit() else 0, Status.UNKNOWN)
            return CallFailed(code, f"HTTP status {shown(http.decode('latin-1'))}")
        kind = self.head.get(b"content-type", b"")
        if not kind.startswith(b"application/grpc"):
            return CallFailed(Status.UNKNOWN, f"content type {shown(kind.decode('latin-1'))!r} is not gRPC's")
        return None

    def outcome(self) -> CallFailed | None:
        """How an answer that is complete says that the call ended; None is OK."""
        if (foreign := self.foreign()) is not None:
            return foreign
        fields = self.trailers or self.head
        said = fields.get(b"grpc-status", b"")
        if not said.isdigit():
            return CallFailed(Status.UNKNOWN, "the answer has no status of gRPC")
        if said == b"0":
            return CallFailed(Status.INTERNAL, "the answer ends within a message") if self.body else None
        details = unquote_to_bytes(fields.get(b"grpc-message", b"")).decode("utf-8", "replace")
        return CallFailed(_BY_NUMBER.get(said, Status.UNKNOWN), shown(" ".join(details.split())), told=True)

    def end(self, failure: CallFailed | None) -> None:
        self.failure, self.ended = failure, True

    def answer(self) -> bytes | CallFailed:
        """The one message of a unary call that has ended."""
        if self.failure is not None:
            return self.failure
        if len(self.messages) != 1:
            return CallFailed(Status.INTERNAL, f"{len(self.messages)} messages in an answer that has one")
        return self.messages[0]
