"""The `timeout` that the beginning of a gRPC request tells."""

from __future__ import annotations

import random

import pytest
from compiled.inference import find_first_timeout

from lb.wire import grpc_service_pb2 as wire


def framed(message: bytes, flag: int = 0) -> bytes:
    return bytes([flag]) + len(message).to_bytes(4, "big") + message


def infer(raw: int = 0, **parameters: int | str | bool) -> bytes:
    request = wire.ModelInferRequest(model_name="dígits", model_version="2", id="x" * 50)
    for key, value in parameters.items():
        if isinstance(value, bool):
            request.parameters[key].bool_param = value
        elif isinstance(value, str):
            request.parameters[key].string_param = value
        elif value > 2**63 - 1:
            request.parameters[key].uint64_param = value
        else:
            request.parameters[key].int64_param = value
    request.inputs.add(name="timeout", datatype="FP32", shape=[1]).parameters["timeout"].int64_param = 3
    if raw:
        request.raw_input_contents.append(b"\0" * raw)
    return framed(request.SerializeToString())


def unsigned(us: int) -> bytes:
    request = wire.ModelInferRequest(model_name="m")
    request.parameters["timeout"].uint64_param = us
    return framed(request.SerializeToString())


def test_it_is_found_before_the_tensors_have_come() -> None:
    message = infer(1000, timeout=250_000, sequence_id=7, priority=2)
    first = next(n for n in range(len(message) + 1) if find_first_timeout(message[:n]) is not None)
    assert first < 180
    assert all(find_first_timeout(message[:n]) == 250_000 for n in range(first, len(message) + 1))


@pytest.mark.parametrize(
    ("message", "found"),
    [
        (infer(timeout=1), 1),
        (infer(timeout=2**63 - 1), 2**63 - 1),
        (infer(timeout=2**64 - 1), 2**64 - 1),
        (unsigned(5), 5),
        (infer(timeout=0), 0),
        (infer(timeout=-5), 0),
        (infer(timeout="5"), 0),
        (infer(timeout=True), 0),
        (infer(timeouts=5, imeout=6, Timeout=7), 0),
        (infer(), 0),
        (framed(b""), 0),
        (framed(b"\xff\xff\xff"), 0),
        (framed(infer(timeout=4)[5:], flag=1), 0),  # compressed
        (framed(b"\x22\x0d\x0a\x07timeout\x12\x02\x10\x05\x22\x0d\x0a\x07timeout\x12\x02\x10\x06"), 6),
        (framed(b"\x22\x0d\x12\x02\x10\x05\x0a\x07timeout"), 5),  # the value first
        (framed(b"\x22\x09\x0a\x07timeout"), 0),  # no value
    ],
)
def test_what_is_found(message: bytes, found: int) -> None:
    assert find_first_timeout(message) == found
    assert find_first_timeout(message + infer(timeout=99)) == found, "the next message is another request's"


def test_any_bytes_are_borne() -> None:
    dice = random.Random(5)
    for _ in range(20_000):
        message = bytearray(infer(timeout=dice.randrange(2**40)))
        for _ in range(dice.randrange(1, 4)):
            message[dice.randrange(len(message))] = dice.randrange(256)
        find_first_timeout(bytes(message[: dice.randrange(len(message) + 1)]))
