"""Requests of the Open Inference Protocol and the model server's answers, the same bytes in every run."""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Iterator
from itertools import count

from bench.guard.clients import http1_request
from bench.stub_grpc import fixed_answer
from lb.wire import grpc_service_pb2 as wire

TARGET = "/v2/models/stub/infer"


def floats(count: int, seed: int) -> bytes:
    """`count` FP32 values below 1, as a tensor has them; they do not end after a few digits."""
    values = random.Random(seed)
    return struct.pack(f"<{count}f", *(values.random() for _ in range(count)))


def json_body(size: int) -> bytes:
    """A JSON request of exactly `size` bytes (200 at least) with one FP32 tensor."""
    values = random.Random(2)
    fixed = '{"inputs":[{"name":"INPUT0","shape":[%d],"datatype":"FP32","data":[%s]}]}'
    count = (size - len(fixed)) // 7
    numbers = [f"{values.random():.4f}" for _ in range(count)]
    numbers[-1] += "1" * (size - len(fixed % (count, ",".join(numbers))))
    return (fixed % (count, ",".join(numbers))).encode()


def json_request(size: int) -> bytes:
    """An HTTP/1.1 request with a JSON body of `size` bytes."""
    return http1_request("POST", TARGET, {"Content-Type": "application/json"}, json_body(size))


def json_requests(size: int) -> Iterator[bytes]:
    """As `json_request` without end, of which 10,000 in a row differ in the tensor's first number: the data path
    remembers what it read lately, and a client with new data is not to be taken for one that repeats itself."""
    head, mark, rest = json_request(size).partition(b'"data":[')
    for number in count():
        yield b"%s%s0.%04d%s" % (head, mark, number % 10_000, rest[6:])


def binary_body(size: int) -> tuple[bytes, int]:
    """A request with one binary FP32 tensor of `size` bytes, answered in binary too; and its JSON part's length."""
    tensor = {"name": "INPUT0", "shape": [size // 4], "datatype": "FP32", "parameters": {"binary_data_size": size}}
    head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}, separators=(",", ":")).encode()
    return head + floats(size // 4, 1), len(head)


def binary_request(size: int) -> bytes:
    """An HTTP/1.1 request with one binary tensor of `size` bytes."""
    body, length = binary_body(size)
    headers = {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": str(length)}
    return http1_request("POST", TARGET, headers, body)


def answer_message(size: int) -> bytes:
    """A ModelInferResponse with one FP32 output, OUTPUT0, of `size` bytes."""
    return fixed_answer(size)[:-size] + floats(size // 4, 3)


def grpc_message(size: int) -> bytes:
    """A ModelInferRequest with an id and one FP32 tensor of `size` bytes."""
    message = wire.ModelInferRequest(model_name="stub", id="1", raw_input_contents=[floats(size // 4, 1)])
    message.inputs.add(name="INPUT0", datatype="FP32", shape=[size // 4])
    return bytes(message.SerializeToString())
