"""The model that the beginning of a gRPC request names."""

from __future__ import annotations

import random

import pytest
from compiled.inference import find_first_model

from lb.wire import grpc_service_pb2 as wire


def framed(message: bytes, flag: int = 0) -> bytes:
    return bytes([flag]) + len(message).to_bytes(4, "big") + message


REQUEST = wire.ModelInferRequest(model_name="dígits", model_version="2", id="x", raw_input_contents=[b"\0" * 300])
MESSAGE = framed(REQUEST.SerializeToString())


def test_it_is_found_as_soon_as_it_is_there() -> None:
    needed = 5 + 2 + len("dígits".encode())
    for n in range(len(MESSAGE) + 1):
        assert find_first_model(MESSAGE[:n]) == ("dígits".encode() if n >= needed else None)


@pytest.mark.parametrize(
    "request_",
    [wire.ModelReadyRequest(name="m"), wire.ModelConfigRequest(name="m", version="1")],
    ids=["ready", "config"],
)
def test_of_every_request_about_a_model(request_: object) -> None:
    assert find_first_model(framed(request_.SerializeToString())) == b"m"  # type: ignore[attr-defined]


def test_behind_other_fields() -> None:
    rest = wire.ModelInferRequest(id="7", raw_input_contents=[b"\1" * 50]).SerializeToString()
    name = wire.ModelInferRequest(model_name="late").SerializeToString()
    whole = framed(rest + name)
    assert find_first_model(whole) == b"late"
    assert all(find_first_model(whole[:n]) is None for n in range(len(whole)))


@pytest.mark.parametrize(
    "message",
    [
        framed(b""),
        framed(wire.ModelInferRequest(id="7").SerializeToString()),
        framed(b"\x0a\x00"),
        framed(REQUEST.SerializeToString(), flag=1),  # compressed
        framed(b"\xff\xff\xff"),
        framed(b"\x0a\x7fshort"),
        framed(b"\x08\x01"),  # field 1, but no text
    ],
)
def test_none_is_named(message: bytes) -> None:
    assert find_first_model(message) == b""
    assert find_first_model(message + framed(b"\x0a\x01x")) == b"", "the next message is another request's"


def test_any_bytes_are_borne() -> None:
    chance = random.Random(5)
    for _ in range(3000):
        data = bytearray(MESSAGE[: chance.randrange(40)])
        for _ in range(chance.randrange(4)):
            if data:
                data[chance.randrange(len(data))] = chance.randrange(256)
        found = find_first_model(bytes(data))
        assert found is None or found in bytes(data)
