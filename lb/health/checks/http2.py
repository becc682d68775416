"""The question of an HTTP check over HTTP/2 (RFC 9113), by the library h2, in bounds that a server cannot move."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import h2.events
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.exceptions import H2Error
from h2.settings import SettingCodes, Settings

from lb.health.check import CheckFailed, shown
from lb.health.checks.frames import Frames, Goaway
from lb.health.checks.tls import CheckTls
from lb.health.checks.wire import Wire, connected

_HEAD = 65_536  # bytes of an answer's head
_READ = 16_384
_MOST_BYTES = 1 << 20  # of frames around the answer, whatever is in them
_MOST_FRAMES = 1000  # in a row that bring no body
_STREAM = 1


async def ask(
    address: str,
    tls: CheckTls | None,
    head: Sequence[tuple[str, str]],
    enough: Callable[[int, bytes], bool],
    limit: int,
) -> tuple[int, bytes]:
    """Status and body of the answer to a request without a body, whose `head` has the pseudo-header fields; of the body
    what had come when `enough` was true of both, or `limit` bytes had. Raises OSError and CheckFailed."""
    async with connected(address, tls, ("h2",)) as wire:
        if tls is not None and wire.protocol != "h2":
            raise CheckFailed("TLS: the server does not speak HTTP/2 (ALPN h2)")
        try:
            return await _asked(wire, head, enough, limit)
        except (H2Error, ValueError) as e:
            raise CheckFailed(f"no valid HTTP/2: {shown(str(e))}") from None


async def _asked(
    wire: Wire, head: Sequence[tuple[str, str]], enough: Callable[[int, bytes], bool], limit: int
) -> tuple[int, bytes]:
    http2 = H2Connection(H2Configuration(client_side=True))
    http2.local_settings = Settings(
        client=True, initial_values={SettingCodes.ENABLE_PUSH: 0, SettingCodes.MAX_HEADER_LIST_SIZE: _HEAD}
    )
    http2.initiate_connection()
    http2.send_headers(_STREAM, head, end_stream=True)
    answer = _Answer(http2)
    frames = Frames()
    idle = 0  # frames in a row that brought the answer no further
    room = _MOST_BYTES + limit
    await wire.send(http2.data_to_send())
    while True:
        came = await wire.receive(_READ)
        if not came:
            raise CheckFailed("connection closed without an answer")
        if not answer.status and came.startswith(b"HTTP/1"):
            raise CheckFailed("the server speaks HTTP/1.1; write protocol: http1")
        room -= len(came)
        if room < 0:
            raise CheckFailed(f"{_MOST_BYTES} bytes came and no answer")
        for frame in frames.feed(came):
            idle += 1
            if idle > _MOST_FRAMES:
                raise CheckFailed(f"the server sent {_MOST_FRAMES} frames and no answer")
            if isinstance(frame, Goaway):
                if frame.ends(_STREAM) and not answer.status:
                    raise CheckFailed(str(frame))
                continue
            before = answer.status, len(answer.body), answer.ended
            for event in http2.receive_data(frame):
                answer.take(event)
            if (answer.status, len(answer.body), answer.ended) == before:
                continue
            idle = 0
            body = bytes(answer.body[:limit])
            if answer.status and (answer.ended or len(body) >= limit or enough(answer.status, body)):
                return answer.status, body
        if said := http2.data_to_send():
            await wire.send(said)
        await asyncio.sleep(0)  # a server that always has something to say must not hold the loop


class _Answer:
    """What has come of the answer. Raises CheckFailed for a stream or a connection that is given up."""

    def __init__(self, http2: H2Connection) -> None:
        self._http2 = http2
        self.status = 0
        self.body = bytearray()
        self.ended = False

    def take(self, event: h2.events.Event) -> None:
        match event:
            case h2.events.ResponseReceived(headers=headers):
                status = dict(headers).get(b":status", b"")
                if len(status) != 3 or not status.isdigit():
                    raise CheckFailed(f"no valid HTTP/2: the status {shown(status.decode('latin-1'), 20)!r}")
                self.status = int(status)
            case h2.events.DataReceived(data=data, flow_controlled_length=size):
                self._http2.acknowledge_received_data(size, _STREAM)
                self.body += data
            case h2.events.StreamEnded():
                self.ended = True
            case h2.events.StreamReset(error_code=code):
                raise CheckFailed(f"the server reset the stream with error {code}")
