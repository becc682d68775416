"""A process that is an endpoint of every protocol, neither fast nor well: it says {"http": port, "grpc": …, "udp": …}.

Answers take from nothing to half a second; of a hundred some are errors, break off, or close the connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import socket
from collections.abc import AsyncIterator
from typing import Any

import grpc

from lb.wire import grpc_service_pb2 as wire

dice = random.Random()


async def nap() -> None:
    chance = dice.random()
    await asyncio.sleep(0 if chance < 0.5 else dice.uniform(0, 0.03) if chance < 0.95 else dice.uniform(0, 0.5))


async def read_request(reader: asyncio.StreamReader) -> bytes:
    """The head; the body is read, too."""
    head = await reader.readuntil(b"\r\n\r\n")
    fields = head.lower()
    if b"\r\ncontent-length:" in fields:
        await reader.readexactly(int(fields.split(b"\r\ncontent-length:")[1].split(b"\r\n")[0]))
    elif b"\r\ntransfer-encoding: chunked" in fields:
        while size := int((await reader.readline()).split(b";")[0], 16):
            await reader.readexactly(size + 2)
        await reader.readline()
    return head


def answer(head: bytes) -> tuple[bytes, bool]:
    """And whether the connection stays open."""
    if head.startswith(b"GET /probe"):
        return b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", True
    chance = dice.random()
    if chance < 0.01:
        return b"", False
    if chance < 0.03:
        return b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 2\r\n\r\nno", True
    if chance < 0.04:
        return b"HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\nbroken", False
    if head.startswith(b"HEAD "):
        return b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", True
    body = b"x" * dice.choice([2, 2, 2, 1000, 50_000])
    if chance < 0.3:
        session = b"Set-Cookie: SID=s%d\r\n" % dice.randint(1, 99)
        framed = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
        return b"HTTP/1.1 200 OK\r\n" + session + b"Transfer-Encoding: chunked\r\n\r\n" + framed, True
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body), chance < 0.97


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, ValueError):
        stays = True
        while stays:
            head = await read_request(reader)
            if not head.startswith(b"GET /probe"):
                await nap()
            data, stays = answer(head)
            writer.write(data)
            await writer.drain()
    writer.close()


async def infer(data: bytes, context: grpc.aio.ServicerContext) -> bytes:
    await nap()
    chance = dice.random()
    if chance < 0.02:
        await context.abort(dice.choice([grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL]), "as the dice say")
    request = wire.ModelInferRequest.FromString(data)
    made = wire.ModelInferResponse(model_name=request.model_name, id=request.id)
    for tensor in request.inputs:
        made.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
    made.raw_output_contents.extend(request.raw_input_contents)
    if chance < 0.5:
        report = (
            f"TEXT cpu_utilization={dice.random():.2f},rps_fractional={dice.randint(1, 100)},eps={dice.randint(0, 3)}"
        )
        context.set_trailing_metadata((("endpoint-load-metrics", report),))
    return made.SerializeToString()


async def stream(messages: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> AsyncIterator[bytes]:
    async for data in messages:
        made = wire.ModelInferResponse.FromString(await infer(data, context))
        yield wire.ModelStreamInferResponse(infer_response=made).SerializeToString()


async def server_ready(_data: bytes, _context: Any) -> bytes:
    return wire.ServerReadyResponse(ready=True).SerializeToString()


async def model_ready(_data: bytes, _context: Any) -> bytes:
    return wire.ModelReadyResponse(ready=dice.random() < 0.95).SerializeToString()


async def healthy(_data: bytes, _context: Any) -> bytes:
    return b"\x08\x01"  # SERVING


def echo(sock: socket.socket) -> None:
    with contextlib.suppress(BlockingIOError, ConnectionRefusedError):
        data, sender = sock.recvfrom(65536)
        sock.sendto(data, sender)


async def main() -> None:
    http = await asyncio.start_server(serve, "127.0.0.1", 0)
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    unary = grpc.unary_unary_rpc_method_handler
    inference = {
        "ModelInfer": unary(infer),
        "ModelStreamInfer": grpc.stream_stream_rpc_method_handler(stream),
        "ServerLive": unary(server_ready),
        "ServerReady": unary(server_ready),
        "ModelReady": unary(model_ready),
    }
    services = {"inference.GRPCInferenceService": inference, "grpc.health.v1.Health": {"Check": unary(healthy)}}
    server.add_generic_rpc_handlers(
        [grpc.method_handlers_generic_handler(name, handlers) for name, handlers in services.items()]
    )
    calls = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    datagrams = socket.socket(type=socket.SOCK_DGRAM)
    datagrams.bind(("127.0.0.1", 0))
    datagrams.setblocking(False)
    asyncio.get_running_loop().add_reader(datagrams, echo, datagrams)
    ports = {"http": http.sockets[0].getsockname()[1], "grpc": calls, "udp": datagrams.getsockname()[1]}
    print(json.dumps(ports), flush=True)
    await asyncio.Event().wait()


asyncio.run(main())
