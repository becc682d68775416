"""Clients that ask for everything at random, and leave when they like. What became of each request is counted.

An answer that has not come after HANG seconds, whichever it is, is a fault of the daemon: its timeouts are far shorter.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import socket
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field

import grpc

from lb.wire import grpc_service_pb2 as wire

HANG = 20.0
_INFER = "/inference.GRPCInferenceService/ModelInfer"
_STREAM = "/inference.GRPCInferenceService/ModelStreamInfer"


@dataclass
class Chaos:
    """What the clients share. `port` tells where a listener is now: reloads move it."""

    port: Callable[[str], int]
    dice: random.Random
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    counts: Counter[str] = field(default_factory=Counter)

    @contextlib.asynccontextmanager
    async def within(self, what: str):  # type: ignore[no-untyped-def]
        """No longer than HANG."""
        try:
            async with asyncio.timeout(HANG):
                yield
        except TimeoutError:
            self.counts[f"hang: {what}"] += 1
            raise ConnectionAbortedError from None

    # HTTP/1.1.

    def http_request(self) -> bytes:
        dice = self.dice
        fields = f"Host: a\r\nx-key: {dice.randint(1, 9)}\r\n"
        if dice.random() < 0.1:
            fields += "X-Tidegate-Explain: 1\r\n"
        if dice.random() < 0.4:
            fields += f"Cookie: SID=s{dice.randint(1, 99)}\r\n"
        if dice.random() < 0.5:
            method = dice.choice(["GET", "GET", "HEAD", "PUT"])
            return f"{method} /h?q={dice.randint(1, 9)} HTTP/1.1\r\n{fields}\r\n".encode()
        path, body = "/h", b"y" * dice.choice([5, 5000, 200_000])
        if dice.random() < 0.7:
            path, body = f"/v2/models/{dice.choice('mmn')}/infer", json.dumps(self.document()).encode()
            fields += "Content-Type: application/json\r\n"
        return f"POST {path} HTTP/1.1\r\n{fields}Content-Length: {len(body)}\r\n\r\n".encode() + body

    def document(self) -> dict[str, object]:
        data = [1, self.dice.randint(1, 9)]
        parameters = dict(self.sequence()) if self.dice.random() < 0.3 else {}
        return {"parameters": parameters, "inputs": [{"name": "x", "datatype": "INT32", "shape": [2], "data": data}]}

    def sequence(self) -> Iterator[tuple[str, int | bool]]:
        yield "sequence_id", self.dice.randint(1, 20)
        yield "sequence_start", self.dice.random() < 0.5
        yield "sequence_end", self.dice.random() < 0.3

    async def http(self) -> None:
        while not self.stop.is_set():
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", self.port("web"), limit=1 << 22)
            except OSError:
                self.counts["http refused"] += 1
                await asyncio.sleep(0.05)
                continue
            try:
                while not self.stop.is_set() and self.dice.random() < 0.9:
                    request = self.http_request()
                    writer.write(request)
                    if self.dice.random() < 0.03:
                        await asyncio.sleep(self.dice.uniform(0, 0.01))
                        self.counts["http left"] += 1
                        break
                    async with self.within("http"):
                        status, stays = await _read_answer(reader, request.startswith(b"HEAD "))
                    self.counts[f"http {status}"] += 1
                    if not stays:
                        break
            except (OSError, asyncio.IncompleteReadError):
                self.counts["http cut"] += 1
            writer.close()

    # gRPC.

    def message(self) -> bytes:
        made = wire.ModelInferRequest(model_name=self.dice.choice("mmmn"))
        size = self.dice.choice([4, 4, 4, 4000, 100_000])
        made.inputs.add(name="x", datatype="UINT8", shape=[self.dice.choice([1, 4]), size])
        made.raw_input_contents.append(bytes(size))
        if self.dice.random() < 0.3:
            for name, value in self.sequence():
                if isinstance(value, bool):
                    made.parameters[name].bool_param = value
                else:
                    made.parameters[name].int64_param = value
        return made.SerializeToString()

    async def messages(self, longest: float) -> AsyncIterator[bytes]:
        for _ in range(self.dice.randint(1, 6)):
            yield self.message()
            if longest:
                await asyncio.sleep(self.dice.uniform(0, longest))

    async def grpc(self) -> None:
        while not self.stop.is_set():
            port = self.port("web")
            options = [("grpc.use_local_subchannel_pool", 1)]
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options) as channel:
                for _ in range(self.dice.randint(5, 200)):
                    if self.stop.is_set() or self.port("web") != port:
                        break
                    try:
                        async with self.within("grpc"):
                            await self.call(channel)
                        self.counts["grpc ok"] += 1
                    except grpc.aio.AioRpcError as error:
                        self.counts[f"grpc {error.code().name.lower()}"] += 1
                    except ConnectionAbortedError:
                        break
                    except asyncio.CancelledError:  # grpcio's word for a stream that ended while it was written to
                        task = asyncio.current_task()
                        if task is None or task.cancelling():
                            raise
                        self.counts["grpc cut"] += 1

    async def call(self, channel: grpc.aio.Channel) -> None:
        timeout = self.dice.choice([None, None, 0.05, 1])
        if self.dice.random() < 0.25:
            longest = self.dice.choice([0, 0, 0.5])  # seconds between two messages: reloads come between them
            async for _ in channel.stream_stream(_STREAM)(self.messages(longest), timeout=timeout):
                pass
            return
        call = channel.unary_unary(_INFER)(self.message(), timeout=timeout)
        if self.dice.random() < 0.05:
            await asyncio.sleep(self.dice.uniform(0, 0.01))
            call.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await call
            return
        await call

    # TCP and UDP.

    async def tcp(self) -> None:
        while not self.stop.is_set():
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", self.port("raw"))
                writer.write(b"GET /h HTTP/1.1\r\nHost: a\r\n\r\n")
                async with self.within("tcp"):
                    self.counts["tcp ok" if await reader.read(1000) else "tcp closed"] += 1
                writer.close()
            except OSError:
                self.counts["tcp cut"] += 1
            await asyncio.sleep(0.02)

    async def udp(self) -> None:
        loop = asyncio.get_running_loop()
        while not self.stop.is_set():
            with socket.socket(type=socket.SOCK_DGRAM) as sock:
                sock.setblocking(False)
                sock.connect(("127.0.0.1", self.port("dgram")))
                try:
                    sock.send(b"?")
                    await asyncio.wait_for(loop.sock_recv(sock, 65536), 0.5)
                    self.counts["udp ok"] += 1
                except (TimeoutError, OSError):
                    self.counts["udp lost"] += 1
            await asyncio.sleep(0.02)


async def _read_answer(reader: asyncio.StreamReader, head_only: bool) -> tuple[int, bool]:
    """Its status, and whether the connection stays open."""
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    status = int(head.split()[1])
    if head_only:
        pass
    elif b"\r\ncontent-length:" in head:
        await reader.readexactly(int(head.split(b"\r\ncontent-length:")[1].split(b"\r\n")[0]))
    else:
        while size := int((await reader.readline()).split(b";")[0] or b"0", 16):
            await reader.readexactly(size + 2)
        await reader.readline()
    return status, b"\r\nconnection: close" not in head
