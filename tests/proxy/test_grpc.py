"""gRPC through the gate: grpcio on both sides, in all four kinds."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from datapath import SECOND, Gate, Site, settle
from h2_client import H2Client, h2_client
from msgspec.structs import replace
from oip_site import OIP, ModelServer
from ports import free_port

from lb.config.plan.plan import HopPlan
from lb.wire import grpc_service_pb2 as wire

GRPC_POOL = {"protocol": "grpc"}
UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1), ("grpc.so_reuseport", 0)]
Context = grpc.aio.ServicerContext


class Service:
    """Every kind of method, and what it saw."""

    def __init__(self) -> None:
        self.cancelled = 0
        self.running = 0
        self.remaining: list[float | None] = []
        self.metadata: list[dict[str, Any]] = []
        self.server = grpc.aio.server(options=UNLIMITED)
        self.address = ""

    async def start(self, credentials: grpc.ServerCredentials | None = None) -> None:
        handlers = {
            "Unary": grpc.unary_unary_rpc_method_handler(self.unary),
            "Fail": grpc.unary_unary_rpc_method_handler(self.fail),
            "Hang": grpc.unary_unary_rpc_method_handler(self.hang),
            "Down": grpc.unary_stream_rpc_method_handler(self.down),
            "Up": grpc.stream_unary_rpc_method_handler(self.up),
            "Both": grpc.stream_stream_rpc_method_handler(self.both),
        }
        self.server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Kinds", handlers),))
        if credentials is None:
            port = self.server.add_insecure_port("127.0.0.1:0")
        else:
            port = self.server.add_secure_port("127.0.0.1:0", credentials)
        await self.server.start()
        self.address = f"127.0.0.1:{port}"

    async def unary(self, request: bytes, context: Context) -> bytes:
        self.remaining.append(context.time_remaining())
        self.metadata.append(dict(context.invocation_metadata() or ()))
        await context.send_initial_metadata((("x-first", "1"),))
        context.set_trailing_metadata((("x-last", "2"), ("x-bin", b"\0\1\2")))
        return request

    async def fail(self, request: bytes, context: Context) -> bytes:
        await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "no: 100% ö")
        raise AssertionError

    async def hang(self, request: bytes, context: Context) -> bytes:
        self.running += 1
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.running -= 1
        return request

    async def down(self, request: bytes, context: Context) -> AsyncIterator[bytes]:
        for i in range(int(request)):
            yield b"%d" % i * 100

    async def up(self, requests: AsyncIterator[bytes], context: Context) -> bytes:
        return b"%d" % sum([len(request) async for request in requests])

    async def both(self, requests: AsyncIterator[bytes], context: Context) -> AsyncIterator[bytes]:
        async for request in requests:
            yield request.upper()


@contextlib.asynccontextmanager
async def service() -> AsyncIterator[Service]:
    made = Service()
    await made.start()
    try:
        yield made
    finally:
        await made.server.stop(None)


@contextlib.asynccontextmanager
async def channel_to(gate: Gate) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{gate.port}", options=UNLIMITED) as channel:
        yield channel


async def test_unary_with_metadata_both_ways(site: Site) -> None:
    async with service() as server:
        gate = await site.gate([server.address], pool=GRPC_POOL)
        async with channel_to(gate) as channel:
            call = channel.unary_unary("/test.Kinds/Unary")(b"hello", metadata=(("x-own", "a"), ("y-bin", b"\xff\0")))
            assert await call == b"hello"
            assert ("x-first", "1") in list(await call.initial_metadata() or ())
            assert dict(await call.trailing_metadata() or ())["x-bin"] == b"\0\1\2"
            assert server.metadata[0]["x-own"] == "a"
            assert server.metadata[0]["y-bin"] == b"\xff\0"
            assert server.remaining[0] is None
        assert gate.in_flight() == 0


@pytest.mark.parametrize("size", [0, 100_000, 8 << 20])
async def test_messages_of_any_size(site: Site, size: int) -> None:
    async with service() as server:
        gate = await site.gate([server.address], pool=GRPC_POOL)
        async with channel_to(gate) as channel:
            message = bytes(i % 251 for i in range(1000)) * (size // 1000) or b"x" * size
            assert await channel.unary_unary("/test.Kinds/Unary")(message, timeout=30) == message


async def test_the_streaming_kinds(site: Site) -> None:
    async with service() as server:
        gate = await site.gate([server.address], pool=GRPC_POOL)
        async with channel_to(gate) as channel:
            down = [m async for m in channel.unary_stream("/test.Kinds/Down")(b"1000")]
            assert down == [b"%d" % i * 100 for i in range(1000)]

            async def some() -> AsyncIterator[bytes]:
                for _ in range(500):
                    yield bytes(1000)

            assert await channel.stream_unary("/test.Kinds/Up")(some()) == b"500000"
            both = channel.stream_stream("/test.Kinds/Both")()
            for word in (b"one", b"two", b"three"):
                await both.write(word)
                assert await both.read() == word.upper()  # each answered before the next is said
            await both.done_writing()
            assert await both.read() == grpc.aio.EOF
            assert await both.code() == grpc.StatusCode.OK
        assert gate.in_flight() == 0


async def test_the_servers_error_is_the_clients(site: Site) -> None:
    async with service() as server:
        gate = await site.gate([server.address], pool=GRPC_POOL)
        async with channel_to(gate) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await channel.unary_unary("/test.Kinds/Fail")(b"")
            assert caught.value.code() == grpc.StatusCode.FAILED_PRECONDITION
            assert caught.value.details() == "no: 100% ö"
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await channel.unary_unary("/test.Kinds/None")(b"")
            assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED


async def test_a_deadline_is_passed_on_and_honoured(site: Site) -> None:
    async with service() as server:
        gate = await site.gate([server.address], pool=GRPC_POOL)
        async with channel_to(gate) as channel:
            await channel.unary_unary("/test.Kinds/Unary")(b"", timeout=5)
            assert server.remaining[0] is not None
            assert 4 < server.remaining[0] < 5.1  # the client's clock and ours are read apart
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await channel.unary_unary("/test.Kinds/Hang")(b"", timeout=0.3)
            assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        await settle(lambda: server.running == 0, "the server still works")
        await settle(lambda: gate.in_flight() == 0, "the slot is still taken")


async def test_a_routes_timeout_is_a_deadline_too(site: Site) -> None:
    async with service() as server:
        gate = await site.gate([server.address], pool=GRPC_POOL, route={"timeout_ns": SECOND // 4})
        async with channel_to(gate) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await channel.unary_unary("/test.Kinds/Hang")(b"")
            assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED


async def test_a_cancellation_reaches_the_server(site: Site) -> None:
    async with service() as server:
        gate = await site.gate([server.address], pool=GRPC_POOL)
        async with channel_to(gate) as channel:
            call = channel.unary_unary("/test.Kinds/Hang")(b"")
            await settle(lambda: server.running == 1, "not asked")
            assert gate.in_flight() == 1
            call.cancel()
            await settle(lambda: server.cancelled == 1, "the server was not told")
            await settle(lambda: gate.in_flight() == 0, "the slot is still taken")


async def test_errors_of_the_gate_speak_grpc(site: Site) -> None:
    async with service() as server:
        gate = await site.gate([server.address], pool=GRPC_POOL, route={"path_kind": "prefix", "path": "/test.Kinds/"})
        async with channel_to(gate) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await channel.unary_unary("/other/Method")(b"")
            assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED
        gone = await site.gate([f"127.0.0.1:{free_port()}"], pool=GRPC_POOL)
        async with channel_to(gone) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await channel.unary_unary("/test.Kinds/Unary")(b"")
            assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
            assert "connect" in (caught.value.details() or "")
        empty = await site.gate([], pool=GRPC_POOL)
        async with channel_to(empty) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await channel.unary_unary("/test.Kinds/Unary")(b"")
            assert caught.value.code() == grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize(
    "metadata", [(("x-large", "v" * 20_000),), tuple((f"x-{i}", "v") for i in range(100))], ids=["large", "many"]
)
async def test_metadata_over_a_limit_is_told_by_grpc(site: Site, metadata: tuple[tuple[str, str], ...]) -> None:
    async with service() as server:
        gate = await site.gate([server.address], pool=GRPC_POOL)
        async with channel_to(gate) as channel:
            call = channel.unary_unary("/test.Kinds/Unary")
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call(b"x", metadata=metadata, timeout=20)
            assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
            assert await call(b"x", timeout=20) == b"x"
        async with h2_client(gate.port) as client:
            assert (await client.fetch("/test.Kinds/Unary", fields=metadata)).status == 431
        assert len(server.metadata) == 1


async def test_plain_http_to_a_grpc_pool_is_415(site: Site) -> None:
    async with service() as server:
        gate = await site.gate([server.address], pool=GRPC_POOL)
        answer = await gate.exchange(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 415 ")


async def test_a_server_that_dies_in_the_middle_is_told(site: Site) -> None:
    async with service() as server:
        gate = await site.gate([server.address], pool=GRPC_POOL)
        async with channel_to(gate) as channel:
            both = channel.stream_stream("/test.Kinds/Both")()
            await both.write(b"a")
            assert await both.read() == b"A"
            await server.server.stop(None)
            assert await both.code() != grpc.StatusCode.OK
        await settle(lambda: gate.in_flight() == 0, "the slot is still taken")


async def test_inference_by_grpc_to_a_pool_of_model_servers(site: Site) -> None:
    models = [ModelServer(), ModelServer()]
    gate = await site.gate([await site.model(m) for m in models], pool=OIP)
    request = wire.ModelInferRequest(model_name="m", id="7")
    request.inputs.add(name="x", datatype="FP32", shape=[1])
    request.raw_input_contents.append(b"\0\0\x80?")
    async with channel_to(gate) as channel:
        infer = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer",
            request_serializer=wire.ModelInferRequest.SerializeToString,
            response_deserializer=wire.ModelInferResponse.FromString,
        )
        answers = await asyncio.gather(*(infer(request) for _ in range(40)))
    assert {a.id for a in answers} == {"7"}
    assert answers[0].raw_output_contents[0] == b"\0\0\x80?"
    assert [len(m.requests) for m in models] == [20, 20]  # one client connection, balanced by request


async def test_what_the_endpoint_is_told_of_a_client_is_each_requests_own(site: Site) -> None:
    """Over one connection, where it is kept from request to request: the same as over connections of their own."""
    asked: list[tuple[str, tuple[tuple[str, str], ...]]] = [
        ("a.example", ()),
        ("a.example", ()),
        ("b.example", ()),
        ("a.example", (("x-forwarded-for", "203.0.113.9"),)),
        ("a.example", ()),
        ("a.example", (("via", "1.1 other"),)),
        ("longer.example.org", (("x-forwarded-host", "c"),)),
        ("longer.example.org", ()),
        ("a.example", (("forwarded", "for=198.51.100.1"), ("x-forwarded-proto", "gopher"))),
        ("a.example", ()),
    ]

    async def ask(client: H2Client, authority: str, fields: tuple[tuple[str, str], ...]) -> dict[str, Any]:
        own = (("content-type", "application/grpc"), ("te", "trailers"), *fields)
        answer = await client.fetch("/test.Kinds/Unary", body=b"\0\0\0\0\1x", authority=authority, fields=own)
        assert answer.body == b"\0\0\0\0\1x"
        told = server.metadata.pop()
        return {name: told[name] for name in told if name.startswith("x-forwarded") or name in ("via", "forwarded")}

    async with service() as server:
        gate = await site.gate([server.address], pool=GRPC_POOL, listener={"hop": HopPlan(via="gate")})
        alone = []
        for one in asked:
            async with h2_client(gate.port) as client:
                alone.append(await ask(client, *one))
        async with h2_client(gate.port) as client:
            together = [await ask(client, *one) for one in asked]
            (listener,) = gate.plan.listeners
            site.reload(gate, listeners=(replace(listener, hop=HopPlan(via="renamed")),))
            assert (await ask(client, "a.example", ()))["via"] == "2.0 renamed"
    assert together == alone
    assert together[1]["x-forwarded-for"] == "127.0.0.1"
    assert together[1]["x-forwarded-host"] == "a.example"
    assert together[1]["via"] == "2.0 gate"
    assert together[3]["x-forwarded-for"] == "203.0.113.9, 127.0.0.1"
    assert together[5]["via"] == "1.1 other, 2.0 gate"
