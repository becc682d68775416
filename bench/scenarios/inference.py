"""Requests and answers of the Open Inference Protocol, REST form, that the scenarios share."""

from __future__ import annotations

import json
import random
import struct

from bench.load.request import Request
from lb.wire import grpc_service_pb2 as wire

MODEL = "stub"
PATH = f"/v2/models/{MODEL}/infer"


def binary_request(size: int) -> Request:
    """One FP32 tensor of `size` bytes in binary, and the answer wanted in binary too."""
    values = random.Random(1)
    tensor = struct.pack(f"<{size // 4}f", *(values.random() for _ in range(size // 4)))
    head = {
        "inputs": [
            {"name": "INPUT0", "shape": [size // 4], "datatype": "FP32", "parameters": {"binary_data_size": size}}
        ],
        "parameters": {"binary_data_output": True},
    }
    text = json.dumps(head, separators=(",", ":")).encode()
    headers = {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": str(len(text))}
    return Request(PATH, "POST", headers, text + tensor)


def json_request(size: int, seed: int = 2) -> Request:
    """A JSON request of `size` bytes (200 at least) with one FP32 tensor of random values by `seed`."""
    values = random.Random(seed)
    fixed = '{"inputs":[{"name":"INPUT0","shape":[%d],"datatype":"FP32","data":[%s]}]}'
    count = (size - len(fixed)) // 7
    numbers = [f"{values.random():.4f}" for _ in range(count)]
    missing = size - len(fixed % (count, ",".join(numbers)))
    numbers[-1] += "1" * missing  # further digits of the last one
    body = (fixed % (count, ",".join(numbers))).encode()
    return Request(PATH, "POST", {"Content-Type": "application/json"}, body)


def json_answer(size: int) -> str:
    """The answer to a JSON request with one FP32 tensor of `size` bytes, each value 0.5, as our stub's becomes."""
    output = {"name": "OUTPUT0", "datatype": "FP32", "shape": [size // 4], "data": [0.5] * (size // 4)}
    return json.dumps({"model_name": MODEL, "model_version": "1", "outputs": [output]}, separators=(",", ":"))


def grpc_message(size: int) -> bytes:
    """A ModelInferRequest with one FP32 tensor of `size` bytes, serialized."""
    message = wire.ModelInferRequest(model_name=MODEL)
    message.inputs.add(name="INPUT0", datatype="FP32", shape=[size // 4])
    values = random.Random(1)
    message.raw_input_contents.append(struct.pack(f"<{size // 4}f", *(values.random() for _ in range(size // 4))))
    return bytes(message.SerializeToString())
