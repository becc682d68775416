"""A client of gRPC that no library is like: HTTP/2 frame by frame."""

from __future__ import annotations

import asyncio
import struct

import h2.config
import h2.connection
import h2.events
import h2.settings

INFER = "/inference.GRPCInferenceService/ModelInfer"
STREAM = "/inference.GRPCInferenceService/ModelStreamInfer"
LIVE = "/inference.GRPCInferenceService/ServerLive"


class Peer:
    """A bare HTTP/2 client. What came of each stream is in `data`, `heads` and `ended`."""

    def __init__(self, window: int = 1 << 20) -> None:
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="latin-1"))
        values = {h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: window}
        self.h2.local_settings = h2.settings.Settings(client=True, initial_values=values)
        self.data: dict[int, bytearray] = {}
        self.heads: dict[int, dict[str, str]] = {}
        self.ended: set[int] = set()
        self.over = False

    async def connect(self, target: str) -> Peer:
        host, _, port = target.rpartition(":")
        self.reader, self.writer = await asyncio.open_connection(host, int(port))
        self.h2.initiate_connection()
        self.flush()
        return self

    def flush(self) -> None:
        self.writer.write(self.h2.data_to_send())

    def open(self, path: str, **fields: str) -> int:
        stream = self.h2.get_next_available_stream_id()
        head = {":method": "POST", ":scheme": "http", ":path": path, ":authority": "a", "te": "trailers"}
        head |= {"content-type": "application/grpc"} | {name.replace("_", "-"): value for name, value in fields.items()}
        self.h2.send_headers(stream, list(head.items()))
        return stream

    async def take(self, seconds: float = 30) -> bool:
        """Takes what comes next; False: nothing came in that time, or the connection is over."""
        try:
            got = await asyncio.wait_for(self.reader.read(1 << 16), seconds)
        except TimeoutError:
            return False
        if not got:
            self.over = True
            return False
        for event in self.h2.receive_data(got):
            stream = getattr(event, "stream_id", 0)
            if isinstance(event, h2.events.ResponseReceived | h2.events.TrailersReceived):
                self.heads.setdefault(stream, {}).update(event.headers)
            elif isinstance(event, h2.events.DataReceived):
                self.data.setdefault(stream, bytearray()).extend(event.data)
                self.h2.acknowledge_received_data(event.flow_controlled_length, stream)
            elif isinstance(event, h2.events.StreamEnded | h2.events.StreamReset):
                self.ended.add(stream)
            elif isinstance(event, h2.events.ConnectionTerminated):
                self.over = True
        self.flush()
        return not self.over

    async def status(self, stream: int) -> str:
        while stream not in self.ended:
            assert await self.take(), "the connection is over, or nothing comes"
        return self.heads[stream].get("grpc-status", self.heads[stream][":status"])


def framed(message: bytes, flag: int = 0) -> bytes:
    return struct.pack(">BI", flag, len(message)) + message


def messages(data: bytes | bytearray) -> list[bytes]:
    """Those that have come whole."""
    found, begin = [], 0
    while len(data) >= begin + 5:
        end = begin + 5 + int.from_bytes(data[begin + 1 : begin + 5])
        if len(data) < end:
            break
        found.append(bytes(data[begin + 5 : end]))
        begin = end
    return found
