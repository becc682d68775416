"""A grpcio server for tests: grpc_process.py ADDRESS [MAX_STREAMS]. Prints its address; SIGTERM stops it gracefully."""

from __future__ import annotations

import asyncio
import signal
import sys

import grpc

LIMIT = 128 << 20


async def echo(request: bytes, _context: grpc.aio.ServicerContext) -> bytes:
    return request


async def hold(request: bytes, _context: grpc.aio.ServicerContext) -> bytes:
    """Answers after that many milliseconds."""
    await asyncio.sleep(int(request) / 1000)
    return request


async def fail(request: bytes, context: grpc.aio.ServicerContext) -> bytes:
    """Aborts with "CODE message"."""
    code, _, message = request.decode().partition(" ")
    await context.abort(next(c for c in grpc.StatusCode if c.value[0] == int(code)), message)
    raise AssertionError


async def zeros(request: bytes, _context: grpc.aio.ServicerContext) -> bytes:
    """That many bytes."""
    return bytes(int(request))


async def size(request: bytes, _context: grpc.aio.ServicerContext) -> bytes:
    return str(len(request)).encode()


async def remaining(_request: bytes, context: grpc.aio.ServicerContext) -> bytes:
    """Seconds to the deadline."""
    return str(context.time_remaining()).encode()


async def main() -> None:
    options = [("grpc.max_receive_message_length", LIMIT), ("grpc.max_send_message_length", LIMIT)]
    if len(sys.argv) > 2:
        options.append(("grpc.max_concurrent_streams", int(sys.argv[2])))
    server = grpc.aio.server(options=options)
    handlers = {
        f.__name__.capitalize(): grpc.unary_unary_rpc_method_handler(f)
        for f in (echo, hold, fail, zeros, size, remaining)
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Service", handlers),))
    address = sys.argv[1]
    port = server.add_insecure_port(address)
    await server.start()
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    print(address if address.startswith("unix:") else f"127.0.0.1:{port}", flush=True)
    await stop.wait()
    await server.stop(30)


asyncio.run(main())
