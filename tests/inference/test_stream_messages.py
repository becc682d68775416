"""Answers of ModelStreamInfer, Triton's and MLServer's, for clients of either."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lb.inference.stream_messages import translate
from lb.wire import grpc_service_pb2 as wire


def frame(message: Any) -> bytes:
    data = message if isinstance(message, bytes) else message.SerializeToString()
    return b"\0" + len(data).to_bytes(4) + data


def frames(data: bytes) -> list[bytes]:
    found = []
    while data:
        size = int.from_bytes(data[1:5])
        assert data[0] == 0
        assert len(data) >= 5 + size
        found.append(data[5 : 5 + size])
        data = data[5 + size :]
    return found


def answer(name: str = "m", version: str = "1", size: int = 16, **fields: Any) -> Any:
    made = wire.ModelInferResponse(model_name=name, model_version=version, **fields)
    made.outputs.add(name="y", datatype="UINT8", shape=[size])
    made.raw_output_contents.append(bytes(size))
    return made


def wrapped(message: Any) -> Any:
    return wire.ModelStreamInferResponse(infer_response=message)


ANSWERS = [
    answer(),
    answer(name="", version=""),
    answer(name="", version="12"),
    answer(version=""),
    answer(name="n" * 300, id="i" * 200),
    answer(size=0),
    answer(size=200),
    answer(size=100_000),
    wire.ModelInferResponse(model_name="m", model_version="1", id="7"),
    wire.ModelInferResponse(model_name="m", model_version="1"),
    wire.ModelInferResponse(model_version="1", id="7"),
    wire.ModelInferResponse(id="7"),
]


@pytest.mark.parametrize("sent", ANSWERS)
def test_clients_of_triton_read_answers_of_either(sent: Any) -> None:
    for form in (wrapped(sent), sent):
        data, error = translate([frame(form)], False)
        (found,) = frames(data)
        assert wire.ModelStreamInferResponse.FromString(found) == wrapped(sent)
        assert error is None


@pytest.mark.parametrize("sent", ANSWERS)
def test_clients_of_mlserver_read_answers_of_either(sent: Any) -> None:
    for form in (wrapped(sent), sent):
        data, error = translate([frame(form)], True)
        (found,) = frames(data)
        assert wire.ModelInferResponse.FromString(found) == sent
        assert error is None


@pytest.mark.parametrize(
    "sent",
    [
        wire.ModelStreamInferResponse(error_message="no such model"),
        wire.ModelStreamInferResponse(error_message="no", infer_response=wire.ModelInferResponse()),
        wire.ModelStreamInferResponse(error_message="no", infer_response=wire.ModelInferResponse(id="7")),
        wire.ModelStreamInferResponse(error_message="e" * 100_000),
    ],
)
def test_errors_of_tritons_streams(sent: Any) -> None:
    data = frame(wrapped(answer())) + frame(sent)
    for pieces in ([data], [data[i : i + 1] for i in range(len(data))]):
        assert translate(pieces, False) == (data, None)
        before, error = translate(pieces, True)
        assert frames(before) == [answer().SerializeToString()]
        assert error == sent.error_message.encode()[: 64 << 10]


@pytest.mark.parametrize("bare", [False, True])
def test_what_is_neither_passes(bare: bool) -> None:
    for data in (frame(b""), b"\1\0\0\0\3abc", b""):
        assert translate([data], bare) == (data, None)


@given(st.integers(0, 2**32), st.booleans(), st.integers(1, 40))
def test_pieces_of_any_size(seed: int, bare: bool, longest: int) -> None:
    rng = random.Random(seed)
    sent = [rng.choice(ANSWERS[:7]) for _ in range(rng.randrange(1, 8))]
    data = b"".join(frame(wrapped(one) if rng.random() < 0.5 else one) for one in sent)
    pieces = []
    while data:
        size = rng.randrange(1, longest + 1) if rng.random() < 0.9 else len(data)
        pieces.append(data[:size])
        data = data[size:]
    found, error = translate(pieces, bare)
    expected = [one if bare else wrapped(one) for one in sent]
    kind = wire.ModelInferResponse if bare else wire.ModelStreamInferResponse
    assert [kind.FromString(one) for one in frames(found)] == expected
    assert error is None


@given(st.lists(st.binary(max_size=40), max_size=6), st.booleans())
def test_bytes_that_are_nothing(pieces: list[bytes], bare: bool) -> None:
    """Whatever comes, it ends, and nothing is read beyond it (see `make asan`)."""
    translate(pieces, bare)
