"""The model and the batch that the beginning of a gRPC request tells."""

from __future__ import annotations

import random

import pytest
from compiled.inference import find_first_batch, parse_request

from lb.wire import grpc_service_pb2 as wire


def framed(message: bytes, flag: int = 0) -> bytes:
    return bytes([flag]) + len(message).to_bytes(4, "big") + message


def infer(*shapes: list[int], raw: int = 0, contents: int = 0) -> bytes:
    request = wire.ModelInferRequest(model_name="dígits", model_version="2", id="x")
    request.parameters["p"].string_param = "v"
    for i, shape in enumerate(shapes):
        tensor = request.inputs.add(name=f"input{i}", datatype="FP32", shape=shape)
        tensor.contents.fp32_contents.extend([0.5] * contents)
    if raw:
        request.raw_input_contents.append(b"\0" * raw)
    return framed(request.SerializeToString())


NAME = "dígits".encode()


@pytest.mark.parametrize("kind", ["raw", "contents"])
def test_it_is_found_before_the_tensors_have_come(kind: str) -> None:
    message = infer([32, 3, 224, 224], [7], **{kind: 1000})
    first = next(n for n in range(len(message) + 1) if find_first_batch(message[:n]) is not None)
    assert first < 120
    assert all(find_first_batch(message[:n]) == (NAME, 32) for n in range(first, len(message) + 1))


@pytest.mark.parametrize(
    ("message", "found"),
    [
        (infer([300]), (NAME, 300)),
        (infer([0, 5]), (NAME, 1)),
        (infer([-1, 5]), (NAME, 1)),
        (infer([]), (NAME, 1)),  # a scalar
        (infer(), (NAME, 1)),
        (infer([2**40]), (NAME, 2**40)),
        (framed(b""), (b"", 1)),
        (framed(b"\xff\xff\xff"), (b"", 1)),
        (framed(infer([4])[5:], flag=1), (b"", 1)),  # compressed
        (framed(b"\x2a\x02\x18\x05"), (b"", 5)),  # a shape that is not packed
        (framed(b"\x2a\x7f\x18\x05"), (b"", 5)),  # an input that is cut off
    ],
)
def test_what_is_found(message: bytes, found: tuple[bytes, int]) -> None:
    assert find_first_batch(message) == found
    assert find_first_batch(message + infer([99])) == found, "the next message is another request's"


def test_any_bytes_are_borne() -> None:
    chance = random.Random(5)
    message = infer([32, 3], contents=5)
    for _ in range(5000):
        data = bytearray(message[: chance.randrange(len(message) + 1)])
        for _ in range(chance.randrange(4)):
            if data:
                data[chance.randrange(len(data))] = chance.randrange(256)
        found = find_first_batch(bytes(data))
        assert found is None or (found[0] in bytes(data) and found[1] >= 1)


@pytest.mark.parametrize(("shapes", "batch"), [(["[8, 2]", "[1]"], 8), (["[1]"], 1), (["[]"], 1), (["[0, 4]"], 1)])
def test_of_a_request_in_json(shapes: list[str], batch: int) -> None:
    sizes = {"[8, 2]": 16, "[1]": 1, "[]": 1, "[0, 4]": 0}
    inputs = ",".join(
        f'{{"name":"i{n}","datatype":"FP32","shape":{shape},"data":[{",".join(["0.5"] * sizes[shape])}]}}'
        for n, shape in enumerate(shapes)
    )
    assert parse_request(b"m", b"", f'{{"inputs":[{inputs}]}}'.encode()).batch == batch
