"""The key of a gRPC inference: that of the same question over REST, or none."""

from __future__ import annotations

import random
from typing import Any

import pytest
from compiled.inference import call_digest_hex, digest_hex, is_sound_answer, memo_stats, parse_request
from hypothesis import given
from hypothesis import strategies as st
from oip_calls import call_of
from oip_rest import TYPED, rest_of, same_or_none
from oip_tools import SECRET, Tensor, encode, parameter_maps, tensor_lists, tensor_of
from property import examples

from lb.wire.grpc_service_pb2 import ModelInferRequest, ModelInferResponse

FP32 = tensor_of("x", "FP32", (2,), [1.5, -2.0])


def key_of(message: bytes) -> str | None:
    found = call_digest_hex(message, SECRET)
    return None if found is None else str(found[1])


def rest_key(message: bytes) -> str:
    return str(digest_hex(parse_request(*rest_of(message)), SECRET))


@examples(300)
@given(tensor_lists, parameter_maps, parameter_maps, st.randoms())
def test_all_encodings_have_one_key(
    inputs: list[Tensor], parameters: dict[str, Any], of_input: dict[str, Any], rng: random.Random
) -> None:
    outputs = [{"name": "y", "parameters": parameters}, {"name": "a"}]
    extra = {"parameters": parameters, "outputs": outputs, "id": "1"}
    body, length = encode(inputs, {i for i in range(len(inputs)) if rng.random() < 0.5}, extra=extra,
                          input_parameters=of_input)  # fmt: skip
    expected = digest_hex(parse_request(b"m", b"", body, length), SECRET)
    members = {"parameters": parameters, "input_parameters": of_input, "outputs": outputs}
    raw = call_of(inputs, **members)
    assert call_digest_hex(raw, SECRET) == (b"", expected)
    assert call_digest_hex(call_of(inputs, id="abc", **members), SECRET) == (b"abc", expected)
    shuffled = list(inputs)
    rng.shuffle(shuffled)
    assert key_of(call_of(shuffled, **members)) == expected
    if all(tensor.datatype in TYPED for tensor in inputs):
        assert key_of(call_of(inputs, typed=True, **members)) == expected
        assert memo_stats()["calls"]["hits"] > 0


def test_the_memo_tells_apart_what_differs() -> None:
    """All of these have one head, or nearly; each is asked twice, so that both ways are gone."""
    other_data = tensor_of("x", "FP32", (2,), [1.5, 2.0])
    longer = tensor_of("x", "FP32", (3,), [1.5, -2.0, 0.0])
    texts = [tensor_of("x", "BYTES", (2,), ["a", "bc"]), tensor_of("x", "BYTES", (2,), ["ab", "c"])]
    pair = [FP32, tensor_of("y", "FP32", (2,), [0.0, 0.0])]
    messages = [
        call_of([FP32]), call_of([other_data]), call_of([longer]), *(call_of([text]) for text in texts), call_of(pair),
        call_of([FP32], parameters={"a": 1}), call_of([FP32], parameters={"a": 1.0}),
        call_of([FP32], parameters={"a": True}), call_of([FP32], parameters={"a": "1"}),
        call_of([FP32], input_parameters={"a": 1}), call_of([FP32], model_version="1"),
        call_of([FP32], outputs=[{"name": "y"}]), call_of([FP32], outputs=[{"name": "y", "parameters": {"a": 1}}]),
    ]  # fmt: skip
    keys = [key_of(message) for message in messages]
    assert None not in keys
    assert len(set(keys)) == len(messages)
    assert [key_of(message) for message in messages] == keys
    assert keys == [rest_key(message) for message in messages]


def test_what_decides_nothing() -> None:
    expected = key_of(call_of([FP32]))
    assert key_of(call_of([FP32], parameters={"timeout": 5, "priority": 1})) == expected
    sent = ModelInferRequest.FromString(call_of([FP32], id="7"))
    parts = [ModelInferRequest(id=sent.id), sent]
    sent.id = ""
    for order in (parts, parts[::-1]):  # an encoder may write the fields in any order
        assert call_digest_hex(b"".join(part.SerializeToString() for part in order), SECRET) == (b"7", expected)


def field(number: int, data: bytes) -> bytes:
    return bytes([number << 3 | 2, len(data)]) + data


NAME, X = field(1, b"m"), field(1, b"x") + field(2, b"FP32") + b"\x18\x02"
RAW = field(7, bytes(8))
SOUND = NAME + field(5, X) + RAW


@pytest.mark.parametrize(
    "message",
    [
        b"", NAME[:-1], SOUND[:-1], SOUND + b"\x00", SOUND + b"\x40\x01",
        SOUND + field(8, b""), SOUND + NAME, SOUND + field(3, b"a") + field(3, b"b"),
        NAME + field(5, X), NAME + RAW, SOUND + RAW, field(5, X) + RAW, field(1, b"") + field(5, X) + RAW,
        field(1, b"\xff") + field(5, X) + RAW, SOUND + field(2, b"\xff"), SOUND + field(3, b"\xff"),
        NAME + field(5, X + field(6, b"")) + RAW, NAME + field(5, X + X) + RAW,
        NAME + field(5, X + field(5, field(6, bytes(8)))) + RAW,
        NAME + field(5, X + field(5, b"") + field(5, field(6, bytes(8)))),
        NAME + field(5, X + field(5, field(6, bytes(7)))), NAME + field(5, X + field(5, field(7, bytes(8)))),
        NAME + field(5, X + field(5, field(6, bytes(4)))),
        NAME + field(5, X) + field(5, X) + RAW + RAW,
        NAME + field(5, field(1, b"x") + field(2, b"FP33") + b"\x18\x02") + RAW,
        NAME + field(5, field(1, b"x") + field(2, b"FP16") + b"\x18\x02" + field(5, field(6, bytes(8)))),
        NAME + field(5, field(1, b"x") + field(2, b"BYTES") + b"\x18\x02") + RAW[:-1] + b"\1",
        SOUND + field(6, field(1, b"y") + field(3, b"")), SOUND + field(6, b""),
        SOUND + field(4, b""), SOUND + field(4, field(1, b"a")), SOUND + field(4, field(1, b"a") + field(2, b"")),
        SOUND + field(4, field(1, b"a") + field(2, b"\x08\x01\x10\x01")),
        SOUND + field(4, field(1, b"a") + field(2, b"\x08\x02")),
        SOUND + field(4, field(1, b"a") + field(2, b"\x30\x01")),
        SOUND + field(4, field(1, b"a") + field(2, b"\x08\x01") + field(3, b"")),
        SOUND + field(4, field(1, b"binary_data_output") + field(2, b"\x08\x01")),
        SOUND + field(4, field(1, b"sequence_id") + field(2, b"\x10\x05")),
        SOUND + field(4, field(1, b"timeout") + field(2, field(3, b"5"))),
    ],
    ids=bytes.hex,
)  # fmt: skip
def test_what_is_not_clear_has_no_key(message: bytes) -> None:
    assert key_of(SOUND) == rest_key(SOUND)
    assert key_of(message) is None
    assert key_of(message) is None


def test_an_id_may_be_any_text() -> None:
    assert call_digest_hex(SOUND + field(3, "é".encode()), SECRET) == ("é".encode(), key_of(SOUND))


SEEDS = [
    call_of([FP32], id="a", parameters={"k": "v", "n": 2**64 - 1}, outputs=[{"name": "y", "parameters": {"c": 2}}]),
    call_of([FP32, tensor_of("b", "BYTES", (2,), ["xy", "é"])], typed=True, model_version="1"),
    call_of([tensor_of("b", "INT8", (3,), [-1, 0, 1])], typed=True, input_parameters={"d": 0.5, "e": False}),
]


@examples(400)
@given(st.sampled_from(SEEDS), st.integers(0, 2**32))
def test_damaged_messages(seed: bytes, number: int) -> None:
    rng = random.Random(number)
    data = bytearray(seed)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(data))
        kind = rng.randrange(4)
        if kind == 0:
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del data[at : at + rng.randint(1, 3)]
        elif kind == 2:
            data[at:at] = rng.randbytes(rng.randint(1, 3))
        else:
            end = rng.randrange(at, len(data)) + 1
            data[at:at] = data[at:end]
        if not data:
            return
    assert call_digest_hex(seed, SECRET) is not None
    same_or_none(bytes(data))


def test_answers_that_render_takes() -> None:
    answer = ModelInferResponse(model_name="m", id="1")
    answer.outputs.add(name="y", datatype="FP32", shape=[2])
    assert not is_sound_answer(answer.SerializeToString())
    answer.raw_output_contents.append(bytes(8))
    sound = answer.SerializeToString()
    assert is_sound_answer(sound)
    assert not is_sound_answer(sound + b"\xff")
    assert not is_sound_answer(sound.replace(b"\x0a\x01m", b"\x0a\x01\xff"))
    answer.raw_output_contents[0] = bytes(7)
    assert not is_sound_answer(answer.SerializeToString())
    del answer.raw_output_contents[:]
    answer.outputs[0].contents.fp32_contents.extend([1.0, 2.0])
    assert is_sound_answer(answer.SerializeToString())
