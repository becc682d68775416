"""The client's side of one HTTP/2 connection: bytes in, calls out. The only module that knows the library (ngh2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import ngh2

_WINDOW = (1 << 31) - 1  # flow control must not be what is measured
_UNLIMITED = (1 << 31) - 1  # a server that names no limit has none (RFC 9113, 6.5.2)

Headers = Sequence[tuple[bytes, bytes]]


class Handler(Protocol):
    """What a session tells."""

    def on_headers(self, stream: int, headers: Headers) -> None:
        """The head of the answer, or its trailers."""

    def on_data(self, stream: int, data: bytes) -> None: ...

    def on_end(self, stream: int, reason: str | None) -> None:
        """No more will come. `reason` names the error code (RFC 9113, section 7) of a stream that was reset."""

    def on_settings(self) -> None:
        """The server has told its settings: only now `Session.limit` is its own."""

    def on_draining(self) -> None:
        """The server takes no new streams on this connection."""


class SessionError(Exception):
    """The peer broke the protocol; the connection is of no more use."""


class Session:
    """Does no I/O: give it what was received, and write what `outgoing` returns."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        self._connection = ngh2.Connection(ngh2.Role.CLIENT)
        settings = {ngh2.Setting.ENABLE_PUSH: 0, ngh2.Setting.INITIAL_WINDOW_SIZE: _WINDOW}
        self._connection.initiate_connection(settings)
        self._connection.set_local_window_size(_WINDOW)
        self._reported_draining = False
        self.limit = _UNLIMITED

    def request(self, headers: Headers, body: bytes) -> int:
        """Begins a stream and returns its number. Raises SessionError if the connection takes none."""
        try:
            stream = self._connection.send_request(headers, end_stream=not body)
            if body:
                self._connection.send_data(stream, body, end_stream=True)
        except ngh2.NGH2Error as error:
            raise SessionError(str(error)) from error
        return stream

    def cancel(self, stream: int) -> None:
        self._connection.reset_stream(stream, ngh2.ErrorCode.CANCEL)

    def outgoing(self) -> bytes:
        return self._connection.data_to_send()

    @property
    def over(self) -> bool:
        """Both sides are through with the connection, in peace or by a fault, and what was to be said is written."""
        return not (self._connection.want_read or self._connection.want_write)

    def receive(self, data: bytes) -> None:
        """Raises SessionError after telling what came before the fault."""
        fault = None
        try:
            self._connection.receive_data(data)
        except ngh2.NGH2Error as error:
            fault = error
        handler = self._handler
        for event in self._connection.events():
            match event:
                case ngh2.ResponseReceived() | ngh2.TrailersReceived():
                    handler.on_headers(event.stream_id, event.headers)
                case ngh2.DataReceived():
                    handler.on_data(event.stream_id, event.data)
                case ngh2.StreamClosed():
                    handler.on_end(event.stream_id, _reason(event.error_code))
                case ngh2.SettingsReceived():
                    self.limit = event.settings.get(ngh2.Setting.MAX_CONCURRENT_STREAMS, self.limit)
                    handler.on_settings()
                case ngh2.GoAwayReceived():
                    handler.on_draining()
                case _:
                    pass  # pings, acknowledgements and window updates are the library's business
        if fault is not None:
            raise SessionError(str(fault)) from fault


def _reason(code: int) -> str | None:
    if code == ngh2.ErrorCode.NO_ERROR:
        return None
    try:
        return ngh2.ErrorCode(code).name.lower()
    except ValueError:
        return str(code)
