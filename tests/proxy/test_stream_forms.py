"""ModelStreamInfer through the data path: servers of either kind, clients of either kind, gRPC and gRPC-Web."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from datapath import Gate, Site
from infer_site import gate_to, idle
from oip_site import ModelServer, floats, request

from lb.wire import grpc_service_pb2 as wire

PATH = "/inference.GRPCInferenceService/ModelStreamInfer"


class Streaming(ModelServer):
    """Answers as MLServer does (`bare`) or as Triton; a request with the id "fail" fails in the stream's own way."""

    def __init__(self, bare: bool) -> None:
        super().__init__()
        self.bare = bare

    async def _stream(self, messages: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> AsyncIterator[bytes]:
        async for data in messages:
            answer = wire.ModelInferResponse.FromString(await self._infer(data, context))
            if answer.id == "fail":
                if self.bare:
                    await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "it failed")
                yield wire.ModelStreamInferResponse(error_message="it failed").SerializeToString()
                continue
            made = answer if self.bare else wire.ModelStreamInferResponse(infer_response=answer)
            yield made.SerializeToString()


def messages(*ids: str, values: int = 2) -> list[Any]:
    made = []
    for each in ids:
        one = wire.ModelInferRequest(model_name="m", id=each, raw_input_contents=[floats(*range(values))])
        one.inputs.add(name="x", datatype="FP32", shape=[values])
        made.append(one)
    return made


async def stream(gate: Gate, kind: Any, sent: list[Any]) -> list[Any]:
    async with grpc.aio.insecure_channel(
        f"127.0.0.1:{gate.port}", options=[("grpc.max_receive_message_length", -1)]
    ) as channel:
        call = channel.stream_stream(PATH, lambda one: one.SerializeToString(), kind.FromString)(iter(sent))
        return [answer async for answer in call]


@pytest.mark.parametrize("server_bare", [False, True])
@pytest.mark.parametrize("client_bare", [False, True])
async def test_answers(site: Site, server_bare: bool, client_bare: bool) -> None:
    gate = await gate_to(site, Streaming(server_bare), route={"bare_streams": client_bare})
    kind = wire.ModelInferResponse if client_bare else wire.ModelStreamInferResponse
    for values in (2, 300_000):
        found = await stream(gate, kind, messages("a", "b", "c", values=values))
        answers = found if client_bare else [one.infer_response for one in found]
        assert [one.id for one in answers] == ["a", "b", "c"]
        assert all(one.raw_output_contents[0] == floats(*range(values)) for one in answers)
    await idle(gate)


async def test_an_error_of_triton_ends_a_call_of_mlserver(site: Site) -> None:
    gate = await gate_to(site, Streaming(False), route={"bare_streams": True})
    async with grpc.aio.insecure_channel(f"127.0.0.1:{gate.port}") as channel:
        call = channel.stream_stream(PATH)(iter(one.SerializeToString() for one in messages("a", "fail", "b")))
        assert wire.ModelInferResponse.FromString(await call.read()).id == "a"
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await call.read()
    assert (error.value.code(), error.value.details()) == (grpc.StatusCode.UNKNOWN, "it failed")
    await idle(gate)


async def test_an_error_of_mlserver_is_a_status(site: Site) -> None:
    gate = await gate_to(site, Streaming(True))
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await stream(gate, wire.ModelStreamInferResponse, messages("fail"))
    assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    await idle(gate)


@pytest.mark.parametrize("client_bare", [False, True])
async def test_grpc_web(site: Site, client_bare: bool) -> None:
    gate = await gate_to(site, Streaming(not client_bare), route={"bare_streams": client_bare})
    data = messages("a")[0].SerializeToString()
    body = b"\0" + len(data).to_bytes(4) + data
    raw = await gate.exchange(request("POST", PATH, body, {"Content-Type": "application/grpc-web"}))
    _, _, chunked = raw.partition(b"\r\n\r\n")
    pieces = b""
    while chunked:
        size, _, chunked = chunked.partition(b"\r\n")
        pieces += chunked[: int(size, 16)]
        chunked = chunked[int(size, 16) + 2 :]
    message = pieces[5 : 5 + int.from_bytes(pieces[1:5])]
    found = wire.ModelInferResponse.FromString(message) if client_bare else wire.ModelStreamInferResponse.FromString(
        message
    ).infer_response  # fmt: skip
    assert found.id == "a"
    assert b"grpc-status:0" in pieces.replace(b" ", b"")
    if client_bare:
        data = messages("fail")[0].SerializeToString()
        body = b"\0" + len(data).to_bytes(4) + data
        raw = await gate.exchange(request("POST", PATH, body, {"Content-Type": "application/grpc-web"}))
        assert b"grpc-status: 2" in raw or b"grpc-status:2" in raw
        assert b"it failed" in raw
    await idle(gate)
