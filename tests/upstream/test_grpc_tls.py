"""gRPC through TLS: grpcio as the endpoint, believed and not."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import grpc
import grpc.aio
import pytest
from authority import Authority, Pair
from grpc_peers import CONNECT, SERVICE, channel_to, start

from lb.net.tls.peer import ClientContext, Peer
from lb.upstream.connections.grpc_py import unary

AUTHORITY = Authority()
CLIENTS = Authority("Clients")
BLOCK = bytes(range(256)) * 4096


@contextlib.asynccontextmanager
async def serving(pair: Pair, clients: Authority | None = None) -> AsyncIterator[str]:
    async def echo(request: bytes, _context: grpc.aio.ServicerContext) -> bytes:
        return request

    server = grpc.aio.server()
    handlers = {"Echo": grpc.unary_unary_rpc_method_handler(echo)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Service", handlers),))
    asked = clients.pem if clients else None
    credentials = grpc.ssl_server_credentials([(pair.key, pair.chain)], asked, clients is not None)
    port = server.add_secure_port("127.0.0.1:0", credentials)
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


def peer(name: str = "127.0.0.1", pair: Pair | None = None) -> Peer:
    ours = {"certificate": pair.chain, "key": pair.key} if pair else {}
    return Peer(ClientContext(ca=AUTHORITY.pem, alpn=("h2",), **ours), name)


async def test_calls_pass() -> None:
    async with serving(AUTHORITY.issue("127.0.0.1")) as address, channel_to(address, tls=peer()) as channel:
        for part in (b"", b"hello", BLOCK):  # the last is larger than every buffer
            assert await unary(channel, SERVICE + b"Echo", part, 20) == (0, "", part)
        many = [unary(channel, SERVICE + b"Echo", b"%d" % i, 20) for i in range(50)]
        assert [reply for _, _, reply in await asyncio.gather(*many)] == [b"%d" % i for i in range(50)]
        assert channel.stats()["connects"] == 1


async def test_mutual_tls() -> None:
    ours = CLIENTS.issue(subject="tidegate", client=True)
    async with (
        serving(AUTHORITY.issue("127.0.0.1"), CLIENTS) as address,
        channel_to(address, tls=peer(pair=ours)) as channel,
    ):
        assert await unary(channel, SERVICE + b"Echo", b"hello", 20) == (0, "", b"hello")


@pytest.mark.parametrize("pair", [AUTHORITY.issue("other.test"), Authority("Nobody").issue("127.0.0.1")])
async def test_a_peer_that_is_not_believed(pair: Pair) -> None:
    async with serving(pair) as address, channel_to(address, tls=peer()) as channel:
        assert await start(channel, b"Echo", b"hello").kind() == CONNECT
