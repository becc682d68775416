"""The websockets library, client and server, through the real daemon, in clear and over TLS."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import pytest_asyncio
import websockets
from authority import Authority
from daemon import Daemon, http_listener
from waiting import until_in_thread
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import ServerConnection, serve

pytestmark = pytest.mark.asyncio(loop_scope="module")
CHAT = websockets.Subprotocol("chat")
AUTHORITY = Authority()
PAGE = {"on": ["4xx"], "body": "page", "intercept": True}


class Server:
    """Gives messages back; closes with a code for the text "close CODE REASON"; pings for "ping"."""

    def __init__(self) -> None:
        self.closed: list[tuple[int | None, str | None]] = []
        self.pings_answered = 0

    async def handle(self, connection: ServerConnection) -> None:
        with contextlib.suppress(websockets.ConnectionClosed):
            async for message in connection:
                if isinstance(message, str) and message.startswith("close "):
                    _, code, reason = message.split(" ", 2)
                    await connection.close(int(code), reason)
                elif message == "ping":
                    await asyncio.wait_for(await connection.ping(b"are you there"), 10)
                    self.pings_answered += 1
                    await connection.send("ponged")
                else:
                    await connection.send(message)
        await connection.wait_closed()
        self.closed.append((connection.close_code, connection.close_reason))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[Daemon, Server]]:
    """A daemon with the listeners `ws` and `wss`, and the server behind it."""
    folder = tmp_path_factory.mktemp("websockets")
    made = Server()
    cert, key = AUTHORITY.issue("127.0.0.1").write(folder)
    tls = {"certificates": [{"cert": cert, "key": key}]}
    async with serve(made.handle, "127.0.0.1", 0, max_size=None, subprotocols=[CHAT]) as running:
        address = f"127.0.0.1:{next(iter(running.sockets)).getsockname()[1]}"
        config = {
            "listeners": {
                # What changes answers on their way leaves an upgrade alone.
                "ws": http_listener({"pool": "app", "compression": True, "error_pages": [PAGE]}),
                "wss": http_listener({"pool": "app"}, protocol="https", tls=tls),
            },
            "pools": {"app": {"protocol": "http", "endpoints": [address]}},
        }
        daemon = Daemon(folder, config)
        try:
            await asyncio.to_thread(daemon.wait_ready)
            yield daemon, made
        finally:
            daemon.kill()


class Front:
    def __init__(self, daemon: Daemon, scheme: str, server: Server) -> None:
        self.daemon = daemon
        self.server = server
        self.url = f"{scheme}://127.0.0.1:{daemon.port(scheme)}/chat?room=1"
        self.options: dict[str, Any] = {"ssl": AUTHORITY.client_context()} if scheme == "wss" else {}

    @contextlib.asynccontextmanager
    async def client(self, **options: Any) -> AsyncIterator[ClientConnection]:
        options |= self.options
        async with connect(self.url, subprotocols=[CHAT], max_size=None, proxy=None, **options) as client:
            yield client

    async def until(self, probe: Callable[[], Any], what: str) -> None:
        await until_in_thread(probe, what)

    async def idle(self) -> None:
        await self.until(lambda: self.daemon.in_flight() == 0, "free slots")


@pytest.fixture(params=["ws", "wss"])
def front(shared: tuple[Daemon, Server], request: pytest.FixtureRequest) -> Front:
    daemon, server = shared
    request.node.daemons = [daemon]
    server.closed, server.pings_answered = [], 0
    return Front(daemon, request.param, server)


async def ask(client: ClientConnection, message: str | bytes) -> str | bytes:
    await client.send(message)
    return await asyncio.wait_for(client.recv(), 20)


async def test_tunnels_are_counted_as_they_begin(front: Front) -> None:
    def counted() -> tuple[float, float]:
        upgrades = sum(front.daemon.metrics("tidegate_route_upgrades_total").values())
        requests = front.daemon.metrics("tidegate_route_requests_total")
        return upgrades, sum(value for labels, value in requests.items() if ("code", "1xx") in labels)

    upgrades, ended = await asyncio.to_thread(counted)
    async with front.client() as client, front.client():
        await ask(client, "hello")
        assert await asyncio.to_thread(counted) == (upgrades + 2, ended)
        with pytest.raises(websockets.InvalidStatus, match="400"):
            await connect(front.url, additional_headers={"Sec-WebSocket-Version": "0"}, proxy=None, **front.options)
        assert (await asyncio.to_thread(counted))[0] == upgrades + 2
    await front.idle()
    assert await asyncio.to_thread(counted) == (upgrades + 2, ended + 2)


@pytest.mark.parametrize("compression", ["deflate", None])
async def test_messages(front: Front, compression: Any) -> None:
    large = random.Random(3).randbytes(1 << 20)
    async with front.client(compression=compression) as client:
        assert client.subprotocol == CHAT
        for message in ("hello, wörld", "", b"", b"\0\xff" * 10, "x" * 70_000, large):
            assert await ask(client, message) == message
        # In pieces, and many on the way at once.
        await client.send([large[i : i + 100_000] for i in range(0, len(large), 100_000)])
        assert await asyncio.wait_for(client.recv(), 20) == large
        sent = [f"{i}" * (i % 50) for i in range(500)]
        for message in sent:
            await client.send(message)
        assert [await asyncio.wait_for(client.recv(), 20) for _ in sent] == sent
        assert await asyncio.to_thread(front.daemon.in_flight) == 1
    await front.idle()


async def test_pings_from_both_ends(front: Front) -> None:
    async with front.client() as client:
        assert await asyncio.wait_for(await client.ping(b"hello"), 10) >= 0
        assert await ask(client, "ping") == "ponged"
    assert front.server.pings_answered == 1
    await front.idle()


@pytest.mark.parametrize(("code", "reason"), [(1000, ""), (1001, "away"), (3000, "mine"), (4999, "enough: ö")])
async def test_close_codes_both_ways(front: Front, code: int, reason: str) -> None:
    async with front.client() as client:
        with pytest.raises(websockets.ConnectionClosed) as caught:
            await ask(client, f"close {code} {reason}")
        assert caught.value.rcvd is not None
        assert (caught.value.rcvd.code, caught.value.rcvd.reason) == (code, reason)
    async with front.client() as client:
        assert await ask(client, "x") == "x"
        await client.close(code, reason)
    await front.until(lambda: front.server.closed == [(code, reason)] * 2, "both closed")
    await front.idle()


async def test_a_client_that_vanishes(front: Front) -> None:
    async with front.client() as client:
        assert await ask(client, "x") == "x"
        client.transport.abort()
        await front.until(lambda: front.server.closed == [(1006, "")], "the end at the server")
    await front.idle()


async def test_a_reload_keeps_conversations(front: Front) -> None:
    async with contextlib.AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(front.client()) for _ in range(6)]
        for turn in range(3):
            outcome = await asyncio.to_thread(front.daemon.reload)
            assert outcome["ok"]
            for i, client in enumerate(clients):
                assert await ask(client, f"{turn} {i}") == f"{turn} {i}"
        assert await asyncio.to_thread(front.daemon.in_flight) == 6
    await front.idle()
    assert front.server.closed == [(1000, "")] * 6
