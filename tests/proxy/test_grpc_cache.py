"""gRPC and gRPC-Web clients share the result cache, and the flights, with those of JSON and binary requests."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import gzip
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from datapath import HTTP2, Gate, Site, settle
from h2_client import h2_client
from infer_site import Held, gate_to, idle
from msgspec.structs import replace
from oip_site import ModelServer, ask, binary, echo, failing, floats, plain, tensor, without_times
from test_grpc_web_exchange import BINARY, TEXT, decoded, frames, message

from lb.wire import grpc_service_pb2 as wire

METHOD = "/inference.GRPCInferenceService/ModelInfer"
MISS, HIT, BYPASS = "tidegate; fwd=miss", "tidegate; hit", "tidegate; fwd=bypass"
SHARED = "tidegate; fwd=miss; collapsed"
VALUES = (1.5, -2.0)


def inference(*values: float, typed: bool = False, **members: Any) -> Any:
    """One input `x` of FP32, as typed contents or raw; `members` are the message's."""
    made = wire.ModelInferRequest(model_name="m", **members)
    given = made.inputs.add(name="x", datatype="FP32", shape=[len(values or VALUES)])
    if typed:
        given.contents.fp32_contents.extend(values or VALUES)
    else:
        made.raw_input_contents.append(floats(*(values or VALUES)))
    return made


async def echo_any(request: Any, context: grpc.aio.ServicerContext) -> Any:
    """As `echo`, also of typed contents; the answer is raw in any case, as Triton's."""
    for given in request.inputs:
        if given.HasField("contents"):
            request.raw_input_contents.append(floats(*given.contents.fp32_contents))
    return await echo(request, context)


class Told:
    """An answer over gRPC."""

    def __init__(self, answer: Any, cache: str | None, initial: dict[str, Any]) -> None:
        self.answer = answer
        self.cache = without_times(cache)
        self.initial = initial

    @property
    def values(self) -> bytes:
        return bytes(self.answer.raw_output_contents[0])


@contextlib.asynccontextmanager
async def stub(gate: Gate) -> AsyncIterator[grpc.aio.UnaryUnaryMultiCallable]:
    options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    async with grpc.aio.insecure_channel(f"127.0.0.1:{gate.port}", options=options) as channel:
        yield channel.unary_unary(METHOD, lambda sent: sent.SerializeToString(), wire.ModelInferResponse.FromString)


async def tell(call: grpc.aio.UnaryUnaryMultiCallable, request: Any, **options: Any) -> Told:
    running = call(request, timeout=options.pop("timeout", 30), **options)
    answer = await running
    initial = dict(await running.initial_metadata())
    return Told(answer, initial.get("cache-status"), initial)


async def over_web(gate: Gate, http: str, kind: str, request: Any) -> tuple[dict[str, str], Any, bytes]:
    """The answer's fields, its message and its trailers."""
    sent = message(request.SerializeToString())
    body = base64.b64encode(sent) if kind == TEXT else sent
    if http == "2":
        async with h2_client(gate.port) as client:
            got = await client.fetch(METHOD, body=body, fields=[("content-type", kind), ("x-grpc-web", "1")])
            fields, data = dict(got.fields), got.body
    else:
        head = f"POST {METHOD} HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: {len(body)}\r\n"
        raw = await gate.exchange(f"{head}Content-Type: {kind}\r\nX-Grpc-Web: 1\r\n\r\n".encode() + body)
        first, _, rest = raw.partition(b"\r\n\r\n")
        lines = first.decode().split("\r\n")[1:]
        fields = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        data = b""
        if fields.get("transfer-encoding") != "chunked":
            data, rest = rest, b""
        while rest:
            size, _, rest = rest.partition(b"\r\n")
            data += rest[: int(size, 16)]
            rest = rest[int(size, 16) + 2 :]
    (flag, answer), (last, trailers) = frames(decoded(data) if kind == TEXT else data)
    assert (flag, last) == (0, 0x80)
    return fields, wire.ModelInferResponse.FromString(answer), trailers


async def test_every_client_shares_one_entry(site: Site) -> None:
    model = ModelServer(echo_any)
    gate = await gate_to(site, model, cached=True)
    async with stub(gate) as call:
        first = await tell(call, inference(id="a"))
        assert (first.cache, first.answer.id) == (MISS, "a")
        again = await tell(call, inference(id="b"))
        assert (again.cache, again.answer.id) == (HIT, "b")
        typed = await tell(call, inference(typed=True))
        assert (typed.cache, typed.answer.id) == (HIT, "")
        for told in (first, again, typed):
            assert told.values == floats(*VALUES)
            assert (told.answer.model_name, told.answer.outputs[0].name) == ("m", "x")
    over_json = await ask(gate, plain(id="c"))
    assert (over_json.cache, over_json.json["id"]) == (HIT, "c")
    assert over_json.json["outputs"][0]["data"] == list(VALUES)
    body, headers = binary((tensor([], shape=[2]), floats(*VALUES)))
    assert (await ask(gate, body, headers=headers)).binary == floats(*VALUES)
    for kind in (BINARY, TEXT):
        for http in ("1.1", "2"):
            fields, answer, trailers = await over_web(gate, http, kind, inference(id="w"))
            assert without_times(fields["cache-status"]) == HIT
            assert fields["content-type"] == kind
            assert (answer.id, answer.raw_output_contents[0]) == ("w", floats(*VALUES))
            assert b"grpc-status: 0\r\n" in trailers
    assert len(model.requests) == 1
    cache = gate.total(2).values("cache")
    assert (cache["hit"], cache["miss"], cache["stored"]) == (8, 1, 1)
    await idle(gate)


@pytest.mark.parametrize("first", ["json", "typed", "web"])
async def test_whoever_fills_the_entry(site: Site, first: str) -> None:
    model = ModelServer(echo_any)
    gate = await gate_to(site, model, cached=True)
    if first == "json":
        assert (await ask(gate, plain(id="a"))).cache == MISS + "; stored"
    elif first == "web":
        fields, answer, _ = await over_web(gate, "1.1", TEXT, inference(id="a"))
        assert (without_times(fields["cache-status"]), answer.id) == (MISS, "a")
    async with stub(gate) as call:
        told = await tell(call, inference(typed=True))
        assert told.cache == (MISS if first == "typed" else HIT)
        assert (await tell(call, inference())).cache == HIT
    assert (await ask(gate, plain())).json["outputs"][0]["data"] == list(VALUES)
    assert len(model.requests) == 1


def differing() -> list[tuple[str, Any]]:
    shaped = inference()
    shaped.inputs[0].shape[:] = [2, 1]
    named = inference()
    named.inputs[0].name = "y"
    whole = inference()
    whole.inputs[0].datatype = "INT32"
    wanted = inference()
    wanted.outputs.add(name="x")
    parameter = inference()
    parameter.parameters["temperature"].int64_param = 1
    of_input = inference()
    of_input.inputs[0].parameters["a"].string_param = "b"
    other = inference()
    other.model_name = "n"
    return [
        ("shape", shaped), ("name", named), ("datatype", whole), ("data", inference(1.5, 2.0)), ("outputs", wanted),
        ("parameter", parameter), ("input parameter", of_input), ("model", other),
        ("version", inference(model_version="1")),
    ]  # fmt: skip


@pytest.mark.parametrize("request_", [request for _, request in differing()], ids=[name for name, _ in differing()])
async def test_another_call_is_a_miss(site: Site, request_: Any) -> None:
    model = ModelServer()
    gate = await gate_to(site, model, cached=True)
    async with stub(gate) as call:
        assert [(await tell(call, inference())).cache for _ in range(2)] == [MISS, HIT]
        assert [(await tell(call, request_)).cache for _ in range(2)] == [MISS, HIT]
    assert len(model.requests) == 2


def uncertain() -> list[tuple[str, bytes]]:
    whole = inference().SerializeToString()
    inner = whole.replace(b"\x0a\x01x", b"\x0a\x01x\xa2\x06\x00").replace(b"\x2a\x0c", b"\x2a\x0f")
    assert wire.ModelInferRequest.FromString(inner).inputs[0].datatype == "FP32"
    sequence = inference()
    sequence.parameters["sequence_id"].int64_param = 5
    shared = inference()
    shared.inputs[0].parameters["shared_memory_region"].string_param = "r"
    hop = inference()
    hop.parameters["binary_data_output"].bool_param = True
    both = inference()
    both.inputs[0].contents.fp32_contents.append(1.0)
    short = inference()
    short.raw_input_contents[0] = b"1234"
    return [
        ("unknown field", whole + b"\xa2\x06\x01x"),
        ("unknown field of an input", inner),
        ("repeated name", whole + b"\x0a\x01m"),
        ("sequence", sequence.SerializeToString()),
        ("shared memory", shared.SerializeToString()),
        ("a parameter of REST", hop.SerializeToString()),
        ("typed and raw", both.SerializeToString()),
        ("too short", short.SerializeToString()),
        ("no model", whole[3:]),
    ]  # fmt: skip


@pytest.mark.parametrize("sent", [sent for _, sent in uncertain()], ids=[name for name, _ in uncertain()])
async def test_what_is_not_clear_goes_to_the_endpoint(site: Site, sent: bytes) -> None:
    async def answer(request: Any, context: grpc.aio.ServicerContext) -> Any:
        return wire.ModelInferResponse(model_name="m", id=request.id)

    model = ModelServer(answer)
    gate = await gate_to(site, model, cached=True)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{gate.port}") as channel:
        call = channel.unary_unary(METHOD)
        for _ in range(2):
            running = call(sent, timeout=30)
            await running
            assert dict(await running.initial_metadata())["cache-status"] == BYPASS
    assert len(model.requests) == 2
    await idle(gate)


async def test_routes_without_the_cache_say_nothing_of_it(site: Site) -> None:
    options: dict[str, Any]
    for options in ({"cached": False}, {"cached": True, "route": {"cache": False}}):
        model = ModelServer()
        gate = await gate_to(site, model, **options)
        async with stub(gate) as call:
            assert [(await tell(call, inference())).cache for _ in range(2)] == [None, None]
        assert len(model.requests) == 2


async def test_large_messages_go_on_as_they_come(site: Site) -> None:
    model = ModelServer()
    gate = await gate_to(site, model, cached=True)
    n = (4 << 20) // 4
    async with stub(gate) as call:
        for _ in range(2):
            told = await tell(call, inference(*[0.5] * n))
            assert (told.cache, told.values) == (BYPASS, floats(*[0.5] * n))
        for wanted in (MISS, MISS):  # gathered, and its answer is too large to be kept
            told = await tell(call, inference(*[0.5] * (n // 2)))
            assert (told.cache, told.values) == (wanted, floats(*[0.5] * (n // 2)))
        for wanted in (MISS, HIT):
            told = await tell(call, inference(*[0.5] * (n // 8)))
            assert (told.cache, told.values) == (wanted, floats(*[0.5] * (n // 8)))
    assert len(model.requests) == 5
    await idle(gate)


async def test_compressed_messages(site: Site) -> None:
    """Of the client's, and of the model server's."""

    async def packed(request: Any, context: grpc.aio.ServicerContext) -> Any:
        context.set_compression(grpc.Compression.Gzip)
        return await echo(request, context)

    model = ModelServer(packed)
    gate = await gate_to(site, model, cached=True)
    values = [0.25] * 1000
    async with stub(gate) as call:
        told = await tell(call, inference(*values), compression=grpc.Compression.Gzip)
        assert (told.cache, told.values) == (MISS, floats(*values))
        for compression in (grpc.Compression.Deflate, grpc.Compression.NoCompression):
            told = await tell(call, inference(*values), compression=compression)
            assert (told.cache, told.values) == (HIT, floats(*values))
    assert (await ask(gate, plain(tensor(values)))).cache == HIT
    assert len(model.requests) == 1


async def test_a_compressed_request_that_is_not(site: Site) -> None:
    model = ModelServer()
    gate = await gate_to(site, model, cached=True)
    bomb = gzip.compress(bytes(8 << 20))
    async with h2_client(gate.port) as client:
        for data, encoding in ((b"rubbish", "gzip"), (bomb, "gzip"), (b"x", "snappy"), (b"x", None)):
            body = b"\1" + len(data).to_bytes(4, "big") + data
            fields = [("content-type", "application/grpc"), ("te", "trailers")]
            fields += [("grpc-encoding", encoding)] if encoding else []
            answer = await client.fetch(METHOD, body=body, fields=fields)
            assert answer.field_of("grpc-status") not in (None, "0")
    await idle(gate)


async def in_flight_together(gate: Gate, asked: list[Any]) -> list[asyncio.Task[Any]]:
    tasks = [asyncio.create_task(each) for each in asked]
    await settle(lambda: gate.proxy.busy() == len(asked), "the requests did not arrive")
    return tasks


async def test_identical_misses_of_both_kinds_are_one_call(site: Site) -> None:
    model = Held()
    gate = await gate_to(site, model, cached=True, listener={"http2": replace(HTTP2, max_streams=500)})
    async with stub(gate) as call:
        asked = [tell(call, inference(id=str(i))) if i % 2 else ask(gate, plain(id=str(i))) for i in range(1000)]
        tasks = await in_flight_together(gate, asked)
        await settle(lambda: len(model.requests) == 1, "no call was made")
        assert gate.in_flight() == 1
        model.release.set()
        answers = await asyncio.gather(*tasks)
        for i, answer in enumerate(answers):
            if i % 2:
                assert (answer.answer.id, answer.values) == (str(i), floats(*VALUES))
            else:
                assert (answer.json["id"], answer.json["outputs"][0]["data"]) == (str(i), list(VALUES))
        assert sum(answer.cache == SHARED for answer in answers) == 999
    assert len(model.requests) == 1
    assert gate.total(2)["cache.collapsed"] == 999
    await idle(gate)


@pytest.mark.parametrize("leads", ["grpc", "json"])
async def test_the_leaders_client_leaves(site: Site, leads: str) -> None:
    model = Held()
    gate = await gate_to(site, model, cached=True)
    async with stub(gate) as call:
        leader: asyncio.Task[Any] = asyncio.create_task(
            tell(call, inference()) if leads == "grpc" else ask(gate, plain())
        )
        await settle(lambda: len(model.requests) == 1, "no call was made")
        followers = [asyncio.create_task(tell(call, inference())) for _ in range(5)]
        others = [asyncio.create_task(ask(gate, plain())) for _ in range(5)]
        await settle(lambda: gate.proxy.busy() == 11, "the requests did not arrive")
        leader.cancel()
        await settle(lambda: len(model.requests) == 2, "no follower took over")
        model.release.set()
        assert [told.values for told in await asyncio.gather(*followers)] == [floats(*VALUES)] * 5
        assert [answer.status for answer in await asyncio.gather(*others)] == [200] * 5
    assert len(model.requests) == 2
    await idle(gate)


async def test_a_follower_that_leaves_harms_nobody(site: Site) -> None:
    model = Held()
    gate = await gate_to(site, model, cached=True)
    async with stub(gate) as call:
        tasks = [asyncio.create_task(tell(call, inference()))]
        await settle(lambda: len(model.requests) == 1, "no call was made")
        tasks += [asyncio.create_task(tell(call, inference())) for _ in range(3)]
        await settle(lambda: gate.proxy.busy() == 4, "the requests did not arrive")
        tasks[2].cancel()
        await settle(lambda: gate.proxy.busy() == 3, "it was not noticed")
        model.release.set()
        done = await asyncio.gather(*tasks, return_exceptions=True)
    assert [isinstance(each, Told) for each in done] == [True, True, False, True]
    assert len(model.requests) == 1
    await idle(gate)


async def test_each_follower_has_its_own_deadline(site: Site) -> None:
    model = Held()
    gate = await gate_to(site, model, cached=True)
    async with stub(gate) as call:
        leader = asyncio.create_task(tell(call, inference()))
        await settle(lambda: len(model.requests) == 1, "no call was made")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await tell(call, inference(), timeout=0.2)
        assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        # As `timeout` says it, in microseconds: then it is Tidegate's answer.
        hurried = inference()
        hurried.parameters["timeout"].int64_param = 200_000
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await tell(call, hurried)
        assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        model.release.set()
        assert (await leader).cache == MISS
    assert len(model.requests) == 1
    await idle(gate)


@pytest.mark.parametrize("leads", ["grpc", "json"])
async def test_the_requests_own_fault_is_everybodys(site: Site, leads: str) -> None:
    model = Held()
    model.then = failing(grpc.StatusCode.NOT_FOUND, "kein Modell „m“")
    gate = await gate_to(site, model, cached=True)
    async with stub(gate) as call:
        calls = [tell(call, inference()) for _ in range(5)]
        rest = [ask(gate, plain()) for _ in range(5)]
        leader = asyncio.create_task((calls if leads == "grpc" else rest).pop())
        await settle(lambda: len(model.requests) == 1, "no call was made")
        tasks = [asyncio.create_task(each) for each in (*calls, *rest)]
        await settle(lambda: gate.proxy.busy() == 10, "the requests did not arrive")
        model.release.set()
        found = []
        for answer in await asyncio.gather(leader, *tasks, return_exceptions=True):
            if isinstance(answer, grpc.aio.AioRpcError):
                found.append((answer.code(), answer.details()))
            else:
                found.append((answer.status, answer.json["error"]))
    assert sorted(map(str, found)) == sorted(
        map(str, [(404, "kein Modell „m“")] * 5 + [(grpc.StatusCode.NOT_FOUND, "kein Modell „m“")] * 5)
    )
    assert len(model.requests) == 1
    await idle(gate)


async def test_a_fault_of_the_server_is_not_shared(site: Site) -> None:
    model = Held()
    gate = await gate_to(site, model, cached=True)

    async def first_fails(sent: Any, context: grpc.aio.ServicerContext) -> Any:
        if sent is model.requests[0]:
            await context.abort(grpc.StatusCode.INTERNAL, "broken")
        return await echo(sent, context)

    model.then = first_fails
    async with stub(gate) as call:
        leader = asyncio.create_task(tell(call, inference()))
        await settle(lambda: len(model.requests) == 1, "no call was made")
        followers = [asyncio.create_task(tell(call, inference())) for _ in range(5)]
        await settle(lambda: gate.proxy.busy() == 6, "the requests did not arrive")
        model.release.set()
        assert [told.values for told in await asyncio.gather(*followers)] == [floats(*VALUES)] * 5
        with pytest.raises(grpc.aio.AioRpcError, match="broken"):
            await leader
    assert len(model.requests) == 2
    await idle(gate)


async def test_who_waits_does_not_wait_for_one_failure_after_the_other(site: Site) -> None:
    model = Held()
    gate = await gate_to(site, model, cached=True)
    rest = asyncio.Event()
    failed = 0

    async def all_fail(sent: Any, context: grpc.aio.ServicerContext) -> Any:
        nonlocal failed
        failed += 1
        if failed > 2:
            await rest.wait()
        await context.abort(grpc.StatusCode.INTERNAL, "broken")

    model.then = all_fail
    async with stub(gate) as call:
        calls = [asyncio.create_task(tell(call, inference())) for _ in range(8)]
        await settle(lambda: gate.proxy.busy() == 8, "the requests did not arrive")
        model.release.set()
        await settle(lambda: len(model.requests) == 8, "they did not all ask")
        rest.set()
        for outcome in await asyncio.gather(*calls, return_exceptions=True):
            assert isinstance(outcome, grpc.aio.AioRpcError)
    await idle(gate)


async def test_a_large_answer_is_asked_for_by_each(site: Site) -> None:
    model = Held()

    async def large(sent: Any, context: grpc.aio.ServicerContext) -> Any:
        answer = wire.ModelInferResponse(model_name="m")
        answer.outputs.add(name="y", datatype="UINT8", shape=[2 << 20])
        answer.raw_output_contents.append(bytes(2 << 20))
        return answer

    model.then = large
    gate = await gate_to(site, model, cached=True)
    async with stub(gate) as call:
        tasks = await in_flight_together(gate, [tell(call, inference()) for _ in range(3)])
        model.release.set()
        for told in await asyncio.gather(*tasks):
            assert (told.cache, len(told.values)) == (MISS, 2 << 20)
    assert len(model.requests) == 3
    await idle(gate)


async def test_an_answer_that_cannot_be_right_is_not_kept(site: Site) -> None:
    async def wrong(sent: Any, context: grpc.aio.ServicerContext) -> Any:
        answer = wire.ModelInferResponse(model_name="m")
        answer.outputs.add(name="y", datatype="FP32", shape=[2])
        answer.raw_output_contents.append(b"123")
        return answer

    model = ModelServer(wrong)
    gate = await gate_to(site, model, cached=True)
    async with stub(gate) as call:
        for _ in range(2):
            assert (await tell(call, inference())).values == b"123"
    assert len(model.requests) == 2


async def test_an_answer_that_breaks_off_is_not_kept(site: Site) -> None:
    """Its followers ask for themselves."""

    async def cut(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"\0\0\0\4\0\0\0\0\0")  # SETTINGS
        await reader.readexactly(24)
        while True:
            head = await reader.readexactly(9)
            await reader.readexactly(int.from_bytes(head[:3], "big"))
            if head[3] == 0 and head[4] & 1:
                stream = head[5:]
                fields = b"\x88\x5f\x10application/grpc"
                writer.write(len(fields).to_bytes(3, "big") + b"\1\4" + stream + fields)
                writer.write(b"\0\0\x08\0\0" + stream + b"\0\0\0\0\x40abc")
                await writer.drain()
                await asyncio.sleep(0.1)
                writer.close()
                return

    gate = await site.gate([await site.endpoint(cut)], pool={"protocol": "oip"}, cache_size=8 << 20)
    async with stub(gate) as call:
        for _ in range(2):
            tasks = [asyncio.create_task(tell(call, inference())) for _ in range(3)]
            for done in await asyncio.gather(*tasks, return_exceptions=True):
                assert isinstance(done, grpc.aio.AioRpcError)
                assert done.code() == grpc.StatusCode.UNAVAILABLE
    await idle(gate)


async def test_calls_are_counted_and_retried_as_before(site: Site) -> None:
    model = ModelServer()
    gate = await gate_to(site, model, cached=True)
    async with stub(gate) as call:
        model.behave = failing(grpc.StatusCode.UNAVAILABLE, "going")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await tell(call, inference())
        assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
        assert len(model.requests) == 2  # one of them a retry
        model.behave = echo
        assert (await tell(call, inference())).cache == MISS
        assert (await tell(call, inference())).cache == HIT
    await idle(gate)
