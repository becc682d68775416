"""Messages of gRPC that have too much of something are not read to their end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from compiled.inference import (
    call_digest_hex,
    find_first_batch,
    find_first_model,
    find_first_timeout,
    find_sequence,
    is_sound_answer,
)
from oip_calls import call_of
from oip_tools import SECRET, tensor_of

from lb.wire import grpc_service_pb2 as wire

SIZE = 4 << 20  # the most that is gathered for the cache


def field(number: int, data: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(data)) + data


def varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def framed(message: bytes) -> bytes:
    return bytes([0]) + len(message).to_bytes(4, "big") + message


def times(piece: bytes) -> bytes:
    return piece * (SIZE // len(piece))


# As the fields of a request; inputs, outputs and parameters have the same numbers in answers.
BOMBS = {
    "unknown fields": times(b"\x78\x00"),
    "unknown fields of an input": field(5, times(b"\x78\x00")),
    "unknown fields of inputs": field(5, times(b"\x78\x00")[: SIZE // 400]) * 400,
    "unknown fields of contents": field(5, field(5, times(b"\x78\x00"))),
    "unknown fields of a parameter": field(4, times(b"\x78\x00")),
    "unknown fields of a value": field(4, field(2, times(b"\x78\x00"))),
    "empty inputs": times(b"\x2a\x00"),
    "empty parameters": times(b"\x22\x00"),
    "empty parameters of an input": field(5, times(b"\x22\x00")),
    "a packed shape": field(5, field(3, times(b"\x01"))),
    "a shape": field(5, times(b"\x18\x01")),
    "unpacked contents": field(5, field(2, b"INT32") + field(5, times(b"\x10\x01"))),
    "packed contents": field(5, field(2, b"INT32") + field(5, field(2, times(b"\x01")))),
    "texts": field(5, field(2, b"BYTES") + field(5, times(b"\x42\x00"))),
}


def key_of(message: bytes) -> Any:
    return call_digest_hex(message, SECRET)


def sought() -> bytes:
    """What the daemon looks for in calls that it passes on: a model, a batch, a time limit, a sequence."""
    request = wire.ModelInferRequest(model_name="m")
    request.inputs.add(name="x", datatype="FP32", shape=[7])
    request.parameters["timeout"].int64_param = 9
    request.parameters["sequence_id"].int64_param = 5
    return request.SerializeToString()


# What each look-up finds, and what it says where it finds nothing. Those that read no parameters pass them by as one.
LOOKUPS: dict[str, tuple[Callable[[bytes], Any], Any, Any, list[str]]] = {
    "model": (find_first_model, b"m", b"", ["unknown fields", "empty inputs", "empty parameters"]),
    "batch": (find_first_batch, (b"m", 7), (b"", 1), ["unknown fields", "empty parameters"]),
    "time limit": (
        find_first_timeout,
        9,
        0,
        ["unknown fields", "empty inputs", "empty parameters", "unknown fields of a parameter"],
    ),
    "sequence": (
        lambda data: find_sequence(data, True),
        (b"m", b"", 5, False, False),
        False,
        ["unknown fields", "empty inputs", "empty parameters", "unknown fields of a parameter"],
    ),
}


@pytest.mark.parametrize("lookup", LOOKUPS)
def test_what_is_looked_for_is_found(lookup: str) -> None:
    find, found, _, _ = LOOKUPS[lookup]
    assert find(framed(sought())) == found


@pytest.mark.parametrize(("lookup", "bomb"), [(name, bomb) for name, (*_, bombs) in LOOKUPS.items() for bomb in bombs])
def test_nothing_is_looked_for_behind_a_bomb(lookup: str, bomb: str) -> None:
    find, _, nothing, _ = LOOKUPS[lookup]
    assert find(framed(BOMBS[bomb] + sought())) == nothing


@pytest.mark.parametrize("bomb", [name for name in BOMBS if name != "packed contents"])
def test_such_a_request_is_not_for_the_cache(bomb: str) -> None:
    assert key_of(field(1, b"m") + BOMBS[bomb]) is None


@pytest.mark.parametrize("bomb", [name for name in BOMBS if "contents" not in name and name != "texts"])
def test_such_an_answer_is_not_sound(bomb: str) -> None:
    assert not is_sound_answer(field(1, b"m") + BOMBS[bomb])


def test_what_a_client_may_send_is_read() -> None:
    floats = tensor_of("x", "FP32", (1_000_000,), [0.5] * 1_000_000)
    assert key_of(call_of([floats], typed=True)) == key_of(call_of([floats]))
    whole = tensor_of("x", "INT64", (262_143,), list(np.arange(262_143)))
    assert key_of(call_of([whole], typed=True)) == key_of(call_of([whole])) is not None
    more = tensor_of("x", "INT64", (262_145,), list(np.arange(262_145)))
    assert key_of(call_of([more], typed=True)) is None, "it is passed on unread"
    assert key_of(call_of([more])) is not None
