"""The channel between the master and one worker: msgpack frames over a Unix stream socket, with file descriptors.

A frame is a 5-byte head (`>IB`: length of the payload, number of file descriptors) and a msgpack map. The descriptors
of a frame travel with its first byte (SCM_RIGHTS), so they have always arrived when its last byte has (unix(7):
ancillary data is a barrier for reads).
"""

from __future__ import annotations

import array
import asyncio
import os
import socket
import struct
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgpack

from lb.errors import TidegateError

MAX_FRAME = 32 << 20  # a plan of 4096 endpoints and 1000 routes is below 2 MiB
MAX_FDS = 192  # in one frame: a worker is given one for each worker and two more; the kernel takes 253 (SCM_MAX_FD)
MAX_UNSENT = 64 << 20  # a peer that reads nothing is given up here

_HEAD = struct.Struct(">IB")
_READ = 256 << 10

Message = dict[str, Any]


class ChannelError(TidegateError):
    """The peer broke the framing, or reads nothing any more."""


def encode(message: Message, fds: int = 0) -> bytes:
    """One frame; raises ChannelError when it would be too large for the peer."""
    payload: bytes = msgpack.packb(message)
    if len(payload) > MAX_FRAME or fds > MAX_FDS:
        raise ChannelError(f"a frame of {len(payload)} bytes and {fds} descriptors is too large")
    return _HEAD.pack(len(payload), fds) + payload


class Decoder:
    """Bytes and descriptors in, whole messages out. Owns the descriptors until a message takes them."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._fds: deque[int] = deque()

    def feed(self, data: bytes, fds: Iterable[int] = ()) -> list[tuple[Message, list[int]]]:
        """The messages completed by `data`; the caller owns the descriptors that come with each.

        Raises ChannelError for a frame that is too large, is no msgpack map or lacks a descriptor.
        """
        self._data += data
        self._fds.extend(fds)
        messages: list[tuple[Message, list[int]]] = []
        start = 0
        while len(self._data) - start >= _HEAD.size:
            size, count = _HEAD.unpack_from(self._data, start)
            if size > MAX_FRAME or count > MAX_FDS:
                raise ChannelError(f"a frame of {size} bytes and {count} descriptors is too large")
            end = start + _HEAD.size + size
            if len(self._data) < end:
                break
            messages.append((_unpack(self._data[start + _HEAD.size : end]), self._take(count)))
            start = end
        del self._data[:start]
        return messages

    def close(self) -> None:
        """Closes the descriptors that no message took."""
        while self._fds:
            os.close(self._fds.popleft())

    def _take(self, count: int) -> list[int]:
        if len(self._fds) < count:
            raise ChannelError(f"a frame came with {len(self._fds)} of its {count} descriptors")
        return [self._fds.popleft() for _ in range(count)]


def _unpack(payload: bytearray) -> Message:
    try:
        message = msgpack.unpackb(payload)
    except (ValueError, msgpack.UnpackException) as error:
        raise ChannelError(f"a frame is no msgpack: {error}") from error
    if not isinstance(message, dict):
        raise ChannelError("a frame is no map")
    return message


class Channel:
    """One end, on an event loop. Callbacks come from the loop, never from inside `send`.

    `on_message(message, fds)` owns the descriptors it is given. `on_close(reason)` is called once, for whatever
    reason the channel ended except `close()`; the socket is closed by then.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        on_message: Callable[[Message, list[int]], None],
        on_close: Callable[[str], None],
    ) -> None:
        self._loop = loop
        self._socket = sock
        self._fd = sock.fileno()
        self._on_message = on_message
        self._on_close = on_close
        self._decoder = Decoder()
        self._unsent: deque[tuple[memoryview, list[int]]] = deque()  # owns duplicates of the descriptors
        self._unsent_bytes = 0
        self._writing = False
        self.closed = False
        sock.setblocking(False)
        loop.add_reader(self._fd, self._readable)

    def send(self, message: Message, fds: Sequence[int] = ()) -> None:
        """Sends now or as soon as the peer reads; the descriptors stay the caller's. On a closed channel: nothing.

        Raises ChannelError, with nothing sent, for a frame that is too large or whose descriptors cannot be kept.
        """
        if self.closed:
            return
        frame = encode(message, len(fds))
        if self._unsent_bytes + len(frame) > MAX_UNSENT:
            self._loop.call_soon(self._lost, "the peer does not read")
            return
        self._unsent.append((memoryview(frame), _duplicates(fds)))
        self._unsent_bytes += len(frame)
        if not self._writing:
            self._writable()

    @property
    def unsent(self) -> int:
        """Bytes of frames that the kernel has not taken yet."""
        return self._unsent_bytes

    def close(self) -> None:
        if self.closed:
            return
        self.closed = True
        self._loop.remove_reader(self._fd)
        if self._writing:
            self._loop.remove_writer(self._fd)
        for _, fds in self._unsent:
            _close_all(fds)
        self._unsent.clear()
        self._decoder.close()
        self._socket.close()

    def _lost(self, reason: str) -> None:
        if not self.closed:
            self.close()
            self._on_close(reason)

    def _readable(self) -> None:
        try:
            data, fds, whole = receive(self._socket)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            return self._lost(str(error))
        if not whole:
            _close_all(fds)
            return self._lost("descriptors were lost on the way (the limit of open files?)")
        if not data:
            _close_all(fds)
            return self._lost("closed by the peer")
        try:
            messages = self._decoder.feed(data, fds)
        except ChannelError as error:
            return self._lost(str(error))
        for message, taken in messages:
            if self.closed:
                _close_all(taken)
            else:
                self._on_message(message, taken)
        return None

    def _writable(self) -> None:
        while self._unsent:
            data, fds = self._unsent[0]
            try:
                sent = self._socket.sendmsg([data], rights(fds))
            except (BlockingIOError, InterruptedError):
                break
            except OSError as error:
                self._loop.call_soon(self._lost, str(error))
                return
            _close_all(fds)
            fds.clear()
            self._unsent_bytes -= sent
            if sent == len(data):
                self._unsent.popleft()
            else:
                self._unsent[0] = (data[sent:], fds)
        if bool(self._unsent) != self._writing:
            self._writing = bool(self._unsent)
            if self._writing:
                self._loop.add_writer(self._fd, self._writable)
            else:
                self._loop.remove_writer(self._fd)


def receive(sock: socket.socket) -> tuple[bytes, list[int], bool]:
    """What has come: bytes, descriptors, and whether all of those could be taken. Raises OSError."""
    data, ancillary, flags, _ = sock.recvmsg(_READ, socket.CMSG_SPACE(MAX_FDS * 4), socket.MSG_CMSG_CLOEXEC)
    return data, _received(ancillary), not flags & socket.MSG_CTRUNC


def rights(fds: Sequence[int]) -> list[tuple[int, int, array.array[int]]]:
    """The ancillary data that carries `fds`."""
    return [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []


def _received(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    fds = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    return list(fds)


def _duplicates(fds: Sequence[int]) -> list[int]:
    made: list[int] = []
    try:
        for fd in fds:
            made.append(os.dup(fd))  # noqa: PERF401 - those before one that fails are closed
    except OSError as error:
        _close_all(made)
        raise ChannelError(f"descriptors cannot be passed on: {error.strerror}") from error
    return made


def _close_all(fds: Iterable[int]) -> None:
    for fd in fds:
        os.close(fd)
