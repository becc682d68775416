"""Damaged requests: refused with the protocol's error, or read as what they now say; never anything else."""

from __future__ import annotations

import json
import random

import pytest
from compiled.inference import digest_hex, parse_request
from hypothesis import given
from hypothesis import strategies as st
from oip_tools import SECRET, encode, tensor_of
from property import examples

from lb.inference.errors import OipError
from lb.inference.request import InferRequest
from lb.wire.grpc_service_pb2 import ModelInferRequest

INPUTS = [
    tensor_of("a", "FP32", (2, 2), [1.0, 2.0, 3.0, 4.0]),
    tensor_of("b", "BYTES", (2,), ["xy", "é"]),
    tensor_of("c", "UINT64", (1,), [2**64 - 1]),
]
EXTRA = {
    "id": "1234",
    "parameters": {"sequence_id": 5, "k": "v", "binary_data_output": True},
    "outputs": [{"name": "y", "parameters": {"classification": 2, "binary_data": False}}],
}
TOKENS = [
    b"[",
    b"]",
    b"{",
    b"}",
    b",",
    b":",
    b'"',
    b"null",
    b"true",
    b"-1",
    b"1e400",
    b"0",
    b"\\u0000",
    b'"id":"x",',
    b"\xff",
    b"9" * 30,
]


def check(body: bytes, length: int) -> bool:
    """Whether the request was taken."""
    try:
        request = parse_request(b"m", b"", body, length)
    except OipError as error:
        refusal = error
    else:
        check_message(request)
        return True
    assert refusal.status == 400
    assert str(refusal).encode()
    return False


def check_message(request: InferRequest) -> None:
    message = ModelInferRequest.FromString(request.message())
    assert len(message.inputs) == len(message.raw_input_contents)
    assert message.id == request.id.decode()
    assert message.ByteSize() == len(request.message())
    assert len(digest_hex(request, SECRET)) == 64


@pytest.mark.parametrize("seed", range(6))
def test_mutated_bodies(seed: int) -> None:
    random_ = random.Random(seed)
    body, length = encode(INPUTS, [set(), {0, 1, 2}, {1}][seed % 3], extra=EXTRA)
    taken = 0
    for _ in range(4000):
        mutated = bytearray(body)
        for _ in range(random_.randint(1, 3)):
            at = random_.randrange(len(mutated))
            kind = random_.randrange(4)
            if kind == 0:
                mutated[at] = random_.randrange(256)
            elif kind == 1:
                del mutated[at : at + random_.randint(1, 6)]
            elif kind == 2:
                mutated[at:at] = random_.choice(TOKENS)
            else:
                other = random_.randrange(len(mutated))
                mutated[at : at + 8] = mutated[other : other + 8]
        changed = length if length < 0 else max(1, length + random_.choice([0, 0, 0, len(mutated) - len(body), -1, 1]))
        taken += check(bytes(mutated), changed)
    assert 20 < taken < 4000


leaves = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=4)
)
trees = st.recursive(
    leaves,
    lambda t: st.lists(t, max_size=3) | st.dictionaries(st.sampled_from(["name", "data", "shape", "x"]), t, max_size=3),
)


@pytest.mark.slow
@examples(500)
@given(st.data())
def test_any_value_in_any_place(data: st.DataObject) -> None:
    body, _ = encode(INPUTS, set(), extra=EXTRA)
    document = json.loads(body)
    target = document
    while True:
        places = list(target) if isinstance(target, dict) else list(range(len(target)))
        place = data.draw(st.sampled_from(places))
        if isinstance(target[place], (dict, list)) and target[place] and data.draw(st.booleans()):
            target = target[place]
            continue
        target[place] = data.draw(trees)
        break
    check(json.dumps(document).encode(), -1)


@examples(300)
@given(st.binary(max_size=80), st.integers(-1, 90))
def test_noise(noise: bytes, length: int) -> None:
    check(noise, length)
