"""The batch of a request: the first dimension of its first input, where a server's time goes by it."""

from __future__ import annotations

import re

from google.protobuf.message import DecodeError

from lb.wire import grpc_service_pb2 as oip

_SHAPE = re.compile(rb'"shape"\s*:\s*\[\s*(\d+)')


def of_json(body: bytes) -> int:
    """Of a request in the protocol's JSON form; 1 where it has none."""
    found = _SHAPE.search(body)
    return max(int(found[1]), 1) if found else 1


def of_grpc(body: bytes) -> int:
    """Of a ModelInferRequest in its frame; 1 where it has none, or cannot be read."""
    try:
        message = oip.ModelInferRequest.FromString(body[5:])
    except DecodeError:
        return 1
    shape = message.inputs[0].shape if message.inputs else ()
    return max(shape[0], 1) if shape else 1
