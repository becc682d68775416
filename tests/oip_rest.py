"""Inferences in the REST half of the protocol that mean the same as messages of its gRPC half."""

from __future__ import annotations

import json
import struct
from typing import Any

from compiled.inference import call_digest_hex, digest_hex, parse_request

from lb.wire.grpc_service_pb2 import ModelInferRequest

SECRET = bytes(range(32))
TYPED = {
    "BOOL": "bool_contents", "INT8": "int_contents", "INT16": "int_contents", "INT32": "int_contents",
    "INT64": "int64_contents", "UINT8": "uint_contents", "UINT16": "uint_contents", "UINT32": "uint_contents",
    "UINT64": "uint64_contents", "FP32": "fp32_contents", "FP64": "fp64_contents", "BYTES": "bytes_contents",
}  # fmt: skip
FORMATS = {
    "BOOL": "?", "INT8": "b", "INT16": "h", "INT32": "i", "INT64": "q", "UINT8": "B", "UINT16": "H", "UINT32": "I",
    "UINT64": "Q", "FP32": "f", "FP64": "d",
}  # fmt: skip


def parameters_of(map_: Any) -> dict[str, Any]:
    return {key: getattr(value, value.WhichOneof("parameter_choice")) for key, value in map_.items()}


def raw_of(given: Any) -> bytes:
    """Typed contents as raw data."""
    values = getattr(given.contents, TYPED[given.datatype])
    if given.datatype == "BYTES":
        return b"".join(len(value).to_bytes(4, "little") + value for value in values)
    return struct.pack(f"<{len(values)}{FORMATS[given.datatype]}", *values)


def rest_of(data: bytes) -> tuple[bytes, bytes, bytes, int]:
    """(model, version, body, json_length) of a binary request with the meaning of a message."""
    sent = ModelInferRequest.FromString(data)
    inputs, tail = [], b""
    for i, given in enumerate(sent.inputs):
        raw = sent.raw_input_contents[i] if sent.raw_input_contents else raw_of(given)
        tail += raw
        parameters = {**parameters_of(given.parameters), "binary_data_size": len(raw)}
        item = {"name": given.name, "datatype": given.datatype, "shape": list(given.shape), "parameters": parameters}
        inputs.append(item)
    outputs = [{"name": output.name, "parameters": parameters_of(output.parameters)} for output in sent.outputs]
    head = {"id": sent.id, "parameters": parameters_of(sent.parameters), "inputs": inputs, "outputs": outputs}
    text = json.dumps(head).encode()
    return sent.model_name.encode(), sent.model_version.encode(), text + tail, len(text)


def same_or_none(message: bytes) -> bool:
    """Whether it has a key, which then is that of what other readers take it for."""
    found = call_digest_hex(message, SECRET)
    if found is None:
        return False
    read = ModelInferRequest.FromString(message)
    assert found[0] == read.id.encode()
    assert found[1] == digest_hex(parse_request(*rest_of(message)), SECRET)
    return True
