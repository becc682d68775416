"""grpcio, client and server, through the real daemon: all kinds of calls, cancellation, deadlines, TLS."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import pytest
import pytest_asyncio
from authority import Authority
from daemon import Daemon, eventually, http_listener
from waiting import until_in_thread

pytestmark = pytest.mark.asyncio(loop_scope="module")
Context = grpc.aio.ServicerContext
UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1), ("grpc.so_reuseport", 0)]
AUTHORITY = Authority()


class Server:
    """Answers every kind of method, and notes what it saw of its callers."""

    def __init__(self) -> None:
        self.forget()
        kinds = {
            "Unary": grpc.unary_unary_rpc_method_handler(self.unary),
            "Fail": grpc.unary_unary_rpc_method_handler(self.fail),
            "Hang": grpc.unary_unary_rpc_method_handler(self.hang),
            "Down": grpc.unary_stream_rpc_method_handler(self.down),
            "Up": grpc.stream_unary_rpc_method_handler(self.up),
            "Both": grpc.stream_stream_rpc_method_handler(self.both),
        }
        self.server = grpc.aio.server(options=UNLIMITED)
        for service in ("test.Kinds", "test.Late"):
            self.server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, kinds),))
        self.address = f"127.0.0.1:{self.server.add_insecure_port('127.0.0.1:0')}"

    def forget(self) -> None:
        self.asked = 0
        self.running = 0
        self.ends: list[str] = []
        self.remaining: list[float | None] = []
        self.metadata: dict[str, Any] = {}

    async def unary(self, request: bytes, context: Context) -> bytes:
        self.asked += 1
        self.remaining.append(context.time_remaining())
        self.metadata = dict(context.invocation_metadata() or ())
        await context.send_initial_metadata((("x-first", "1"),))
        context.set_trailing_metadata((("x-last", "2"), ("x-bin", b"\0\xff\2")))
        return request

    async def fail(self, request: bytes, context: Context) -> bytes:
        await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "no: 100% ö", (("x-why-bin", b"\1\0"),))
        raise AssertionError

    async def hang(self, request: bytes, context: Context) -> bytes:
        self.remaining.append(context.time_remaining())
        async with self.seen_to_end("hang"):
            await asyncio.sleep(60)
        return request

    async def down(self, request: bytes, context: Context) -> AsyncIterator[bytes]:
        for i in range(int(request)):
            yield b"%d" % i * 100

    async def up(self, requests: AsyncIterator[bytes], context: Context) -> bytes:
        return b"%d" % sum([len(request) async for request in requests])

    async def both(self, requests: AsyncIterator[bytes], context: Context) -> AsyncIterator[bytes]:
        async with self.seen_to_end("both"):
            async for request in requests:
                yield request.upper()

    @contextlib.asynccontextmanager
    async def seen_to_end(self, name: str) -> AsyncIterator[None]:
        """Notes how a call ended. grpcio ends a stream of requests that is cancelled as one that is complete."""
        self.running += 1
        try:
            yield
            self.ends.append(name)
        except asyncio.CancelledError:
            self.ends.append(f"{name} cancelled")
            raise
        finally:
            self.running -= 1


class Relay:
    """A way to a server which passes the first bytes of each connection on after `DELAY` seconds."""

    DELAY = 0.6

    def __init__(self, address: str) -> None:
        self.host, _, self.port = address.partition(":")
        self.writers: list[asyncio.StreamWriter] = []

    async def start(self) -> str:
        self.server = await asyncio.start_server(self.handle, "127.0.0.1", 0)
        return f"127.0.0.1:{self.server.sockets[0].getsockname()[1]}"

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(self.DELAY)
        behind, onwards = await asyncio.open_connection(self.host, self.port)
        self.writers += [writer, onwards]

        async def copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            with contextlib.suppress(ConnectionError):
                while data := await source.read(1 << 16):
                    sink.write(data)
            sink.close()

        await asyncio.gather(copy(reader, onwards), copy(behind, writer))

    def hang_up(self) -> None:
        """Ends the connections that there are."""
        for writer in self.writers:
            writer.close()
        self.writers.clear()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[Daemon, list[Server], Relay]]:
    """A daemon with the listeners `h2c` and `tls`, the two servers behind it, and a relay to the first of them."""
    folder = tmp_path_factory.mktemp("grpc")
    made = [Server(), Server()]
    for one in made:
        await one.server.start()
    relay = Relay(made[0].address)
    late = await relay.start()
    routes = [{"match": {"path": {"prefix": "/test.Late/"}}, "pool": "late"}, {"pool": "app"}]
    cert, key = AUTHORITY.issue("127.0.0.1").write(folder)
    tls = {"certificates": [{"cert": cert, "key": key}]}
    config = {
        "listeners": {
            "h2c": http_listener(*routes),
            "tls": http_listener(*routes, protocol="https", tls=tls),
        },
        "pools": {
            "app": {"protocol": "grpc", "endpoints": [one.address for one in made], "policy": "round_robin"},
            "late": {"protocol": "grpc", "endpoints": [late], "connect_timeout": "5s"},
        },
    }
    daemon = Daemon(folder, config)
    try:
        await asyncio.to_thread(daemon.wait_ready)
        await until_in_thread(
            lambda: all(row["health"] in ("up", "unchecked") for row in daemon.pool("app")["endpoints"]),
            "both endpoints are up",
        )
        yield daemon, made, relay
    finally:
        daemon.kill()
        relay.hang_up()
        relay.server.close()
        for one in made:
            await one.server.stop(None)


class Front:
    """A daemon in front of the servers, and channels to it."""

    def __init__(self, daemon: Daemon, listener: str, relay: Relay) -> None:
        self.daemon = daemon
        self.relay = relay
        self.target = f"127.0.0.1:{daemon.port(listener)}"
        self.credentials = grpc.ssl_channel_credentials(AUTHORITY.pem) if listener == "tls" else None

    def channel(self) -> grpc.aio.Channel:
        if self.credentials is not None:
            return grpc.aio.secure_channel(self.target, self.credentials, options=UNLIMITED)
        return grpc.aio.insecure_channel(self.target, options=UNLIMITED)

    def plain_channel(self) -> grpc.Channel:
        """For a client without an event loop."""
        if self.credentials is not None:
            return grpc.secure_channel(self.target, self.credentials, options=UNLIMITED)
        return grpc.insecure_channel(self.target, options=UNLIMITED)

    async def until(self, probe: Callable[[], Any], what: str) -> None:
        """`eventually`, while the servers go on."""
        await until_in_thread(probe, what)

    async def idle(self) -> None:
        await self.until(lambda: self.daemon.in_flight() == 0, "the end of all exchanges")


@pytest.fixture
def servers(shared: tuple[Daemon, list[Server], Relay]) -> list[Server]:
    """Those of all tests, with nothing noted yet."""
    for one in shared[1]:
        one.forget()
    return shared[1]


@pytest.fixture(params=["h2c", "tls"])
def front(shared: tuple[Daemon, list[Server], Relay], request: pytest.FixtureRequest) -> Front:
    request.node.daemons = [shared[0]]
    return Front(shared[0], request.param, shared[2])


def total(servers: list[Server], what: str) -> Any:
    return sum((getattr(server, what) for server in servers[1:]), getattr(servers[0], what))


async def test_unary_calls_of_one_channel_go_to_all_endpoints(front: Front, servers: list[Server]) -> None:
    async with front.channel() as channel:
        unary = channel.unary_unary("/test.Kinds/Unary")
        messages = [b"%d" % i * i for i in range(100)]
        assert await asyncio.gather(*(unary(message, timeout=20) for message in messages)) == messages
        assert [server.asked for server in servers] == [50, 50]
        large = bytes(range(256)) * (3 << 12)
        call = unary(large, metadata=(("x-own", "a"), ("y-bin", b"\xff\0")))
        assert await call == large
        assert ("x-first", "1") in list(await call.initial_metadata() or ())
        last = dict(await call.trailing_metadata() or ())
        assert (last["x-last"], last["x-bin"]) == ("2", b"\0\xff\2")
        server = next(server for server in servers if server.asked == 51)
        assert (server.metadata["x-own"], server.metadata["y-bin"]) == ("a", b"\xff\0")
    await front.idle()


async def test_streams(front: Front, servers: list[Server]) -> None:
    async def some() -> AsyncIterator[bytes]:
        for _ in range(500):
            yield bytes(1000)

    async with front.channel() as channel:
        down = [m async for m in channel.unary_stream("/test.Kinds/Down")(b"1000", timeout=20)]
        assert down == [b"%d" % i * 100 for i in range(1000)]
        assert await channel.stream_unary("/test.Kinds/Up")(some(), timeout=20) == b"500000"
        both = channel.stream_stream("/test.Kinds/Both")(timeout=20)
        for word in (b"one", b"two", b"three"):
            await both.write(word)
            assert await both.read() == word.upper()  # each answered before the next is said
        assert await asyncio.to_thread(front.daemon.in_flight) == 1
        await both.done_writing()
        assert await both.read() == grpc.aio.EOF
        assert await both.code() == grpc.StatusCode.OK
    await front.idle()
    assert total(servers, "ends") == ["both"]


async def test_errors_with_details(front: Front, servers: list[Server]) -> None:
    async with front.channel() as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary_unary("/test.Kinds/Fail")(b"", timeout=20)
        assert caught.value.code() == grpc.StatusCode.FAILED_PRECONDITION
        assert caught.value.details() == "no: 100% ö"
        assert dict(caught.value.trailing_metadata())["x-why-bin"] == b"\1\0"
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary_unary("/test.Kinds/None")(b"", timeout=20)
        assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED
    await front.idle()


async def test_cancellation_reaches_the_server(front: Front, servers: list[Server]) -> None:
    async with front.channel() as channel:
        calls: list[Any] = [channel.unary_unary("/test.Kinds/Hang")(b"") for _ in range(3)]
        stream = channel.stream_stream("/test.Kinds/Both")()
        await stream.write(b"a")
        assert await stream.read() == b"A"
        await front.until(lambda: total(servers, "running") == 4, "calls at the servers")
        assert await asyncio.to_thread(front.daemon.in_flight) == 4
        for call in (*calls, stream):
            call.cancel()
        await front.until(lambda: total(servers, "running") == 0, "calls that end")
        assert sorted(total(servers, "ends")) == ["both", *["hang cancelled"] * 3]
        await front.idle()
        # The connection goes on.
        assert await channel.unary_unary("/test.Kinds/Unary")(b"x", timeout=20) == b"x"


async def test_a_client_that_vanishes_is_a_cancellation(front: Front, servers: list[Server]) -> None:
    channel = front.channel()
    call = channel.unary_unary("/test.Kinds/Hang")(b"")
    await front.until(lambda: total(servers, "running") == 1, "the call at a server")
    await channel.close()
    await front.until(lambda: total(servers, "ends") == ["hang cancelled"], "the cancellation")
    await front.idle()
    assert call.done()


async def test_deadlines(front: Front, servers: list[Server]) -> None:
    async with front.channel() as channel:
        await channel.unary_unary("/test.Kinds/Unary")(b"")
        await channel.unary_unary("/test.Kinds/Unary")(b"", timeout=5)
        started = time.monotonic()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary_unary("/test.Kinds/Hang")(b"", timeout=0.5)
        assert 0.4 < time.monotonic() - started < 5
        assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        await front.until(lambda: total(servers, "running") == 0, "the end at the server")
        assert total(servers, "ends") == ["hang cancelled"]
        await front.idle()
    remaining = sorted(r for r in total(servers, "remaining") if r is not None)
    assert len(remaining) == 2  # none was made up for the call without one
    assert 0.3 < remaining[0] < 0.6  # the clocks of two processes are read apart
    assert 4 < remaining[1] < 5.1


async def test_a_deadline_is_shorter_by_the_time_spent_on_the_way(front: Front, servers: list[Server]) -> None:
    async with front.channel() as channel:
        await channel.unary_unary("/test.Late/Unary")(b"", timeout=5)
    front.relay.hang_up()  # the next run waits anew
    (remaining,) = servers[0].remaining
    assert remaining is not None
    assert 2 < remaining < 5.1 - Relay.DELAY
    await front.idle()


async def test_a_client_without_an_event_loop(front: Front, servers: list[Server]) -> None:
    def client() -> None:
        with front.plain_channel() as channel:
            unary = channel.unary_unary("/test.Kinds/Unary")
            assert [unary(b"%d" % i, timeout=20) for i in range(20)] == [b"%d" % i for i in range(20)]
            answer, call = unary.with_call(b"x", timeout=20)
            assert answer == b"x"
            assert dict(call.trailing_metadata())["x-bin"] == b"\0\xff\2"
            assert len(list(channel.unary_stream("/test.Kinds/Down")(b"300", timeout=20))) == 300
            assert channel.stream_unary("/test.Kinds/Up")(iter([b"abc"] * 100), timeout=20) == b"300"
            words = [b"a", b"b", b"c"]
            assert list(channel.stream_stream("/test.Kinds/Both")(iter(words), timeout=20)) == [b"A", b"B", b"C"]
            with pytest.raises(grpc.RpcError) as caught:
                channel.unary_unary("/test.Kinds/Hang")(b"", timeout=0.3)
            assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
            eventually(lambda: total(servers, "ends").count("hang cancelled") == 1, "the end at the server", 10)
            hanging = channel.unary_unary("/test.Kinds/Hang").future(b"")
            eventually(lambda: total(servers, "running") == 1, "the call at a server", 10)
            hanging.cancel()

    await asyncio.to_thread(client)
    await front.until(lambda: total(servers, "ends").count("hang cancelled") == 2, "the cancellation")
    await front.idle()
