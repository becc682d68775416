"""The sequence of a gRPC inference request, found in as little of its message as will do."""

from __future__ import annotations

import struct

import pytest
from compiled.inference import find_sequence
from hypothesis import given
from hypothesis import strategies as st

from lb.wire import grpc_service_pb2 as wire


def frame(message: bytes, compressed: int = 0) -> bytes:
    return struct.pack(">BI", compressed, len(message)) + message


def request(size: int = 1000) -> wire.ModelInferRequest:
    made = wire.ModelInferRequest(model_name="m", model_version="2", id="x")
    made.inputs.add(name="x", datatype="UINT8", shape=[size])
    made.raw_input_contents.append(bytes(size))
    return made


def of(number: int | str, start: bool = False, end: bool = False) -> wire.ModelInferRequest:
    made = request()
    if isinstance(number, str):
        made.parameters["sequence_id"].string_param = number
    elif number >= 1 << 63:
        made.parameters["sequence_id"].uint64_param = number
    else:
        made.parameters["sequence_id"].int64_param = number
    made.parameters["sequence_start"].bool_param = start
    made.parameters["sequence_end"].bool_param = end
    made.parameters["sequence_other"].int64_param = 9
    return made


@pytest.mark.parametrize("number", [1, (1 << 64) - 1, "a", "s" * 300])
@pytest.mark.parametrize(("start", "end"), [(True, False), (False, True), (False, False)])
def test_a_sequence_is_found_before_its_tensors_are_here(number: int | str, start: bool, end: bool) -> None:
    body = frame(of(number, start, end).SerializeToString())
    wanted = (b"m", b"2", number.encode() if isinstance(number, str) else number, start, end)
    assert find_sequence(body, True) == wanted
    assert find_sequence(body[:-900], False) == wanted
    assert find_sequence(body + b"rest", False) == wanted


def test_what_belongs_to_none() -> None:
    assert find_sequence(frame(request().SerializeToString()), True) is False
    assert find_sequence(frame(of(0, True).SerializeToString()), True) is False
    assert find_sequence(frame(of("").SerializeToString()), True) is False
    assert find_sequence(b"", True) is False
    assert find_sequence(b"\0\0", False) is None
    assert find_sequence(frame(of(1).SerializeToString(), compressed=1), True) is False


def test_parameters_behind_the_tensors_are_found_in_a_message_that_is_whole() -> None:
    parameters = wire.ModelInferRequest()
    parameters.parameters["sequence_id"].int64_param = 7
    body = frame(request().SerializeToString() + parameters.SerializeToString())
    assert find_sequence(body, False) == (b"m", b"2", 7, False, False)


def test_every_beginning_gives_the_whole_messages_verdict_or_none_yet() -> None:
    body = frame(of("abc", True).SerializeToString())
    verdicts = [find_sequence(body[:n], False) for n in range(len(body) + 1)]
    first = next(i for i, verdict in enumerate(verdicts) if verdict is not None)
    assert verdicts[:first] == [None] * first
    assert set(verdicts[first:]) == {(b"m", b"2", b"abc", True, False)}
    assert first < len(body) - 990


@given(st.binary(max_size=200), st.booleans())
def test_any_bytes_give_a_verdict(data: bytes, whole: bool) -> None:
    for body in (data, frame(data)):
        found = find_sequence(body, whole)
        assert found is None or found is False or isinstance(found, tuple)
        assert not (whole and found is None)


@given(st.data())
def test_a_damaged_message_gives_a_verdict(data: st.DataObject) -> None:
    body = bytearray(frame(of("abc", True).SerializeToString()[:120]))
    for _ in range(data.draw(st.integers(1, 4))):
        body[data.draw(st.integers(5, len(body) - 1))] = data.draw(st.integers(0, 255))
    assert find_sequence(bytes(body), True) is not None
